"""Sessions like this one: what was touched in the recent sessions that share the most with it.

    sim(s)      = sum over the items that s shares with this session of FADE ** (steps back to the item in this session)
    score(item) = log idf(item) * sum over the NEIGHBOURS most similar s that touched it of
                  sim(s) / sqrt(|s|) * exp(-(steps in s between the item and the newest shared one) / NEAR)

Vector session nearest neighbours (V-SKNN; Ludewig, Jannach: Evaluation of session-based recommendation algorithms,
UMUAI 2018) with the nearness within the neighbour of STAN (Garg et al.: Sequence and time aware neighborhood for
session-based recommendations, SIGIR 2019), kept incrementally: a session can be a neighbour from its first item on.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import numpy as np

from streamrec.engine.arrays.batch import NOTHING, Array, Excluded, Float32, Int32, MicroBatch, Queries, Uint64
from streamrec.engine.arrays.compiled import compiled
from streamrec.engine.following.served import Arrays, ChangedRows, Rows, RowStamps
from streamrec.engine.models import ModelParts
from streamrec.engine.models.neighbour_table import best_of, logs_of

LENGTH = 24
"""Items kept of a session, the newest."""
PLACES = 12
"""Items of the present session that are compared."""
NEIGHBOURS = 120
FADE = 0.5
NEAR = 3.0


class SessionNeighbours:
    """Remembers the last `sessions` sessions, and for each item the last `per_item` of them that touched it."""

    def __init__(self, name: str, capacity: int, sessions: int = 2**15, per_item: int = 128) -> None:
        self.name = name
        self.rows = 0
        self.begun = 0  # sessions so far: the serial number of the next one
        self._items = np.zeros((sessions, LENGTH), np.int32)  # item + 1, a ring per session
        self._lengths = np.zeros(sessions, np.int32)
        self._serials = np.full(sessions, NOTHING, np.int32)  # which session is in the slot
        self._owners: Uint64 = np.zeros(sessions, np.uint64)  # the user who is in it; 0 after the user began another
        self._stamped = RowStamps(capacity)  # of visits
        self._visits = np.zeros((capacity, per_item), np.int32)  # serial + 1 of what touched the item, a ring
        self._visited = np.zeros(capacity, np.int32)
        self._current: OrderedDict[int, int] = OrderedDict()  # user -> serial of the session they are in
        self._mass = np.zeros(capacity, np.float64)  # scratch: what reached an item, where its stamp says so
        self._stamp = np.zeros(capacity, np.int64)
        self._similar = np.zeros(sessions, np.float64)  # scratch: similarity of a session, likewise
        self._session_stamp = np.zeros(sessions, np.int64)
        self._shared = np.zeros(sessions, np.int32)  # scratch: the newest item that the session shares with a query
        self._stamps = 0

    @classmethod
    def build(cls, parts: ModelParts) -> SessionNeighbours:
        """As `streamrec.config.parts` lists it."""
        return cls(parts.name, parts.capacity)

    def score(self, queries: Queries, rows: slice, items: Int32) -> Float32:
        out = np.full(items.shape, -np.inf, np.float32)
        nothing = np.empty((len(items), 0), np.int32)
        self._spread(queries, rows, items, out, nothing, Excluded.nothing(len(items)))
        return out

    def strongest(self, queries: Queries, rows: slice, k: int, excluded: Excluded) -> Int32:
        """The items that score best for each query and are not excluded, best first, (rows, k)."""
        asked = len(queries.ts[rows])
        best = np.full((asked, k), NOTHING, np.int32)
        self._spread(queries, rows, np.empty((asked, 0), np.int32), np.empty((asked, 0), np.float32), best, excluded)
        return best

    def _spread(
        self, queries: Queries, rows: slice, items: Int32, out: Float32, best: Int32, excluded: Excluded
    ) -> None:
        users = queries.user[rows]
        first = self._stamps + 1
        self._stamps += len(users)
        _spread(
            queries.items[rows],
            queries.steps[rows],
            queries.reach(rows),
            users,
            self._owners,
            self._items,
            self._lengths,
            self._serials,
            self._visits,
            self._visited,
            self.begun,
            self._similar,
            self._session_stamp,
            self._shared,
            self._mass,
            self._stamp,
            first,
            items,
            out,
            excluded.items,
            excluded.starts,
            excluded.barred,
            best,
        )

    def learn(self, batch: MicroBatch) -> None:
        examples = batch.examples
        for e in np.flatnonzero(examples.label[: batch.learned] == 1).tolist():
            q, item = int(examples.query[e]), int(examples.item[e])
            if q == NOTHING:
                continue
            user = int(batch.queries.user[q])
            serial = self._current.get(user)
            if examples.session[e] == 0 or serial is None or self._serials[serial % len(self._serials)] != serial:
                serial = self._begin(user)
            slot = serial % len(self._serials)
            self._items[slot, self._lengths[slot] % LENGTH] = item + 1
            self._lengths[slot] += 1
            self._visits[item, self._visited[item] % self._visits.shape[1]] = serial + 1
            self._stamped.touch(slice(item, item + 1))
            self._visited[item] += 1
            self.rows = max(self.rows, item + 1)

    def _begin(self, user: int) -> int:
        serial = self.begun
        slot = serial % len(self._serials)
        self.begun += 1
        self._serials[slot], self._lengths[slot], self._items[slot] = serial, 0, 0
        last = self._current.get(user, serial) % len(self._serials)
        if self._owners[last] == user:
            self._owners[last] = 0
        self._owners[slot] = user
        self._current[user] = serial
        self._current.move_to_end(user)
        if len(self._current) > len(self._serials):
            self._current.popitem(last=False)
        return serial

    def forget(self, items: Int32) -> None:
        self._items[np.isin(self._items - 1, items)] = 0
        self._visits[items] = 0
        self._visited[items] = 0
        self._stamped.touch(items)

    def served(self) -> dict[str, Rows]:
        held = min(self.begun, len(self._serials))
        return {
            "items": self._items[:held],
            "lengths": self._lengths[:held],
            "serials": self._serials[:held],
            "owners": self._owners[:held],
            "visits": self._visits[: self.rows],
            "visited": self._visited[: self.rows],
            "begun": np.array([self.begun], np.int64),
        }

    def serve(self, arrays: Arrays, changed: ChangedRows | None = None) -> None:
        self._items, self._lengths = arrays["items"], arrays["lengths"]
        self._serials, self._owners = arrays["serials"], arrays["owners"]
        self._visits, self._visited = arrays["visits"], arrays["visited"]
        self.begun = int(arrays["begun"][0])

    def touched(self, since: int) -> tuple[int, ChangedRows]:
        moment, rows = self._stamped.since(since)
        return moment, {"visits": rows}

    def state(self) -> dict[str, Array]:
        return {name: np.array(rows) for name, rows in self.served().items()}

    def restore(self, arrays: Mapping[str, Array]) -> None:
        self._items[:] = self._lengths[:] = 0
        self._serials[:] = NOTHING
        self._owners[:] = 0
        self._visits[: self.rows] = self._visited[: self.rows] = 0
        self._stamped.touch(slice(0, max(self.rows, len(arrays["visited"]))))
        held, self.rows = len(arrays["serials"]), len(arrays["visited"])
        self.begun = int(arrays["begun"][0])
        self._items[:held] = arrays["items"]
        self._lengths[:held] = arrays["lengths"]
        self._serials[:held] = arrays["serials"]
        self._owners[:held] = arrays["owners"]
        self._visits[: self.rows] = arrays["visits"]
        self._visited[: self.rows] = arrays["visited"]
        owned = np.flatnonzero(self._owners)
        owned = owned[np.argsort(self._serials[owned])]  # in the order in which they were begun
        self._current = OrderedDict(zip(self._owners[owned].tolist(), self._serials[owned].tolist(), strict=True))


@compiled
def _spread(  # type: ignore[no-untyped-def]
    past, steps, reach, users, owners, items, lengths, serials, visits, visited, begun,
    similar, session_stamp, shared, mass, stamp, first, candidates, out,
    excluded, starts, barred, best,
):  # fmt: skip
    """Fills `out` (rows, candidates) and `best` (rows, k); either may have no columns."""
    found_items = np.empty(NEIGHBOURS * LENGTH, np.int64)
    for q in range(len(past)):
        mark = first + q
        neighbours = _neighbours(
            past[q], steps[q], reach[q], users[q], owners, serials, visits, visited, begun,
            similar, session_stamp, shared, mark,
        )  # fmt: skip
        found = 0
        for slot in neighbours:
            held = min(lengths[slot], LENGTH)
            oldest = lengths[slot] % LENGTH if lengths[slot] > LENGTH else 0
            there = 0
            for step in range(held):
                if items[slot, (oldest + step) % LENGTH] == shared[slot] + 1:
                    there = step
            for step in range(held):
                n = items[slot, (oldest + step) % LENGTH] - 1
                if n < 0:
                    continue
                if stamp[n] != mark:
                    stamp[n] = mark
                    mass[n] = 0.0
                    found_items[found] = n
                    found += 1
                mass[n] += similar[slot] / np.sqrt(float(held)) * np.exp(-abs(step - there) / NEAR)
        for at in range(found):
            n = found_items[at]
            mass[n] *= 1.0 + np.log((begun + 1.0) / (visited[n] + 1.0))
        logs_of(candidates[q], mass, stamp, mark, out[q])
        best_of(found_items[:found], mass, excluded[starts[q] : starts[q + 1]], barred, best[q])


@compiled
def _neighbours(  # type: ignore[no-untyped-def]
    past, steps, reach, user, owners, serials, visits, visited, begun, similar, session_stamp, shared, mark
):  # fmt: skip
    """Slots of the most similar sessions, among equals the most recent: they are likelier about what is there now."""
    chosen = np.empty(PLACES * visits.shape[1], np.int64)
    found = 0
    for place in range(min(reach, PLACES)):
        source = past[place]
        if source == NOTHING or source >= len(visited):
            continue
        for at in range(min(visited[source], visits.shape[1])):
            serial = visits[source, at] - 1
            slot = serial % len(serials)
            if serial < 0 or serials[slot] != serial or (user != 0 and owners[slot] == user):
                continue
            if session_stamp[slot] != mark:
                session_stamp[slot] = mark
                similar[slot] = 0.0
                shared[slot] = source
                chosen[found] = slot
                found += 1
            similar[slot] += FADE ** steps[place]
    keys = np.empty(found)
    for at in range(found):
        keys[at] = -similar[chosen[at]] - 1e-3 * serials[chosen[at]] / (begun + 1.0)
    return chosen[:found][np.argsort(keys)[:NEIGHBOURS]]
