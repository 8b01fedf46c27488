"""A store in this process: for backtests, and wherever nothing has to outlive the process.

Keeps the promises of every store, with one difference: it forgets nothing, so its size is that of the log's users and
items. Knows nothing of time, connections or what the values mean.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from threading import Lock

from streamrec.state import Checkpoint, Key, Kind, PartitionMark
from streamrec.state.refusals import backwards, forgotten, refuse_malformed, stale, unopened

NEVER_OPENED = PartitionMark(watermark=None, snapshot=None, epoch=0)


class MemoryStore:
    """State per partition in dictionaries.

    Guarantee: a checkpoint is visible whole or not at all, to every thread, and only from the partition's newest owner.
    """

    def __init__(self) -> None:
        self._values: dict[Key, bytes] = {}
        self._marks: dict[int, PartitionMark] = {}
        self._heads: dict[int, int] = {}
        self._topic: dict[str, str] = {}
        self._lock = Lock()

    def open(self, partition: int) -> PartitionMark:
        """Become the owner of `partition`: raises its epoch and returns where it stands."""
        with self._lock:
            before = self._marks.get(partition, NEVER_OPENED)
            mark = replace(before, epoch=before.epoch + 1)
            self._marks[partition] = mark
            return mark

    def seal(self, partitions: Collection[int], *, keep: bool = False) -> None:
        """Empty these partitions, for filling them anew. This store is all there is, so it shuts nobody out."""
        with self._lock:
            if not keep:
                self._values = {key: value for key, value in self._values.items() if key.partition not in partitions}
            for partition in partitions:
                before = self._marks.get(partition, NEVER_OPENED)
                sealed = replace(before, epoch=before.epoch + 1, sealed=True)
                self._marks[partition] = sealed if keep else replace(sealed, watermark=None, snapshot=None, ends=None)

    def unseal(self, partition: int, watermark: int | None, snapshot: str | None) -> None:
        """Let the next owner of the partition start there."""
        with self._lock:
            mark = self._marks[partition]
            ends = mark.ends if mark.watermark == watermark else None
            self._marks[partition] = replace(mark, watermark=watermark, snapshot=snapshot, sealed=False, ends=ends)

    def load(self, keys: Sequence[Key]) -> list[bytes | None]:
        """The stored values, None where there is none, in the order of `keys`."""
        with self._lock:
            return [self._values.get(key) for key in keys]

    def commit(self, checkpoint: Checkpoint) -> None:
        """Write values, watermark and snapshot reference atomically.

        Raises:
            StaleEpoch: the partition has a newer owner; nothing was written.
            StateError: the partition was never opened, a key belongs to another one, or the watermark goes backwards;
                nothing was written.
        """
        refuse_malformed(checkpoint)
        with self._lock:
            mark = self._marks.get(checkpoint.partition)
            if mark is None:
                raise unopened(checkpoint.partition)
            if mark.epoch > checkpoint.epoch:
                self._marks[checkpoint.partition] = replace(mark, refused=mark.refused + 1)
                raise stale(checkpoint, mark.epoch)
            if mark.epoch < checkpoint.epoch:
                raise forgotten(checkpoint)
            if mark.watermark is not None and mark.watermark > checkpoint.watermark:
                raise backwards(checkpoint, mark.watermark)
            self._values.update(checkpoint.writes)
            for key in [key for key, value in checkpoint.writes.items() if not value]:
                del self._values[key]
            self._marks[checkpoint.partition] = replace(
                mark, watermark=checkpoint.watermark, snapshot=checkpoint.snapshot
            )

    def note_ends(self, epochs: Mapping[int, int], ends: str) -> None:
        """Note beside the marks of these partitions where topics that were written to ended."""
        with self._lock:
            for partition, epoch in epochs.items():
                if partition in self._marks and self._marks[partition].epoch == epoch:
                    self._marks[partition] = replace(self._marks[partition], ends=ends)

    def lost(self, partitions: Collection[int], *, accept: bool = False) -> int:
        """None: this store drops nothing."""
        return 0

    def marks(self) -> dict[int, PartitionMark]:
        """Every partition ever opened, and where it stands."""
        with self._lock:
            return dict(self._marks)

    def exchange(self, heads: Mapping[int, int | None]) -> dict[int, int]:
        """Tell how far partitions that are behind have come, and hear it of all."""
        with self._lock:
            told = {**self._heads, **heads}
            self._heads = {partition: ms for partition, ms in told.items() if ms is not None}
            return dict(self._heads)

    def scan(self) -> Iterator[Key]:
        """Of every value there is now."""
        with self._lock:
            return iter(list(self._values))

    def find(self, kind: Kind, name: str) -> dict[int, bytes]:
        """The values stored under one name, by partition."""
        with self._lock:
            found = {partition: self._values.get(Key(partition, kind, name)) for partition in self._marks}
        return {partition: value for partition, value in found.items() if value is not None}

    def known_topic(self, told: Mapping[str, str]) -> dict[str, str]:
        """What is recorded of the topic; of what is told now, what was lacking is from now on."""
        with self._lock:
            self._topic = {**told, **self._topic}
            return dict(self._topic)

    def record_topic(self, told: Mapping[str, str]) -> None:
        """Record this of the topic, and nothing of what was recorded before."""
        with self._lock:
            self._topic = dict(told)

    def contents(self, partition: int) -> dict[Key, bytes]:
        """Everything stored of a partition: committed to another store, it is as it was here."""
        with self._lock:
            return {key: value for key, value in self._values.items() if key.partition == partition}

    def close(self) -> None:
        """Nothing to let go of: what was committed stays readable, as it would on a server."""
