"""Where settings come from, which source wins, and what is said of a wrong one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamrec.config.secrets import note_secrets, without_secrets
from streamrec.config.settings import HIDDEN, PREFIX, Settings, load_settings, shown
from streamrec.config.toml import toml_lines
from streamrec.errors import ConfigError
from streamrec.events import EventType


@pytest.fixture(autouse=True)
def _a_clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(PREFIX):
            monkeypatch.delenv(name)


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    path = tmp_path / "streamrec.toml"
    path.write_text(
        'group_id = "file"\n[kafka]\nbootstrap.servers = "file:1"\nsecurity.protocol = "SSL"\n'
        '"ssl.ca.location" = "/ca.pem"\n[redis]\nurl = "redis://file/0"\n[learning]\nseed = 1\n',
        encoding="utf-8",
    )
    return path


def test_without_any_source_the_defaults_stand() -> None:
    assert load_settings() == Settings()
    assert Settings().kafka == {"bootstrap.servers": "127.0.0.1:9092"}


def test_each_later_source_wins_over_the_one_before(toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings(toml).kafka["bootstrap.servers"] == "file:1"
    monkeypatch.setenv("STREAMREC_KAFKA__BOOTSTRAP_SERVERS", "environment:1")
    monkeypatch.setenv("STREAMREC_REDIS__URL", "redis://environment/0")
    monkeypatch.setenv("STREAMREC_LEARNING__SEED", "2")
    from_environment = load_settings(toml)
    assert from_environment.kafka["bootstrap.servers"] == "environment:1"
    assert from_environment.redis.url == "redis://environment/0"
    assert from_environment.learning.seed == 2
    assert from_environment.group_id == "file"
    from_options = load_settings(toml, "option:1", "redis://option/0", group_id="option", learning__seed=3)
    assert from_options.kafka["bootstrap.servers"] == "option:1"
    assert from_options.redis.url == "redis://option/0"
    assert (from_options.group_id, from_options.learning.seed) == ("option", 3)


def test_librdkafka_settings_pass_through_with_and_without_quotes(toml: Path) -> None:
    assert load_settings(toml).kafka == {
        "bootstrap.servers": "file:1",
        "security.protocol": "SSL",
        "ssl.ca.location": "/ca.pem",
    }


def test_an_underscore_in_a_variable_is_a_dot_for_librdkafka(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMREC_KAFKA__SASL_USERNAME", "ada")
    assert load_settings().kafka == {"bootstrap.servers": "127.0.0.1:9092", "sasl.username": "ada"}


def test_the_short_variables_name_brokers_and_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMREC_KAFKA", "a:1,b:2")
    monkeypatch.setenv("STREAMREC_REDIS", "redis://short/1")
    monkeypatch.setenv("STREAMREC_REDIS__PREFIX", "shop")
    settings = load_settings()
    assert settings.kafka["bootstrap.servers"] == "a:1,b:2"
    assert (settings.redis.url, settings.redis.prefix) == ("redis://short/1", "shop")


def test_lists_in_variables_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMREC_LEARNING__POSITIVES", "click, rating>=4")
    monkeypatch.setenv("STREAMREC_SERVING__RECOMMEND_ON", "view,request")
    settings = load_settings()
    assert settings.learning.positives == ("click", "rating>=4")
    assert settings.serving.recommend_on == {EventType.VIEW, EventType.REQUEST}


def test_an_empty_variable_counts_as_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMREC_METRICS_PORT", "")
    assert load_settings().metrics_port is None


def test_a_variable_can_name_the_file_and_an_option_wins_over_it(toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMREC_CONFIG", str(toml))
    assert load_settings().group_id == "file"
    other = toml.with_name("other.toml")
    other.write_text('group_id = "other"', encoding="utf-8")
    assert load_settings(other).group_id == "other"


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("STREAMREC_REDIS__TIMEOUT_S", "soon", ["redis.timeout_s", "'soon'", "STREAMREC_REDIS__TIMEOUT_S", "number"]),
        ("STREAMREC_SERVING__K", "500", ["serving.k", "'500'", "less than or equal to 100"]),
        ("STREAMREC_FUSION__POLICY", "best", ["fusion.policy", "'best'", "greedy", "model:NAME"]),
        ("STREAMREC_SERVING__RECOMMEND_ON", "viev", ["serving.recommend_on", "'viev'", "'view'"]),
        ("STREAMREC_CHECKPOINTS__KEEP", "3", ["checkpoints.keep (environment) is snapshots.keep now"]),
        ("STREAMREC_SNAPSHOTS__URL", "s3://key:word@b/x", ["'s3://key:********@b/x'", "s3://BUCKET/DIRECTORY"]),
        ("STREAMREC_SNAPSHOTS__URL", "s3://b/x?secret_key=word", ["********", "found in the environment"]),
        ("STREAMREC_REDIS__ULR", "redis://x", ["redis.ulr", "unknown", "did you mean url?"]),
        ("STREAMREC_REDIS_URL", "redis://x", ["STREAMREC_REDIS_URL", "did you mean STREAMREC_REDIS__URL?"]),
    ],
)
def test_a_wrong_variable_is_named_with_what_came_and_what_was_expected(
    variable: str, value: str, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError) as raised:
        load_settings()
    assert [word for word in words if word not in str(raised.value)] == []
    assert "word" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[kafka\n", ["is not TOML", "line 1"]),
        ("redis = 3\n", ["setting redis is 3", "a table"]),
        ('[checkpoints]\ndirectory = "x"\n', ["checkpoints.directory", "is snapshots.url now"]),
        ("[lerning]\nseed = 1\n", ["lerning", "unknown", "did you mean learning?"]),
        ('[kafka]\n"acks" = [1]\n', ["kafka.acks", "[1]", "a text, a number, true or false"]),
        ("[limits]\nmax_users = 0\n", ["limits.max_users", "0", "greater than or equal to 1"]),
    ],
)
def test_a_wrong_file_is_named_with_what_came_and_what_was_expected(
    text: str, words: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as raised:
        load_settings(path)
    assert [word for word in [*words, str(path)] if word not in str(raised.value)] == []


def test_a_missing_file_is_an_error_and_not_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings(tmp_path / "nowhere.toml")


def test_several_problems_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMREC_SERVING__K", "0")
    monkeypatch.setenv("STREAMREC_LIMITS__MAX_DEPTH", "deep")
    with pytest.raises(ConfigError, match=r"(?s)max_depth.*serving\.k|serving\.k.*max_depth"):
        load_settings()


@pytest.mark.parametrize(
    "name",
    [
        "sasl.password",
        "ssl.key.password",
        "ssl.keystore.password",
        "ssl.key.pem",
        "sasl.jaas.config",
        "sasl.oauthbearer.client.secret",
        "sasl.oauthbearer.config",
        "sasl.oauthbearer.assertion.private.key.passphrase",
    ],
)
def test_a_secret_for_librdkafka_is_never_shown(name: str) -> None:
    settings = Settings(kafka={name: "hunter2"})
    assert shown(settings)["kafka"][name] == HIDDEN
    assert settings.kafka[name] == "hunter2"


def test_what_is_no_secret_is_shown() -> None:
    plain = {"sasl.username": "ada", "ssl.key.location": "/key", "sasl.oauthbearer.token.endpoint.url": "https://x"}
    assert plain.items() <= shown(Settings(kafka=plain))["kafka"].items()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://:hunter2@host:6379/0", f"redis://:{HIDDEN}@host:6379/0"),
        ("rediss://ada:hunter2@host/1", f"rediss://ada:{HIDDEN}@host/1"),
        ("redis://ada:hun/t@er:2@host/1", f"redis://ada:{HIDDEN}@host/1"),
        ("redis://host/0?password=hunter2&db=1", f"redis://host/0?password={HIDDEN}&db=1"),
        ("unix:///run/redis.sock", "unix:///run/redis.sock"),
        ("redis+sentinel://:hunter2@a:1,b:2/shop/0", f"redis+sentinel://:{HIDDEN}@a:1,b:2/shop/0"),
        ("redis+sentinel://a/shop?sentinel_password=x", f"redis+sentinel://a/shop?sentinel_password={HIDDEN}"),
        ("rediss+cluster://ada:hun,ter2@a:1,[::1]:2", f"rediss+cluster://ada:{HIDDEN}@a:1,[::1]:2"),
        ("redis://host:6379/0", "redis://host:6379/0"),
    ],
)
def test_the_password_in_a_redis_url_is_never_shown(url: str, expected: str) -> None:
    assert shown(load_settings(None, None, url))["redis"]["url"] == expected


def test_an_error_does_not_show_a_secret_either(tmp_path: Path) -> None:
    path = tmp_path / "secret.toml"
    path.write_text('redis = "redis://:hunter2@host"\n[kafka]\n"sasl.password" = ["hunter2"]\n', encoding="utf-8")
    with pytest.raises(ConfigError) as raised:
        load_settings(path)
    assert "sasl.password" in str(raised.value)
    assert "hunter2" not in str(raised.value)


def test_settings_cannot_be_changed_afterwards() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().group_id = "other"


SECRET = st.text("abcXYZ019@:/?&=#%!~ ", min_size=8, max_size=24).map(lambda text: "hunter2" + text)
URL_PLACES = (
    "{scheme}://:{quoted}@host:1/0",
    "{scheme}://ada:{quoted}@host:1/0",
    "{scheme}://ada:{raw}@host/0",
    "{scheme}://{quoted}@host",
    "{scheme}://host/0?password={quoted}",
    "{scheme}://host/0?password={raw}&db=1",
    "{scheme}://host/0?ssl_password={raw}",
    "{scheme}://host/0?db=1&ssl_keyfile_password={quoted}",
    "{scheme}://host/0?new_option={quoted}",
    "{scheme}://host/0#{quoted}",
    "{scheme}://host:{quoted}",
    "{quoted}",
)
SECRET_NAMES = (
    *("sasl.password", "ssl.key.password", "ssl_key_pem", "ssl.key.pem", "ssl_key", "sasl.oauthbearer.extensions"),
    *("sasl.kerberos.kinit.cmd", "sasl.oauthbearer.client.secret", "sasl.oauthbearer.config", "not.known.yet"),
    *("sasl.pasword", "sasl.jaas.config", "bootstrap.servers.token"),
)


@given(
    secret=SECRET,
    name=st.sampled_from(SECRET_NAMES),
    url=st.sampled_from(URL_PLACES),
    of=st.sampled_from(["redis", "https.proxy", "sasl.oauthbearer.token.endpoint.url", "bootstrap.servers"]),
)
@settings(max_examples=300, deadline=None)
def test_no_secret_is_shown_wherever_it_stands(secret: str, name: str, url: str, of: str) -> None:
    filled = url.format(
        scheme="redis" if of == "redis" else "https", quoted=quote(secret, safe=""), raw=secret.replace("@", "")
    )
    kafka = {name: secret} if of == "redis" else {name: secret, of: filled}
    configured = Settings(kafka=kafka, redis={"url": filled} if of == "redis" else {})
    plain = shown(configured)
    assert "hunter2" not in json.dumps(plain) + "\n".join(toml_lines(plain))


@pytest.mark.parametrize(
    "table",
    [
        'redis = "redis://:hunter2@host"',
        'redis = ["redis://:hunter2@host"]',
        '[redis]\nurl = ["redis://:hunter2@host"]',
        '[redis]\nurl = {password = "hunter2"}',
        'kafka = "sasl.password=hunter2"',
        'kafka = ["hunter2"]',
        '[kafka]\n"ssl_key_pem" = ["hunter2"]\n',
        '[kafka]\n"bootstrap.servers" = ["hunter2"]\n',
        '[kafka]\n"https.proxy" = ["http://ada:hunter2@host"]\n',
    ],
)
def test_no_error_about_a_setting_quotes_a_secret(table: str, tmp_path: Path) -> None:
    path = tmp_path / "secret.toml"
    path.write_text(table, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"setting (redis|kafka)") as raised:
        load_settings(path)
    assert "hunter2" not in str(raised.value)


def test_what_libraries_quote_is_taken_out_of_what_is_said() -> None:
    endpoint = "https://ada:hunter2-one@host/token?client_secret=hunter2-two"
    load_settings(None, None, "redis://:hunter2-three@host/0")
    note_secrets({"sasl.oauthbearer.token.endpoint.url": endpoint, "sasl.password": "hunter2-four", "client.id": "me"})
    said = without_secrets(f'no token from "{endpoint}" for me: hunter2-three hunter2-four')
    assert "hunter2" not in said
    assert said.startswith('no token from "https://ada:********@host/token?')
    assert " for me: " in said


def test_the_password_of_redis_may_stand_in_a_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "password"
    file.write_text("hunter2@/ \r\n")
    file.chmod(0o600)
    for url, full in (
        ("redis://host:1/0", "redis://:hunter2%40%2F%20@host:1/0"),
        ("rediss://ada@host/1?db=2", "rediss://ada:hunter2%40%2F%20@host/1?db=2"),
        ("unix:///run/redis.sock", "unix://:hunter2%40%2F%20@/run/redis.sock"),
        ("redis+sentinel://a:1,b:2/shop", "redis+sentinel://:hunter2%40%2F%20@a:1,b:2/shop"),
    ):
        configured = load_settings(None, None, url, redis__password_file=file)
        assert configured.redis.full_url() == full
        assert shown(configured)["redis"]["url"] == (url if "@" not in url else "rediss://********@host/1?db=2")
    assert caplog.messages == []
    file.chmod(0o644)
    load_settings(None, redis__password_file=file).redis.full_url()
    (warning,) = caplog.messages
    assert warning.startswith("a file with a password can be read by every user")


@pytest.mark.parametrize(
    ("content", "url", "words"),
    [
        (None, "redis://host", "cannot be read: No such file"),
        (b"\n", "redis://host", "is empty, expected the password"),
        (b"\xff\xfe", "redis://host", "cannot be read: not UTF-8"),
        (b"hunter2", "redis://:hunter3@host", "redis.url has a password"),
    ],
)
def test_a_file_without_a_password_is_refused(content: bytes | None, url: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "password"
    if content is not None:
        file.write_bytes(content)
        file.chmod(0o600)
    with pytest.raises(ConfigError, match=words) as raised:
        load_settings(None, None, url, redis__password_file=file).redis.full_url()
    assert "hunter" not in str(raised.value)


@pytest.mark.parametrize(
    ("setting", "value", "meant"),
    [
        ("fusion__policy", "gredy", "greedy"),
        ("rollout__baseline", "model:popularty", "model:popularity"),
        ("rollout__mode", "shdow", "shadow"),
        ("learning__models", ("covist", "popularity"), "covisit"),
    ],
)
def test_the_nearest_name_is_offered_for_one_that_is_none(setting: str, value: object, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"did you mean {meant}\\?"):
        load_settings(None, **{setting: value})
