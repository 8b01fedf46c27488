"""One step of the fold: some records in, everything remembered, slates and outcomes out.

    decode > deduplicate > turn away > attribute > remember > recommend > learn > publish

The step is the same for a live topic and for a historical log: only where records come from and go to differs. What may
have to wait, the store's answer, is asked for before anything happens, so that a step that cannot be taken now can be
taken later. Knows nothing of groups, checkpoints or waiting.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import msgspec
import numpy as np

from streamrec.codec import JSON_HEADERS, encode
from streamrec.engine.arrays.feedback import SlateFeedback
from streamrec.engine.arrays.logged_event import LoggedEvent, name_hash
from streamrec.engine.attribution.attribution import Closed
from streamrec.engine.batch_result import BatchResult
from streamrec.engine.examples import Ended, Example, Feedback, encoded
from streamrec.engine.partition_tables import Name, PartitionTable
from streamrec.engine.slates.responder import LogPlace
from streamrec.errors import BadEvent
from streamrec.events import EventType, Outcome, Slate
from streamrec.state import Key, Kind
from streamrec.transport import Record, Sink
from streamrec.worker.dead_letters import dead_letter_message
from streamrec.worker.memory import Memory
from streamrec.worker.metrics import Metrics
from streamrec.worker.refused_requests import refused_slate, too_many
from streamrec.worker.validation import EventValidator, ValidationLimits

ENDED_BYTES, LEAST_ENDED_BYTES = 256 * 1024, 1024
"""Of slates that end with one event, so that what it teaches fits a message; and what each counts for at least."""
Load = Callable[[Sequence[Key]], list[bytes | None]]
"""Fetches stored values."""
ASKING = frozenset({EventType.REQUEST, EventType.SEARCH})
"""Events that do nothing but ask; others that are answered are few by themselves."""
RefusedSlates = Mapping[int, deque[tuple[int, Slate]]]
"""Per partition, the offsets of the requests refused in a step and their slates, in order; taken out as published."""
Published = Mapping[LogPlace, Slate]
"""By partition and offset of requests: the slates that a former owner of the partition has answered them with."""


@dataclass(frozen=True, slots=True)
class OutputTopics:
    """Where things are published."""

    recommendations: str
    outcomes: str
    dead_letters: str
    examples: str = ""


@dataclass(frozen=True, slots=True)
class StateAccess:
    """How a step reaches what is stored."""

    load: Load
    """Before anything has happened: may raise StateUnavailable."""
    load_surely: Load
    """In the middle of a step: waits, and raises only what stops the worker."""
    make_room: Callable[[], None]
    """Saves what is in memory, so that it can make room for others: may raise StateUnavailable, PublishDelayed."""
    look_out: Callable[[], None]
    """Before a slate or an outcome is published: finds out whether its partition may be another worker's by now."""
    epoch: Callable[[int], int | None]
    """Under which a partition is held."""
    source: Callable[[], int]
    """Which topic it is that is read, as in `Example.source`."""


class StepProcessor:
    """The state in memory of the partitions held, and how a step moves it."""

    def __init__(
        self,
        *,
        memory: Memory,
        access: StateAccess,
        sink: Sink,
        output_topics: OutputTopics,
        validation_limits: ValidationLimits,
        metrics: Metrics,
        observer: Callable[[BatchResult], None] | None = None,
        wall_ms: Callable[[], int] = lambda: int(time.time() * 1000),
    ) -> None:
        """`observer` sees every portion after it was answered and before it is learned (reports, tests)."""
        self.pipeline = memory.pipeline
        self.open_slates = memory.open_slates
        self._answering = memory.answering
        self._answered = memory.answered
        self.validator = EventValidator(validation_limits, self.dead_letter, output_topics.dead_letters)
        self._max_message_bytes = validation_limits.max_message_bytes
        self._item_counts = memory.item_counts
        self._tables = memory.tables
        self._access = access
        self._sink = sink
        self._output_topics = output_topics
        self._metrics = metrics
        self._observer = observer
        self._wall_ms = wall_ms
        # Whatever the events of one step are about is in memory together.
        self.most_records = min(table.capacity for table in memory.tables)
        self.taught: dict[int, int] = {}  # by partition: the newest offset of which there was something to teach

    def step(self, records: Sequence[Record], taught: Mapping[int, int]) -> dict[int, int]:
        """Handle at most `most_records` records, in order; returns where each partition may be left behind.

        Args:
            records: in the order of their partitions' logs.
            taught: per partition, the models have learned what comes before this offset already.

        Raises:
            StateUnavailable, PublishDelayed: nothing has happened yet; the same step may be taken later.
            TooManyBadEvents: what came before is handled, and who asked in vain was told.
            StreamrecError: the worker cannot go on.
        """
        readings = self.validator.read(records, taught)
        self.admit([reading for reading in readings if isinstance(reading, LoggedEvent)])
        taken = self.validator.take(records, readings)
        by_place = {(record.partition, record.offset): record for record in records}
        logged_events, turned_away = self._paced(self.deduplicated(taken.logged_events), by_place)
        published = self._answered.slates(records)
        refused = self._refused([*taken.refused, *turned_away], published)
        for batch_result in self._process(logged_events, published):
            self.publish(batch_result, by_place, refused, published)
            self._metrics.tried(batch_result.trial)
            self._metrics.drifted(batch_result.drifts)
            if self._observer is not None:
                self._observer(batch_result)
        for partition in refused:
            self._answer_refused(refused, partition, math.inf)
        if taken.halt is not None:
            raise taken.halt
        return {record.partition: self.validator.safe_position(record) for record in records}

    def _process(self, logged_events: Sequence[LoggedEvent], published: Published) -> Iterator[BatchResult]:
        if self._answering is None:
            return self.pipeline.process(logged_events, self._close_slates, published)
        return self._answering.process(logged_events, published)

    def dead_letter(self, record: Record, error: BadEvent) -> None:
        """Put a record aside in the dead-letter topic."""
        self._sink.publish(self._output_topics.dead_letters, *dead_letter_message(record, error))
        self._metrics.dead_letters.labels(error.reason).inc()

    def deduplicated(self, logged_events: list[LoggedEvent]) -> list[LoggedEvent]:
        """The events that are new, counted; their users and items are in memory."""
        features = self.pipeline.features
        rows = [features.users.touch((logged.partition, logged.event.user_id)) for logged in logged_events]
        ids = [name_hash(logged.event.event_id) for logged in logged_events]
        fresh = features.duplicates.first_time(np.array(rows, np.int32), np.array(ids, np.uint64)).tolist()
        kept = [logged for logged, new in zip(logged_events, fresh, strict=True) if new]
        self._count_late([row for row, new in zip(rows, fresh, strict=True) if new], kept)
        for logged in kept:
            if logged.event.item_id is not None:
                self._item_counts.count(logged.partition, logged.event, features.category_of(logged.event))
        self._metrics.events.inc(len(kept))
        self._metrics.early.inc(sum(logged.early for logged in kept))
        self._metrics.duplicates.inc(len(logged_events) - len(kept))
        return kept

    def _paced(
        self, logged_events: list[LoggedEvent], by_place: Mapping[LogPlace, Record]
    ) -> tuple[list[LoggedEvent], list[tuple[Record, BadEvent]]]:
        """The events, and the requests among them that are not answered because their users ask too often."""
        users, pace = self.pipeline.features.users, self.pipeline.features.pace
        asking = ASKING & self.pipeline.recommend_on
        turned_away = []
        for at, logged in enumerate(logged_events):
            event = logged.event
            if event.type in asking and not pace.admits(users.touch((logged.partition, event.user_id)), event.ts):
                logged_events[at] = logged._replace(turned_away=True)
                turned_away.append((by_place[logged.partition, logged.offset], too_many(pace)))
        return logged_events, turned_away

    def _count_late(self, rows: Sequence[int], logged_events: Sequence[LoggedEvent]) -> None:
        """An event older than its user's newest is late: it is taken as it comes, and counted as late here."""
        last_ts = self.pipeline.features.counts.last_ts
        newest: dict[int, int] = {}
        for row, logged in zip(rows, logged_events, strict=True):
            before = newest.get(row)
            if before is None:
                before = int(last_ts[row])
            if logged.event.ts < before:
                self._metrics.late.inc()
            newest[row] = max(before, logged.event.ts)

    def admit(self, logged_events: Sequence[LoggedEvent]) -> None:
        """Bring into memory what the store knows of what these events are about, in one go."""
        wanted = [_names(table, logged_events) for table in self._tables]
        if any(table.crowded(len(names)) for table, names in zip(self._tables, wanted, strict=True)):
            self._access.make_room()
        lacking = [table.missing(names) for table, names in zip(self._tables, wanted, strict=True)]
        keys = [key for table, names in zip(self._tables, lacking, strict=True) for key in _keys(table.kind, names)]
        if not keys:
            return
        values = iter(self._access.load(keys))
        for table, names in zip(self._tables, lacking, strict=True):
            table.admit(names, list(islice(values, len(names))), logged_events[0].event.ts)

    def _refused(self, unanswered: Sequence[tuple[Record, BadEvent]], published: Published) -> RefusedSlates:
        refused: defaultdict[int, deque[tuple[int, Slate]]] = defaultdict(deque)
        for record, error in sorted(unanswered, key=lambda one: one[0].offset):
            if (record.partition, record.offset) in published:
                self._metrics.published_before.labels("slate").inc()
                continue
            slate = refused_slate(record, error, self.pipeline.recommend_on, self._max_message_bytes)
            if slate is not None:
                refused[record.partition].append((record.offset, slate))
        return dict(refused)

    def publish(
        self,
        batch_result: BatchResult,
        by_place: Mapping[LogPlace, Record],
        refused: RefusedSlates,
        published: Published,
    ) -> None:
        """Slates and credits in log order: an event is owed to a slate only if the slate came first."""
        for logged in batch_result.logged_events:
            place = logged.partition, logged.offset
            self._answer_refused(refused, *place)
            self.open_slates.credit(logged)
            slate = batch_result.slates.get(place)
            if slate is not None:
                self.open_slates.shown(logged.partition, slate, batch_result.served_slates[place])
            if slate is not None and place in published:
                self._metrics.published_before.labels("slate").inc()
            elif slate is not None:
                self._send(self._output_topics.recommendations, slate)
                self._metrics.answered(slate)
                if (sent_ms := by_place[place].timestamp_ms) > 0:
                    self._metrics.latency.observe(max(self._wall_ms() - sent_ms, 0) / 1000)
            self.open_slates.tick(logged.partition, logged.event.ts, logged.learned)
            if self._answering is not None:
                self._teach(batch_result.examples[place])

    def _answer_refused(self, refused: RefusedSlates, partition: int, before: float) -> None:
        """Publish the slates for a partition's refused requests before an offset: a user's slates keep their order."""
        waiting = refused.get(partition)
        while waiting and waiting[0][0] < before:
            _, slate = waiting.popleft()
            self._send(self._output_topics.recommendations, slate)
            self._metrics.answered(slate)

    def _close_slates(self) -> list[SlateFeedback]:
        """Publish the outcomes of slates whose time is up; returns what is to be learned from them."""
        feedback = []
        for came, learned in self.open_slates.close(self._load_slates):
            self._tell(came)
            if came.slate_feedback is not None and not learned:
                feedback.append(came.slate_feedback)
        return feedback

    def _teach(self, example: Example) -> None:
        """Publish the outcomes of slates whose time is up with this event, and what it teaches with what came of them.

        Which slates are over is a matter of the partition's log alone: the same event ends them at every try.
        """
        ended, told = [], 0  # bytes, roughly

        def enough() -> bool:
            return told >= ENDED_BYTES

        for came in self.open_slates.ended(example.partition, self._load_slates, enough):
            self._tell(came)
            told += LEAST_ENDED_BYTES
            if came.slate_feedback is not None:
                told += 2 * came.slate_feedback.features.size + sum(map(len, came.slate_feedback.items))
                rec_id = came.outcomes[0].rec_id
                ended.append(Ended(came.slate_feedback.user_id, rec_id, Feedback.of(came.slate_feedback)))
        epoch = self._access.epoch(example.partition) or 0
        source = self._access.source()
        example = msgspec.structs.replace(example, ended=tuple(ended), epoch=epoch, source=source)
        if not example.empty and example.partition not in self._answered.gone:
            self._sink.publish(self._output_topics.examples, str(example.partition).encode(), encoded(example))
            self._metrics.examples.inc()
            self.taught[example.partition] = example.offset

    def _tell(self, came: Closed) -> None:
        """Publish a slate's outcomes, those that are not out already."""
        new = [outcome for outcome in came.outcomes if not self._answered.told(outcome)]
        for outcome in new:
            self._send(self._output_topics.outcomes, outcome)
        self._metrics.outcomes.inc(len(new))
        if len(new) < len(came.outcomes):
            self._metrics.published_before.labels("outcome").inc(len(came.outcomes) - len(new))

    def _load_slates(self, users: Sequence[Name]) -> list[bytes | None]:
        return self._access.load_surely(_keys(self.open_slates.kind, users))

    def _send(self, topic: str, message: Slate | Outcome) -> None:
        self._access.look_out()
        if self._answered.may_publish(message.rec_id):
            self._sink.publish(topic, message.user_id.encode(), encode(message), JSON_HEADERS)


def _names(table: PartitionTable, logged_events: Sequence[LoggedEvent]) -> list[Name]:
    """What a table must have in memory for these events, each once, in order."""
    keys = ((logged.partition, table.key(logged.event)) for logged in logged_events)
    return list(dict.fromkeys((partition, key) for partition, key in keys if key is not None))


def _keys(kind: str, names: Sequence[Name]) -> list[Key]:
    return [Key(partition, Kind(kind), name) for partition, name in names]
