"""What outlives the process: the protocols of state stores and of snapshot stores.

Knows nothing of Kafka, events or models: values are bytes, a partition is a number with a watermark.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

import numpy.typing as npt


class Kind(StrEnum):
    """What a stored value is about."""

    USER = "user"
    ITEM = "item"
    SLATE = "slate"
    """The latest slate of a user."""
    OPEN = "open"
    """A user's slates whose outcomes are not final yet."""
    DUE = "due"
    """The users whose slates fall due in one minute; under no name, the partition's clock and its minutes."""
    ACCOUNT = "account"
    """What was spent on an ad of late; under no name, the partition's ads."""
    MOVED = "moved"
    """What has come from another partition and is not in its place yet, named after where it was."""


@dataclass(frozen=True, slots=True)
class Key:
    """The address of one value. Everything of one partition lives in one slot of a cluster."""

    partition: int
    kind: Kind
    name: str


@dataclass(frozen=True, slots=True)
class PartitionMark:
    """How far a partition's stored state is: its watermark, the snapshot that belongs to it, and its owner's epoch.

    `watermark` is the first input offset that the state does not include, None for a partition never seen before.
    `epoch` grows with every owner. A sealed partition is being filled by a warm-up. `refused` counts checkpoints of
    former owners that came too late. `ends` is what was noted last by `note_ends`, None if nothing was.
    """

    watermark: int | None
    snapshot: str | None
    epoch: int
    sealed: bool = False
    refused: int = 0
    ends: str | None = None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One partition's changes since its last checkpoint, and the mark they bring it to.

    An empty value removes what is stored under its key.
    """

    partition: int
    epoch: int
    watermark: int
    snapshot: str | None
    writes: Mapping[Key, bytes] = field(default_factory=dict)


MOVING = "moving_to"
"""What is recorded beside the topic while its users are being moved: to how many partitions."""


class Store(Protocol):
    """State per partition.

    Guarantee: a checkpoint is visible whole or not at all, and only from the partition's newest owner.
    """

    def open(self, partition: int) -> PartitionMark:
        """Become the owner of `partition`: raises its epoch and returns where it stands.

        Raises:
            StateError: somebody else has sealed the partition.
        """

    def seal(self, partitions: Collection[int], *, keep: bool = False) -> None:
        """Empty these partitions, and let nobody but this store open them until `unseal`.

        With `keep` they are not emptied, and nothing in them expires for a day. For filling them in many commits, none
        of which may be started from. Whoever owned them cannot commit any more.
        What is sealed can be sealed again, and whoever did so before cannot commit any more.
        """

    def unseal(self, partition: int, watermark: int | None, snapshot: str | None) -> None:
        """Let anybody open the partition, to start there; watermark None is a partition never seen before.

        Raises:
            StaleEpoch: somebody else has sealed it since; nothing was changed.
        """

    def load(self, keys: Sequence[Key]) -> list[bytes | None]:
        """The stored values, None where there is none, in the order of `keys` (one partition or many).

        Raises:
            StateUnavailable: the store is away; the same call may work later.
        """

    def commit(self, checkpoint: Checkpoint) -> None:
        """Write values, watermark and snapshot reference atomically.

        Raises:
            StaleEpoch: the partition has a newer owner; nothing was written, and `PartitionMark.refused` counts it.
            StateUnavailable: the store is away or has no room; it may or may not have written, and the same checkpoint
                may be committed again.
            StateError: the store has lost what it had confirmed, or the checkpoint is malformed; nothing was written.
        """

    def note_ends(self, epochs: Mapping[int, int], ends: str) -> None:
        """Note beside the marks of these partitions where topics that were written to ended, in the caller's own words.

        Of a partition that has a newer owner than the epoch given, nothing is noted. What is noted goes with the
        watermark: once a partition is to begin elsewhere (`seal`, `unseal`), nothing is.

        Raises:
            StateUnavailable: the store is away; some may be noted and others not.
        """

    def lost(self, partitions: Collection[int], *, accept: bool = False) -> int:
        """At least how many values of these partitions are gone that were given and had not expired; 0 for none.

        Asked again, it says so again, of whoever asks, until it is asked with `accept`.

        Raises:
            StateError: the store may drop values at any time, or has lost where a partition stands.
            StateUnavailable: the store is away; the same call may work later.
        """

    def marks(self) -> dict[int, PartitionMark]:
        """Every partition ever opened, and where it stands. Raises no epoch."""

    def exchange(self, heads: Mapping[int, int | None]) -> dict[int, int]:
        """Tell the time (ms) of the next record of partitions held that are behind, None of one that is not.

        Returns what was last told of every partition that is behind. Outlives no outage: it is a hint, not state.

        Raises:
            StateUnavailable: the store is away.
        """

    def scan(self) -> Iterator[Key]:
        """The keys of all values, in no order; any may come twice, and one that is written meanwhile not at all."""

    def find(self, kind: Kind, name: str) -> dict[int, bytes]:
        """The values stored under one name, by partition.

        For people and tools: a user's partition is not theirs to know.
        """

    def known_topic(self, told: Mapping[str, str]) -> dict[str, str]:
        """What is recorded of the topic that positions are of; of what is told now, what was lacking is from now on.

        Names and words; which, is the caller's affair.
        """

    def record_topic(self, told: Mapping[str, str]) -> None:
        """Record this of the topic, and nothing of what was recorded before."""

    def close(self) -> None:
        """Let go of connections."""


Arrays = Mapping[str, Mapping[str, npt.NDArray[Any]]]
"""Component, then name, then array."""


class SavedSnapshot(Protocol):
    """A snapshot as it was saved, and the input offset per partition that it stands for."""

    @property
    def arrays(self) -> Arrays: ...

    @property
    def watermarks(self) -> Mapping[int, int]: ...

    @property
    def schema(self) -> str: ...

    @property
    def reference(self) -> str: ...


class SnapshotDescription(Protocol):
    """A snapshot's manifest. `components` gives the bytes of each; `suspect` names those that were in doubt."""

    @property
    def created_ms(self) -> int: ...

    @property
    def schema(self) -> str: ...

    @property
    def watermarks(self) -> Mapping[int, int]: ...

    @property
    def components(self) -> Mapping[str, int]: ...

    @property
    def suspect(self) -> Sequence[str]: ...


class SnapshotStore(Protocol):
    """Where models' snapshots are kept.

    Guarantee: a snapshot is there whole or not at all, and comes back as it was saved or not at all.
    """

    @property
    def url(self) -> str: ...

    def save(
        self,
        arrays: Arrays,
        watermarks: Mapping[int, int],
        schema: str,
        *,
        now_ms: int,
        protect: Collection[str] = frozenset(),
        suspect: Collection[str] = (),
    ) -> str:
        """Keep a snapshot and return its reference; old ones may go, but none in `protect`.

        Raises:
            StateUnavailable: there is no room just now, or no network; the same call may work later.
        """

    def load(self, reference: str) -> SavedSnapshot:
        """The snapshot of that reference.

        Raises:
            StateMissing: there is no such snapshot here.
            SnapshotCorrupt: it is not what was saved.
            StateUnavailable: it cannot be read just now; the same call may work later.
        """

    def describe(self, reference: str) -> SnapshotDescription:
        """What the snapshot of that reference is said to hold; its arrays are not looked at.

        Raises:
            StateError: there is none, or what is said of it cannot be read.
        """

    def references(self) -> tuple[str, ...]:
        """The complete snapshots here, newest first."""

    def latest(self) -> str | None:
        """The newest complete snapshot, None when there is none."""
