"""`streamrec top`: how workers and learners do, read from real ones over HTTP and drawn in 80 columns."""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import pty
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from io import StringIO
from threading import Thread

import pytest
from rich.console import Console

from streamrec.cli.commands import top
from streamrec.cli.commands.top import picture
from streamrec.cli.shared.vital_signs import Count, LearnerSigns, Missing, VitalSigns, WorkerSigns, signs
from streamrec.cli.shared.watched import Watched
from streamrec.config.groups import preset_settings
from streamrec.config.settings import Settings
from streamrec.errors import ConfigError
from streamrec.events import Event, EventType
from streamrec.learner.metrics import LearnerMetrics
from streamrec.state.memory import MemoryStore
from streamrec.testing import STARTED_MS, records, shop
from streamrec.transport import Record
from streamrec.transport.local import LocalSink, LocalSource
from streamrec.wiring import build_worker
from streamrec.worker import scraping
from streamrec.worker.health import Health, Need
from streamrec.worker.http import serve
from streamrec.worker.metrics import Metrics
from streamrec.worker.scraping import STARTED, Reading, quantile, read
from tests.support.deployment import until


@contextlib.contextmanager
def answering(metrics: Metrics | LearnerMetrics, health: Health) -> Iterator[str]:
    """The address at which a process with these figures answers."""
    server = serve(metrics.registry, health, 0, "127.0.0.1")
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def listening(answer: bytes) -> Iterator[str]:
    """The address of something else, which answers every request with these bytes, or with nothing at all."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve_one() -> None:
            held = []  # what is not answered stays open
            with contextlib.suppress(OSError):
                while True:
                    client, _ = server.accept()
                    held.append(client)
                    if answer:
                        client.recv(65_536)
                        client.sendall(answer)
                        client.close()

        Thread(target=serve_one, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)


def drawn(found: VitalSigns, width: int = 80) -> str:
    console = Console(file=StringIO(), width=width)
    console.print(picture(found))
    assert isinstance(console.file, StringIO)
    text = console.file.getvalue()
    assert max(len(line) for line in text.splitlines()) <= width
    assert "\N{HORIZONTAL ELLIPSIS}" not in text  # nothing is cut
    return text


def test_a_worker_at_work_is_shown_with_what_it_did_since_an_earlier_look() -> None:
    settings = Settings.model_validate(preset_settings("fast"))
    log = [*shop(120), *(Event(type=EventType.REQUEST, user_id=f"asks-{n}", ts=STARTED_MS) for n in range(5))]
    source = LocalSource("user-events", records("user-events", log), growing=True)
    sink = LocalSink()
    worker = build_worker(settings, source, sink, MemoryStore(), None)
    with answering(worker.metrics, worker.health) as address:
        before = read(address)
        assert before.health == ("partitions: the consumer group has assigned none yet", "models: not restored yet")
        thread = Thread(target=worker.run)
        thread.start()
        source.append([Record("user-events", 0, 125 + n, b"u", b"{no json", (), STARTED_MS) for n in range(3)])
        until(lambda: read(address).total("streamrec_dead_letters_total") == 3)
        until(lambda: read(address).samples.get("streamrec_lag") == {(("partition", "0"),): 0.0})  # shown each second
        after = read(address)
        worker.stop()
        thread.join(60)
        assert not thread.is_alive()
    seconds, slates = after.at_s - before.at_s, len(sink.records(settings.topics.recommendations))
    found = signs({address: (after, before)}, now_ms=0)
    [one] = found.processes
    assert isinstance(one, WorkerSigns)
    assert (one.ready, one.paused, found.lag) == (True, False, {"0": 0})
    assert found.events_per_s == one.events_per_s == pytest.approx(125 / seconds)
    assert slates >= 5
    assert found.slates_per_s == pytest.approx(slates / seconds)
    assert found.p99_s == 60.0  # the log is of years ago: beyond the last bucket's bound
    assert found.dead_letters == {"malformed": Count(3, 3)}
    text = drawn(found)
    assert "lag by partition: none of 1 partitions" in text
    assert "dead letters: malformed 3 (+3)" in text
    assert f"{address}  ready" in text


def test_workers_are_added_up_and_a_learner_stands_beside_them() -> None:
    workers = [Metrics(["fused"]), Metrics(["fused"])]
    learner = LearnerMetrics(["fused", "popularity"])
    health = Health()
    health.have(Need.PARTITIONS, Need.MODELS)
    with contextlib.ExitStack() as stack:
        addresses = [stack.enter_context(answering(metrics, health)) for metrics in (*workers, learner)]
        before = [read(address) for address in addresses]
        for number, metrics in enumerate(workers, 1):
            metrics.events.inc(100 * number)
            for latency_s in (0.03, 0.03, 0.15):
                metrics.latency.observe(latency_s)
            metrics.behind({2 * number: 0, 2 * number + 1: 1_000 * number}, 0.0)
            metrics.followed(812_331, 12, 0.25, away=False)
            metrics.dead_letters.labels("invalid").inc(number)
        workers[0].paused.set(1)
        health.lack(Need.STATE, "Redis is away")
        learner.at_work.set(1)
        learner.examples.reach(500)
        learner.hit_rate.labels("fused").set(0.2)
        learner.hit_rate.labels("popularity").set(0.1)
        learner.quarantined.labels("sequence").set(1)
        pairs = {address: (read(address), first) for address, first in zip(addresses, before, strict=True)}
    found = signs(pairs, now_ms=1_700_000_000_000)
    assert found.lag == {"2": 0, "3": 1_000, "4": 0, "5": 2_000}
    first, second, third = found.processes
    assert isinstance(first, WorkerSigns)
    assert isinstance(second, WorkerSigns)
    assert isinstance(third, LearnerSigns)
    assert found.events_per_s == pytest.approx((first.events_per_s or 0) + (second.events_per_s or 0))
    assert found.p50_s == pytest.approx(0.02 + 0.03 * 3 / 4)  # the third of four between 20 and 50 ms
    assert (first.paused, first.ready, first.model_version, first.behind_events) == (True, False, 812_331, 12)
    assert found.dead_letters == {"invalid": Count(3, 3)}
    assert (third.at_work, third.hit_rate, third.quarantined) == (True, {"fused": 0.2, "popularity": 0.1}, ["sequence"])
    text = drawn(found)
    assert "lag by partition: 5: 2,000, 3: 1,000" in text
    assert "812,331" in text
    assert "not ready; state: Redis is away; reads nothing" in " ".join(text.split())
    assert "learns" in text


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>", "is no worker or learner"),
        (b"HTTP/1.1 200 OK\r\n\r\nstreamrec_build_info{ 1\n", "is no worker or learner"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "is no worker or learner"),
        (b"+PONG\r\n", "does not answer: "),
        (b"", "does not answer: timed out"),
    ],
    ids=["a page", "broken metrics", "not found", "no HTTP", "silence"],
)
def test_what_is_no_worker_is_said_to_be_none(answer: bytes, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scraping, "TIMEOUT_S", 0.3)
    with listening(answer) as address:
        reading = read(address)
    assert said in (reading.error or "")
    found = signs({address: (reading, reading)}, now_ms=0)
    assert found.processes == [Missing(address=address, error=reading.error or "")]
    assert said in drawn(found)


def test_nothing_that_is_answered_commands_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    told = b'streamrec_paused 0\nstreamrec_build_info{a="b"} 1\nstreamrec_dead_letters_total{reason="\x1b[2J"} 7\n'
    told += b'streamrec_lag{partition="\x1b[3J"} 7\n'
    with listening(b"HTTP/1.1 200 OK\r\n\r\n" + told) as address:
        top.run(Settings(), addresses=[address], once=True, as_json=False)
    printed = capsys.readouterr().out
    assert "dead letters: \\u001b[2J 7" in printed
    assert "\x1b" not in printed


def test_a_process_that_started_anew_is_not_compared_with_the_one_before() -> None:
    began = {STARTED: {(): 1.0}, "streamrec_events_total": {(): 500.0}, "streamrec_paused": {(): 0.0}}
    anew = {**began, STARTED: {(): 2.0}, "streamrec_events_total": {(): 3.0}}
    watched = Watched("127.0.0.1:1")
    watched.close()
    watched.wait(1)
    now = time.monotonic()
    for at_s, samples in ((now - 3, began), (now - 2, began), (now - 1, anew), (now, anew)):
        watched._readings.append(Reading(at_s, samples))
    assert [reading.at_s for reading in watched.latest()] == [now, now - 1]
    watched._readings[-1] = Reading(now, error="does not answer: connection refused")
    assert watched.latest()[0].error == watched.latest()[1].error == "does not answer: connection refused"
    watched._readings[-1] = Reading(now - 60, began)
    assert "nothing has come for" in (watched.latest()[0].error or "")


def test_quantiles_are_prometheus_s() -> None:
    assert quantile(0.5, {0.1: 0.0, 0.2: 10.0, math.inf: 10.0}) == pytest.approx(0.15)
    assert quantile(0.99, {0.1: 1.0, 0.2: 10.0, math.inf: 100.0}) == 0.2
    assert quantile(0.5, {0.1: 0.0, math.inf: 0.0}) is None
    assert quantile(0.5, {}) is None


def test_the_command_prints_one_picture_and_ends(capsys: pytest.CaptureFixture[str]) -> None:
    with answering(Metrics(["fused"]), Health()) as address, socket.create_server(("127.0.0.1", 0)) as taken:
        refused = f"127.0.0.1:{taken.getsockname()[1]}"
        taken.close()
        settings = Settings.model_validate({"metrics_port": int(address.partition(":")[2]), "metrics_host": "0.0.0.0"})
        top.run(settings, addresses=[], once=True, as_json=False)
        assert "not ready; partitions: the consumer group has assigned none yet" in " ".join(
            capsys.readouterr().out.split()
        )
        top.run(settings, addresses=[address, refused, address], once=True, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert [(one["address"], one["kind"]) for one in told["processes"]] == [(address, "worker"), (refused, "missing")]
    assert told["processes"][1]["error"] == "does not answer: connection refused"
    assert told["window_s"] > 0


@pytest.mark.parametrize(
    "address", ["", "worker", "worker:", ":9100", "worker:0", "worker:70000", "http://worker:9100"]
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="expected HOST:PORT"):
        top.run(Settings(), addresses=[address], once=True, as_json=False)


def test_at_a_terminal_it_draws_in_place_until_it_is_stopped() -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with answering(Metrics(["fused"]), Health()) as address, os.fdopen(ours, "rb", buffering=0) as screen:
        command = [sys.executable, "-m", "streamrec.cli", "top", "--metrics", address]
        environment = {**os.environ, "TERM": "xterm"}
        child = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
        os.close(theirs)
        seen, stopped = b"", False
        with contextlib.suppress(OSError):  # so a terminal ends
            while part := screen.read(65_536):
                seen += part
                if not stopped and seen.count(b"workers: 1, learners: 0") >= 2:
                    child.send_signal(signal.SIGINT)
                    stopped = True
        assert child.wait(60) == 130
    drawn_at, left_at = seen.index(b"not ready"), seen.index(b"\x1b[?1049l")
    assert seen.index(b"\x1b[?1049h") < drawn_at < left_at  # the screen is given back


def test_nothing_to_ask_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"neither metrics_port nor learner\.metrics_port is set"):
        top.run(Settings(), addresses=[], once=True, as_json=False)
