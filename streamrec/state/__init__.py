"""What outlives the process: the protocol every store keeps.

Knows nothing of Kafka, events or models: values are bytes, a partition is a number with a watermark.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol


class Kind(StrEnum):
    """What a stored value is about."""

    USER = "user"
    ITEM = "item"
    SLATE = "slate"


@dataclass(frozen=True, slots=True)
class Key:
    """The address of one value. Everything of one partition lives in one slot of a cluster."""

    partition: int
    kind: Kind
    name: str


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a partition stands: the first input offset its stored state has not seen, and the snapshot beside it.

    A partition never seen before has watermark None. `epoch` grows with every owner.
    """

    watermark: int | None
    snapshot: str | None
    epoch: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One partition's changes since its last checkpoint, and the mark they bring it to."""

    partition: int
    epoch: int
    watermark: int
    snapshot: str | None
    writes: Mapping[Key, bytes] = field(default_factory=dict)


class Store(Protocol):
    """State per partition.

    Guarantee: a checkpoint is visible whole or not at all, and only from the partition's newest owner.
    """

    def open(self, partition: int) -> Mark:
        """Become the owner of `partition`: raises its epoch and returns where it stands."""

    def load(self, keys: Sequence[Key]) -> list[bytes | None]:
        """The stored values, None where there is none, in the order of `keys` (one partition or many)."""

    def commit(self, checkpoint: Checkpoint) -> None:
        """Write values, watermark and snapshot reference atomically.

        Raises:
            StaleEpoch: the partition has a newer owner; nothing was written.
            StateError: the store did not answer within its time limit; it may or may not have written.
        """

    def marks(self) -> dict[int, Mark]:
        """Every partition ever opened, and where it stands. Raises no epoch."""

    def find(self, kind: Kind, name: str) -> dict[int, bytes]:
        """The values stored under one name, by partition.

        For people and tools: a user's partition is not theirs to know.
        """

    def close(self) -> None:
        """Let go of connections."""
