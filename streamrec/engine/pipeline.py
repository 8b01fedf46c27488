"""The whole system on one screen: remember, recommend, learn.

    for each portion of the log up to the next learning cut:
        users and items remember the events; queries freeze what was known before each       remember
        retrievers propose, models score, the fusion joins                                    rank
        the queries that were asked for become slates                                         answer
    at the cut, everybody learns what came after its ranking, and what came of slates         learn

A user's state moves with every event. Models learn at cuts, which are counted in the log: batching changes speed,
never results. Before an event teaches anything, it is ranked: each wanted item has a query that knew nothing of it,
and events of one user at one time (a basket) share the query made before the first of them.

Knows nothing of Kafka, Redis, files or the wall clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from streamrec.engine.arrays.batch import CANDIDATES, NOTHING, Array, Bool, Excluded, Int32, MicroBatch
from streamrec.engine.arrays.feedback import Lesson
from streamrec.engine.arrays.labels import IMITATED, REFUSED, WANTED, Interest
from streamrec.engine.arrays.logged_event import Arrival, name_hash
from streamrec.engine.attribution.attribution import Memo
from streamrec.engine.batch_result import Portion
from streamrec.engine.features import Knowledge
from streamrec.engine.fusion.fusion import Fusion
from streamrec.engine.learning.prequential import Progress
from streamrec.engine.learning.quarantine import FUSION, MODEL, PATIENCE
from streamrec.engine.learning.rate_limits import Contribution
from streamrec.engine.learning.rollback import Learners
from streamrec.engine.learning.trial import tried
from streamrec.engine.micro_batches import Cuts, Tempo
from streamrec.engine.models import Model
from streamrec.engine.queries import NO_EXAMPLE, Moments
from streamrec.engine.retrieval import Retriever, Union
from streamrec.engine.scenarios.rules import Rules
from streamrec.engine.slates.responder import SITE, Answers, Place, Request
from streamrec.events import Event, EventType, Slate

LAYOUT = 3
"""Version of a snapshot's arrays."""
PROPOSALS = 30
"""Items that each retriever proposes."""
FIRST_PLACE = 1


class Recommender:
    """Models, retrievers and fusion over one memory of users and items."""

    def __init__(
        self,
        knowledge: Knowledge,
        models: Sequence[Model],
        retrievers: Sequence[Retriever],
        fusion: Fusion,
        answers: Answers,
        rules: Rules,
        interest: Interest,
        tempo: Tempo,
        progress: Progress,
        contribution: Contribution,
        fill: str,
        rollback_after: int = PATIENCE,
        special: Sequence[Retriever] = (),
        unranked: Sequence[Model] = (),
    ) -> None:
        """`special` retrievers propose only where a scenario names them.

        `unranked` are models that learn for retrievers and scenarios alone: the fusion does not hear them.
        """
        self.knowledge = knowledge
        self.models = tuple(models)
        self.unranked = tuple(unranked)
        self.retrievers = tuple(retrievers)
        self.special = tuple(special)
        self.fusion = fusion
        self.answers = answers
        self.rules = rules
        self.interest = interest
        self.tempo = tempo
        self.progress = progress
        self.contribution = contribution
        self.fill = [model.name for model in models].index(fill)  # the popularity that fills short lists up
        self.learners = Learners(self.models, self.unranked, fusion, answers.roster, knowledge.items, rollback_after)
        self.quarantine = self.learners.quarantine
        # Per event at most an example and two queries; as many rows again for rankings that stay open over a cut.
        self.batch = MicroBatch.empty(4 * tempo.micro_batch, tempo.micro_batch, len(models), fusion.width)
        self._moments = Moments(self.batch, tempo.seed)
        self.rulings = self._moments.rulings
        self._cuts = Cuts(tempo)
        self._union = Union(knowledge.items.capacity)

    # One portion of the log

    def portions(
        self, arrivals: Sequence[Arrival], lessons: Callable[[], Sequence[Lesson]] = tuple
    ) -> Iterator[Portion]:
        """Handle events in log order; users must be in the table. Yields after each portion, learned or not.

        `lessons` is asked at each learning cut for what came of slates since the last.
        """
        # What was shown to a user counts from the next moment on, where a rule looks at it.
        one_answer_each = self.knowledge.shown is not None
        start = 0
        while start < len(arrivals):
            if self._cuts.overdue(arrivals[start].event.ts):
                self.learn(lessons())
            stop = self._cuts.end_of_portion(arrivals, start, one_answer_each=one_answer_each)
            yield self._portion(arrivals[start:stop])
            start = stop
            if self._cuts.due():
                self.learn(lessons())

    def _portion(self, arrivals: Sequence[Arrival]) -> Portion:
        first_query, first_example = self.batch.asked, self.batch.learned
        now_ms = max(self._cuts.latest_ts, arrivals[0].event.ts)
        self.knowledge.listing.arrive(now_ms, self.tempo.micro_batch)
        requests, known, taught = self.remember(arrivals)
        self.rank(slice(first_query, self.batch.asked))
        slates, memos = self._answer(requests)
        self._imitate(requests, known, taught)
        examples = slice(first_example, self.batch.learned)
        trial = tried(taught, known, self.batch, examples, self.fill)
        drifts = self.progress.tried(trial, self.batch, examples)
        self._cuts.met(arrivals)
        return Portion(arrivals, slates, memos, trial, drifts)

    # Remember

    def remember(self, arrivals: Sequence[Arrival]) -> tuple[list[Request], list[bool], list[Arrival]]:
        """Users and items take the events; queries and examples freeze what was known before each.

        Returns the requests with their query rows, whether each example's item was known, and each example's arrival.
        """
        knowledge, moments = self.knowledge, self._moments
        moments.begin_portion()
        requests: list[Request] = []
        known: list[bool] = []
        taught: list[Arrival] = []
        for arrival in arrivals:
            event = arrival.event
            row = knowledge.users.touch((arrival.partition, event.user_id))
            label = None if arrival.learned else self._label(event)
            item, before = knowledge.item_of(event, judged=label is not None)
            example = NO_EXAMPLE
            if label is not None:
                query = moments.before(arrival, row, knowledge.seen_by(row))
                example = self.batch.teach(query, item, event.ts, label)
                known.append(before)
                taught.append(arrival)
            moments.happened(arrival, row, item, example)
            knowledge.touched(event, row, item)
            if event.type in self.tempo.recommend_on:
                ruling = self.rules.begin(event, arrival.partition, row)
                requests.append(Request(moments.request(arrival, row, ruling), arrival))
            self._cuts.latest_ts = max(self._cuts.latest_ts, event.ts)
        knowledge.fold(moments.steps(), self.batch)
        moments.plant_seeds()
        return requests, known, taught

    def _label(self, event: Event) -> int | None:
        """What an event teaches; the first of what a site shows teaches an apprentice of the site."""
        if self.answers.imitated == SITE and event.type is EventType.IMPRESSION and event.position == FIRST_PLACE:
            return IMITATED
        return self.interest.label(event)

    # Rank

    def rank(self, rows: slice) -> None:
        """Candidates, every model's score of each, and the fused score."""
        excluded, rulings = self._moments.excluded, self.rulings
        for part, barred in self.knowledge.listing.spans(self.batch.queries.ts, rows):
            apart = [q for q in range(part.start, part.stop) if q in rulings and rulings[q].apart]
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
        ruling = self.rulings[query]
        hidden = self.rules.hidden(ruling, self.batch.queries, query, barred)
        excluded = Excluded.of([self._moments.excluded[query]], hidden, lasting=False)
        retrievers = self.rules.retrievers(ruling, self.retrievers, self.special)
        each = max(PROPOSALS, ruling.event.k or self.answers.k)  # there may be few who propose
        self._rank(slice(query, query + 1), excluded, retrievers, each, self.rules.proposed(ruling, hidden))

    def _rank(
        self,
        rows: slice,
        excluded: Excluded,
        retrievers: Sequence[Retriever],
        each: int = PROPOSALS,
        found: Sequence[Int32] = (),
    ) -> None:
        """Rank for queries from whom the same items are barred; `found` are proposed beside `each` retriever's."""
        batch, items = self.batch, self.knowledge.items
        proposals = [retriever.candidates(batch.queries, rows, each, excluded) for retriever in retrievers]
        candidates = self._union([*proposals, *found], excluded, CANDIDATES)
        batch.candidates.items[rows] = candidates
        for place, model in enumerate(self.models):
            batch.candidates.scores[place, rows] = model.score(batch.queries, rows, candidates)
        self.quarantine.hear(batch.candidates.scores[:, rows])
        if not self.fusion.describe(batch.queries, rows, batch.candidates, items.first_ts, items.last_ts):
            self.quarantine.complain(FUSION)
        boost = self.knowledge.listing.boost[candidates]
        batch.candidates.utility[rows] += np.where(candidates == NOTHING, np.float32(0), boost)
        for query in range(rows.start, rows.stop):
            if query in self.rulings:
                self.rules.weigh(self.rulings[query], batch, query)
                batch.candidates.utility[query] += self.rulings[query].boost

    # Answer

    def _answer(self, requests: Sequence[Request]) -> tuple[Mapping[Place, Slate], Mapping[Place, Memo]]:
        slates, memos = self.answers.slates(self.batch, requests, self.rulings)
        for _, arrival in requests:
            self.knowledge.answered(slates[arrival.partition, arrival.offset], arrival.partition)
        return slates, memos

    def _imitate(self, requests: Sequence[Request], known: list[bool], taught: list[Arrival]) -> None:
        """An apprentice of a policy learns what that one would have put first for each request."""
        new = [request for request in requests if not request.arrival.learned]
        for (query, arrival), item in self.answers.imitable(self.batch, new, self.rulings):
            if not self.batch.full:
                self.batch.teach(query, item, arrival.event.ts, IMITATED)
                known.append(True)
                taught.append(arrival)

    # Learn

    def learn(self, lessons: Sequence[Lesson] = ()) -> None:
        """The cut: everybody learns what came since the last one, and a new micro-batch begins."""
        batch, knowledge = self.batch, self.knowledge
        self._hold_back()
        lessons = [lesson for lesson in lessons if lesson.schema == self.fusion.schema]  # else of other models' words
        lessons = self._admitted(lessons)
        sentenced = self.quarantine.sentenced()
        for model in self.models:
            if MODEL + model.name not in sentenced:  # what it learned would go with it
                model.learn(batch)
        for model in self.unranked:
            model.learn(batch)
        self.fusion.learn(batch, lessons)
        self.answers.learn(lessons)
        for retriever in (*self.retrievers, *self.special):
            retriever.learn(batch)
        knowledge.learn(batch, lessons)
        forgotten = knowledge.make_room(self._cuts.latest_ts, self.tempo.micro_batch)
        self._forget(forgotten)
        self.learners.judge()
        # Rankings that stay open name no items that are gone.
        self._moments.begin_batch(self._cuts.latest_ts, 0 if len(forgotten) else 2 * self.tempo.micro_batch)
        self._cuts.begin_batch()

    def _hold_back(self) -> None:
        """What goes beyond the share of its user or item teaches nobody."""
        batch, examples = self.batch, self.batch.examples
        teaching = np.flatnonzero(np.isin(examples.label[: batch.learned], (REFUSED, WANTED)))
        users = batch.queries.user[examples.query[teaching]]
        admitted = self.contribution.admit(users, examples.item[teaching], examples.ts[teaching])
        examples.label[teaching[~admitted]] = -1

    def _admitted(self, lessons: Sequence[Lesson]) -> list[Lesson]:
        """The lessons within the share of their user and of each item that was answered."""
        items = self.knowledge.items
        answered = [
            [items.lookup(lesson.items[place]) for place in np.flatnonzero(lesson.reward)] for lesson in lessons
        ]
        admitted = self.contribution.admit_lessons(
            np.array([name_hash(lesson.user_id) for lesson in lessons], np.uint64),
            [np.array([item for item in some if item != NOTHING], np.int32) for some in answered],
            np.array([lesson.ts for lesson in lessons], np.int64),
        )
        return [lesson for lesson, taught in zip(lessons, admitted.tolist(), strict=True) if taught]

    def _forget(self, forgotten: Int32) -> None:
        """Nobody speaks of these items any more, and those who waited for their places may come."""
        if len(forgotten) == 0:
            return
        self.contribution.forget(forgotten)
        for model in (*self.models, *self.unranked):
            model.forget(forgotten)
        self.knowledge.listing.readmit(self._cuts.latest_ts, self.tempo.micro_batch)

    # Snapshots and alarms

    def refused_updates(self) -> dict[str, int]:
        """How many updates were not taken, for a number in them that was not finite, by who refused them."""
        parts: list[tuple[str, object]] = [("fusion", self.fusion), ("residual", self.fusion.residual)]
        parts += [(model.name, model) for model in self.models]
        return {name: int(getattr(part, "skipped")) for name, part in parts if hasattr(part, "skipped")}  # noqa: B009

    @property
    def schema(self) -> str:
        """What a snapshot must have been taken of to fit: the models, and what the fusion sees of them."""
        return "/".join([f"v{LAYOUT}", *self.fusion.names])

    def state(self) -> dict[str, dict[str, Array]]:
        """Everything learned, by component; users are not in it, they live in the store."""
        return {
            **self.knowledge.state(),
            "batch": self.batch.state(),
            "clock": {"counts": self._cuts.state(), **self._moments.state()},
            "progress": self.progress.state(),
            "contribution": self.contribution.state(),
            **self.learners.state(),
        }

    def restore(self, arrays: Mapping[str, Mapping[str, Array]]) -> None:
        """The inverse of `state`."""
        self.knowledge.restore(arrays)
        self.batch.restore(arrays["batch"])
        self._cuts.restore(arrays["clock"]["counts"])
        self._moments.restore(arrays["clock"])
        self.progress.restore(arrays["progress"])
        self.contribution.restore(arrays["contribution"])
        self.learners.restore(arrays)
