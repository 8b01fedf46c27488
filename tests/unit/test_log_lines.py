"""Log lines: events with fields, in one form whoever wrote them, and few while a broker is away."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamrec.cli.commands.trends import log_range
from streamrec.config import log_lines
from streamrec.config.log_lines import KINDS_KEPT, REPEAT_S, RepeatFilter, get_logger, say_failure, write_log_lines
from streamrec.config.secrets import note_secrets
from streamrec.errors import StateError, TransportError
from streamrec.transport.outage import REMIND_S, Outage

NOBODY = "127.0.0.1:9"


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Whatever a test says about log lines ends with it, and what others said before is not heard in it."""
    root = logging.getLogger()
    level, handlers, setup = root.level, list(root.handlers), log_lines._setup
    root.handlers[:] = [handler for handler in handlers if handler is not setup.handler]
    log_lines._setup = log_lines._LineSetup()
    yield
    root.setLevel(level)
    root.handlers[:], log_lines._setup = handlers, setup
    logging.captureWarnings(False)


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_line_of_ours_and_a_line_of_a_library_have_one_form(capsys: pytest.CaptureFixture[str]) -> None:
    write_log_lines("json")
    get_logger("streamrec.worker").info("models restored", snapshot="000012", watermarks={0: 812})
    logging.getLogger("faust").warning("the %s is late", "table")
    ours, theirs = lines(capsys)
    assert list(ours)[:3] == list(theirs)[:3] == ["time", "level", "event"]
    del ours["time"], theirs["time"]
    assert ours == {
        "level": "info",
        "event": "models restored",
        "snapshot": "000012",
        "watermarks": {"0": 812},
        "logger": "streamrec.worker",
    }
    assert theirs == {"level": "warning", "event": "the table is late", "logger": "faust"}


def test_an_exception_is_one_field_and_says_no_local_variables(capsys: pytest.CaptureFixture[str]) -> None:
    write_log_lines("json")
    password = "hunter" + "2"
    try:
        raise ValueError(len(password))
    except ValueError:
        get_logger("streamrec.worker").exception("it broke")
    (line,) = lines(capsys)
    assert "\nValueError: 7" in str(line["exception"])
    write_log_lines("text")
    try:
        raise ValueError(len(password))
    except ValueError:
        get_logger("streamrec.worker").exception("it broke")
    text = capsys.readouterr().err
    assert "\nValueError: 7" in text
    assert "hunter2" not in text + json.dumps(line)


def test_without_a_terminal_lines_are_json_unless_text_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    write_log_lines()
    get_logger("streamrec.worker").info("one", of=2)
    assert lines(capsys)[0]["of"] == 2
    write_log_lines("text", "warning")
    get_logger("streamrec.worker").info("two")
    get_logger("streamrec.worker").warning("three", of=3)
    (text,) = capsys.readouterr().err.splitlines()
    assert "three" in text
    assert text.endswith("of=3")


def test_last_words_are_a_line_where_all_else_is_and_a_sentence_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    write_log_lines()
    say_failure(StateError("the disk is gone"))
    assert capsys.readouterr().err == "streamrec: the disk is gone\n"
    for asked in ({"form": "json"}, {"form": "auto", "service": True}):
        write_log_lines(**asked)  # type: ignore[arg-type]
        say_failure(StateError("the disk is gone"))
        (line,) = lines(capsys)
        assert (line["level"], line["event"], line["error"]) == ("critical", "stopped", "the disk is gone")


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_secret_that_a_library_quotes_is_hidden(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    endpoint = 'https://ada:hunter2"one@host/token?client_secret=hunter2-two'
    note_secrets({"sasl.oauthbearer.token.endpoint.url": endpoint})
    write_log_lines(form)
    logging.getLogger("aiokafka.conn").error("OIDC %s: no token from %s", "me", endpoint)
    get_logger("streamrec.worker").error("reading pauses", detail=[endpoint])
    try:
        raise ValueError(endpoint)
    except ValueError:
        get_logger("streamrec.worker").exception("it broke")
    say_failure(StateError(endpoint))
    said = capsys.readouterr().err
    assert "hunter2" not in said
    assert said.count("https://ada:") == 4


def test_a_program_of_a_user_reads_events_as_text(caplog: pytest.LogCaptureFixture) -> None:
    get_logger("streamrec.worker").warning("reading pauses", reason="state")
    assert caplog.messages == ["reading pauses reason='state'"]


def record(text: str, name: str = "streamrec.kafka", *parts: object) -> logging.LogRecord:
    return logging.LogRecord(name, logging.ERROR, "", 0, text, parts, None)


def test_a_line_comes_once_in_a_while_and_says_how_often_it_was_kept_back() -> None:
    now = 0.0
    repeats = RepeatFilter(clock=lambda: now)
    refused = "FAIL [rdkafka#%s] [thrd:b:%d/bootstrap]: b: Connect failed: Connection refused (after %dms in state X)"
    assert repeats.filter(record(refused, "streamrec.kafka", "consumer-1", 9092, 0))
    for port in range(100):
        assert not repeats.filter(record(refused, "streamrec.kafka", "producer-2", port, port))
    more = refused.replace("X)", "X, 7 identical error(s) suppressed)")
    assert not repeats.filter(record(more, "streamrec.kafka", "consumer-1", 9092, 0))
    assert repeats.filter(record(refused.replace("refused", "timed out"), "streamrec.kafka", "consumer-1", 1, 1))
    now = REPEAT_S
    again = record(refused, "streamrec.kafka", "consumer-1", 9092, 0)
    assert repeats.filter(again)
    assert again.__dict__["repeats"] == 101


def test_memory_of_lines_is_bounded_and_other_loggers_are_left_alone() -> None:
    repeats = RepeatFilter("aiokafka", clock=lambda: 0.0)
    for number in range(3 * KINDS_KEPT):
        letters = "".join(chr(ord("a") + int(digit)) for digit in str(number))
        assert repeats.filter(record(letters, "aiokafka.conn"))
        assert repeats.filter(record("the same", "streamrec.worker"))
    assert len(repeats._kinds) == KINDS_KEPT
    assert repeats.filter(record("Unable to connect to node %d", "aiokafka.client", 1))
    assert not repeats.filter(record("Unable to connect to node %d", "aiokafka.client", 2))


def test_an_outage_is_said_once_for_all_clients_and_so_is_its_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    now = 100.0
    one, two = (Outage({"bootstrap.servers": "b:1"}, lambda: now) for _ in range(2))
    one.over()
    for _ in range(int(REMIND_S) + 5):
        one.goes_on()
        two.goes_on()
        now += 1.0
    two.over()
    one.over()
    assert caplog.messages == [
        "no broker answers; trying again brokers='b:1' for_s=0",
        "no broker answers; trying again brokers='b:1' for_s=30",
        "a broker answers again brokers='b:1' after_s=35",
    ]


class Survey:
    """Of a topic whose broker is away at times."""

    away = False

    def beginning(self) -> dict[int, int]:
        if self.away:
            raise TransportError("nobody answers")
        return {0: 3}

    def end(self) -> dict[int, int]:
        return {0: 7}


def test_the_counting_of_trends_says_that_no_broker_answers_and_when_one_does(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    survey, outage = Survey(), Outage({"bootstrap.servers": "b:2"}, lambda: 0.0)
    assert log_range(survey, outage) == ({0: 3}, {0: 7})  # type: ignore[arg-type]
    survey.away = True
    for _ in range(3):
        with pytest.raises(TransportError):
            log_range(survey, outage)  # type: ignore[arg-type]
    survey.away = False
    log_range(survey, outage)  # type: ignore[arg-type]
    assert [message.partition(" brokers=")[0] for message in caplog.messages] == [
        "no broker answers; trying again",
        "a broker answers again",
    ]


def test_a_worker_without_a_broker_says_so_in_few_lines(tmp_path: Path) -> None:
    config = tmp_path / "streamrec.toml"
    config.write_text(
        f'[kafka]\n"bootstrap.servers" = "{NOBODY}"\n[learning]\nmodels = ["popularity"]\n'
        f'[snapshots]\nurl = "{tmp_path}/snapshots"\n[learner]\nwhere = "elsewhere"\n'
    )
    command = [sys.executable, "-m", "streamrec.cli", "worker", "--config", str(config), "--log-format", "json"]
    said = tmp_path / "said"
    with said.open("w") as output, subprocess.Popen(command, stderr=output, env=dict(os.environ)) as child:
        try:
            deadline = time.monotonic() + 60
            while "no broker answers" not in said.read_text() and time.monotonic() < deadline:
                time.sleep(0.05)
            told = len(said.read_text().splitlines())
            time.sleep(4)  # librdkafka tries some thirty times a second
        finally:
            child.send_signal(signal.SIGTERM)
            child.wait(60)
    events = [json.loads(line) for line in said.read_text().splitlines()]
    (outage,) = [event for event in events if event["event"].startswith("no broker answers")]
    assert outage["brokers"] == NOBODY
    assert len(events) - told <= 4, events
    assert sum("Connection refused" in event["event"] for event in events) <= 1
