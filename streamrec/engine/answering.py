"""The part that knows users: it remembers every event, answers requests, and says what each event teaches.

    for each chunk of the log:
        users take the events; queries freeze what was known before each                       remember
        requests are ranked with the models as they are followed, a policy makes the slates    answer
        what each event teaches becomes an example                                             send on

The models are followed, never taught: whoever folds the examples (`example_learning`) teaches them. Knows nothing of
topics, stores or the wall clock.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from streamrec.engine.arrays.batch import NOTHING, Int32
from streamrec.engine.arrays.logged_event import LoggedEvent
from streamrec.engine.batch_result import BatchResult
from streamrec.engine.examples import FLOAT32, SCHEMA, Example, Offer, Query
from streamrec.engine.learning.trial import NOTHING_TRIED
from streamrec.engine.micro_batches import MicroBatchSchedule
from streamrec.engine.pipeline import Pipeline
from streamrec.engine.slates.responder import NOT_YET, SITE, LogPlace, Request
from streamrec.engine.trending.table import TrendSource
from streamrec.events import Slate


class Answering:
    """One memory of users, and models that are followed."""

    def __init__(self, pipeline: Pipeline, told: TrendSource | None = None) -> None:
        """Of the pipeline, what learns is left alone. `told` are trends that a topic tells this process."""
        self._pipeline = pipeline
        self._told = told
        # One that never counts: the followed one says how far who learns has come, and nothing of the events here.
        self._chunks = MicroBatchSchedule(pipeline.batching)

    def process(
        self, logged_events: Sequence[LoggedEvent], published: Mapping[LogPlace, Slate] = NOT_YET
    ) -> Iterator[BatchResult]:
        """As `Pipeline.process`, but that nothing is learned."""
        pipeline = self._pipeline
        one_answer_each = pipeline.features.shown is not None
        start = 0
        while start < len(logged_events):
            stop = self._chunks.end_of_chunk(logged_events, start, one_answer_each=one_answer_each)
            yield self._answer(logged_events[start:stop], published)
            start = stop

    def _answer(self, logged_events: Sequence[LoggedEvent], published: Mapping[LogPlace, Slate]) -> BatchResult:
        pipeline = self._pipeline
        batch, features = pipeline.batch, pipeline.features
        batch.keep(np.empty(0, np.int64))
        features.forget_idle(len(logged_events))
        features.ads.accounts.settle()  # what was charged in the chunks before counts
        requests, _, taught = pipeline.remember(logged_events)
        pipeline.rank(slice(0, batch.asked))
        slates, served_slates = pipeline.answer(requests, published)
        examples = self._examples(logged_events, requests, taught, slates)
        if self._told is not None:
            self._told.learn(batch)  # what was said since the last time counts from the next chunk on
        return BatchResult(logged_events, slates, served_slates, NOTHING_TRIED, (), examples)

    # What events teach

    def _examples(
        self,
        logged_events: Sequence[LoggedEvent],
        requests: Sequence[Request],
        taught: Sequence[LoggedEvent],
        slates: Mapping[LogPlace, Slate],
    ) -> dict[LogPlace, Example]:
        examples, pipeline = self._pipeline.batch.examples, self._pipeline
        rows = {(logged.partition, logged.offset): row for row, logged in enumerate(taught)}
        offers = self._offers(requests)
        apprentice, ruled = pipeline.fusion.imitating, pipeline.fusion.ruled
        kinds = pipeline.features.user_items.category_names()
        out = {}
        for logged in logged_events:
            event, place = logged.event, (logged.partition, logged.offset)
            row, slate = rows.get(place), slates.get(place)
            out[place] = Example(
                schema=SCHEMA,
                partition=logged.partition,
                offset=logged.offset,
                epoch=0,
                ts=event.ts,
                user_id=event.user_id,
                type=event.type,
                item_id=event.item_id,
                category=pipeline.features.category_of(event),
                label=None if row is None else int(examples.label[row]),
                query=None if row is None else self._query(int(examples.query[row]), kinds),
                of_slate=event.rec_id is not None,
                shown=() if slate is None else tuple(item.item_id for item in slate.items),
                offer=offers.get(place),
                apprentice=apprentice,
                ruled=ruled,
            )
        return out

    def _query(self, row: int, kinds: Sequence[str]) -> Query:
        """A query to learn from, which names items as users do."""
        items = self._pipeline.features.user_items
        excluded = self._pipeline.queries.excluded[row]
        past = self._pipeline.batch.queries.items[row]
        beside = None if not len(excluded) else _named(excluded[~np.isin(excluded, past)], items.ids)
        return self._frozen(row, items.ids, kinds, beside)

    def _frozen(self, row: int, ids: Sequence[str], kinds: Sequence[str], excluded: tuple[str, ...] | None) -> Query:
        queries = self._pipeline.batch.queries
        there = np.flatnonzero(queries.items[row] != NOTHING)
        count = int(there[-1]) + 1 if len(there) else 0
        return Query(
            items=_named(queries.items[row, :count], ids),
            ages_s=queries.ages_s[row, :count].astype(FLOAT32).tobytes(),
            steps=queries.steps[row, :count].astype(np.uint8).tobytes(),
            session=int(queries.session[row]),
            activity=float(queries.activity[row]),
            categories=_named(queries.categories[row], kinds),
            affinity=queries.affinity[row].astype(FLOAT32).tobytes(),
            columns={name: column[row].tobytes() for name, column in queries.columns.items()},
            excluded=excluded,
        )

    def _offers(self, requests: Sequence[Request]) -> dict[LogPlace, Offer]:
        """What an apprentice of a policy is to imitate, by the place of the request."""
        pipeline = self._pipeline
        if pipeline.answers.imitated in (None, SITE):
            return {}
        batch, items = pipeline.batch, pipeline.features.items
        offers = {}
        for (query, logged), chosen in pipeline.answers.imitable(batch, requests, pipeline.rules_by_query):
            candidates = batch.candidates.items[query]
            offered = candidates[candidates != NOTHING]
            ruled = pipeline.rules_by_query[query].boost[: len(offered)]
            offers[logged.partition, logged.offset] = Offer(
                query=self._frozen(query, items.ids, items.category_names(), None),
                chosen=items.ids[chosen],
                items=_named(offered, items.ids),
                boost=ruled.astype(FLOAT32).tobytes(),
            )
        return offers


def _named(items: Int32, names: Sequence[str]) -> tuple[str, ...]:
    """The name of each; "" where there is none."""
    return tuple("" if item == NOTHING else names[item] for item in items.tolist())
