"""The part that learns: the fold over examples, in their one order.

    for each chunk of examples, up to the next learning cut:
        items take what is new; queries are as they were frozen                                 read
        retrievers propose candidates, models score them, the fusion joins the scores           rank
        every ranking is put beside what happened                                               try
    at the cut, models, fusion and policies learn the micro-batch and the feedback on slates    learn

The same examples in the same order give the same arrays, bit for bit, however they were cut into polls. Knows nothing
of topics, users or the wall clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec
import numpy as np

from streamrec.engine.arrays.batch import NOTHING, RECENT, Array, Int32
from streamrec.engine.arrays.labels import IMITATED
from streamrec.engine.arrays.logged_event import LoggedEvent
from streamrec.engine.batch_result import BatchResult
from streamrec.engine.examples import FLOAT32, Ended, Example, Offer, Query, decoded
from streamrec.engine.learning.trial import tried
from streamrec.engine.pipeline import Pipeline
from streamrec.engine.queries import TO_ANSWER, TO_LEARN
from streamrec.engine.users.history import TOUCHES
from streamrec.errors import BadEvent
from streamrec.events import TYPE_CODES, Event, EventType


class ExampleLearning:
    """Models that learn, and no users."""

    def __init__(self, pipeline: Pipeline, learned: Callable[[], None] = lambda: None) -> None:
        """Of the pipeline, what knows users is left alone. `learned` is called after each learning cut."""
        self.examples = 0  # taken so far
        self._pipeline = pipeline
        self._learned = learned
        self._ended: list[Ended] = []  # since the last cut
        self._bytes_by_column = {
            name: width * np.dtype(dtype).itemsize for name, (width, dtype) in pipeline.features.columns.items()
        }

    def read(self, record: bytes) -> Example:
        """The example that a record says, if these models can learn it.

        Raises:
            BadEvent: they cannot; nothing has changed.
        """
        example, fusion = decoded(record), self._pipeline.fusion
        offered = None if example.offer is None else example.offer.query
        for query in (example.query, offered):
            if (
                query is not None
                and {name: len(column) for name, column in query.columns.items()} != self._bytes_by_column
            ):
                came, here = sorted(query.columns), sorted(self._bytes_by_column)
                detail = f"the example has columns {came}, expected {here}: list the same user features everywhere"
                raise BadEvent("invalid", detail, "columns")
        for ended in example.ended:
            came_of = ended.feedback
            if came_of.schema == fusion.schema and len(came_of.features) != 2 * len(came_of.items) * fusion.width:
                raise BadEvent("invalid", f"the feedback has not the {fusion.width} features of its schema", "features")
        return example

    def process(self, examples: Sequence[Example]) -> Iterator[BatchResult]:
        """Rank, then learn. Yields the result of each chunk after it was ranked and before it is learned."""
        schedule = self._pipeline.schedule
        logged_events = [_logged(example) for example in examples]
        start = 0
        while start < len(examples):
            if schedule.overdue(examples[start].ts):
                self._learn()
            stop = schedule.end_of_chunk(logged_events, start, one_answer_each=False)
            yield self._try(examples[start:stop], logged_events[start:stop])
            start = stop
            if schedule.due():
                self._learn()

    def _try(self, examples: Sequence[Example], logged_events: Sequence[LoggedEvent]) -> BatchResult:
        pipeline = self._pipeline
        batch, features = pipeline.batch, pipeline.features
        first_query, first_example = batch.asked, batch.learned
        now_ms = max(pipeline.schedule.latest_ts, logged_events[0].event.ts)
        features.catalogue.arrive(now_ms, pipeline.batching.micro_batch)
        pipeline.queries.begin_chunk()
        known: list[bool] = []
        taught: list[LoggedEvent] = []
        for example, logged in zip(examples, logged_events, strict=True):
            before = self._read(example, logged)
            if example.label is not None:
                known.append(before)
                taught.append(logged)
        pipeline.rank(slice(first_query, batch.asked))
        for example, logged in zip(examples, logged_events, strict=True):
            if example.offer is not None and not batch.full and self._imitate(example.offer, logged):
                known.append(True)
                taught.append(logged)
        rows = slice(first_example, batch.learned)
        trial = tried(taught, known, batch, rows, pipeline.fill)
        drifts = pipeline.progress.tried(trial, batch, rows)
        pipeline.schedule.met(logged_events)
        self.examples += len(examples)
        pipeline.fusion.imitating, pipeline.fusion.ruled = examples[-1].apprentice, examples[-1].ruled
        return BatchResult(logged_events, {}, {}, trial, drifts)

    def _learn(self) -> None:
        ended, self._ended = self._ended, []
        self._pipeline.learn([one.feedback.slate_feedback(one.user_id) for one in ended])
        self._learned()

    # Read

    def _read(self, example: Example, logged: LoggedEvent) -> bool:
        """Take one example into the micro-batch; returns whether its item was known."""
        pipeline = self._pipeline
        features = pipeline.features
        item, before = self._item_of(example)
        if example.label is not None and example.query is not None:
            query = pipeline.queries.still_open(logged)
            row = pipeline.batch.asked  # where its past is read to, if it needs no query of its own
            if query == NOTHING:
                excluded = self._excluded(example.query)
                query = pipeline.queries.opened(logged, pipeline.queries.frozen(logged, excluded, TO_LEARN))
            self._fill(row, example.query)
            self._teach(row, query, item, example)
        if example.type is EventType.IMPRESSION and item != NOTHING and not example.of_slate:
            features.uncertainty.note_shown([item], example.ts)
        if example.shown:
            features.note_shown(example.shown, example.ts)
        self._ended += example.ended
        pipeline.schedule.latest_ts = max(pipeline.schedule.latest_ts, example.ts)
        return before

    def _item_of(self, example: Example) -> tuple[int, bool]:
        features = self._pipeline.features
        if example.item_id is None:
            return NOTHING, False
        index = features.items.lookup(example.item_id)
        if index != NOTHING:
            return index, True
        if example.label is None and TYPE_CODES[example.type] not in TOUCHES:
            return NOTHING, False
        index = features.items.intern(example.item_id, example.ts)
        category = features.catalogue.category(example.item_id) or example.category
        if category is not None:
            features.items.categorise(index, category)
        return index, False

    def _excluded(self, query: Query) -> Int32:
        if query.excluded is None:
            return np.empty(0, np.int32)
        return self._indices([*query.items, *query.excluded])

    def _indices(self, names: Sequence[str]) -> Int32:
        lookup = self._pipeline.features.items.lookup
        return np.array([lookup(name) for name in names], np.int32)

    def _fill(self, row: int, query: Query) -> None:
        """What was known of the user, into a row of the queries."""
        queries, items = self._pipeline.batch.queries, self._pipeline.features.items
        count = len(query.items)
        steps = np.frombuffer(query.steps, np.uint8)
        queries.items[row, :count] = self._indices(query.items)
        queries.items[row, count:] = NOTHING
        queries.ages_s[row, :count] = np.frombuffer(query.ages_s, FLOAT32)
        queries.ages_s[row, count:] = 0.0
        queries.steps[row, :count] = steps
        queries.steps[row, count:] = steps[-1] if count else 0
        queries.session[row] = query.session
        queries.activity[row] = query.activity
        queries.categories[row] = [items.known_category(name) for name in query.categories]
        queries.affinity[row] = np.frombuffer(query.affinity, FLOAT32)
        for name, column in queries.columns.items():
            column[row] = np.frombuffer(query.columns[name], column.dtype)

    def _teach(self, row: int, query: int, item: int, example: Example) -> None:
        """The example's row: the past that was read to `row` is the one before it, its basket's included."""
        queries, examples = self._pipeline.batch.queries, self._pipeline.batch.examples
        assert example.label is not None
        place = self._pipeline.batch.teach(query, item, example.ts, example.label)
        examples.recent[place] = queries.items[row, :RECENT]
        examples.recent_ages_s[place] = queries.ages_s[row, :RECENT]
        examples.recent_steps[place] = queries.steps[row, :RECENT]
        examples.session[place] = min(int(queries.session[row]), RECENT)
        if row != query:  # the next query's row was only lent
            queries.items[row] = NOTHING
            queries.session[row] = 0

    def _imitate(self, offer: Offer, logged: LoggedEvent) -> bool:
        """Rank what the other policy was offered, and learn what it chose; False if that was forgotten meanwhile."""
        pipeline = self._pipeline
        [chosen] = self._indices([offer.chosen])
        if chosen == NOTHING:
            return False
        offered = self._indices(offer.items)
        there = offered != NOTHING
        row = pipeline.queries.frozen(logged, np.empty(0, np.int32), TO_ANSWER)
        self._fill(row, offer.query)
        pipeline.rank_given(row, offered[there], np.frombuffer(offer.boost, FLOAT32)[there])
        pipeline.batch.teach(row, int(chosen), logged.event.ts, IMITATED)
        return True

    # Snapshots

    def state(self) -> dict[str, Array]:
        """What waits for the next learning cut, beside the pipeline's own."""
        fusion = self._pipeline.fusion
        return {
            "count": np.array([self.examples, fusion.imitating, fusion.ruled], np.int64),
            "ended": np.frombuffer(_ENCODER.encode(self._ended), np.uint8).copy(),
        }

    def restore(self, arrays: Mapping[str, Array]) -> None:
        """The inverse of `state`."""
        self.examples, imitating, ruled = (int(number) for number in arrays["count"])
        self._pipeline.fusion.imitating, self._pipeline.fusion.ruled = bool(imitating), bool(ruled)
        self._ended = _DECODER.decode(arrays["ended"].tobytes())


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(list[Ended])


def _logged(example: Example) -> LoggedEvent:
    """The event that taught it, as far as an example tells."""
    event = Event(type=example.type, user_id=example.user_id, ts=example.ts, item_id=example.item_id)
    return LoggedEvent(event, example.partition, example.offset)
