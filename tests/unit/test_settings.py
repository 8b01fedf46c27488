"""Where settings come from, which source wins, and what is said of a wrong one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from streamrec.config.settings import HIDDEN, PREFIX, Settings, load_settings, shown
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


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[kafka\n", ["is not TOML", "line 1"]),
        ("redis = 3\n", ["setting redis is 3", "a table"]),
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
