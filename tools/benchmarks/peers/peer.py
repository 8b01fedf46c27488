"""Seats a method that trains in batches among the models of a recommender.

Its lists are then retrieved, filled up, ranked and counted by the code that does so for everybody. Knows nothing of
logs, nor of when to train.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from streamrec.engine.arrays.batch import (
    NOTHING,
    Array,
    Excluded,
    Float32,
    Int8,
    Int32,
    Int64,
    MicroBatch,
    Queries,
    Uint64,
)
from tools.benchmarks.peers import Method, Past, Wanted

MOST_ITEMS = 8_000
"""The most wanted items that a training takes in: a dense item-item matrix of float32 then needs 256 MB."""
COLLECTED = ("user", "item", "ts", "label")


class Peer:
    """Collects what there is to learn until `train` is called; items have an index below `capacity`."""

    def __init__(self, name: str, method: Method, capacity: int) -> None:
        self.name = name
        self.trained = 0  # events that the last training had at hand; 0 before there was one
        self._method = method
        self._collected: list[tuple[Uint64, Int32, Int64, Int8]] = []  # columns as named above
        self._refused: set[tuple[int, int]] = set()  # (user, item)
        self._users: dict[int, int] = {}  # row of each user at the last training
        self._items = np.empty(0, np.int32)  # (columns,) index of each item of the last training
        self._columns = np.full(capacity + 1, NOTHING, np.int32)  # its inverse; NOTHING, -1, finds the spare place
        self._scored: tuple[bytes, Float32] | None = None  # seeds of some queries, and their scores

    def learn(self, batch: MicroBatch) -> None:
        examples = batch.examples
        told = np.flatnonzero(examples.label[: batch.learned] >= 0)
        users = batch.queries.user[examples.query[told]]
        self._collect(users, examples.item[told], examples.ts[told], examples.label[told])

    def train(self) -> None:
        """Train on everything collected so far; nothing happens when nothing was wanted."""
        self._train(sum(len(label) for *_, label in self._collected))

    def score(self, queries: Queries, rows: slice, items: Int32) -> Float32:
        if not self.trained:
            return np.full(items.shape, -np.inf, np.float32)
        columns = self._columns[items]  # (rows, candidates)
        scores = np.take_along_axis(self._scores(queries, rows), np.maximum(columns, 0), axis=1)
        return np.where(columns == NOTHING, np.float32(-np.inf), scores)

    def strongest(self, queries: Queries, rows: slice, k: int, excluded: Excluded) -> Int32:
        """The items that score best for each query and are not excluded, best first, (rows, k)."""
        best = np.full((len(queries.ts[rows]), k), NOTHING, np.int32)
        if self.trained:
            scores = self._scores(queries, rows).copy()  # (rows, columns)
            row, hidden = np.repeat(np.arange(len(best)), np.diff(excluded.starts)), self._columns[excluded.items]
            scores[row[hidden != NOTHING], hidden[hidden != NOTHING]] = -np.inf
            columns = _largest(scores, k)
            best[:, : columns.shape[1]] = np.where(columns == NOTHING, NOTHING, self._items[columns])
        return best

    def forget(self, items: Int32) -> None:
        self._columns[items] = NOTHING
        self._items[np.isin(self._items, items)] = NOTHING
        for _, collected, *_ in self._collected:
            collected[np.isin(collected, items)] = NOTHING
        gone = set(items.tolist())
        self._refused = {(user, item) for user, item in self._refused if item not in gone}

    def state(self) -> dict[str, Array]:
        trained: dict[str, Array] = {"trained": np.array([self.trained], np.int64)}
        return trained | dict(zip(COLLECTED, self._joined(), strict=True))

    def restore(self, arrays: Mapping[str, Array]) -> None:
        """The inverse of `state`: trains again, on what the last training had at hand."""
        self._collected, self._refused = [], set()
        user, item, ts, label = (arrays[name] for name in COLLECTED)
        self._collect(user.astype(np.uint64), item.astype(np.int32), ts.astype(np.int64), label.astype(np.int8))
        self._train(int(arrays["trained"].astype(np.int64)[0]))

    # The pieces

    def _collect(self, user: Uint64, item: Int32, ts: Int64, label: Int8) -> None:
        self._collected.append((user, item, ts, label))
        refused = label == 0
        self._refused.update(zip(user[refused].tolist(), item[refused].tolist(), strict=True))

    def _joined(self) -> tuple[Uint64, Int32, Int64, Int8]:
        nobody = np.empty(0, np.uint64), np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0, np.int8)
        user, item, ts, label = zip(nobody, *self._collected, strict=True)
        return np.concatenate(user), np.concatenate(item), np.concatenate(ts), np.concatenate(label)

    def _train(self, events: int) -> None:
        user, item, ts, label = (column[:events] for column in self._joined())
        wanted = (label == 1) & (item != NOTHING)
        if not wanted.any():
            return
        counts = np.bincount(item[wanted])
        most = np.argsort(-counts, kind="stable")[: min(MOST_ITEMS, np.count_nonzero(counts))]
        self._items = np.sort(most).astype(np.int32)
        self._columns[:] = NOTHING
        self._columns[self._items] = np.arange(len(self._items))
        kept = wanted & (self._columns[item] != NOTHING)
        names, rows = np.unique(user[kept], return_inverse=True)
        self._users = {name: row for row, name in enumerate(names.tolist())}
        columns = self._columns[item[kept]]
        self._method.fit(Wanted(rows.astype(np.int32), columns, ts[kept], len(names), len(self._items)))
        self.trained, self._scored = events, None

    def _scores(self, queries: Queries, rows: slice) -> Float32:
        """Of every item of the last training, (rows, columns). Retrieval and scoring ask for the same ones."""
        seeds = queries.seed[rows].tobytes()  # a query's seed is its name
        if self._scored is None or self._scored[0] != seeds:
            users = queries.user[rows].tolist()
            known = np.array([self._users.get(user, NOTHING) for user in users], np.int32)
            past = Past(self._columns[self._unrefused(users, queries.items[rows])], queries.steps[rows])
            self._scored = seeds, self._method.scores(known, past)
        return self._scored[1]

    def _unrefused(self, users: list[int], items: Int32) -> Int32:
        """These users' items without those they refused, a low rating say, (rows, places)."""
        if not self._refused:
            return items
        told = [
            [(user, item) in self._refused for item in past] for user, past in zip(users, items.tolist(), strict=True)
        ]
        return np.where(told, NOTHING, items)


def _largest(scores: Float32, k: int) -> Int64:
    """Columns of the `k` largest scores, best first, (rows, at most k), NOTHING for those of -inf."""
    k = min(k, scores.shape[1])
    near = np.sort(np.argpartition(-scores, k - 1, axis=1)[:, :k], axis=1)
    order = np.argsort(-np.take_along_axis(scores, near, axis=1), axis=1, kind="stable")
    best = np.take_along_axis(near, order, axis=1)
    return np.where(np.isneginf(np.take_along_axis(scores, best, axis=1)), NOTHING, best).astype(np.int64)
