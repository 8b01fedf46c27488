"""The arrays that travel through the house: what is asked (queries), what might be shown (candidates), what is learned
(examples). One micro-batch holds all three, from one learning cut of the log to the next.

Rows have fixed places: row q of a micro-batch is the same row however the log was cut into polls, so array arithmetic
over the whole batch gives the same bits whether events came one by one or all at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from streamrec.events import MAX_CANDIDATES

Array = npt.NDArray[np.generic]
Bool = npt.NDArray[np.bool_]
Int8 = npt.NDArray[np.int8]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Uint64 = npt.NDArray[np.uint64]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

HISTORY = 64
"""Items of a user's past that a query sees, newest first."""
RECENT = 64
"""Items of a user's past that an example carries, newest first."""
CATEGORIES = 8
"""Categories of a user's affinity that a query sees."""
CANDIDATES = MAX_CANDIDATES
"""Items scored per query at most: as many as a request may ask for."""
NOTHING = -1
"""In arrays of item indices: no item here."""
NOBODY: Bool = np.zeros(0, np.bool_)
"""No item is barred."""
Columns = Mapping[str, tuple[int, npt.DTypeLike]]
"""Width and type of arrays that user features add to queries, by name."""
NO_COLUMNS: Columns = MappingProxyType({})


@dataclass(slots=True)
class Queries:
    """The users asked for, the time, and what was known of each user then (one row per query)."""

    user: Uint64  # (queries,) hash of the user id
    ts: Int64  # (queries,) ms
    seed: Uint64  # (queries,) a function of the input position
    items: Int32  # (queries, HISTORY) newest first
    ages_s: Float32  # (queries, HISTORY) seconds before ts
    steps: Int32  # (queries, HISTORY) moments back: items of one moment (a basket) share a step, 0 is the newest
    session: Int32  # (queries,) how many of the newest items belong to this session
    activity: Float32  # (queries,) decayed number of events of this user
    categories: Int32  # (queries, CATEGORIES)
    affinity: Float32  # (queries, CATEGORIES) decayed weight of each category
    columns: dict[str, Array] = field(default_factory=dict)  # (queries, width) each: what listed user features add

    def reach(self, rows: slice) -> Int32:
        """How many of the newest items to start from: the session's, at its start the moment before it, (rows,)."""
        newest = ((self.steps[rows] == 0) & (self.items[rows] != NOTHING)).sum(1)
        reach: Int32 = np.maximum(self.session[rows], newest).astype(np.int32)
        return reach

    def begin_with(self, query: int, seeds: Int32, *, anew: bool) -> None:
        """As if the user had touched these just now, the first of them last; `anew`: a session begins with them."""
        count = len(seeds)
        self.items[query, count:] = self.items[query, :-count].copy()
        self.ages_s[query, count:] = self.ages_s[query, :-count].copy()
        self.steps[query, count:] = self.steps[query, :-count] + 1
        self.items[query, :count], self.ages_s[query, :count], self.steps[query, :count] = seeds[::-1], 0.0, 0
        self.session[query] = count + (0 if anew else self.session[query])

    def blank(self, size: int) -> Queries:
        """As many empty ones, with the same columns."""
        return Queries.empty(size, {name: (array.shape[1], array.dtype) for name, array in self.columns.items()})

    @classmethod
    def empty(cls, size: int, columns: Columns = NO_COLUMNS) -> Queries:
        return cls(
            user=np.zeros(size, np.uint64),
            ts=np.zeros(size, np.int64),
            seed=np.zeros(size, np.uint64),
            items=np.full((size, HISTORY), NOTHING, np.int32),
            ages_s=np.zeros((size, HISTORY), np.float32),
            steps=np.zeros((size, HISTORY), np.int32),
            session=np.zeros(size, np.int32),
            activity=np.zeros(size, np.float32),
            categories=np.full((size, CATEGORIES), NOTHING, np.int32),
            affinity=np.zeros((size, CATEGORIES), np.float32),
            columns={name: np.zeros((size, width), dtype) for name, (width, dtype) in columns.items()},
        )


@dataclass(frozen=True, slots=True)
class Excluded:
    """Items that must not be shown: per query row (ragged, end to end), and those barred for every user."""

    items: Int32
    starts: Int64  # (rows + 1,) where each row's begin; the last entry is where the last row's end
    barred: Bool = field(default_factory=lambda: NOBODY)  # by item index, (items,); items past its end may be shown

    @classmethod
    def of(cls, rows: Iterable[Int32], barred: Bool | None = None) -> Excluded:
        """One array of item indices per query row."""
        parts = list(rows)
        starts = np.zeros(len(parts) + 1, np.int64)
        np.cumsum([len(part) for part in parts], out=starts[1:])
        items = (np.concatenate(parts) if parts else np.empty(0, np.int32)).astype(np.int32)
        return cls(items, starts, NOBODY if barred is None else barred)

    @classmethod
    def nothing(cls, rows: int) -> Excluded:
        """Everything may be shown."""
        return cls(np.empty(0, np.int32), np.zeros(rows + 1, np.int64))

    def hides(self, items: Int32) -> Bool:
        """Which of some items are barred for every user, (items,); NOTHING is not."""
        if len(self.barred) == 0:
            return np.zeros(items.shape, np.bool_)
        known = (items >= 0) & (items < len(self.barred))
        hidden: Bool = known & self.barred[np.where(known, items, 0)]
        return hidden


@dataclass(slots=True)
class Candidates:
    """Items worth scoring per query, and what every model says of each."""

    items: Int32  # (queries, CANDIDATES) NOTHING where there are fewer
    scores: Float32  # (models, queries, CANDIDATES) log mass, -inf where a model knows nothing
    features: Float32  # (queries, CANDIDATES, features) what the fusion sees
    utility: Float32  # (queries, CANDIDATES) the fusion's mean score, -inf where there is no item

    @classmethod
    def empty(cls, size: int, models: int, features: int) -> Candidates:
        return cls(
            items=np.full((size, CANDIDATES), NOTHING, np.int32),
            scores=np.full((models, size, CANDIDATES), -np.inf, np.float32),
            features=np.zeros((size, CANDIDATES, features), np.float32),
            utility=np.full((size, CANDIDATES), -np.inf, np.float32),
        )


@dataclass(slots=True)
class Examples:
    """What happened: one row per event that teaches, in log order."""

    query: Int32  # (examples,) the query that was ranked before this happened
    item: Int32  # (examples,)
    ts: Int64  # (examples,) ms
    label: Int8  # (examples,) as in `interest`; -1 dropped (a repeat that counts once)
    weight: Float32  # (examples,)
    recent: Int32  # (examples, RECENT) the user's items before it, newest first, this basket's included
    recent_ages_s: Float32  # (examples, RECENT)
    recent_steps: Int32  # (examples, RECENT) as in queries
    session: Int32  # (examples,) how many of those belong to the session

    @classmethod
    def empty(cls, size: int) -> Examples:
        return cls(
            query=np.full(size, NOTHING, np.int32),
            item=np.full(size, NOTHING, np.int32),
            ts=np.zeros(size, np.int64),
            label=np.zeros(size, np.int8),
            weight=np.ones(size, np.float32),
            recent=np.full((size, RECENT), NOTHING, np.int32),
            recent_ages_s=np.zeros((size, RECENT), np.float32),
            recent_steps=np.zeros((size, RECENT), np.int32),
            session=np.zeros(size, np.int32),
        )


@dataclass(slots=True)
class MicroBatch:
    """Queries, their candidates and the examples since the last learning cut."""

    queries: Queries
    candidates: Candidates
    examples: Examples
    asked: int = 0  # rows of queries and candidates in use
    learned: int = 0  # rows of examples in use
    aside: int = 0  # rows of queries in use at the other end: they are not ranked here

    @classmethod
    def empty(
        cls, queries: int, examples: int, models: int, features: int, columns: Columns = NO_COLUMNS
    ) -> MicroBatch:
        return cls(
            Queries.empty(queries, columns), Candidates.empty(queries, models, features), Examples.empty(examples)
        )

    @property
    def full(self) -> bool:
        """Whether there is no room for another example."""
        return self.learned == len(self.examples.item)

    def ask(self, user: int, ts: int, seed: int) -> int:
        """The row of a new query; what its user did before is for the features to fill in."""
        self.asked += 1
        return self._begin(self.asked - 1, user, ts, seed)

    def ask_aside(self, user: int, ts: int, seed: int) -> int:
        """The same for a query that is not ranked here."""
        self.aside += 1
        return self._begin(len(self.queries.ts) - self.aside, user, ts, seed)

    def _begin(self, query: int, user: int, ts: int, seed: int) -> int:
        self.queries.user[query], self.queries.ts[query], self.queries.seed[query] = user, ts, seed
        for column in self.queries.columns.values():
            column[query] = 0
        return query

    def teach(self, query: int, item: int, ts: int, label: int) -> int:
        """The row of a new example; likewise."""
        example, examples = self.learned, self.examples
        self.learned += 1
        examples.query[example], examples.item[example] = query, item
        examples.ts[example], examples.label[example], examples.weight[example] = ts, label, 1.0
        examples.recent[example], examples.session[example] = NOTHING, 0
        return example

    def keep(self, rows: Int64) -> None:
        """Start the next micro-batch with these query rows in front; examples are gone."""
        kept = len(rows)
        for part in (self.queries, self.candidates):
            for name, array in arrays_of(part).items():
                if name == "scores":  # (models, queries, candidates)
                    array[:, :kept] = array[:, rows]
                else:
                    array[:kept] = array[rows]
        self.queries.items[kept : self.asked] = NOTHING
        self.queries.session[kept : self.asked] = 0
        self.candidates.items[kept : self.asked] = NOTHING
        if self.aside:
            self.queries.items[-self.aside :] = NOTHING
        self.asked, self.learned, self.aside = kept, 0, 0

    def state(self) -> dict[str, Array]:
        """Named arrays of the rows in use."""
        arrays: dict[str, Array] = {}
        for part, held, rows in self._parts():
            for name, array in arrays_of(held).items():
                arrays[f"{part}.{name}"] = array[:, :rows].copy() if name == "scores" else array[:rows].copy()
        return arrays

    def restore(self, arrays: Mapping[str, Array]) -> None:
        """The inverse of `state`."""
        self.asked = len(arrays["queries.user"])
        self.learned = len(arrays["examples.item"])
        for part, held, rows in self._parts():
            for name, array in arrays_of(held).items():
                saved = arrays[f"{part}.{name}"]
                if name == "scores":
                    array[:, :rows] = saved
                else:
                    array[:rows] = saved

    def _parts(self) -> list[tuple[str, Queries | Candidates | Examples, int]]:
        return [
            ("queries", self.queries, self.asked),
            ("candidates", self.candidates, self.asked),
            ("examples", self.examples, self.learned),
        ]


def arrays_of(part: Queries | Candidates | Examples) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a part of a micro-batch by name; a column's is columns.NAME."""
    arrays = {each.name: getattr(part, each.name) for each in fields(part)}
    return arrays | {f"columns.{name}": array for name, array in arrays.pop("columns", {}).items()}
