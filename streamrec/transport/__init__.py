"""Where records come from and where they go: the protocols every transport keeps.

Knows nothing of events, state or models: a record is bytes with an address.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
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


@dataclass(frozen=True, slots=True)
class TopicIdentity:
    """Which topic a name stands for; what the brokers do not tell is empty, or 0."""

    topic_id: str
    """Another one for each topic ever made, also under the same name (KIP-516)."""
    cluster_id: str
    partitions: int


class Assignee(Protocol):
    """The receiver of partition assignments. Called from inside `poll`, on the same thread."""

    def assigned(self, partitions: Sequence[int]) -> Mapping[int, int | None]:
        """Take over `partitions`; returns the offset to start each at, None for the source's own default."""

    def revoked(self, partitions: Sequence[int]) -> None:
        """Hand `partitions` back in good order: they are still ours while this runs."""

    def lost(self, partitions: Sequence[int]) -> None:
        """`partitions` belong to another member already: forget them without writing."""


class Source(Protocol):
    """An ordered log per partition, read from a position.

    Guarantee: within a partition, records come in offset order, each once per seek. Nothing is acknowledged by reading.
    """

    @property
    def topic(self) -> str:
        """The topic that is read."""

    @property
    def skipped_records(self) -> int:
        """Records that were deleted before they were read, and passed over because that was allowed."""

    def subscribe(self, assignee: Assignee) -> None:
        """Join; `assignee` hears of partitions from then on, during `poll`."""

    def poll(self, max_records: int, timeout_s: float) -> Sequence[Record]:
        """At most `max_records` records, waiting at most `timeout_s` for the first; empty when there are none.

        Raises:
            TransportError: the log cannot be read and will not recover by itself.
        """

    def seek(self, positions: Mapping[int, int]) -> None:
        """Continue each partition at the given offset."""

    def pause(self) -> None:
        """Hand out no more records; `poll` still tells the assignee of partitions. Pausing again changes nothing."""

    def resume(self) -> None:
        """Go on where the pause began."""

    def hold(self, partitions: Collection[int]) -> None:
        """Fetch no more of these, and of all others again. What was fetched before may still be handed out."""

    def disown(self, partitions: Sequence[int]) -> None:
        """Return no records of these until they are assigned anew: another worker owns them, whatever Kafka says."""

    def commit(self, positions: Mapping[int, int]) -> None:
        """Tell the log's own tools how far we are (lag displays alone; never read back to resume). Does not block."""

    def lag(self) -> Mapping[int, int]:
        """Records not yet read, by partition held; without those of which that is not known."""

    def stopped(self) -> Collection[int]:
        """Partitions held of which nothing is handed out on purpose: all in a pause, and any that wait for others."""

    def connected(self) -> bool:
        """False while no broker can be reached."""

    def exhausted(self) -> bool:
        """True when no record can ever come again (a finite log, read to its end)."""

    def close(self) -> None:
        """Leave; revokes what is held first."""


class Follower(Protocol):
    """A compacted topic, all of its partitions, read from the beginning and then followed. No group, no positions.

    Guarantee: records of a key come in the order in which they were written; no record that compaction keeps is left
    out. After a restart everything is read again.
    """

    @property
    def topic(self) -> str:
        """The topic that is followed."""

    def look(self, most: int, wait_s: float = 0.0) -> Sequence[Record]:
        """At most `most` records that have come since the last call; waits at most `wait_s` for the first.

        Raises:
            TransportError: the topic cannot be read and that will not pass by itself.
        """

    def whole(self) -> bool:
        """True once every record was returned that the topic held at the first call of `look`."""

    def close(self) -> None:
        """Disconnect."""


Ends = dict[str, dict[int, int]]
"""By topic and partition, an offset that no record to come will lie before."""


class Tail(Protocol):
    """The ends of topics that grow, read back by whoever must know what was said there last.

    Guarantee: `read` gives every record from a position on that was stored when it was called, in order within a
    partition. Nobody is asked for records at any other time.
    """

    def ends(self, wait_s: float = 0.0) -> Ends:
        """Where the topics end: with `wait_s` as of now, without as last heard, some seconds old, and never blocking.

        A topic that is not there has no partitions.

        Raises:
            TransportUnavailable: no broker answered within `wait_s`.
        """

    def read(self, starts: Ends, each: Callable[[Record], None]) -> None:
        """Every record from these positions to the ends as of now; of partitions not named, from the beginning.

        A position that the topic no longer holds is its beginning.

        Raises:
            TransportUnavailable: no broker answered; some records may have been given, and the call may be repeated.
        """

    def close(self) -> None:
        """Disconnect."""


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
            PublishDelayed: something is not stored yet after `timeout_s`; flush again.
            PublishFailed: something was refused for good.
        """

    def forget(self) -> None:
        """Let go of everything that is not stored yet; what is on its way just now may be stored all the same."""

    def fullness(self) -> float:
        """How full the queue of records not stored yet is, from 0 to 1."""

    def close(self, timeout_s: float | None = None) -> None:
        """Flush for at most `timeout_s` (None: as long as `publish` blocks) and let go; raises what was dropped."""
