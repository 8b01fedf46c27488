"""Delays learning, or the users' history, of a pipeline: to measure what freshness is worth.

Both wrap parts of the pipeline; the pipeline's own code is unchanged.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar, cast

import numpy as np

from streamrec.engine.arrays.batch import HISTORY, NOTHING, Candidates, Examples, Int32, MicroBatch
from streamrec.engine.arrays.feedback import SlateFeedback
from streamrec.engine.arrays.logged_event import name_hash
from streamrec.engine.batch_result import BatchResult
from streamrec.engine.fusion.fusion import Fusion
from streamrec.engine.models import Model
from streamrec.engine.pipeline import Pipeline
from streamrec.engine.retrieval import Retriever

Learner = Model | Fusion | Retriever
LearnerT = TypeVar("LearnerT", bound=Learner)


class LateLearning:
    """Models, retrievers and fusion learn an example only as the `delay`-th event after it begins, or later.

    Users' own state moves at once, as always. A micro-batch is learned whole, so its first examples wait for longer.
    """

    def __init__(self, pipeline: Pipeline, delay: int) -> None:
        self._delay = delay
        self._learners: list[Learner] = [*pipeline.models, pipeline.fusion, *pipeline.retrievers]
        self._waiting: deque[tuple[int, MicroBatch]] = deque()  # and how many events had come by its end
        self._events = 0
        pipeline.models = tuple(
            _overridden(model, learn=_learn_nothing, forget=partial(self._forget, model.forget))
            for model in pipeline.models
        )
        pipeline.retrievers = tuple(_overridden(retriever, learn=_learn_nothing) for retriever in pipeline.retrievers)
        pipeline.fusion = _overridden(pipeline.fusion, learn=self._learn)  # between models and retrievers

    def __call__(self, batch_result: BatchResult) -> None:
        """Count the events of a batch result, before it is learned."""
        self._events += len(batch_result.logged_events)

    def _learn(self, batch: MicroBatch, feedback: Sequence[SlateFeedback] = ()) -> None:
        # No slate is shown in a backtest, so there is no feedback.
        self._waiting.append((self._events, _copied(batch)))
        while self._waiting and self._events - self._waiting[0][0] >= self._delay - 1:
            self._learn_oldest()

    def _learn_oldest(self) -> None:
        _, batch = self._waiting.popleft()
        for learner in self._learners:
            learner.learn(batch)

    def _forget(self, forget: Callable[[Int32], None], items: Int32) -> None:
        """Learn all that waits before items are forgotten: it refers to indices that other items will be given."""
        while self._waiting:
            self._learn_oldest()
        forget(items)


class StaleContext:
    """Queries see their user's history without what was done in the last `delay` events of the log.

    Counts single events, so the pipeline must learn after each (`learning.micro_batch` 1).
    """

    def __init__(self, pipeline: Pipeline, delay: int) -> None:
        self._delay = delay
        self._features, self._queries = pipeline.features, pipeline.batch.queries
        self._rank = pipeline.rank
        self._pushed: dict[int, int] = {}  # by user hash, what its history has taken in so far
        self._latest: deque[tuple[int, int]] = deque()  # user hash of each of the latest events, and what it pushed
        self._hidden: Counter[int] = Counter()  # the same, summed by user
        pipeline.rank = self._rank_with_old_history  # type: ignore[method-assign]

    def __call__(self, batch_result: BatchResult) -> None:
        """Take the events of a batch result, after they were ranked."""
        for logged in batch_result.logged_events:
            user = name_hash(logged.event.user_id)
            row = self._features.users.touch((logged.partition, logged.event.user_id))
            pushed = int(self._features.history.pushed[row])
            self._latest.append((user, pushed - self._pushed.get(user, 0)))
            self._hidden[user] += self._latest[-1][1]
            self._pushed[user] = pushed
            if len(self._latest) > self._delay:
                user, gone = self._latest.popleft()
                self._hidden[user] -= gone

    def _rank_with_old_history(self, rows: slice) -> None:
        queries = self._queries
        for q in range(rows.start, rows.stop):
            hidden = min(self._hidden[int(queries.user[q])], HISTORY)
            for array, blank in ((queries.items, NOTHING), (queries.ages_s, 0), (queries.steps, HISTORY)):
                array[q] = np.append(array[q, hidden:], np.full(hidden, blank, array.dtype))
            queries.steps[q] -= queries.steps[q, 0]  # the newest that is left is step 0
            queries.session[q] = max(int(queries.session[q]) - hidden, 0)
        self._rank(rows)


def _learn_nothing(batch: MicroBatch) -> None:
    """Learn nothing."""


def _copied(batch: MicroBatch) -> MicroBatch:
    """The rows in use, with arrays of their own."""
    models, _, _ = batch.candidates.scores.shape
    candidates = Candidates.empty(batch.asked, models, batch.candidates.features.shape[2])
    copy = MicroBatch(batch.queries.blank(batch.asked), candidates, Examples.empty(batch.learned))
    copy.restore(batch.state())
    return copy


class _Override:
    """A part with some of its methods replaced; everything else is delegated to the part."""

    def __init__(self, part: Learner, methods: Mapping[str, Callable[..., None]]) -> None:
        self._part = part
        self.__dict__.update(methods)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._part, name)


def _overridden(part: LearnerT, **methods: Callable[..., None]) -> LearnerT:
    return cast(LearnerT, _Override(part, methods))
