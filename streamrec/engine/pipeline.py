"""The pipeline on one screen: remember, recommend, learn.

    for each chunk of the log, up to the next learning cut:
        user and item features take the events; queries freeze what was known before each     remember
        retrievers propose candidates, models score them, the fusion joins the scores         rank
        a policy turns the ranked candidates of each request into a slate                     answer
    at the cut, models, fusion and policies learn the micro-batch and the feedback on slates  learn

A user's state moves with every event. Models learn at cuts, which are counted in the log, so that the size of a poll
changes speed and never results. Every event is ranked before it teaches: each wanted item has a query that was frozen
before the event, and events of one user at one time (a basket) share the query made before the first of them.

Knows nothing of Kafka, Redis, files or the wall clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from streamrec.engine.arrays.batch import CANDIDATES, NOTHING, Array, Bool, Excluded, Float32, Int32, MicroBatch
from streamrec.engine.arrays.feedback import SlateFeedback
from streamrec.engine.arrays.labels import IMITATED, REFUSED, WANTED, Interest
from streamrec.engine.arrays.logged_event import LoggedEvent, name_hash
from streamrec.engine.attribution.attribution import ServedSlate
from streamrec.engine.batch_result import BatchResult
from streamrec.engine.features import FeatureStore
from streamrec.engine.following.served import Served
from streamrec.engine.fusion.fusion import Fusion
from streamrec.engine.learning.prequential import PrequentialRecord
from streamrec.engine.learning.quarantine import FUSION, MODEL, PATIENCE
from streamrec.engine.learning.rate_limits import RateLimits
from streamrec.engine.learning.rollback import RollbackControl
from streamrec.engine.learning.trial import tried
from streamrec.engine.micro_batches import Batching, MicroBatchSchedule
from streamrec.engine.models import Model
from streamrec.engine.queries import NO_EXAMPLE, PointInTimeQueries
from streamrec.engine.retrieval import CandidateUnion, Retriever
from streamrec.engine.scenarios.rules import ScenarioRules
from streamrec.engine.slates.responder import NOT_YET, SITE, LogPlace, Request, SlateResponder
from streamrec.events import Event, EventType, Slate

LAYOUT = 4
"""Version of a snapshot's arrays."""
PROPOSALS = 30
"""Items that each retriever proposes."""
FIRST_PLACE = 1


@dataclass(frozen=True, slots=True)
class Rankers:
    """The models and retrievers of a pipeline."""

    models: Sequence[Model]
    """Scored for every candidate; their scores go into the fusion."""
    retrievers: Sequence[Retriever]
    """Those that propose candidates for every request, unless its scenario names others."""
    fill: str
    """The popularity model that fills short lists up."""
    unranked: Sequence[Model] = ()
    """Models that learn for retrievers and scenarios alone; their scores do not go into the fusion."""
    special: Sequence[Retriever] = ()
    """Retrievers that propose only where a scenario names them."""


@dataclass(frozen=True, slots=True)
class Safety:
    """What keeps learning honest and safe."""

    progress: PrequentialRecord
    rate_limits: RateLimits
    rollback_after: int = PATIENCE
    """Learning cuts in which a model may do harm before it is rolled back."""


class Pipeline:
    """Models, retrievers and fusion over one memory of users and items."""

    def __init__(
        self,
        *,
        features: FeatureStore,
        rankers: Rankers,
        fusion: Fusion,
        answers: SlateResponder,
        rules: ScenarioRules,
        interest: Interest,
        batching: Batching,
        safety: Safety,
    ) -> None:
        self.features = features
        self.models = tuple(rankers.models)
        self.unranked = tuple(rankers.unranked)
        self.retrievers = tuple(rankers.retrievers)
        self.special = tuple(rankers.special)
        self.fusion = fusion
        self.answers = answers
        self.rules = rules
        self.interest = interest
        self.batching = batching
        self.recommend_on = batching.recommend_on  # may be narrowed between portions: a past is learned unanswered
        self.progress = safety.progress
        self.rate_limits = safety.rate_limits
        self.fill = [model.name for model in self.models].index(rankers.fill)
        self.rollback = RollbackControl(
            self.models, self.unranked, fusion, answers.policies, features.items, safety.rollback_after
        )
        self.quarantine = self.rollback.quarantine
        # Per event at most an example and two queries; as many rows again for rankings that stay open over a cut.
        queries, examples = 4 * batching.micro_batch, batching.micro_batch
        self.batch = MicroBatch.empty(queries, examples, len(self.models), fusion.width, features.columns)
        self.queries = PointInTimeQueries(self.batch, batching.seed, sent_on=features.followed)
        self.rules_by_query = self.queries.rules_by_query
        self.schedule = MicroBatchSchedule(batching)
        self._union = CandidateUnion(features.items.capacity)

    # One chunk of the log

    def process(
        self,
        logged_events: Sequence[LoggedEvent],
        feedback: Callable[[], Sequence[SlateFeedback]] = tuple,
        published: Mapping[LogPlace, Slate] = NOT_YET,
    ) -> Iterator[BatchResult]:
        """Handle events in log order; their users must be in the table. Yields the result of each chunk.

        `feedback` is called at each learning cut, for the feedback on slates since the last one. `published` are the
        slates of requests that were answered before: these are what was shown, whatever would be chosen now.
        """
        # Where a rule looks at what a user was shown, that must count before the user's next event.
        one_answer_each = self.features.shown is not None
        start = 0
        while start < len(logged_events):
            if self.schedule.overdue(logged_events[start].event.ts):
                self.learn(feedback())
            stop = self.schedule.end_of_chunk(logged_events, start, one_answer_each=one_answer_each)
            yield self._process_chunk(logged_events[start:stop], published)
            start = stop
            if self.schedule.due():
                self.learn(feedback())

    def _process_chunk(self, logged_events: Sequence[LoggedEvent], published: Mapping[LogPlace, Slate]) -> BatchResult:
        first_query, first_example = self.batch.asked, self.batch.learned
        now_ms = max(self.schedule.latest_ts, logged_events[0].event.ts)
        self.features.catalogue.arrive(now_ms, self.batching.micro_batch)
        requests, known, taught = self.remember(logged_events)
        self.rank(slice(first_query, self.batch.asked))
        slates, served_slates = self.answer(requests, published)
        self._imitate(requests, known, taught)
        examples = slice(first_example, self.batch.learned)
        trial = tried(taught, known, self.batch, examples, self.fill)
        drifts = self.progress.tried(trial, self.batch, examples)
        self.schedule.met(logged_events)
        return BatchResult(logged_events, slates, served_slates, trial, drifts)

    # Remember

    def remember(self, logged_events: Sequence[LoggedEvent]) -> tuple[list[Request], list[bool], list[LoggedEvent]]:
        """Users and items take the events; queries and examples freeze what was known before each.

        Returns the requests with their query rows, whether each example's item was known, and the event of each
        example.
        """
        features, queries, first_query = self.features, self.queries, self.batch.asked
        queries.begin_chunk()
        requests: list[Request] = []
        known: list[bool] = []
        taught: list[LoggedEvent] = []
        for logged in logged_events:
            event = logged.event
            row = features.users.touch((logged.partition, event.user_id))
            label = None if logged.learned else self._label(event)
            item, before = features.item_of(event, judged=label is not None)
            example = NO_EXAMPLE
            if label is not None:
                query = queries.before(logged, row, features.seen_by(row))
                example = self.batch.teach(query, item, event.ts, label)
                known.append(before)
                taught.append(logged)
            queries.happened(logged, row, item, features.price_of(event), example)
            features.touched(event, row, item)
            if event.type in self.recommend_on and not logged.turned_away:
                request_rules = self.rules.begin(event, logged.partition, row)
                requests.append(Request(queries.request(logged, row, request_rules), logged))
            self.schedule.latest_ts = max(self.schedule.latest_ts, event.ts)
        features.fold(queries.steps(), self.batch)
        features.rename(self.batch.queries, slice(first_query, self.batch.asked))
        queries.plant_seeds()
        return requests, known, taught

    def _label(self, event: Event) -> int | None:
        """The label of an event as an example, None where it teaches nothing.

        An apprentice of the site learns the first place of what the site shows.
        """
        if self.answers.imitated == SITE and event.type is EventType.IMPRESSION and event.position == FIRST_PLACE:
            return IMITATED
        return self.interest.label(event)

    # Rank

    def rank(self, rows: slice) -> None:
        """Candidates, every model's score of each, and the fused score."""
        excluded, rules_by_query = self.queries.excluded, self.rules_by_query
        for part, barred in self.features.catalogue.spans(self.batch.queries.ts, rows):
            apart = [q for q in range(part.start, part.stop) if q in rules_by_query and rules_by_query[q].apart]
            start = part.start
            for query in [*apart, part.stop]:
                if start < query:
                    together = Excluded.of((excluded[q] for q in range(start, query)), barred)
                    self._rank(slice(start, query), together, self.retrievers)
                start = query + 1
            for query in apart:
                self._rank_apart(query, barred)

    def _rank_apart(self, query: int, barred: Bool) -> None:
        """Rank for a request by rules that hold for it alone."""
        request_rules = self.rules_by_query[query]
        hidden = self.rules.hidden(request_rules, self.batch.queries, query, barred)
        excluded = Excluded.of([self.queries.excluded[query]], hidden)
        retrievers = self.rules.retrievers(request_rules, self.retrievers, self.special)
        each = max(PROPOSALS, request_rules.event.k or self.answers.k)  # there may be few retrievers
        self._rank(slice(query, query + 1), excluded, retrievers, each, self.rules.proposed(request_rules, hidden))

    def _rank(
        self,
        rows: slice,
        excluded: Excluded,
        retrievers: Sequence[Retriever],
        each: int = PROPOSALS,
        found: Sequence[Int32] = (),
    ) -> None:
        """Rank the queries in `rows`, which share the barred items.

        `found` are candidates beside the `each` that every retriever proposes.
        """
        queries = self.batch.queries
        proposals = [retriever.candidates(queries, rows, each, excluded) for retriever in retrievers]
        self._score(rows, self._union([*proposals, *found], excluded, CANDIDATES))

    def rank_given(self, query: int, offered: Int32, boost: Float32) -> None:
        """Rank candidates that are given for one query, (offered,), with what is added to the score of each."""
        candidates = np.full((1, CANDIDATES), NOTHING, np.int32)
        candidates[0, : len(offered)] = offered
        self._score(slice(query, query + 1), candidates)
        self.batch.candidates.utility[query, : len(offered)] += boost

    def _score(self, rows: slice, candidates: Int32) -> None:
        """Every model's score of these candidates, (rows, CANDIDATES), and the fused score."""
        batch, items = self.batch, self.features.items
        batch.candidates.items[rows] = candidates
        for place, model in enumerate(self.models):
            batch.candidates.scores[place, rows] = model.score(batch.queries, rows, candidates)
        self.quarantine.hear(batch.candidates.scores[:, rows])
        if not self.fusion.describe(batch.queries, rows, batch.candidates, items.first_ts, items.last_ts):
            self.quarantine.complain(FUSION)
        boost = self.features.catalogue.boost[candidates]
        batch.candidates.utility[rows] += np.where(candidates == NOTHING, np.float32(0), boost)
        for query in range(rows.start, rows.stop):
            if query in self.rules_by_query:
                self.rules.weigh(self.rules_by_query[query], batch, query)
                batch.candidates.utility[query] += self.rules_by_query[query].boost

    def hidden(self, query: int) -> Int32:
        """Item indices that must not be recommended to a query of the present portion: known, withdrawn, not due."""
        [(_, barred)] = self.features.catalogue.spans(self.batch.queries.ts, slice(query, query + 1))
        excluded = self.queries.excluded.get(query, np.empty(0, np.int32))
        return np.union1d(excluded, np.flatnonzero(barred)).astype(np.int32)

    # Answer

    def answer(
        self, requests: Sequence[Request], published: Mapping[LogPlace, Slate]
    ) -> tuple[Mapping[LogPlace, Slate], Mapping[LogPlace, ServedSlate]]:
        """A slate for each ranked request, and what to keep of it; `published` as in `process`."""
        slates, served_slates = self.answers.slates(self.batch, requests, self.rules_by_query, published)
        for _, logged in requests:
            self.features.answered(slates[logged.partition, logged.offset], logged.partition)
        return slates, served_slates

    def _imitate(self, requests: Sequence[Request], known: list[bool], taught: list[LoggedEvent]) -> None:
        """An apprentice of a policy learns the item that the policy would have put first for each request."""
        new = [request for request in requests if not request.logged.learned]
        for (query, logged), item in self.answers.imitable(self.batch, new, self.rules_by_query):
            if not self.batch.full:
                self.batch.teach(query, item, logged.event.ts, IMITATED)
                known.append(True)
                taught.append(logged)

    # Learn

    def learn(self, feedback: Sequence[SlateFeedback] = ()) -> None:
        """Learn the micro-batch and the feedback on slates, then begin a new micro-batch."""
        batch, features = self.batch, self.features
        self._hold_back()
        # Feedback on slates of other models has other features.
        feedback = [slate_feedback for slate_feedback in feedback if slate_feedback.schema == self.fusion.schema]
        feedback = self._admitted(feedback)
        sentenced = self.quarantine.sentenced()
        for model in self.models:
            if MODEL + model.name not in sentenced:  # it is rolled back at the next checkpoint
                model.learn(batch)
        for model in self.unranked:
            model.learn(batch)
        self.fusion.learn(batch, feedback)
        self.answers.learn(feedback)
        for retriever in (*self.retrievers, *self.special):
            retriever.learn(batch)
        features.learn(batch, feedback)
        forgotten = features.make_room(self.schedule.latest_ts, self.batching.micro_batch)
        self._forget(forgotten)
        self.rollback.judge()
        # Rankings that stay open name no items that are gone.
        self.queries.begin_batch(self.schedule.latest_ts, 0 if len(forgotten) else 2 * self.batching.micro_batch)
        self.schedule.begin_batch()

    def _hold_back(self) -> None:
        """Take the label from examples beyond the rate limits of their user or item: they are not learned."""
        batch, examples = self.batch, self.batch.examples
        teaching = np.flatnonzero(np.isin(examples.label[: batch.learned], (REFUSED, WANTED)))
        users = batch.queries.user[examples.query[teaching]]
        admitted = self.rate_limits.admit(users, examples.item[teaching], examples.ts[teaching])
        examples.label[teaching[~admitted]] = -1

    def _admitted(self, feedback: Sequence[SlateFeedback]) -> list[SlateFeedback]:
        """The feedback within the rate limits of its user and of each item that was answered."""
        items = self.features.items
        answered = [
            [items.lookup(slate_feedback.items[place]) for place in np.flatnonzero(slate_feedback.reward)]
            for slate_feedback in feedback
        ]
        admitted = self.rate_limits.admit_feedback(
            np.array([name_hash(slate_feedback.user_id) for slate_feedback in feedback], np.uint64),
            [np.array([item for item in some if item != NOTHING], np.int32) for some in answered],
            np.array([slate_feedback.ts for slate_feedback in feedback], np.int64),
        )
        return [slate_feedback for slate_feedback, taught in zip(feedback, admitted.tolist(), strict=True) if taught]

    def _forget(self, forgotten: Int32) -> None:
        """Models and limits forget these items, and items that waited for an index may get one."""
        if len(forgotten) == 0:
            return
        self.rate_limits.forget(forgotten)
        for model in (*self.models, *self.unranked):
            model.forget(forgotten)
        self.features.catalogue.readmit(self.schedule.latest_ts, self.batching.micro_batch)

    # Where it only follows

    def parts(self, named: Iterable[str] = ()) -> dict[str, Served]:
        """What answering needs of what is learned, by component; with policies that are `named`, used here or not."""
        return {**self.features.parts(), **self.rollback.parts(named)}

    def follow(self, version: int) -> None:
        """Its parts serve what was learned elsewhere, up to this offset in the examples."""
        self.answers.model_version = version
        self.features.catalogue.settle()
        self.look_anew()

    # Snapshots and alarms

    def refused_updates(self) -> dict[str, int]:
        """How many updates were not taken, for a number in them that was not finite, by the part that refused them."""
        parts: list[tuple[str, object]] = [("fusion", self.fusion), ("residual", self.fusion.residual)]
        parts += [(model.name, model) for model in self.models]
        return {name: int(getattr(part, "skipped")) for name, part in parts if hasattr(part, "skipped")}  # noqa: B009

    @property
    def schema(self) -> str:
        """Names the models, inputs of the fusion and columns of queries; where it is another, `adoption` helps."""
        columns = (f"{name}[{width}]" for name, (width, _) in self.features.columns.items())
        return "/".join([f"v{LAYOUT}", *self.fusion.names, *columns])

    def state(self) -> dict[str, dict[str, Array]]:
        """Everything learned, by component; users are not in it, they live in the store."""
        return {
            **self.features.state(),
            "batch": self.batch.state(),
            "clock": {"counts": self.schedule.state(), **self.queries.state()},
            "progress": self.progress.state(),
            "contribution": self.rate_limits.state(),
            **self.rollback.state(),
        }

    def restore(self, arrays: Mapping[str, Mapping[str, Array]]) -> None:
        """The inverse of `state`.

        Raises:
            StateError: the arrays of a model, a policy or the fusion are not its own; what is said names it.
        """
        self.features.restore(arrays)
        self.batch.restore(arrays["batch"])
        self.schedule.restore(arrays["clock"]["counts"])
        self.queries.restore(arrays["clock"])
        self.progress.restore(arrays["progress"])
        self.rate_limits.restore(arrays["contribution"])
        self.rollback.restore(arrays)
        self.look_anew()

    def look_anew(self) -> None:
        """Models are other than they were: what retrievers looked up in them is looked up again."""
        nothing = MicroBatch.empty(0, 0, 0, 0)
        for retriever in (*self.retrievers, *self.special):
            retriever.learn(nothing)
