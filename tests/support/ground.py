"""A worker in this process, on a log and a store that outlive it, which can lose its power at any place."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from streamrec.codec import decode, decode_slate
from streamrec.config.groups import Attribution, Checkpointing, Learning, Limits, Rollout
from streamrec.config.parts import default_models
from streamrec.config.settings import Settings
from streamrec.events import Event, Outcome, Slate
from streamrec.state import Checkpoint, Store
from streamrec.state.memory import MemoryStore
from streamrec.state.snapshots import SnapshotDirectory
from streamrec.testing import records
from streamrec.transport import Record
from streamrec.transport.local import LocalSink, LocalSource, LocalTail
from streamrec.wiring import build_worker
from streamrec.worker.loop import Worker

TOPIC = "user-events"
LONGEST_POLL = 48


class PowerCut(BaseException):
    """Nothing of the worker runs any more."""


class CutStore(MemoryStore):
    """Loses power at the checkpoints it is told to, before or after they are written."""

    def __init__(self) -> None:
        super().__init__()
        self.before: set[int] = set()
        self.after: set[int] = set()
        self.commits = 0

    def commit(self, checkpoint: Checkpoint) -> None:
        self.commits += 1
        if self.commits in self.before:
            raise PowerCut
        super().commit(checkpoint)
        if self.commits in self.after:
            raise PowerCut


ATTRIBUTION = {"window_s": 120, "lateness_s": 5}
ROLLOUT = {"evaluate": ("exp3",)}  # it learns from slates too, and is saved


@dataclass
class Ground:
    """Everything that outlives a worker."""

    log: Sequence[Record]
    store: Store
    directory: Path
    partitions: int = 1
    max_users: int = 2_000
    max_items: int = 2_048
    max_bad_in_a_row: int = 1_000
    on_gap: Literal["fail", "skip"] = "fail"
    topic: str = TOPIC
    models: tuple[str, ...] = default_models()
    slates: list[Slate] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    dead_letters: list[dict[str, str]] = field(default_factory=list)
    sink: LocalSink | None = None

    def worker(self) -> tuple[Worker, LocalSource]:
        settings = Settings(
            limits=Limits(max_items=self.max_items, max_users=self.max_users, max_bad_in_a_row=self.max_bad_in_a_row),
            learning=Learning(device="cpu", models=self.models),
            attribution=Attribution.model_validate(ATTRIBUTION),
            rollout=Rollout.model_validate(ROLLOUT),
            checkpoints=Checkpointing(interval_s=1e9, on_gap=self.on_gap),
        )
        source = LocalSource(self.topic, self.log, partitions=self.partitions)
        snapshots = SnapshotDirectory(self.directory, 3)
        if self.sink is None:
            self.sink = LocalSink(self.note)
        tail = LocalTail(self.sink)
        worker = build_worker(settings, source, self.sink, self.store, snapshots, tail=tail)
        source.subscribe(worker)
        return worker, source

    def note(self, record: Record) -> None:
        if record.topic == "recommendations":
            self.slates.append(decode_slate(record.value or b"", record.headers))
        elif record.topic == "outcomes":
            self.outcomes.append(decode(record.value or b"", record.headers, Outcome))
        else:
            self.dead_letters.append({name: content.decode() for name, content in record.headers})

    def work(self, seed: int, until: Callable[[int], bool] = lambda offset: False, checkpoints: float = 0.15) -> Worker:
        """Poll and save at times that `seed` decides, to the end or until the power is cut at one of the offsets."""
        draw = random.Random(seed)
        worker, source = self.worker()
        source.poll(0, 0.0)  # joins
        while not source.exhausted():
            polled = source.poll(draw.randrange(1, LONGEST_POLL), 0.0)
            worker.step(polled)
            if any(until(record.offset) for record in polled):
                raise PowerCut
            if draw.random() < checkpoints:
                worker.checkpoint()
        worker.checkpoint()
        return worker


def learned(worker: Worker) -> int:
    """How many wanted items the models were taught, those of the open micro-batch included."""
    repeats = next(model for model in worker.pipeline.models if model.name == "repeats")
    batch = worker.pipeline.batch
    waiting = int((batch.examples.label[: batch.learned] == 1).sum())
    return int(repeats.events.sum()) + waiting  # type: ignore[attr-defined]


def with_bad(log: Sequence[Event], places: Sequence[int]) -> list[Record]:
    """The log with unusable messages put in, so that each stands at its place."""
    good, out = iter(records(TOPIC, log)), []
    for offset in range(len(log) + len(places)):
        record = Record(TOPIC, 0, offset, b"k", b"{", ()) if offset in places else next(good)
        out.append(replace(record, offset=offset))
    return out
