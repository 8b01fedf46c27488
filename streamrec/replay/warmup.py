"""Warm-up: learns a historical log with an ordinary worker, so that live workers start from its models and state.

    seal the partitions > learn the log > save the models > store each partition's start offset, and unseal it

The worker reads the log as if it were the topic, each row on the partition where its user's live events come. While the
partitions are sealed no worker can open them, so live workers see a whole warm-up or none.

Knows nothing of Kafka, Redis or the wall clock.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, runtime_checkable

from streamrec import codec
from streamrec.engine.examples import EXAMPLES_PARTITION
from streamrec.errors import StaleEpoch, StateError, TransportError
from streamrec.events import Item
from streamrec.learner.fold import begun
from streamrec.replay.logs import Log
from streamrec.state import SnapshotStore, Store
from streamrec.transport import Assignee, Record
from streamrec.worker.loop import Worker


class LogSource:
    """A log as a source: its rows up to and with the time `until` (ms), each on its user's partition.

    Guarantee: as `Source`, but that it goes forward only, once. Rows come in the log's own order whatever their
    partitions, and a row's number is its offset.
    """

    def __init__(
        self, log: Log, topic: str, partitions: int, partition_of: Callable[[str], int], until: int | None = None
    ) -> None:
        self.rows = 0  # handed out
        self._topic = topic
        self._log = log
        self._partitions = range(partitions)
        self._partition_of = partition_of
        self._until = until
        self._records = self._read()
        self._assignee: Assignee | None = None
        self._joined = False
        self._paused = False
        self._ended = False

    @property
    def topic(self) -> str:
        """The topic that the log stands for."""
        return self._topic

    @property
    def skipped_records(self) -> int:
        """Always 0."""
        return 0

    def subscribe(self, assignee: Assignee) -> None:
        """All partitions are given to `assignee` by the first poll."""
        self._assignee = assignee

    def poll(self, max_records: int, timeout_s: float) -> Sequence[Record]:
        """See `Source`.

        Raises:
            LogError, TableError: as `Log.events`.
        """
        if self._assignee is not None and not self._joined:
            self._assignee.assigned(self._partitions)
            self._joined = True
        if self._paused:
            return []
        records = list(islice(self._records, max_records))
        self._ended = len(records) < max_records
        self.rows += len(records)
        return records

    def seek(self, positions: Mapping[int, int]) -> None:
        """Refused.

        Raises:
            TransportError: always.
        """
        raise TransportError("a log that is learned once cannot be sought")

    def pause(self) -> None:
        """See `Source`."""
        self._paused = True

    def resume(self) -> None:
        """See `Source`."""
        self._paused = False

    def hold(self, partitions: Collection[int]) -> None:
        """Does nothing: a log is read in its own order."""

    def disown(self, partitions: Sequence[int]) -> None:
        """Refused: what is learned here is of all partitions, or of none.

        Raises:
            StaleEpoch: always.
        """
        raise StaleEpoch(f"partitions {list(partitions)} were sealed by somebody else meanwhile: they fill them now")

    def connected(self) -> bool:
        """Always: the log is here."""
        return True

    def commit(self, positions: Mapping[int, int]) -> None:
        """Does nothing: there are no lag displays for a log."""

    def lag(self) -> Mapping[int, int]:
        """Not known."""
        return {}

    def stopped(self) -> Collection[int]:
        """See `Source`."""
        return self._partitions if self._paused else ()

    def exhausted(self) -> bool:
        """True when the last row was handed out."""
        return self._ended

    def close(self) -> None:
        """Hand all partitions back."""
        if self._assignee is not None and self._joined:
            self._assignee.revoked(self._partitions)

    def _read(self) -> Iterator[Record]:
        for row, event in self._log.events():
            if self._until is not None and event.ts > self._until:
                return
            partition, value = self._partition_of(event.user_id), codec.encode_event(event, codec.MSGPACK)
            yield Record(self._topic, partition, row, event.user_id.encode(), value, codec.MSGPACK_HEADERS)


@runtime_checkable
class Rehearsable(Protocol):
    """A model that remembers examples and can go over them again."""

    name: str

    def rehearse(self, passes: int) -> None:
        """Go over what is remembered until it has been learned from so many times."""


@dataclass(frozen=True, slots=True)
class WarmupResult:
    """What live workers start from: the models' snapshot, and the offset of the first live event by partition."""

    snapshot: str
    starts: Mapping[int, int]


def warm_up(
    worker: Worker,
    store: Store,
    snapshots: SnapshotStore,
    partitions: int,
    starts: Callable[[], Mapping[int, int]],
    *,
    passes: int = 1,
    topic: Mapping[str, str] | None = None,
    examples_end: int | None = None,
    items: Iterable[Item] = (),
    now_ms: int,
) -> WarmupResult:
    """Let `worker` learn its source to the end, and leave everything so that live workers go on from there.

    Whatever the store held of the topic before is removed, also of partitions that the topic no longer has.

    Args:
        worker: on a `LogSource` and on `store`; it keeps no snapshots itself.
        store: where the live workers' state will be.
        snapshots: where their models will be.
        partitions: how many the topic has.
        starts: the offset of the first live event for each of them. Asked for after the learning, which takes its time,
            and a topic forgets meanwhile.
        passes: how often models that can do so go over what they remember.
        topic: which topic it is, to be recorded beside the positions.
        examples_end: where a learner is to go on in the examples; None: workers learn by themselves.
        items: the catalogue that was known.
        now_ms: dates the snapshot.

    Raises:
        StaleEpoch: another warm-up has taken over; what is stored now is its own.
        StreamrecError: the worker could not go on. After this, as after any other error, what was written is removed;
            if the store does not answer to that either, the partitions stay sealed until the next warm-up.
    """
    sealed = {*store.marks(), *range(partitions)}
    try:
        store.seal(sealed)
        store.record_topic(topic or {})
        worker.run()
        rehearse(worker, passes)
        pipeline, found = worker.pipeline, starts()
        state = pipeline.state() if examples_end is None else begun(pipeline, found, items)
        suspect = pipeline.rollback.suspects(state)
        marks = found if examples_end is None else {EXAMPLES_PARTITION: examples_end}
        snapshot = snapshots.save(state, marks, pipeline.schema, now_ms=now_ms, suspect=suspect)
    except StaleEpoch:
        raise
    except BaseException:
        with suppress(StateError):
            store.seal(sealed)
            for partition in sealed:
                store.unseal(partition, None, None)
        raise
    for partition in sealed:
        store.unseal(partition, found.get(partition), snapshot if partition in found else None)
    return WarmupResult(snapshot, found)


def rehearse(worker: Worker, passes: int) -> None:
    """Let the models that remember examples learn from them `passes` times; once they have done so already."""
    for model in worker.pipeline.models:
        if passes > 1 and isinstance(model, Rehearsable):
            model.rehearse(passes)
