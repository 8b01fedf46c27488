"""Ids, titles and categories are anybody's: no command prints one that commands a terminal or turns a line around."""

from __future__ import annotations

import io
import json
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import closing, redirect_stderr
from pathlib import Path

import msgspec
import polars as pl
import pytest
from typer.testing import CliRunner

from streamrec.cli import app
from streamrec.codec import MSGPACK, encode, harmless
from streamrec.config.log_lines import say_failure
from streamrec.demo.embedded import EmbeddedBroker, EmbeddedRedis
from streamrec.engine.trending.windows import Windows
from streamrec.errors import StreamrecError
from streamrec.evaluation.pages import table_row
from streamrec.events import Event, EventType, Item
from streamrec.testing import HEADERS, STARTED_MS
from streamrec.transport.confluent import KafkaSink
from streamrec.trends.page import trends_page
from streamrec.wiring import build_rollout_store
from streamrec.wiring.policies import settled_revision
from tests.support.deployment import Deployment, until

EVIL = "[red]:bomb:\x1b[2J\x1b]0;owned\x07\u202etxt\u2066\u200f\x9b1m\x7f\u2028\U000e0041"
JOINED = "क्\u200dष"
ID = "".join(c for c in EVIL if unicodedata.category(c) != "Cc")
"""A name, in which controls are refused."""
USER, ITEM, TITLE, KIND = f"user{ID}", f"item{ID}", f"title{ID}", f"kind{EVIL}"
ALLOWED = "\n\u200c\u200d"

Said = tuple[str, str]


def commands_of(text: str) -> list[str]:
    """Characters that a terminal would obey, or a reader not see."""
    return [c for c in text if not (c.isprintable() or c in ALLOWED or unicodedata.category(c) == "Zs")]


@pytest.fixture(scope="module")
def deployment(
    tansu: EmbeddedBroker, redis_server: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory
) -> Deployment:
    """A shop with evil names everywhere, after some events, requests and messages that are none."""
    running = Deployment(tmp_path_factory.mktemp("hostile"), tansu.settings, redis_server.url, preset="fast")
    topics = running.settings.topics
    events = [
        Event(type=EventType.CLICK, user_id=USER, item_id=item, ts=STARTED_MS + at * 1_000, context={"category": KIND})
        for at, item in enumerate([ITEM, "plain", ITEM, "plain"])
    ]
    asked = [Event(type=EventType.REQUEST, user_id=USER, ts=STARTED_MS + at * 60_000, explain=True) for at in (1, 2)]
    with closing(KafkaSink(running.settings.kafka)) as sink:
        for item in (ITEM, "plain"):
            value = encode(Item(item_id=item, title=TITLE + JOINED, text=EVIL, categories=(ID,), tags=(ID,)), MSGPACK)
            sink.publish(topics.items, item.encode(), value, HEADERS)
        for bad in (f'{{"type": "{"cl" + chr(0x202E)}", "ts": 1}}', EVIL):
            sink.publish(topics.events, EVIL.encode(), bad.encode())
    running.send([*events, *asked])
    with running.worker() as worker:
        until(lambda: running.committed() == 8, worker)
        assert worker.stop() == 0, worker.said
        assert commands_of(worker.said) == []
    return running


@pytest.fixture
def say(deployment: Deployment) -> Callable[..., Said]:
    """What a command prints, checked to hold nothing that commands a terminal."""

    def run(*arguments: str, fails: bool = False, alone: bool = False) -> Said:
        of = [] if alone else ["--config", str(deployment.config)]
        done = CliRunner().invoke(app, [*arguments, *of], env={"COLUMNS": "400"})
        last_words = io.StringIO()
        if isinstance(done.exception, StreamrecError):
            with redirect_stderr(last_words):
                say_failure(done.exception)
        said = done.stdout_bytes.decode(), done.stderr_bytes.decode() + last_words.getvalue()
        assert (done.exit_code != 0) == fails, (done.exception, said)
        assert commands_of("".join(said)) == [], arguments
        return said

    return run


def texts(plain: object) -> Iterator[str]:
    """Every text in a JSON value, names included."""
    if isinstance(plain, dict):
        for name, value in plain.items():
            yield name
            yield from texts(value)
    elif isinstance(plain, list):
        for value in plain:
            yield from texts(value)
    elif isinstance(plain, str):
        yield plain


def test_what_is_known_of_an_evil_item_or_user_is_shown_harmless(
    deployment: Deployment, say: Callable[..., Said]
) -> None:
    rec_id = f"{deployment.settings.topics.events}-0-7"
    for command, names in (
        (["items", "show", ITEM], {ITEM, TITLE + JOINED, ID, EVIL}),
        (["user", USER], {USER, ITEM}),
        (["item", ITEM], {ITEM, USER}),
        (["explain", rec_id], {USER, ITEM}),
        (["tail", "--from-beginning", "--count", "1"], {USER, ITEM}),
    ):
        shown, _ = say(*command)
        assert "[red]:bomb:" in shown, command  # neither markup nor an emoji's name
        found = set(texts(json.loads(say(*command, "--json")[0])))
        assert names <= found, command
    assert JOINED in json.loads(say("items", "show", ITEM, "--json")[0])["title"]


def test_dead_letters_are_shown_harmless(say: Callable[..., Said]) -> None:
    listed = json.loads(say("dlq", "list", "--json")[0])
    assert listed["letters"] == 2
    say("dlq", "list")
    for letter in listed["newest"]:
        say("dlq", "show", letter["address"])
        say("dlq", "show", letter["address"], "--json")
    say("dlq", "redrive", "--dry-run")


def test_logs_with_evil_names_are_reported_harmless(say: Callable[..., Said], tmp_path: Path) -> None:
    count = 60
    log, catalogue = tmp_path / f"log{EVIL.replace('/', '')}.csv", tmp_path / "items.csv"
    pl.DataFrame(
        {
            "ts": [STARTED_MS + at * 1_000 for at in range(count)],
            "user_id": [f"{USER}{at % 5}" for at in range(count)],
            "item_id": [f"{ITEM}{at % 7}" for at in range(count)],
            "type": ["click" if at % 9 else EVIL for at in range(count)],
        }
    ).write_csv(log)
    pl.DataFrame({"item_id": [f"{ITEM}{at}" for at in range(7)], "title": [TITLE] * 7}).write_csv(catalogue)
    small = ["--skip-unknown-types", "--items", str(catalogue), "--preset", "fast"]
    shown, notes = say("ask", str(log), *small, "--user", f"{USER}1", alone=True)
    assert "title[red]:bomb:" in shown
    assert "[red]" in notes
    asked = say("ask", str(log), *small, "--user", f"{USER}1", "--json", alone=True)[0]
    assert f"{ITEM}1" in set(texts(json.loads(asked)))
    out = tmp_path / "out"
    say("backtest", str(log), *small, "--out", str(out), "--json", alone=True)
    say("backtest", str(log), *small, "--out", str(out), alone=True)
    for report in ("report.json", "report.html"):
        text = (out / report).read_text(encoding="utf-8")
        assert commands_of(text.replace("\t", "")) == [], report
    say("replay", str(log), "--skip-unknown-types", "--map", f"type={EVIL}", fails=True)
    say("ope", str(log), fails=True)


def test_a_revision_of_the_rollout_is_shown_harmless(deployment: Deployment, say: Callable[..., Said]) -> None:
    with closing(build_rollout_store(deployment.settings)) as rollouts:
        settled = settled_revision(deployment.settings)
        rollouts.append(msgspec.structs.replace(settled, number=1, ts=STARTED_MS, why=EVIL))
    assert "[red]:bomb:" in say("rollout")[0]
    assert EVIL in set(texts(json.loads(say("rollout", "--json")[0])))


def test_pages_show_evil_names_harmless() -> None:
    page = trends_page(Windows((3_600,)), [], {f"<b>{EVIL}": 1})
    assert commands_of(page) == []
    assert "<b>[red]" not in page
    assert commands_of(table_row(EVIL, [])) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("items", "show", f"no{EVIL}"),
        ("user", f"no{EVIL}"),
        ("item", f"no{EVIL}"),
        ("explain", f"no{EVIL}"),
        ("dlq", "show", EVIL),
        ("dlq", "list", "--since", EVIL),
        ("items", "load", f"{EVIL}.csv"),
        ("promote", f"no{EVIL}", "--why", EVIL),
        ("rollback", "77", "--why", EVIL),
        ("warmup", f"{EVIL}.csv"),
    ],
    ids=lambda arguments: " ".join(arguments[:2]).encode("ascii", "ignore").decode()[:8],
)
def test_an_error_that_quotes_what_was_typed_is_harmless(arguments: tuple[str, ...], say: Callable[..., Said]) -> None:
    assert say(*arguments, fails=True)[1]


def test_a_process_of_its_own_is_no_less_harmless(deployment: Deployment) -> None:
    told = deployment.command("items", "show", f"no{EVIL}")
    assert told.returncode == 1
    assert told.stderr.startswith("streamrec: item 'no[red]:bomb:")
    assert commands_of(told.stdout + told.stderr) == []


def test_escapes_read_as_the_same_values() -> None:
    plain = {EVIL: ["\ud800", "a\x00b", "\u2029", "\ufeff", JOINED, "a\u00a0b", "\\u202e"]}
    told = harmless(json.dumps(plain, ensure_ascii=False))
    assert json.loads(told) == plain
    assert commands_of(told) == []
    assert JOINED in told
    assert "a\u00a0b" in told
