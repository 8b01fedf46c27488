"""Workers to be broken: children of one process that has imported everything, so that a start takes no seconds.

Such a worker runs what `streamrec worker` runs, in a process of its own that lives and dies as any other.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.chaos.faulty_worker import Fault

STOP_LIMIT_S = 60.0
ANSWER_LIMIT_S = 10.0
RESTART_AFTER_S = 0.3
FAILED = 1
"""The exit code of a worker that cannot go on, and may be started again."""
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["tests.chaos.warm"])


class ForkedWorker:
    """A worker in a process of its own, ended with the `with` block. What it says goes to `log`.

    `fault` breaks it by itself; `environment` are settings of this one alone, as STREAMREC_... variables.
    """

    def __init__(
        self, config: Path, log: Path, fault: Fault | None = None, environment: Mapping[str, str] | None = None
    ) -> None:
        self.port = free_port()
        variables = {"STREAMREC_METRICS_PORT": str(self.port), **(environment or {})}
        self._log = log
        self._child = _FORKS.Process(target=_work, args=(config, log, fault, variables), daemon=True)
        self._child.start()

    @property
    def pid(self) -> int:
        """Its process."""
        return self._child.pid or 0

    @property
    def said(self) -> str:
        """Everything it has printed."""
        return self._log.read_text(encoding="utf-8", errors="replace") if self._log.exists() else ""

    @property
    def running(self) -> bool:
        """Whether it has not ended; a stopped one has not."""
        return self._child.exitcode is None

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it runs."""
        if self.running:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once, as a crash would."""
        self.signal(signal.SIGKILL)
        self._child.join(STOP_LIMIT_S)

    def stop(self) -> int:
        """Ask it to end; its exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def wait(self, limit_s: float = STOP_LIMIT_S) -> int:
        """Its exit code once it has ended by itself, minus the signal's number if one ended it.

        Raises:
            AssertionError: it did not end in time.
        """
        self._child.join(limit_s)
        code = self._child.exitcode
        assert code is not None, f"the worker did not end within {limit_s:.0f} s; it said:\n{self.said[-3_000:]}"
        return code

    def resident_bytes(self) -> int:
        """The memory it holds, as the kernel counts it."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return 1_024 * int(status.partition("VmRSS:")[2].split()[0])

    def health(self, path: str) -> tuple[int, str]:
        """What it answers at /livez, /readyz or /metrics: status and text; status 0 when nobody answers."""
        return answer(self.port, path)

    def ready(self) -> bool:
        """Whether it says that it takes events."""
        return self.health("/readyz")[0] == 200

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels; 0 when there is none of that name."""
        lines = self.health("/metrics")[1].splitlines()
        values = [line.rsplit(" ", 1) for line in lines if not line.startswith("#")]
        return sum(float(value) for key, value in values if key.partition("{")[0] in (name, f"{name}_total"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()


class Supervised:
    """One worker, started again whenever it fails or is killed, as a process supervisor does. Ends with the block."""

    def __init__(self, start: Callable[[], ForkedWorker]) -> None:
        self._start = start
        self._leaving = threading.Event()
        self.codes: list[int] = []
        """How each of those before the current one ended."""
        self.workers = [start()]
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    @property
    def worker(self) -> ForkedWorker:
        """The one that runs now, or ran last."""
        return self.workers[-1]

    @property
    def running(self) -> bool:
        """Whether the worker runs, or will again soon."""
        return self._thread.is_alive()

    @property
    def said(self) -> str:
        """What all of them printed, in turn."""
        return "".join(worker.said for worker in self.workers)

    def _watch(self) -> None:
        while not self._leaving.wait(0.05):
            if self.worker.running:
                continue
            self.codes.append(self.worker.wait())
            if self.codes[-1] not in (FAILED, -signal.SIGKILL) or self._leaving.wait(RESTART_AFTER_S):
                return
            self.workers.append(self._start())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._leaving.set()
        self._thread.join(STOP_LIMIT_S)
        self.worker.kill()


def answer(port: int, path: str) -> tuple[int, str]:
    """What an HTTP server on loopback says: status and text; status 0 when nobody answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=ANSWER_LIMIT_S) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def log_in(directory: Path) -> Path:
    """A new file for what a worker says."""
    return directory / f"worker-{time.monotonic():.3f}-{uuid.uuid4().hex[:6]}.log"


def _work(config: Path, log: Path, fault: Fault | None, environment: Mapping[str, str]) -> None:
    """In the child: become `streamrec worker`."""
    from streamrec.cli import main
    from tests.chaos.faulty_worker import plant

    if sys.platform == "linux":  # end with the process that forked us, which ends with the tests
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    with log.open("ab") as output:
        for stream in (1, 2):
            os.dup2(output.fileno(), stream)
    os.environ.update(environment)
    if fault is not None:
        plant(fault)
    sys.argv = ["streamrec", "worker", "--config", str(config)]
    main()
