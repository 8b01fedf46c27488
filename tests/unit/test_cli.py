"""The command line: quick help, clear errors, true exit codes; and a replay that can be interrupted."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jsonschema
import msgspec
import pytest
import typer

import streamrec.cli
from streamrec import codec
from streamrec.cli import PANELS, app
from streamrec.cli.commands.replay import FLUSH_ROWS, Bookmark, Mark, Pace, send
from streamrec.cli.commands.schema import event_schema
from streamrec.cli.commands.tail import line
from streamrec.cli.shared.console import PlainConsole, print_records
from streamrec.errors import BadEvent, PublishFailed, StateError
from streamrec.events import EVENT_TYPES, ITEMLESS_TYPES, Event, EventType, Slate, SlateItem
from streamrec.state import Kind
from streamrec.state import inspection as inspect

SLOW_TO_LOAD = {
    *("confluent_kafka", "faust", "matplotlib", "msgpack", "numba", "numpy", "polars", "prometheus_client", "pyarrow"),
    *("redis", "river", "safetensors", "scipy", "sentence_transformers", "sklearn", "torch"),
}
HELPS = """
import json, sys
from typer.testing import CliRunner
from streamrec.cli import app

texts = {}
for path in json.loads(sys.argv[1]):
    result = CliRunner().invoke(app, [*path, "--help"], prog_name="streamrec")
    assert result.exit_code == 0, result.output
    texts[" ".join(path)] = result.output
print(json.dumps({"texts": texts, "loaded": sorted({name.partition(".")[0] for name in sys.modules})}))
"""


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STREAMREC_")}
    return subprocess.run(
        [sys.executable, "-m", "streamrec.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**kept, "COLUMNS": "200", **environment},
    )


def every_command() -> Iterator[tuple[str, ...]]:
    def walk(path: tuple[str, ...], command: typer.core.TyperCommand) -> Iterator[tuple[str, ...]]:
        yield path
        for name, child in getattr(command, "commands", {}).items():
            yield from walk((*path, name), child)

    yield from walk((), typer.main.get_command(app))


COMMANDS = list(every_command())


class Helps(NamedTuple):
    """What every command says with --help, and what was imported in a process that did nothing else."""

    texts: dict[str, str]
    loaded: list[str]


@pytest.fixture(scope="module")
def helps() -> Helps:
    command = [sys.executable, "-c", HELPS, json.dumps(COMMANDS)]
    said = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "200"})
    return Helps(**json.loads(said.stdout))


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: " ".join(path) or "streamrec")
def test_help_says_what_a_command_does_with_an_example(helps: Helps, path: tuple[str, ...]) -> None:
    text = helps.texts[" ".join(path)]
    assert f"Example: {'STREAMREC_' if path == ('config',) else 'streamrec'}" in text
    assert len(text.partition("Usage:")[2].split("\n")[2].split()) >= 5


def test_help_is_quick_for_it_loads_nothing_that_takes_long(helps: Helps) -> None:
    assert "typer" in helps.loaded
    assert SLOW_TO_LOAD & set(helps.loaded) == set()


@pytest.mark.parametrize("path", [(), ("dlq", "list")], ids=" ".join)
def test_help_is_the_same_in_a_process_of_its_own(helps: Helps, path: tuple[str, ...]) -> None:
    result = run(*path, "--help")
    assert result.returncode == 0
    assert result.stdout.partition("Example:")[2] == helps.texts[" ".join(path)].partition("Example:")[2] != ""


LEAVES = [path for path in COMMANDS if path and path not in {("topics",), ("dlq",), ("items",), ("snapshots",)}]


def test_help_lists_commands_in_the_order_of_their_use() -> None:
    assert [" ".join(path) for path in LEAVES] == [
        *("worker", "learner", "trends", "serve", "demo"),
        *("examples", "replay", "warmup", "backtest", "ablate"),
        *("top", "tail", "ask", "user", "item", "ads", "explain"),
        *("ope", "experiment", "rollout", "promote", "rollback", "simulate"),
        *("config", "backup", "restore", "schema"),
        *("topics plan", "topics apply", "topics rescale", "topics adopt"),
        *("dlq list", "dlq show", "dlq redrive", "items load", "items show"),
        *("snapshots list", "snapshots show", "snapshots fetch"),
    ]


def test_commands_stand_in_groups_and_flags_take_no_value(helps: Helps) -> None:
    panels = re.findall(r"╭─ (.*?) ─", helps.texts[""])
    assert panels == ["Options", *PANELS]
    assert not any("<bool>" in text for text in helps.texts.values())


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_whatever_finds_something_out_says_it_as_json_too(path: tuple[str, ...]) -> None:
    command = typer.main.get_command(app)
    for name in path:
        command = command.commands[name]  # type: ignore[attr-defined]
    # These run until stopped, print JSON alone, or only say how far they are, which goes to the error stream.
    silent = {("worker",), ("learner",), ("trends",), ("serve",), ("demo",), ("schema",), ("replay",)}
    assert any("--json" in parameter.opts for parameter in command.params) == (path not in silent)


def test_one_name_finds_where_a_command_is_declared_and_what_it_does() -> None:
    package = Path(streamrec.cli.__file__).parent
    commands = {f"{'_'.join(path)}.py" for path in LEAVES}
    declared = {path.name for path in package.glob("*.py")}
    assert declared == commands | {"__init__.py", "__main__.py", "application.py", "options.py"}
    assert {path.name for path in (package / "commands").glob("*.py")} == commands | {"__init__.py"}


def test_whatever_is_shown_by_rich_is_shown_as_it_is() -> None:
    package = Path(streamrec.cli.__file__).parent
    texts = {path.name: path.read_text(encoding="utf-8") for path in package.rglob("*.py")}
    # `PlainConsole` takes nothing for markup, and lets nothing command a terminal.
    assert [name for name, text in texts.items() if re.search(r"\bConsole\(", text)] == []
    assert sum("PlainConsole(" in text for text in texts.values()) > 10


def test_the_version_is_the_packages() -> None:
    assert run("--version").stdout == f"streamrec {streamrec.__version__}\n"


def test_a_shell_completes_commands_and_options() -> None:
    def completed(words: str) -> list[str]:
        typed = {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        return run(_STREAMREC_COMPLETE="complete_bash", **typed).stdout.split()

    assert completed("streamrec ro") == ["rollout", "rollback"]
    assert completed("streamrec dlq s") == ["show"]
    assert completed("streamrec backtest --only") == ["--only-items"]


def test_the_script_that_completes_is_shown() -> None:
    shown = run("--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert shown.returncode == 0
    assert "_STREAMREC_COMPLETE=complete_bash" in shown.stdout


def test_the_connection_options_are_the_same_on_every_command_that_connects(helps: Helps) -> None:
    connecting = ["worker", "config", "topics plan", "topics apply", "tail", "replay", "warmup", "user", "item"]
    for command in connecting:
        words = helps.texts[command]
        assert [option for option in ("--kafka", "--redis", "--config") if option not in words] == [], command


def test_the_printed_configuration_can_be_used_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "printed.toml"
    path.write_text(run("config", "--kafka", "b:1", STREAMREC_LEARNING__POSITIVES="click").stdout, encoding="utf-8")
    again = run("config", "--config", str(path)).stdout
    assert again == path.read_text(encoding="utf-8")
    values = tomllib.loads(again)
    assert values["kafka"]["bootstrap.servers"] == "b:1"
    assert values["learning"]["positives"] == ["click"]


def test_the_printed_configuration_has_no_secrets() -> None:
    printed = run("config", "--redis", "redis://:hunter2@host/0", STREAMREC_KAFKA__SASL_PASSWORD="hunter3").stdout
    assert "hunter" not in printed
    assert tomllib.loads(printed)["redis"]["url"] == "redis://:********@host/0"


def test_the_address_of_redis_may_come_from_standard_input() -> None:
    command = [sys.executable, "-m", "streamrec.cli", "config", "--json", "--redis", "-"]
    given = subprocess.run(
        command, input="redis://:hunter2@host/3\n", capture_output=True, text=True, check=True, timeout=60
    )
    assert json.loads(given.stdout)["redis"]["url"] == "redis://:********@host/3"
    nothing = subprocess.run(command, input="", capture_output=True, text=True, check=False, timeout=60)
    assert (nothing.returncode, "standard input is empty" in nothing.stderr) == (2, True)


def test_a_command_that_needs_redis_says_when_its_password_cannot_be_read() -> None:
    result = run("user", "ann", "--redis", "redis://127.0.0.1:9/0", "--redis-password-file", "/nowhere")
    assert (result.returncode, result.stdout) == (2, "")
    assert "redis.password_file /nowhere cannot be read: No such file or directory" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["config", "--config", "/nowhere.toml"], 2, "/nowhere.toml cannot be read"),
        (["config", "--colour"], 2, "No such option"),
        (["replay", "/nowhere.parquet"], 1, "nowhere.parquet"),
        (["replay", "x.csv", "--rows", "ten"], 2, "expected A:B"),
        (["replay", "x.csv", "--map", "type"], 2, "expected FIELD=COLUMN"),
    ],
)
def test_a_failure_is_told_on_standard_error_with_its_exit_code(arguments: list[str], code: int, words: str) -> None:
    result = run(*arguments)
    assert result.returncode == code
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_what_is_typed_and_is_no_text_is_told_with_its_option(
    path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("signal.signal", lambda *_: None)  # those of the tests stay
    broken = os.fsdecode(b"a\xff")
    for typed, words in (
        ([broken], f"argument {len(path) + 1} is b'a\\xff'"),
        (["--config", broken], "what follows --config is b'a\\xff'"),
        ([f"--config={broken}"], "--config is b'--config=a\\xff'"),
    ):
        monkeypatch.setattr("sys.argv", ["streamrec", *path, *typed])
        with pytest.raises(SystemExit) as ended:
            streamrec.cli.main()
        assert ended.value.code == 2
        assert capsys.readouterr().err == f"streamrec: {words}, expected text in UTF-8\n"


def test_a_setting_that_is_no_text_is_told_with_its_variable() -> None:
    result = run("config", STREAMREC_REDIS__PREFIX=os.fsdecode(b"\xff"))
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "streamrec: STREAMREC_REDIS__PREFIX is b'\\xff', expected text in UTF-8\n"


def test_a_command_that_was_asked_for_json_lines_writes_no_others(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text("ts,user_id,item_id,type\n" + "".join(f"{1_700_000_000_000 + n},u,i{n},click\n" for n in range(20)))
    done = run("--log-format", "json", "backtest", str(log), "--preset", "fast", "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert any("20 rows" in line.get("words", "") for line in lines)
    failed = run("replay", str(tmp_path / "none.csv"), "--log-format", "json")
    (line,) = map(json.loads, failed.stderr.splitlines())
    assert (line["event"], "there is no such file" in line["error"]) == ("stopped", True)


WAITING = """
import time
from streamrec import cli

@cli.app.command()
def wait() -> None:
    try:
        print("waiting", flush=True)
        time.sleep(30)
    finally:
        print("tidied", flush=True)

cli.main()
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_ends_a_command_quietly_and_tidily(number: signal.Signals, code: int) -> None:
    command = [sys.executable, "-c", WAITING, "wait"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "waiting\n"
            process.send_signal(number)
            output, errors = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == code
    assert (output, errors) == ("tidied\n", "")


class ListSink:
    """A sink that keeps what it is given; `flush` stores it, and fails from the `fails_at`th time on."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.pending: list[Event] = []
        self.stored: list[Event] = []
        self.flushes = 0
        self.fails_at = fails_at

    def publish(self, topic: str, key: bytes | None, value: bytes | None, headers: object = ()) -> None:
        event = codec.decode_event(value or b"", [(codec.CONTENT_TYPE, codec.MSGPACK.encode())])
        assert key == event.user_id.encode()
        self.pending.append(event)

    def flush(self, timeout_s: float) -> None:
        self.flushes += 1
        if self.fails_at is not None and self.flushes >= self.fails_at:
            raise PublishFailed("planted")
        self.stored += self.pending
        self.pending = []

    def close(self) -> None:
        self.flush(0.0)


def events(count: int, start: int = 0) -> Iterator[tuple[int, Event]]:
    for row in range(start, count):
        yield row, Event(type=EventType.CLICK, user_id=f"u{row % 7}", item_id="i", ts=row * 1000)


def test_a_mark_is_given_only_for_what_the_broker_has_stored() -> None:
    sink = ListSink()
    marks = []
    for mark in send(events(3 * FLUSH_ROWS + 10), Mark("run", 0), sink, "user-events", Pace(None)):
        assert len(sink.stored) == mark.next_row
        marks.append(mark)
    assert marks[-1] == Mark("run", 3 * FLUSH_ROWS + 10)
    assert len(marks) >= 4


def test_a_replay_that_fails_in_the_middle_goes_on_without_loss_or_repeat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    total = 3 * FLUSH_ROWS
    bookmark = Bookmark("digest")
    bookmark.write(Mark("run", 0))
    first = ListSink(fails_at=2)
    with pytest.raises(PublishFailed):
        for mark in send(events(total), Mark("run", 0), first, "user-events", Pace(None)):
            bookmark.write(mark)
    mark = Bookmark("digest").read()
    assert mark == Mark("run", len(first.stored))
    assert 0 < mark.next_row < total
    second = ListSink()
    for _ in send(events(total, mark.next_row), mark, second, "user-events", Pace(None)):
        pass
    ids = [event.event_id for event in first.stored + second.stored]
    assert ids == [f"run-{row}" for row in range(total)]
    unstored = {event.event_id for event in first.pending}
    assert unstored <= {event.event_id for event in second.stored}


def test_an_event_id_that_is_there_is_kept() -> None:
    sink = ListSink()
    given = iter([(0, Event(type=EventType.CLICK, user_id="u", item_id="i", ts=0, event_id="mine"))])
    list(send(given, Mark("run", 0), sink, "user-events", Pace(None)))
    assert [event.event_id for event in sink.stored] == ["mine"]


def test_a_damaged_bookmark_is_no_bookmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    bookmark = Bookmark("digest")
    bookmark.write(Mark("run", 3))
    bookmark.path.write_text("{", encoding="utf-8")
    assert bookmark.read() is None
    bookmark.clear()
    bookmark.clear()
    assert not bookmark.path.exists()


def test_the_pace_is_the_logs_own_clock_times_the_speed() -> None:
    now = 100.0
    waited = []

    def sleep(delay_s: float) -> None:
        nonlocal now
        waited.append(delay_s)
        now += delay_s

    pace = Pace(10.0, clock=lambda: now, sleep=sleep)
    list(send(events(4), Mark("run", 0), ListSink(), "user-events", pace))
    assert waited == pytest.approx([0.1, 0.1, 0.1])


def test_the_schema_accepts_what_the_decoder_accepts_and_refuses_what_it_refuses() -> None:
    validator = jsonschema.Draft202012Validator(event_schema())
    base = {"user_id": "u", "ts": 1}
    candidates: list[dict[str, object]] = [
        *({**base, "type": kind.value} for kind in EVENT_TYPES),
        *({**base, "type": kind.value, "item_id": "i"} for kind in EVENT_TYPES),
        {**base, "type": "click", "item_id": ""},
        {**base, "type": "click", "item_id": None},
        {**base, "type": "nod", "item_id": "i"},
        {**base, "type": "click", "item_id": "i", "ts": -1},
        {**base, "type": "click", "item_id": "i", "colour": "red"},
        {**base, "type": "request", "k": 101},
        {**base, "type": "request", "context": {"page": "home", "depth": 2, "new": True}},
        {**base, "type": "request", "context": {"page": {"nested": 1}}},
        {"type": "request", "ts": 1},
    ]
    accepted = 0
    for candidate in candidates:
        try:
            codec.decode_event(json.dumps(candidate).encode(), [])
            decodes = True
        except BadEvent:
            decodes = False
        assert validator.is_valid(candidate) == decodes, candidate
        accepted += decodes
    assert accepted == len(EVENT_TYPES) + len(ITEMLESS_TYPES) + 1


def test_the_printed_schema_is_the_generated_one() -> None:
    assert json.loads(run("schema").stdout) == json.loads(json.dumps(event_schema()))


def a_slate(ts: int = 5) -> Slate:
    place = SlateItem(item_id="i1", position=1, score=0.5, propensity=0.25, shares={"covisit": 0.4, "popular": 0.1})
    return Slate(rec_id="r", user_id="u", ts=ts, items=(place,), policy="thompson", version="1", candidates=7)


class DictStore:
    """What `find` needs of a store."""

    def __init__(self, found: dict[tuple[Kind, str], dict[int, bytes]]) -> None:
        self.found = found

    def find(self, kind: Kind, name: str) -> dict[int, bytes]:
        return self.found.get((kind, name), {})


def stored_user(**fields: object) -> bytes:
    base = {"v": 1, "user_id": "u", "counts": {"view": 2, "click": 1}, "first_ts": 1, "last_ts": 4, "affinities": {}}
    return msgspec.msgpack.encode({**base, "recent": [["b", "view", 4], ["a", "click", 2]], "extra": [1], **fields})


def stored_item(**fields: object) -> bytes:
    base = {"v": 1, "item_id": "i", "counts": {"view": 1}, "first_ts": 3, "last_ts": 3, "category": None}
    return msgspec.msgpack.encode({**base, "recent_users": [["u1", "view", 3]], **fields})


def test_a_user_is_shown_with_counts_and_the_latest_slate() -> None:
    slates = {0: msgspec.msgpack.encode(a_slate(5)), 1: msgspec.msgpack.encode(a_slate(9))}
    session = {"id": None, "started": 2, "items": 1}
    prices = {"weight": 2.0, "mean": math.log(3.0), "squares": 2.0 * math.log(2.0) ** 2, "ts": 4, "events": 5}
    user = stored_user(affinities={"mugs": 0.5, "bags": 2.0}, session=session, prices=prices)
    clocks = {at: msgspec.msgpack.encode({"clock_ms": ms, "count": 0, "minutes": []}) for at, ms in ((3, 7), (4, 8))}
    found = {(Kind.USER, "u"): {3: user}, (Kind.SLATE, "u"): slates, (Kind.DUE, ""): clocks}
    known = inspect.user(DictStore(found), "u")  # type: ignore[arg-type]
    assert known is not None
    assert list(known) == [
        *("user_id", "events", "counts", "first_ts", "last_ts", "recent", "affinities", "session", "slate"),
        *("prices", "log_ts"),
    ]
    assert (known["events"], known["counts"]) == (3, {"click": 1, "view": 2})
    assert known["recent"][0] == {"item_id": "b", "type": "view", "ts": 4}
    assert list(known["affinities"]) == ["bags", "mugs"]
    assert known["session"] == session
    assert known["slate"]["ts"] == 9
    assert known["prices"] == pytest.approx({"events": 5, "typical": 3.0, "low": 1.5, "high": 6.0})
    assert known["log_ts"] == 8
    assert json.loads(json.dumps(known)) == known


def test_an_item_is_summed_over_partitions() -> None:
    other = stored_item(counts={"view": 2, "purchase": 1}, first_ts=1, last_ts=9, category="mugs")
    other = msgspec.msgpack.encode({**msgspec.msgpack.decode(other), "recent_users": [["u2", "purchase", 9]]})
    known = inspect.item(DictStore({(Kind.ITEM, "i"): {0: stored_item(), 4: other}}), "i")  # type: ignore[arg-type]
    assert known is not None
    assert (known["events"], known["counts"]) == (4, {"purchase": 1, "view": 3})
    assert (known["first_ts"], known["last_ts"], known["category"]) == (1, 9, "mugs")
    assert [touch["user_id"] for touch in known["recent_users"]] == ["u2", "u1"]


def test_of_a_user_stored_before_prices_and_clocks_were_there_is_no_word_of_them() -> None:
    known = inspect.user(DictStore({(Kind.USER, "u"): {3: stored_user()}}), "u")  # type: ignore[arg-type]
    assert known is not None
    assert known["prices"] is known["log_ts"] is None


def test_nothing_is_known_of_a_stranger() -> None:
    empty = DictStore({})
    assert inspect.user(empty, "u") is None  # type: ignore[arg-type]
    assert inspect.item(empty, "i") is None  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [b"\xc1", stored_user(v=2), msgspec.msgpack.encode({"v": 1})])
def test_a_stored_value_of_another_layout_is_an_error_and_not_a_guess(value: bytes) -> None:
    with pytest.raises(StateError, match="'u' in partition 3"):
        inspect.user(DictStore({(Kind.USER, "u"): {3: value}}), "u")  # type: ignore[arg-type]


def test_a_slate_for_people_is_one_line() -> None:
    slate = a_slate(1_767_225_600_000)
    assert line(slate) == f"2026-01-01 00:00:00Z  {slate.rec_id}  u: i1 (0.5)"
    assert line(slate, {"i1": "A mug"}) == f"2026-01-01 00:00:00Z  {slate.rec_id}  u: A mug [i1] (0.5)"


@pytest.mark.parametrize("width", [60, 80, 120])
def test_nothing_of_a_record_is_cut_however_narrow_the_terminal(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    detail = " ".join(f"word{n}" for n in range(40))
    console = PlainConsole(width=width)
    print_records(console, ("address", "field", "detail"), [("3-1041", "", detail)], "newest")
    words = re.sub(r"[│\s]+", " ", capsys.readouterr().out)
    assert "…" not in words
    assert "address 3-1041" in words or "3-1041" in words
    assert all(f"word{n}" in words for n in range(40))
    assert ("field" in words) == (width >= 100)  # a block leaves out what is empty
