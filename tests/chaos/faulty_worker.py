"""A worker that breaks at a named step: it kills or stops itself before or after the n-th call of it.

    python tests/chaos/faulty_worker.py STEP before|after NTH KILL|STOP worker --config streamrec.toml

The worker is the real one, put together by `streamrec.wiring` and run by the command line; only the step is wrapped.
What happens to it happens to the process: SIGKILL leaves no time to clear up, SIGSTOP holds it until SIGCONT.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import streamrec.wiring.connections
from streamrec.cli import main
from streamrec.worker.loop import Worker

Moment = Literal["before", "after"]
MOMENTS: tuple[Moment, ...] = ("before", "after")

STEPS: Mapping[str, Callable[[Worker], tuple[Any, str]]] = {
    # Taking partitions over
    "open": lambda worker: (worker._store, "open"),
    "restore": lambda worker: (worker._checkpoints.snapshots, "load"),
    "former": lambda worker: (worker._answered, "look"),  # what former owners have published
    # A batch
    "load": lambda worker: (worker._store, "load"),
    "credit": lambda worker: (worker._open_slates, "credit"),  # of each event, before it is answered
    "learn": lambda worker: (worker.pipeline, "learn"),
    "publish": lambda worker: (worker._sink, "publish"),
    "close": lambda worker: (worker._open_slates, "close"),
    # A checkpoint
    "flush": lambda worker: (worker._sink, "flush"),
    "snapshot": lambda worker: (worker._checkpoints.snapshots, "save"),
    "write": lambda worker: (worker._checkpoints.snapshots._storage, "write"),  # of each file in a snapshot
    "commit": lambda worker: (worker._store, "commit"),  # of each partition
    "note": lambda worker: (worker._store, "note_ends"),
    "offsets": lambda worker: (worker._source, "commit"),
}
"""Where each step is called: an object and the name of its function."""


@dataclass(frozen=True, slots=True)
class Fault:
    """`how` happens to the process `moment` the `nth` call of a step."""

    step: str
    moment: Moment
    nth: int = 1
    how: signal.Signals = signal.SIGKILL

    def __str__(self) -> str:
        return f"{self.how.name} {self.moment} call {self.nth} of {self.step}"


def plant(fault: Fault) -> None:
    """Whatever worker is built from now on in this process has the fault."""
    build = streamrec.wiring.connections.build_worker

    def faulty(*parts: Any, **named: Any) -> Worker:
        worker = build(*parts, **named)
        _wrap(*STEPS[fault.step](worker), fault)
        return worker

    streamrec.wiring.connections.build_worker = faulty


def _wrap(owner: Any, name: str, fault: Fault) -> None:
    whole, calls = getattr(owner, name), 0

    def step(*given: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        strikes = calls == fault.nth
        if strikes and fault.moment == "before":
            _strike(fault)
        result = whole(*given, **named)
        if strikes and fault.moment == "after":
            _strike(fault)
        return result

    setattr(owner, name, step)


def _strike(fault: Fault) -> None:
    print(f"fault: {fault}", file=sys.stderr, flush=True)
    os.kill(os.getpid(), fault.how)


if __name__ == "__main__":
    at, when, nth, how, *arguments = sys.argv[1:]
    plant(Fault(at, "before" if when == "before" else "after", int(nth), signal.Signals[f"SIG{how}"]))
    sys.argv = ["streamrec", *arguments]
    main()
