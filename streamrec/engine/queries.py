"""Point-in-time queries: what was known of a user, frozen before the next event.

A query is made to learn from or to answer. To learn, all events of one user at one time (a basket) share the query made
before the first of them. A request has a query of its own, and rules that hold for it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from streamrec.engine.arrays.batch import NOTHING, Array, Int32, MicroBatch
from streamrec.engine.arrays.logged_event import LoggedEvent, name_hash
from streamrec.engine.arrays.timeline import ASK, REMEMBER, Timeline, TimelineStep
from streamrec.engine.scenarios.rules import RequestRules
from streamrec.engine.scenarios.scenario import Needs
from streamrec.events import TYPE_CODES

TO_LEARN, TO_ANSWER = 0, 1  # why a query is made
NO_EXAMPLE = NOTHING


class PointInTimeQueries:
    """The queries of a micro-batch, and the order in which they and the events come."""

    def __init__(self, batch: MicroBatch, seed: int, *, sent_on: bool = False) -> None:
        """Every random draw of a query follows from its place in the log and this `seed`.

        `sent_on`: who learns ranks the queries to learn from, and says which of them are one; here each event has one.
        """
        # Of the present chunk, by query row: items that must not be shown, and the rules of the request.
        self.excluded: dict[int, Int32] = {}
        self.rules_by_query: dict[int, RequestRules] = {}
        self._batch = batch
        self._seed = seed
        self._sent_on = sent_on
        self._steps: list[TimelineStep] = []
        self._prices: dict[int, float] = {}  # by place in the list of steps
        self._open: dict[int, tuple[int, int]] = {}  # user hash -> (time, query row) of the ranking that still counts

    def begin_chunk(self) -> None:
        """Forget the queries' exclusions and rules, and the timeline, of the chunk before."""
        self.excluded.clear()
        self.rules_by_query.clear()
        self._steps.clear()
        self._prices.clear()

    def before(self, logged: LoggedEvent, row: int, excluded: Int32) -> int:
        """The query made before this moment's first event of this user, whose row in the user table is `row`."""
        if self._sent_on:
            return self._ask(logged, row, excluded, TO_LEARN)
        query = self.still_open(logged)
        return self.opened(logged, self._ask(logged, row, excluded, TO_LEARN)) if query == NOTHING else query

    def still_open(self, logged: LoggedEvent) -> int:
        """The query that was made before this moment's first event of this user, NOTHING if there was none yet."""
        open_ts, query = self._open.get(name_hash(logged.event.user_id), (-1, NOTHING))
        return query if open_ts == logged.event.ts else NOTHING

    def opened(self, logged: LoggedEvent, query: int) -> int:
        """This query was made before this moment's first event of this user; returns it."""
        self._open[name_hash(logged.event.user_id)] = logged.event.ts, query
        return query

    def frozen(self, logged: LoggedEvent, excluded: Int32, purpose: int) -> int:
        """A query of which it is known already what came before; that is for the caller to fill in."""
        query = self._batch.ask(name_hash(logged.event.user_id), logged.event.ts, logged.seed(self._seed) ^ purpose)
        self.excluded[query] = excluded
        return query

    def request(self, logged: LoggedEvent, row: int, request_rules: RequestRules) -> int:
        """The query of a request."""
        query = self._ask(logged, row, request_rules.excluded, TO_ANSWER)
        self.rules_by_query[query] = request_rules
        return query

    def _ask(self, logged: LoggedEvent, row: int, excluded: Int32, purpose: int) -> int:
        event = logged.event
        ask = self._batch.ask_aside if self._sent_on and purpose == TO_LEARN else self._batch.ask
        query = ask(name_hash(event.user_id), event.ts, logged.seed(self._seed) ^ purpose)
        self.excluded[query] = excluded
        self._steps.append((ASK, row, query, event.ts, name_hash(event.session_id), NOTHING, 0, NO_EXAMPLE))
        return query

    def happened(self, logged: LoggedEvent, row: int, item: int, price: float | None, example: int) -> None:
        """Put an event on the timeline, after the queries so far and before those to come."""
        event = logged.event
        if price is not None:
            self._prices[len(self._steps)] = price
        session = name_hash(event.session_id)
        self._steps.append((REMEMBER, row, 0, event.ts, session, item, TYPE_CODES[event.type], example))

    def steps(self) -> Timeline:
        """The chunk's queries and events, in order."""
        return Timeline.of(self._steps, self._prices)

    def plant_seeds(self) -> None:
        """Answer a request that names items as if the user had just touched them.

        Where the scenario is about these items, a new session begins with them.
        """
        for query, request_rules in self.rules_by_query.items():
            if len(request_rules.seeds):
                self._batch.queries.begin_with(
                    query, request_rules.seeds, anew=request_rules.scenario.needs is not Needs.NOTHING
                )

    def begin_batch(self, latest_ts: int, most: int) -> None:
        """Begin the next micro-batch, and keep the `most` newest rankings of the log's latest time.

        More events of their baskets may come.
        """
        still = {user: at for user, at in self._open.items() if at[0] == latest_ts} if most else {}
        newest = sorted(still.items(), key=lambda entry: entry[1][1])[-most:]
        self._batch.keep(np.array([row for _, (_, row) in newest], np.int64))
        self._open = {user: (ts, place) for place, (user, (ts, _)) in enumerate(newest)}

    def state(self) -> dict[str, Array]:
        """The rankings that still count."""
        users = list(self._open)
        return {
            "open.user": np.array(users, np.uint64),
            "open.at": np.array([self._open[user] for user in users], np.int64).reshape(len(users), 2),
        }

    def restore(self, arrays: Mapping[str, Array]) -> None:
        """The inverse of `state`."""
        at = arrays["open.at"].tolist()
        self._open = {int(user): (ts, row) for user, (ts, row) in zip(arrays["open.user"], at, strict=True)}
