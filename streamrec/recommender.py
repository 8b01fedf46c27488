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
from dataclasses import dataclass

import numpy as np

from streamrec.answers import SITE, Answers, Place, Request
from streamrec.arrivals import Arrival, name_hash
from streamrec.contribution import Contribution
from streamrec.events import TYPE_CODES, Event, EventType, Slate
from streamrec.features.ads import ADS, Ads
from streamrec.features.affinity import Affinity
from streamrec.features.batch import CANDIDATES, NOTHING, Array, Bool, Excluded, Int32, MicroBatch
from streamrec.features.bought import Bought
from streamrec.features.counts import Counts
from streamrec.features.doubt import Doubt
from streamrec.features.duplicates import Duplicates
from streamrec.features.history import TOUCHES, History
from streamrec.features.items import ItemTable
from streamrec.features.listing import Listing
from streamrec.features.prices import Prices, price_named
from streamrec.features.seen import Seen
from streamrec.features.shown import Shown
from streamrec.features.steps import ASK, REMEMBER, Step, Steps
from streamrec.features.trends import Teller
from streamrec.features.users import UserTable
from streamrec.fusion import Fusion
from streamrec.interest import IMITATED, REFUSED, WANTED, Interest
from streamrec.learners import Learners
from streamrec.models import Model
from streamrec.policies import Lesson
from streamrec.portions import Portion, tried
from streamrec.progress import Progress
from streamrec.quarantine import FUSION, MODEL, PATIENCE, POLICY
from streamrec.retrieval import Retriever, Union
from streamrec.rulings import Rules, Ruling
from streamrec.scenarios import Needs

LAYOUT = 3
"""Version of a snapshot's arrays."""
PROPOSALS = 30
"""Items that each retriever proposes."""
NO_EXAMPLE = NOTHING
FIRST_PLACE = 1
LISTING = "listing"
DOUBT = "doubt"
QUARANTINE = "quarantine"
"""What a snapshot has of who is trusted."""
PRACTICE, PUBLISHED = 0, 1  # why a query is made: to be learned from, or to be answered


@dataclass(frozen=True, slots=True)
class Tempo:
    """When the models learn, and how they are fed."""

    micro_batch: int = 32
    micro_batch_s: float = 30.0
    seed: int = 0
    recommend_on: frozenset[EventType] = frozenset({EventType.REQUEST, EventType.SEARCH})


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What is remembered of users and items."""

    users: UserTable
    items: ItemTable
    listing: Listing
    history: History
    counts: Counts
    affinity: Affinity
    prices: Prices
    duplicates: Duplicates
    doubt: Doubt
    seen: Seen | None
    bought: Bought | None
    shown: Shown | None
    trends: Teller | None
    ads: Ads

    def touched(self, event: Event, row: int, item: int) -> None:
        """The user of that row did something with an item: for rules that look at it, at once."""
        if item == NOTHING or event.type is EventType.IMPRESSION:
            return
        if self.seen is not None:
            self.seen.add(row, item)
        if self.bought is not None and event.type is EventType.PURCHASE:
            self.bought.add(row, item, event.ts)
        if self.shown is not None:
            self.shown.touch(row, item)


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
        self.fusion = fusion
        self.answers = answers
        self.rules = rules
        self.special = tuple(special)
        self.interest = interest
        self.tempo = tempo
        self.progress = progress
        self.contribution = contribution
        self.fill = [model.name for model in models].index(fill)  # the popularity that fills short lists up
        # Per event at most an example and two queries; as many rows again for rankings that stay open over a cut.
        self.batch = MicroBatch.empty(4 * tempo.micro_batch, tempo.micro_batch, len(models), fusion.width)
        self._union = Union(knowledge.items.capacity)
        self.learners = Learners(self.models, fusion, answers.roster, knowledge.items, rollback_after)
        self.quarantine = self.learners.quarantine
        self._open: dict[int, tuple[int, int]] = {}  # user hash -> (time, query row) of the ranking that still counts
        self._since_cut = 0
        self._first_ts = 0
        self._latest_ts = 0
        # By query row of the present portion: items that must not be shown, and the rules for what is asked.
        self._excluded: dict[int, Int32] = {}
        self.rulings: dict[int, Ruling] = {}

    # One portion of the log

    def portions(
        self, arrivals: Sequence[Arrival], lessons: Callable[[], Sequence[Lesson]] = tuple
    ) -> Iterator[Portion]:
        """Handle events in log order; users must be in the table. Yields after each portion, learned or not.

        `lessons` is asked at each learning cut for what came of slates since the last.
        """
        start = 0
        while start < len(arrivals):
            if self._overdue(arrivals[start].event.ts):
                self.learn(lessons())
            room = self.tempo.micro_batch - self._since_cut
            stop = self._until_overdue(arrivals, start, min(len(arrivals), start + room))
            stop = self._until_answered(arrivals, start, stop)
            yield self._portion(arrivals[start:stop])
            start = stop
            if self._since_cut >= self.tempo.micro_batch:
                self.learn(lessons())

    def _portion(self, arrivals: Sequence[Arrival]) -> Portion:
        first_query, first_example = self.batch.asked, self.batch.learned
        if self._since_cut == 0:
            self._first_ts = arrivals[0].event.ts
        self.knowledge.listing.arrive(max(self._latest_ts, arrivals[0].event.ts), self.tempo.micro_batch)
        requests, known, taught = self.remember(arrivals)
        self.rank(slice(first_query, self.batch.asked))
        slates, memos = self.answers.slates(self.batch, requests, self.rulings)
        self._note_shown(requests, slates)
        self._imitate(requests, known, taught)
        examples = slice(first_example, self.batch.learned)
        trial = tried(taught, known, self.batch, examples, self.fill)
        drifts = self.progress.tried(trial, self.batch, examples)
        self._since_cut += len(arrivals)
        return Portion(arrivals, slates, memos, trial, drifts)

    def remember(self, arrivals: Sequence[Arrival]) -> tuple[list[Request], list[bool], list[Arrival]]:
        """Users and items take the events; queries and examples freeze what was known before each.

        Returns the requests with their query rows, whether each example's item was known, and each example's arrival.
        """
        knowledge, batch = self.knowledge, self.batch
        self._excluded.clear()
        self.rulings.clear()
        steps: list[Step] = []
        prices: dict[int, float] = {}  # by place in the list of steps
        requests: list[Request] = []
        known: list[bool] = []
        taught: list[Arrival] = []
        for arrival in arrivals:
            event = arrival.event
            row = knowledge.users.touch((arrival.partition, event.user_id))
            code = TYPE_CODES[event.type]
            session = name_hash(event.session_id)
            label = None if arrival.learned else self._label(event)
            item, before = self._item_of(arrival, code, label)
            example = NO_EXAMPLE
            if label is not None:
                query = self._open_query(arrival, row, session, steps)
                example = batch.learned
                batch.learned += 1
                self._write_example(example, query, item, event.ts, label)
                known.append(before)
                taught.append(arrival)
            price = price_named(event.context)
            if price is not None:
                prices[len(steps)] = price
            steps.append((REMEMBER, row, 0, event.ts, session, item, code, example))
            knowledge.touched(event, row, item)
            if event.type in self.tempo.recommend_on:
                query = self._new_query(arrival, row, session, steps, PUBLISHED)
                self.rulings[query] = ruling = self.rules.begin(event, arrival.partition, row)
                self._excluded[query] = ruling.excluded
                requests.append(Request(query, arrival))
            if event.type is EventType.IMPRESSION and event.rec_id is None:  # else it counted as a slate's
                knowledge.doubt.note_shown([item], event.ts)
            self._latest_ts = max(self._latest_ts, event.ts)
        self._fold(Steps.of(steps, prices))
        self._plant_seeds(requests)
        return requests, known, taught

    def rank(self, rows: slice) -> None:
        """Candidates, every model's score of each, and the fused score."""
        for part, barred in self.knowledge.listing.spans(self.batch.queries.ts, rows):
            apart = [q for q in range(part.start, part.stop) if q in self.rulings and self.rulings[q].apart]
            start = part.start
            for query in [*apart, part.stop]:
                if start < query:
                    excluded = Excluded.of((self._excluded[q] for q in range(start, query)), barred)
                    self._rank(slice(start, query), excluded, self.retrievers)
                start = query + 1
            for query in apart:
                self._rank_apart(query, barred)

    def _rank_apart(self, query: int, barred: Bool) -> None:
        """Rank for a request by rules that hold for it alone."""
        ruling = self.rulings[query]
        hidden = self.rules.hidden(ruling, self.batch.queries, query, barred)
        excluded = Excluded.of([self._excluded[query]], hidden, lasting=False)
        retrievers = self.rules.retrievers(ruling, self.retrievers, self.special)
        self._rank(slice(query, query + 1), excluded, retrievers, self.rules.proposed(ruling, hidden))

    def _rank(
        self, rows: slice, excluded: Excluded, retrievers: Sequence[Retriever], found: Sequence[Int32] = ()
    ) -> None:
        """Rank for queries from whom the same items are barred; `found` are more proposals."""
        batch, items = self.batch, self.knowledge.items
        proposals = [retriever.candidates(batch.queries, rows, PROPOSALS, excluded) for retriever in retrievers]
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

    def learn(self, lessons: Sequence[Lesson] = ()) -> None:
        """The cut: everybody learns what came since the last one, and a new micro-batch begins."""
        batch, items, listing = self.batch, self.knowledge.items, self.knowledge.listing
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
        self.knowledge.ads.learn(lessons)
        for retriever in (*self.retrievers, *self.special):
            retriever.learn(batch)
        self.knowledge.doubt.learn(batch)
        examples = slice(0, batch.learned)
        items.seen(batch.examples.item[examples], batch.examples.ts[examples])
        listing.settle()
        listing.arrive_expected(self._latest_ts, self.tempo.micro_batch)
        forgotten = items.make_room(listing.needed(self.tempo.micro_batch))
        if len(forgotten):
            listing.forget(forgotten)
            self.knowledge.doubt.forget(forgotten)
            self.knowledge.users.forget_items(forgotten)
            self.contribution.forget(forgotten)
            for model in (*self.models, *self.unranked):
                model.forget(forgotten)
            listing.readmit(self._latest_ts, self.tempo.micro_batch)
        self.learners.judge()
        self._begin_batch(keep_open=len(forgotten) == 0)

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

    def _note_shown(self, requests: Sequence[Request], slates: Mapping[Place, Slate]) -> None:
        """There is less doubt of what was shown, what came in by the catalogue had a chance, and its user may tire."""
        knowledge = self.knowledge
        for _, arrival in requests:
            slate = slates[arrival.partition, arrival.offset]
            found = (knowledge.items.lookup(place.item_id) for place in slate.items)
            indices = [index for index in found if index != NOTHING]
            knowledge.doubt.note_shown(indices, slate.ts)
            if len(knowledge.listing):
                knowledge.listing.note_shown(indices)
            if knowledge.shown is not None:
                row = knowledge.users.touch((arrival.partition, slate.user_id))
                knowledge.shown.add(row, indices, slate.ts)

    # The pieces

    def _label(self, event: Event) -> int | None:
        """What an event teaches; the first of what a site shows teaches an apprentice of the site."""
        if self.answers.imitated == SITE and event.type is EventType.IMPRESSION and event.position == FIRST_PLACE:
            return IMITATED
        return self.interest.label(event)

    def _imitate(self, requests: Sequence[Request], known: list[bool], taught: list[Arrival]) -> None:
        """An apprentice of a policy learns what that one would have put first for each request."""
        new = [request for request in requests if not request.arrival.learned]
        for (query, arrival), item in self.answers.imitable(self.batch, new, self.rulings):
            if self.batch.learned < len(self.batch.examples.item):
                self._write_example(self.batch.learned, query, item, arrival.event.ts, IMITATED)
                self.batch.learned += 1
                known.append(True)
                taught.append(arrival)

    def _item_of(self, arrival: Arrival, code: int, label: int | None) -> tuple[int, bool]:
        """The event's item index and whether the log had it before; only what is touched or judged gets an index."""
        event, items = arrival.event, self.knowledge.items
        if event.item_id is None:
            return NOTHING, False
        index = items.lookup(event.item_id)
        if index != NOTHING:
            return index, True
        if label is None and code not in TOUCHES:
            return NOTHING, False
        index = items.intern(event.item_id, event.ts)
        category = self.category_of(arrival)
        if category is not None:
            items.categorise(index, category)
        return index, False

    def category_of(self, arrival: Arrival) -> str | None:
        """The catalogue's word, else what the event itself says in its context."""
        event = arrival.event
        listed = None if event.item_id is None else self.knowledge.listing.category(event.item_id)
        said = (event.context or {}).get("category")
        return listed or (said if isinstance(said, str) else None)

    def _open_query(self, arrival: Arrival, row: int, session: int, steps: list[Step]) -> int:
        """The ranking made before this moment's first event of this user."""
        user = name_hash(arrival.event.user_id)
        open_ts, query = self._open.get(user, (-1, NOTHING))
        if open_ts != arrival.event.ts:
            query = self._new_query(arrival, row, session, steps, PRACTICE)
            self._open[user] = arrival.event.ts, query
        return query

    def _new_query(self, arrival: Arrival, row: int, session: int, steps: list[Step], purpose: int) -> int:
        batch, query = self.batch, self.batch.asked
        batch.asked += 1
        batch.queries.user[query] = name_hash(arrival.event.user_id)
        batch.queries.ts[query] = arrival.event.ts
        batch.queries.seed[query] = arrival.seed(self.tempo.seed) ^ purpose
        seen = self.knowledge.seen
        self._excluded[query] = np.empty(0, np.int32) if seen is None else seen.of(row)
        steps.append((ASK, row, query, arrival.event.ts, session, NOTHING, 0, NO_EXAMPLE))
        return query

    def _write_example(self, example: int, query: int, item: int, ts: int, label: int) -> None:
        examples = self.batch.examples
        examples.query[example] = query
        examples.item[example] = item
        examples.ts[example] = ts
        examples.label[example] = label
        examples.weight[example] = 1.0
        examples.recent[example] = NOTHING
        examples.session[example] = 0

    def _fold(self, steps: Steps) -> None:
        known = self.knowledge
        for family in (known.history, known.counts, known.affinity, known.prices):
            family.fold(steps, self.batch.queries, self.batch.examples)

    def _plant_seeds(self, requests: Sequence[Request]) -> None:
        """A request that names items asks for what goes with them: the answer is as if they had just been touched.

        Where a scenario is about them, a session begins with them.
        """
        queries = self.batch.queries
        for query, _ in requests:
            seeds, needs = self.rulings[query].seeds[::-1], self.rulings[query].scenario.needs
            count = len(seeds)
            if count == 0:
                continue
            queries.items[query, count:] = queries.items[query, :-count].copy()
            queries.ages_s[query, count:] = queries.ages_s[query, :-count].copy()
            queries.steps[query, count:] = queries.steps[query, :-count] + 1
            queries.items[query, :count], queries.ages_s[query, :count], queries.steps[query, :count] = seeds, 0.0, 0
            queries.session[query] = count + (0 if needs is not Needs.NOTHING else queries.session[query])

    # Learning cuts

    def _overdue(self, ts: int) -> bool:
        return self._since_cut > 0 and ts - self._first_ts >= self.tempo.micro_batch_s * 1000

    def _until_overdue(self, arrivals: Sequence[Arrival], start: int, stop: int) -> int:
        first_ts = self._first_ts if self._since_cut else arrivals[start].event.ts
        for at in range(start, stop):
            if arrivals[at].event.ts - first_ts >= self.tempo.micro_batch_s * 1000:
                return at
        return stop

    def _until_answered(self, arrivals: Sequence[Arrival], start: int, stop: int) -> int:
        """Before whatever a user does after asking, where what was shown counts from the next moment on."""
        if self.knowledge.shown is None:
            return stop
        asked = set[tuple[int, str]]()
        for at in range(start, stop):
            user = arrivals[at].partition, arrivals[at].event.user_id
            if user in asked:
                return at
            if arrivals[at].event.type in self.tempo.recommend_on:
                asked.add(user)
        return stop

    def _begin_batch(self, keep_open: bool) -> None:
        """Rankings of the log's present moment stay: more of their basket may come."""
        still = {user: at for user, at in self._open.items() if at[0] == self._latest_ts} if keep_open else {}
        newest = sorted(still.items(), key=lambda entry: entry[1][1])[-2 * self.tempo.micro_batch :]
        rows = [row for _, (_, row) in newest]
        self.batch.keep(np.array(rows, np.int64))
        self._open = {user: (ts, place) for place, (user, (ts, _)) in enumerate(newest)}
        self._since_cut = 0

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
        users = list(self._open)
        clock: dict[str, Array] = {
            "counts": np.array([self._since_cut, self._first_ts, self._latest_ts], np.int64),
            "open.user": np.array(users, np.uint64),
            "open.at": np.array([self._open[user] for user in users], np.int64).reshape(len(users), 2),
        }
        return {
            "items": self.knowledge.items.state(),
            LISTING: self.knowledge.listing.state(),
            DOUBT: self.knowledge.doubt.state(),
            ADS: self.knowledge.ads.state(),
            "batch": self.batch.state(),
            FUSION: self.fusion.state(),
            QUARANTINE: self.quarantine.state(),
            "clock": clock,
            "progress": self.progress.state(),
            "contribution": self.contribution.state(),
            **{MODEL + model.name: model.state() for model in (*self.models, *self.unranked)},
            **{f"{POLICY}{name}": state for name, state in self.answers.roster.state().items()},
        }

    def restore(self, arrays: Mapping[str, Mapping[str, Array]]) -> None:
        """The inverse of `state`."""
        self.knowledge.items.restore(arrays["items"])
        if LISTING in arrays:  # snapshots of before knew of none
            self.knowledge.listing.restore(arrays[LISTING])
        else:
            self.knowledge.listing.look_anew()
        if DOUBT in arrays:  # likewise
            self.knowledge.doubt.restore(arrays[DOUBT])
        if ADS in arrays:  # snapshots of before knew of none
            self.knowledge.ads.restore(arrays[ADS])
        self.fusion.restore(arrays[FUSION])
        if QUARANTINE in arrays:  # snapshots of before knew of none
            self.quarantine.restore(arrays[QUARANTINE])
        self.batch.restore(arrays["batch"])
        self.progress.restore(arrays["progress"])
        self.contribution.restore(arrays["contribution"])
        for model in self.models:
            model.restore(arrays[MODEL + model.name])
        for model in self.unranked:  # snapshots are not refused for want of them
            model.restore(arrays.get(MODEL + model.name, {}))
        self.answers.roster.restore({name[len(POLICY) :]: arrays[name] for name in arrays if name.startswith(POLICY)})
        clock = arrays["clock"]
        self._since_cut, self._first_ts, self._latest_ts = (int(count) for count in clock["counts"])
        at = clock["open.at"].tolist()
        self._open = {int(user): (ts, row) for user, (ts, row) in zip(clock["open.user"], at, strict=True)}
