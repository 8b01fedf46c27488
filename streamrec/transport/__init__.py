"""Where records come from and where they go: the protocols every transport keeps.

Knows nothing of events, state or models: a record is bytes with an address.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

Headers = tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a topic. `timestamp_ms` is the transport's own, 0 where it has none."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    timestamp_ms: int = 0


class Assignee(Protocol):
    """Who is told that partitions come and go. Called from inside `poll`, on the same thread."""

    def assigned(self, partitions: Sequence[int]) -> Mapping[int, int | None]:
        """Take over `partitions`; returns the offset to start each at, None for the source's own default."""

    def revoked(self, partitions: Sequence[int]) -> None:
        """Hand `partitions` back in good order: they are still ours while this runs."""

    def lost(self, partitions: Sequence[int]) -> None:
        """`partitions` belong to somebody else already: forget them without writing."""


class Source(Protocol):
    """An ordered log per partition, read from a position.

    Guarantee: within a partition, records come in offset order, each once per seek. Nothing is acknowledged by reading.
    """

    @property
    def topic(self) -> str:
        """The topic that is read."""

    def subscribe(self, assignee: Assignee) -> None:
        """Join; `assignee` hears of partitions from then on, during `poll`."""

    def poll(self, max_records: int, timeout_s: float) -> Sequence[Record]:
        """At most `max_records` records, waiting at most `timeout_s` for the first; empty when there are none.

        Raises:
            TransportError: the log cannot be read and will not recover by itself.
        """

    def seek(self, positions: Mapping[int, int]) -> None:
        """Continue each partition at the given offset."""

    def commit(self, positions: Mapping[int, int]) -> None:
        """Tell the log's own tools how far we are (lag displays alone; never read back to resume). Does not block."""

    def lag(self) -> int | None:
        """Records not yet read over the partitions held, None when unknown."""

    def exhausted(self) -> bool:
        """True when no record can ever come again (a finite log, read to its end)."""

    def close(self) -> None:
        """Leave; revokes what is held first."""


class Sink(Protocol):
    """Where records are published.

    Guarantee: what `flush` returned from without raising is stored by the log; per key, order is kept.
    """

    def publish(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Iterable[tuple[str, bytes]] = ()
    ) -> None:
        """Hand a record over; blocks while the queue is full.

        Raises:
            PublishFailed: an earlier record was refused for good, or the queue stayed full past the time limit.
        """

    def flush(self, timeout_s: float) -> None:
        """Wait until everything published is stored.

        Raises:
            PublishFailed: something was not stored within `timeout_s`.
        """

    def close(self) -> None:
        """Flush and let go."""
