"""One step and the loop around it: records in, slates out, everything remembered.

    decode > deduplicate > attribute > remember > recommend > learn > publish > checkpoint

The step is the same for a live topic and for a historical log: only source and sink differ. Bad input costs one
record; a fault of ours, of the store or of the log stops the worker, and what was not checkpointed is done again by
the next one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from streamrec.arrivals import Arrival, name_hash
from streamrec.checkpoints import Checkpoints
from streamrec.codec import CONTENT_TYPE, JSON, decode_event, encode
from streamrec.errors import BadEvent, StreamrecError, TooManyBadEvents
from streamrec.events import Event, Outcome, Slate
from streamrec.features.ledger import Ledger
from streamrec.metrics import Metrics
from streamrec.open_slates import OpenSlates, User
from streamrec.policies import Lesson
from streamrec.portions import Portion
from streamrec.recommender import Recommender
from streamrec.rollout import Plan
from streamrec.state import Key, Kind, Store
from streamrec.transport import Record, Sink, Source

LOG = logging.getLogger("streamrec.worker")
POLL_RECORDS = 512
POLL_TIMEOUT_S = 0.1
JSON_HEADERS = ((CONTENT_TYPE, JSON.encode()),)


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where things are published."""

    recommendations: str
    outcomes: str
    dead_letters: str


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What is still an event."""

    max_message_bytes: int
    max_depth: int
    max_bad_in_a_row: int
    max_ahead_s: float


class Worker:
    """Reads a source, as the owner of some of its partitions."""

    def __init__(
        self,
        recommender: Recommender,
        ledger: Ledger,
        open_slates: OpenSlates,
        checkpoints: Checkpoints,
        source: Source,
        sink: Sink,
        store: Store,
        addresses: Addresses,
        tolerance: Tolerance,
        metrics: Metrics,
        observer: Callable[[Portion], None] | None = None,
        revised: Callable[[], Plan | None] = lambda: None,
        wall_ms: Callable[[], int] = lambda: int(time.time() * 1000),
    ) -> None:
        """`observer` sees every portion after it was answered and before it is learned (reports, tests).

        `revised` says at the start and after each checkpoint whether a new plan tells who gets which policy.
        """
        self.recommender = recommender
        self.metrics = metrics
        self._ledger = ledger
        self._open_slates = open_slates
        self._checkpoints = checkpoints
        self._source = source
        self._sink = sink
        self._store = store
        self._addresses = addresses
        self._tolerance = tolerance
        self._observer = observer
        self._revised = revised
        self._wall_ms = wall_ms
        self.newcomers = 0  # users met of whom the store knew nothing
        self._bad_in_a_row = 0
        self._bad_since: dict[int, int] = {}  # per partition, the first of the unusable messages at its end
        self._stopping = False
        # A poll's users and items are in memory together.
        room = recommender.knowledge.users.capacity, ledger.capacity, open_slates.room.users
        self._poll_records = min(POLL_RECORDS, *room)

    # The loop

    def run(self) -> None:
        """Work until `stop` is called or the source can give no more; then save a checkpoint and leave.

        Raises:
            StreamrecError: the worker cannot go on. Nothing past its last checkpoint is committed.
        """
        self._source.subscribe(self)
        try:
            self._follow()
            while not self._stopping and not self._source.exhausted():
                self.step(self._source.poll(self._poll_records, POLL_TIMEOUT_S))
                if self._checkpoints.due():
                    self.checkpoint()
            self.checkpoint()
            self._source.close()
            self._sink.close()
        except BaseException:
            self._abandon()
            raise
        finally:
            self._store.close()

    def _abandon(self) -> None:
        """Leave without saving: what was done since the last checkpoint is done again by the next worker."""
        self._checkpoints.let_go(list(self._checkpoints.positions))  # closing must not save half a step
        for part in (self._sink, self._source):  # dead letters that explain the stop still go out
            try:
                part.close()
            except StreamrecError as error:
                LOG.warning("while stopping: %s", error)

    def stop(self) -> None:
        """Finish the step at hand, save a checkpoint and leave. Safe from a signal handler or another thread."""
        self._stopping = True

    # One step

    def step(self, records: Sequence[Record]) -> None:
        """Handle some records, in order."""
        sent_ms = {(record.partition, record.offset): record.timestamp_ms for record in records}
        arrivals = self._deduplicated(self._decoded(records))
        for portion in self.recommender.portions(arrivals, self._close_slates):
            self._publish_portion(portion, sent_ms)
            self.metrics.tried(portion.trial)
            self.metrics.drifted(portion.drifts)
            if self._observer is not None:
                self._observer(portion)
        for record in records:
            self._checkpoints.positions[record.partition] = self._bad_since.get(record.partition, record.offset + 1)

    def checkpoint(self) -> None:
        """Save state, models and positions together."""
        with self.metrics.checkpoint.time():
            safe = self._checkpoints.save(self._sink.flush)
        self._source.commit(safe)
        self.metrics.lag.set(self._source.lag() or 0)
        for name, count in self.recommender.refused_updates().items():
            self.metrics.refused.labels(name).set(count)
        self.metrics.stand(self.recommender.progress.recent())
        for bucket, count in self.recommender.contribution.held_back().items():
            self.metrics.held_back.labels(bucket).set(count)
        self.metrics.wait(self._open_slates)
        self._follow()

    def _follow(self) -> None:
        plan = self._revised()
        if plan is not None:
            LOG.info("rollout: %s", plan)
            self.recommender.answers.follow(plan)

    def event_of(self, record: Record) -> Event:
        """The event that a record holds.

        Raises:
            BadEvent: it holds none that can be used.
        """
        tolerance = self._tolerance
        event = decode_event(
            record.value, record.headers, max_bytes=tolerance.max_message_bytes, max_depth=tolerance.max_depth
        )
        self._refuse_future(event, record)
        return event

    def _decoded(self, records: Sequence[Record]) -> list[Arrival]:
        taught = self._checkpoints.taught
        arrivals = []
        for record in records:
            try:
                event = self.event_of(record)
            except BadEvent as error:
                self._bury(record, error)
                continue
            self._bad_in_a_row = 0
            self._bad_since.clear()
            learned = record.offset < taught.get(record.partition, 0)
            arrivals.append(Arrival(event, record.partition, record.offset, learned, record.topic))
        return arrivals

    def _refuse_future(self, event: Event, record: Record) -> None:
        # The log's own clock, not the wall's: the same record is judged alike whenever it is read.
        ahead_ms = event.ts - record.timestamp_ms
        if record.timestamp_ms > 0 and ahead_ms > self._tolerance.max_ahead_s * 1000:
            raise BadEvent(
                "future", f"field 'ts' is {event.ts}, {ahead_ms / 1000:.0f} s after the message was sent", "ts"
            )

    def _bury(self, record: Record, error: BadEvent) -> None:
        """One unusable message goes to the dead-letter topic, as it came, with the reason."""
        headers = {
            "reason": error.reason,
            "field": error.field or "",
            "detail": error.detail[:500],
            "topic": record.topic,
            "partition": str(record.partition),
            "offset": str(record.offset),
        }
        kept = [(name, content) for name, content in record.headers if name not in headers]
        encoded = [(name, text.encode("utf-8", "replace")) for name, text in headers.items()]
        self._sink.publish(self._addresses.dead_letters, record.key, record.value, [*kept, *encoded])
        self.metrics.dead_letters.labels(error.reason).inc()
        self._bad_since.setdefault(record.partition, record.offset)
        self._bad_in_a_row += 1
        if self._bad_in_a_row >= self._tolerance.max_bad_in_a_row:
            raise TooManyBadEvents(
                f"{self._bad_in_a_row} messages in a row could not be used, the last one topic {record.topic!r} "
                f"partition {record.partition} offset {record.offset}: {error.detail}. Mend what sends them; they are "
                f"in {self._addresses.dead_letters!r}, and nothing past the first of them is committed: to leave them "
                f"behind, start with limits.max_bad_in_a_row above {self._tolerance.max_bad_in_a_row} for a while"
            )

    def _deduplicated(self, arrivals: list[Arrival]) -> list[Arrival]:
        """The events that are new, their users and items in memory and counted."""
        self._admit(arrivals)
        knowledge = self.recommender.knowledge
        rows = [knowledge.users.touch((arrival.partition, arrival.event.user_id)) for arrival in arrivals]
        ids = [name_hash(arrival.event.event_id) for arrival in arrivals]
        fresh = knowledge.duplicates.first_time(np.array(rows, np.int32), np.array(ids, np.uint64)).tolist()
        kept = [arrival for arrival, new in zip(arrivals, fresh, strict=True) if new]
        self._count_late([row for row, new in zip(rows, fresh, strict=True) if new], kept)
        for arrival in kept:
            if arrival.event.item_id is not None:
                self._ledger.count(arrival.partition, arrival.event, self.recommender.category_of(arrival))
        self.metrics.events.inc(len(kept))
        self.metrics.duplicates.inc(len(arrivals) - len(kept))
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
                self.metrics.late.inc()
            newest[row] = max(before, arrival.event.ts)

    def _admit(self, arrivals: Sequence[Arrival]) -> None:
        """Bring into memory what the store knows of these users and items, in one go."""
        table = self.recommender.knowledge.users
        users = list(dict.fromkeys((arrival.partition, arrival.event.user_id) for arrival in arrivals))
        items = list(
            dict.fromkeys(
                (arrival.partition, arrival.event.item_id) for arrival in arrivals if arrival.event.item_id is not None
            )
        )
        crowded = table.crowded(len(users)) or self._ledger.crowded(len(items))
        if crowded or self._open_slates.crowded(len(users)):
            self.checkpoint()
        new_users, new_items = table.missing(users), self._ledger.missing(items)
        unasked = self._open_slates.missing(users)
        keys = [
            *(Key(partition, Kind.USER, name) for partition, name in new_users),
            *(Key(partition, Kind.ITEM, name) for partition, name in new_items),
            *_open_keys(unasked),
        ]
        if not keys:
            return
        values = iter(self._store.load(keys))
        stored = list(islice(values, len(new_users)))
        self.newcomers += stored.count(None)
        table.admit(new_users, stored, arrivals[0].event.ts)
        self._ledger.admit(new_items, list(islice(values, len(new_items))))
        self._open_slates.admit(unasked, list(values))

    def _publish_portion(self, portion: Portion, sent_ms: Mapping[tuple[int, int], int]) -> None:
        """Slates and credits in log order: an event is owed to a slate only if the slate came first."""
        for arrival in portion.arrivals:
            place = arrival.partition, arrival.offset
            self._open_slates.credit(arrival)
            slate = portion.slates.get(place)
            if slate is not None:
                self._publish(self._addresses.recommendations, slate)
                self._open_slates.shown(arrival.partition, slate, portion.memos[place])
                self.metrics.slates.inc()
                if sent_ms[place] > 0:
                    self.metrics.latency.observe(max(self._wall_ms() - sent_ms[place], 0) / 1000)
            # A date ahead of its sending must not close everybody's slates.
            now_ms = min(arrival.event.ts, sent_ms[place]) if sent_ms[place] > 0 else arrival.event.ts
            self._open_slates.tick(arrival.partition, now_ms, arrival.learned)

    def _close_slates(self) -> list[Lesson]:
        """Publish the outcomes of slates whose time is up; returns what is to be learned from them."""
        lessons = []
        for came, learned in self._open_slates.close(self._load_slates):
            for outcome in came.outcomes:
                self._publish(self._addresses.outcomes, outcome)
            self.metrics.outcomes.inc(len(came.outcomes))
            if came.lesson is not None and not learned:
                lessons.append(came.lesson)
        return lessons

    def _load_slates(self, users: Sequence[User]) -> list[bytes | None]:
        return self._store.load(_open_keys(users))

    def _publish(self, topic: str, message: Slate | Outcome) -> None:
        self._sink.publish(topic, message.user_id.encode(), encode(message), JSON_HEADERS)

    # Partitions come and go (called by the source, inside poll)

    def assigned(self, partitions: Sequence[int]) -> Mapping[int, int | None]:
        """See `transport.Assignee`."""
        return self._checkpoints.take_over(partitions)

    def revoked(self, partitions: Sequence[int]) -> None:
        """See `transport.Assignee`."""
        self.checkpoint()
        self._let_go(partitions)

    def lost(self, partitions: Sequence[int]) -> None:
        """See `transport.Assignee`."""
        LOG.warning(
            "partitions %s were lost; what was not checkpointed is done again by their new owner", list(partitions)
        )
        self._let_go(partitions)

    def _let_go(self, partitions: Sequence[int]) -> None:
        self._checkpoints.let_go(partitions)
        for partition in partitions:
            self._bad_since.pop(partition, None)  # whoever reads it next stands elsewhere


def _open_keys(users: Sequence[User]) -> list[Key]:
    return [Key(partition, Kind.OPEN, name) for partition, name in users]
