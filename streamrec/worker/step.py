"""One step of the fold: some records in, everything remembered, slates and outcomes out.

    decode > deduplicate > attribute > remember > recommend > learn > publish

The step is the same for a live topic and for a historical log: only where records come from and go to differs. What may
have to wait, the store's answer, is asked for before anything happens, so that a step that cannot be taken now can be
taken later. Knows nothing of groups, checkpoints or waiting.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from streamrec.codec import CONTENT_TYPE, JSON, encode
from streamrec.engine.arrays.feedback import Lesson
from streamrec.engine.arrays.logged_event import Arrival, name_hash
from streamrec.engine.attribution.open_slates import OpenSlates, User
from streamrec.engine.batch_result import Portion
from streamrec.engine.items.item_counts import Ledger
from streamrec.engine.pipeline import Recommender
from streamrec.errors import BadEvent
from streamrec.events import Outcome, Slate
from streamrec.state import Key, Kind
from streamrec.transport import Record, Sink
from streamrec.worker.dead_letters import sealed
from streamrec.worker.metrics import Metrics
from streamrec.worker.validation import Intake, Tolerance

JSON_HEADERS = ((CONTENT_TYPE, JSON.encode()),)
Load = Callable[[Sequence[Key]], list[bytes | None]]
"""Fetches stored values."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where things are published."""

    recommendations: str
    outcomes: str
    dead_letters: str


@dataclass(frozen=True, slots=True)
class Access:
    """How a step reaches what is stored."""

    load: Load
    """Before anything has happened: may raise StateUnavailable."""
    load_surely: Load
    """In the middle of a step: waits, and raises only what stops the worker."""
    make_room: Callable[[], None]
    """Saves what is in memory, so that it can make room for others: may raise StateUnavailable, PublishDelayed."""


class Fold:
    """The state in memory of the partitions held, and how a step moves it."""

    def __init__(
        self,
        recommender: Recommender,
        ledger: Ledger,
        open_slates: OpenSlates,
        access: Access,
        sink: Sink,
        addresses: Addresses,
        tolerance: Tolerance,
        metrics: Metrics,
        observer: Callable[[Portion], None] | None = None,
        wall_ms: Callable[[], int] = lambda: int(time.time() * 1000),
    ) -> None:
        """`observer` sees every portion after it was answered and before it is learned (reports, tests)."""
        self.recommender = recommender
        self.open_slates = open_slates
        self.intake = Intake(tolerance, self.bury, addresses.dead_letters)
        self.newcomers = 0  # users met of whom the store knew nothing
        self._ledger = ledger
        self._access = access
        self._sink = sink
        self._addresses = addresses
        self._metrics = metrics
        self._observer = observer
        self._wall_ms = wall_ms
        # The users and items of one step are in memory together.
        self.most_records = min(recommender.knowledge.users.capacity, ledger.capacity, open_slates.room.users)

    def step(self, records: Sequence[Record], taught: Mapping[int, int]) -> dict[int, int]:
        """Handle at most `most_records` records, in order; returns where each partition may be left behind.

        Args:
            records: in the order of their partitions' logs.
            taught: per partition, the models have learned what comes before this offset already.

        Raises:
            StateUnavailable, PublishDelayed: nothing has happened yet; the same step may be taken later.
            StreamrecError: the worker cannot go on.
        """
        readings = self.intake.read(records, taught)
        self.admit([reading for reading in readings if isinstance(reading, Arrival)])
        arrivals = self.deduplicated(self.intake.take(records, readings))
        sent_ms = {(record.partition, record.offset): record.timestamp_ms for record in records}
        for portion in self.recommender.portions(arrivals, self._close_slates):
            self.publish(portion, sent_ms)
            self._metrics.tried(portion.trial)
            self._metrics.drifted(portion.drifts)
            if self._observer is not None:
                self._observer(portion)
        return {record.partition: self.intake.safe_position(record) for record in records}

    def bury(self, record: Record, error: BadEvent) -> None:
        """Put a record aside in the dead-letter topic."""
        self._sink.publish(self._addresses.dead_letters, *sealed(record, error))
        self._metrics.dead_letters.labels(error.reason).inc()

    def deduplicated(self, arrivals: list[Arrival]) -> list[Arrival]:
        """The events that are new, counted; their users and items are in memory."""
        knowledge = self.recommender.knowledge
        rows = [knowledge.users.touch((arrival.partition, arrival.event.user_id)) for arrival in arrivals]
        ids = [name_hash(arrival.event.event_id) for arrival in arrivals]
        fresh = knowledge.duplicates.first_time(np.array(rows, np.int32), np.array(ids, np.uint64)).tolist()
        kept = [arrival for arrival, new in zip(arrivals, fresh, strict=True) if new]
        self._count_late([row for row, new in zip(rows, fresh, strict=True) if new], kept)
        for arrival in kept:
            if arrival.event.item_id is not None:
                self._ledger.count(arrival.partition, arrival.event, knowledge.category_of(arrival.event))
        self._metrics.events.inc(len(kept))
        self._metrics.duplicates.inc(len(arrivals) - len(kept))
        return kept

    def _count_late(self, rows: Sequence[int], arrivals: Sequence[Arrival]) -> None:
        """An event older than its user's newest is late: it is taken as it comes, and counted as late here."""
        last_ts = self.recommender.knowledge.counts.last_ts
        newest: dict[int, int] = {}
        for row, arrival in zip(rows, arrivals, strict=True):
            before = newest.get(row)
            if before is None:
                before = int(last_ts[row])
            if arrival.event.ts < before:
                self._metrics.late.inc()
            newest[row] = max(before, arrival.event.ts)

    def admit(self, arrivals: Sequence[Arrival]) -> None:
        """Bring into memory what the store knows of these users and items, in one go."""
        table = self.recommender.knowledge.users
        users = list(dict.fromkeys((arrival.partition, arrival.event.user_id) for arrival in arrivals))
        items = list(
            dict.fromkeys(
                (arrival.partition, arrival.event.item_id) for arrival in arrivals if arrival.event.item_id is not None
            )
        )
        crowded = table.crowded(len(users)) or self._ledger.crowded(len(items))
        if crowded or self.open_slates.crowded(len(users)):
            self._access.make_room()
        new_users, new_items = table.missing(users), self._ledger.missing(items)
        unasked = self.open_slates.missing(users)
        keys = [
            *(Key(partition, Kind.USER, name) for partition, name in new_users),
            *(Key(partition, Kind.ITEM, name) for partition, name in new_items),
            *_open_keys(unasked),
        ]
        if not keys:
            return
        values = iter(self._access.load(keys))
        stored = list(islice(values, len(new_users)))
        self.newcomers += stored.count(None)
        table.admit(new_users, stored, arrivals[0].event.ts)
        self._ledger.admit(new_items, list(islice(values, len(new_items))))
        self.open_slates.admit(unasked, list(values))

    def publish(self, portion: Portion, sent_ms: Mapping[tuple[int, int], int]) -> None:
        """Slates and credits in log order: an event is owed to a slate only if the slate came first."""
        for arrival in portion.arrivals:
            place = arrival.partition, arrival.offset
            self.open_slates.credit(arrival)
            slate = portion.slates.get(place)
            if slate is not None:
                self._send(self._addresses.recommendations, slate)
                self.open_slates.shown(arrival.partition, slate, portion.memos[place])
                self._metrics.answered(slate)
                if sent_ms[place] > 0:
                    self._metrics.latency.observe(max(self._wall_ms() - sent_ms[place], 0) / 1000)
            # A date ahead of its sending must not close everybody's slates.
            now_ms = min(arrival.event.ts, sent_ms[place]) if sent_ms[place] > 0 else arrival.event.ts
            self.open_slates.tick(arrival.partition, now_ms, arrival.learned)

    def _close_slates(self) -> list[Lesson]:
        """Publish the outcomes of slates whose time is up; returns what is to be learned from them."""
        lessons = []
        for came, learned in self.open_slates.close(self._load_slates):
            for outcome in came.outcomes:
                self._send(self._addresses.outcomes, outcome)
            self._metrics.outcomes.inc(len(came.outcomes))
            if came.lesson is not None and not learned:
                lessons.append(came.lesson)
        return lessons

    def _load_slates(self, users: Sequence[User]) -> list[bytes | None]:
        return self._access.load_surely(_open_keys(users))

    def _send(self, topic: str, message: Slate | Outcome) -> None:
        self._sink.publish(topic, message.user_id.encode(), encode(message), JSON_HEADERS)


def _open_keys(users: Sequence[User]) -> list[Key]:
    return [Key(partition, Kind.OPEN, name) for partition, name in users]
