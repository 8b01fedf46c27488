"""Tasks of the quality bench: commands in processes of their own, a few at a time, each leaving a report behind.

A task whose result is there is not carried out again, so an interrupted bench goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from streamrec.errors import EmbeddedError

ROOT = Path(__file__).parents[2]
REPORT, RECEIPT, LOG = "report.json", "task.json", "log.txt"
LAST_WORDS = 1_500
"""Characters of a failed task's output that are shown."""

Report = Mapping[str, Any]
"""What `report.json` says."""


@dataclass(frozen=True, slots=True)
class Task:
    """One process: a command, what is added to its environment, and the folder where it leaves `report.json`."""

    name: str
    place: Path
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)

    def receipt(self) -> dict[str, Any]:
        """What a result is recognised by."""
        return {"command": list(self.command), "environment": dict(self.environment)}

    def done(self) -> bool:
        """Whether a result of this very task is there."""
        try:
            told = json.loads((self.place / RECEIPT).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return {key: told.get(key) for key in ("command", "environment")} == self.receipt()

    def report(self) -> Report:
        """What came of it, once it is done."""
        report: Report = json.loads((self.place / REPORT).read_text(encoding="utf-8"))
        return report


def carry_out(tasks: Sequence[Task], jobs: int) -> None:
    """Carry out what is not done yet, `jobs` at a time, with a line for each.

    Raises:
        EmbeddedError: some failed; the others were carried out and are kept.
    """
    waiting = [task for task in tasks if not task.done()]
    if len(waiting) < len(tasks):
        print(f"{len(tasks) - len(waiting)} of {len(tasks)} results are there already", flush=True)
    processes = Processes()
    failed: list[str] = []
    pool = ThreadPoolExecutor(jobs)
    try:
        futures = [pool.submit(processes.run, task) for task in waiting]
        for number, future in enumerate(as_completed(futures), 1):
            done = future.result()
            print(f"[{number}/{len(waiting)}] {done.line()}", flush=True)
            failed += [] if done.failure is None else [f"{done.task.name}: {done.failure}"]
    finally:
        processes.end()
        pool.shutdown(cancel_futures=True)
    if failed:
        raise EmbeddedError(
            f"{len(failed)} of {len(waiting)} runs failed; the same command goes on. " + "\n".join(failed)
        )


@dataclass(frozen=True, slots=True)
class Done:
    """How a task ended; `failure` is the end of what it said, None when all went well."""

    task: Task
    seconds: float
    failure: str | None

    def line(self) -> str:
        """In one line."""
        if self.failure is not None:
            return f"{self.task.name}: failed after {self.seconds:.0f} s"
        name, metrics = next(iter(self.task.report()["metrics"].items()))
        return (
            f"{self.task.name}: {name} Recall@10 {metrics['recall_10']:.4f}, MRR@20 {metrics['mrr_20']:.4f}, "
            f"{metrics['targets']:,} targets, {self.seconds:.0f} s"
        )


class Processes:
    """The processes that run now; none outlives this one's `end`."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._ended = False

    def run(self, task: Task) -> Done:
        """Carry out one task and leave a receipt beside its result."""
        task.place.mkdir(parents=True, exist_ok=True)
        (task.place / RECEIPT).unlink(missing_ok=True)
        log = task.place / LOG
        # A setting of whoever runs the bench must not be one of the protocol's.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("STREAMREC_")}
        measured, began = version(), time.monotonic()
        with log.open("wb") as said:
            status = self._wait(task.command, {**inherited, **task.environment}, said)
        seconds = time.monotonic() - began
        if status:
            words = log.read_text(encoding="utf-8", errors="replace").strip()[-LAST_WORDS:]
            return Done(task, seconds, words or f"it ended with status {status}")
        receipt = task.receipt() | {"version": measured, "seconds": seconds}
        (task.place / RECEIPT).write_text(json.dumps(receipt, indent=2) + "\n", encoding="utf-8")
        return Done(task, seconds, None)

    def end(self) -> None:
        """Stop whatever still runs, and start nothing more."""
        with self._lock:
            self._ended = True
            for process in self._running:
                process.terminate()

    def _wait(self, command: Sequence[str], environment: Mapping[str, str], said: IO[bytes]) -> int:
        with self._lock:
            if self._ended:
                return 1
            process = subprocess.Popen(
                command, env=dict(environment), stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT
            )
            self._running.add(process)
        try:
            return process.wait()
        finally:
            with self._lock:
                self._running.discard(process)


def version() -> str:
    """A digest of the package's code and of the bench's."""
    digest = hashlib.sha256()
    for folder in ("streamrec", "tools/benchmarks"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:10]


def versions(tasks: Sequence[Task]) -> list[str]:
    """The versions of the code that these results are of, each once."""
    receipts = [json.loads((task.place / RECEIPT).read_text(encoding="utf-8")) for task in tasks]
    return sorted({receipt["version"] for receipt in receipts})
