"""A click model: logistic regression on crossed features, by an optimiser of river's.

    score(user, item) = sum of the weights of the pair's features, each a hash of user, item, time and the items before

Learns each wanted item against a few of the candidates it was preferred to, and of a slate that was answered, the
answered items against those above them that were passed over: what stood above was seen, wherever the eye stopped
(Joachims: Optimizing search engines using clickthrough data, KDD 2002). It learns one example at a time; its weights
are mirrored in one array, so that scoring is a gather instead of a dictionary per candidate.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from river.optim import AdaGrad

from streamrec.engine.arrays.batch import NOTHING, Array, Float32, Float64, Int32, Int64, MicroBatch, Queries, Uint64
from streamrec.engine.arrays.compiled import compiled, mixed
from streamrec.engine.arrays.labels import IMITATED, REFUSED, WANTED
from streamrec.engine.arrays.logistic import Feature, learn_one
from streamrec.engine.following.served import Arrays, ChangedRows, Rows
from streamrec.engine.models import ModelParts

if TYPE_CHECKING:
    from streamrec.engine.arrays.feedback import SlateFeedback
    from streamrec.engine.items.item_table import ItemTable

SPACE = 2**18
"""Hashed features; collisions share a weight (Weinberger et al.: Feature hashing for large scale multitask learning,
ICML 2009)."""
FEATURES = 9


class ClickModel:
    """`negatives` candidates are learned as not wanted for every wanted item."""

    def __init__(
        self, name: str, items: ItemTable, negatives: int = 3, learning_rate: float = 0.1, weighted: bool = False
    ) -> None:
        """`weighted`: what is learned of a slate counts by how unlikely it was to be shown."""
        self.name = name
        self.weighted = weighted
        self.negatives = negatives
        self._items = items
        self._optimizer = AdaGrad(learning_rate)
        # Candidates compete within a query, so an intercept would cancel out.
        self._learned: dict[Feature, float] = defaultdict(float)
        self._weights = np.zeros(SPACE, np.float64)
        self.skipped = 0  # feedback refused because a number in it, or in the update it asks for, is not finite

    @classmethod
    def build(cls, parts: ModelParts) -> ClickModel:
        """As `streamrec.config.parts` lists it."""
        return cls(parts.name, parts.items, weighted=parts.weighted)

    @property
    def refused(self) -> int:
        return self.skipped

    def score(self, queries: Queries, rows: slice, items: Int32) -> Float32:
        out = np.full(items.shape, -np.inf, np.float32)
        _score(*_asked(queries, rows), items, *self._facts, self._weights, out)
        return out

    def learn(self, batch: MicroBatch) -> None:
        pairs, labels = self._pairs(batch)
        sound = self._sound(pairs, np.ones(len(pairs)))
        for features, label, kept in zip(pairs.tolist(), labels, sound, strict=True):
            if kept:
                self._learn_one(features, label, 1.0)

    def _sound(self, pairs: Int32, importance: Float64) -> list[bool]:
        """Which of these pairs may be learned: learning would spread a bad number to all that it is met with."""
        sound = np.isfinite(self._weights[pairs].sum(1) + importance)
        self.skipped += int((~sound).sum())
        kept: list[bool] = sound.tolist()
        return kept

    def trace(self, queries: Queries, query: int, items: Int32) -> Int32:
        """The features of some items of one query, to learn what comes of showing them, (items, FEATURES)."""
        return self._features_of(queries, np.full(len(items), query, np.int64), items)

    def learn_outcomes(self, feedback: Sequence[SlateFeedback]) -> None:
        """Take what came of slates whose `traces` this model left behind, in log order."""
        for slate_feedback in feedback:
            reward = slate_feedback.reward
            answered = np.flatnonzero(reward > 0)
            if not len(answered):
                continue
            passed = np.flatnonzero(reward[: answered[-1]] <= 0)[-self.negatives :]
            weights = slate_feedback.importance if self.weighted else np.ones(len(reward))
            chosen, traces = np.concatenate([answered, passed]), slate_feedback.traces[self.name]
            for place, kept in zip(chosen.tolist(), self._sound(traces[chosen], weights[chosen]), strict=True):
                if kept:
                    self._learn_one(traces[place].tolist(), reward[place] > 0, float(weights[place]))

    def _learn_one(self, features: list[int], wanted: bool, weight: float) -> None:
        learn_one(self._learned, self._optimizer, dict.fromkeys(features, 1.0), wanted, weight)
        for feature in features:
            self._weights[feature] = self._learned[feature]

    def _pairs(self, batch: MicroBatch) -> tuple[Int32, list[bool]]:
        """Features of (query, item) pairs, (pairs, FEATURES), and which of them were wanted, in log order."""
        examples, queries, labels = batch.examples, [], []
        items = []
        refused = examples.label[: batch.learned] == REFUSED
        targets: dict[int, set[int]] = {}
        for e in np.flatnonzero(examples.label[: batch.learned] != IMITATED).tolist():
            targets.setdefault(int(examples.query[e]), set()).add(int(examples.item[e]))
        for e in range(batch.learned):
            q, item = int(examples.query[e]), int(examples.item[e])
            if q == NOTHING or examples.label[e] not in (REFUSED, WANTED):
                continue
            queries.append(q)
            items.append(item)
            labels.append(not refused[e])
            if refused[e]:
                continue
            candidates = batch.candidates.items[q]
            offered = int((candidates != NOTHING).sum())
            for draw in range(self.negatives if offered else 0):
                other = int(candidates[int(mixed(int(batch.queries.seed[q]) % 2**62, e * 64 + draw)) % offered])
                if other not in targets[q]:
                    queries.append(q)
                    items.append(other)
                    labels.append(False)
        return self._features_of(batch.queries, np.array(queries, np.int64), np.array(items, np.int32)), labels

    def _features_of(self, queries: Queries, rows: Int64, items: Int32) -> Int32:
        """Of (query row, item) pairs, (pairs, FEATURES)."""
        pairs = np.zeros((len(items), FEATURES), np.int32)
        _features(*_asked(queries, rows), items, *self._facts, pairs)
        return pairs

    @property
    def _facts(self) -> tuple[Int32, Int64, Int64]:
        """What is known of items, by index."""
        return self._items.category, self._items.first_ts, self._items.last_ts

    def forget(self, items: Int32) -> None:
        """Features are hashes that several items share; old ones are overwritten by what comes."""

    def served(self) -> dict[str, Rows]:
        return {"weights": self._weights}

    def serve(self, arrays: Arrays, changed: ChangedRows | None = None) -> None:
        self._weights = arrays["weights"]

    def state(self) -> dict[str, Array]:
        squares = np.zeros(SPACE)
        squares[np.fromiter(self._optimizer.g2, np.int64)] = list(self._optimizer.g2.values())
        iterations = np.array([self._optimizer.n_iterations], np.int64)
        return {"weights": self._weights.copy(), "squares": squares, "iterations": iterations}

    def restore(self, arrays: Mapping[str, Array]) -> None:
        self._weights[:] = arrays["weights"]
        for held, saved in ((self._learned, arrays["weights"]), (self._optimizer.g2, arrays["squares"])):
            used = np.flatnonzero(saved)
            held.clear()
            held.update(zip(used.tolist(), saved[used].tolist(), strict=True))
        self._optimizer.n_iterations = int(arrays["iterations"][0])


def _asked(queries: Queries, rows: slice | Int64) -> tuple[Uint64, Int64, Int32, Float32, Int32]:
    """What the features look at of some queries."""
    return queries.user[rows], queries.ts[rows], queries.items[rows], queries.ages_s[rows], queries.categories[rows]


@compiled
def _hashed(family, a, b):  # type: ignore[no-untyped-def]
    return np.int64(mixed(family * 1_000_003 + a, b) % np.uint64(SPACE))


@compiled
def _log_bucket(seconds):  # type: ignore[no-untyped-def]
    """Whole powers of four seconds: a minute is 2, an hour 5, a day 8, a month 10."""
    return int(np.log(max(seconds, 1.0)) / np.log(4.0))


@compiled
def _fill(user, ts, past, ages_s, liked, item, category, first_ts, last_ts, out):  # type: ignore[no-untyped-def]
    """The crossed features of one (user, item) pair; an item known only through its index still gets all of them."""
    kind = category[item]
    visits = 0
    last_visit_s = 0.0
    for place in range(past.shape[0]):
        if past[place] == item:
            if visits == 0:
                last_visit_s = ages_s[place]
            visits += 1
    leaning = len(liked)
    for slot in range(len(liked)):
        if kind != NOTHING and liked[slot] == kind:
            leaning = slot
    known_s = max(ts - first_ts[item], 0) / 1000.0
    unseen_s = max(ts - last_ts[item], 0) / 1000.0
    hour = (ts // 3_600_000) % 24
    out[0] = _hashed(0, item, 0)
    out[1] = _hashed(1, item, past[0] + 1)
    out[2] = _hashed(2, item, past[1] + 1)
    out[3] = _hashed(3, kind + 1, category[past[0]] + 2 if past[0] != NOTHING else 0)
    out[4] = _hashed(4, leaning, min(visits, 3))
    out[5] = _hashed(5, min(visits, 3), _log_bucket(last_visit_s))
    out[6] = _hashed(6, _log_bucket(known_s), _log_bucket(unseen_s))
    out[7] = _hashed(7, item, hour // 6 + 1)
    out[8] = _hashed(8, np.int64(user % np.uint64(2**40)), kind + 1)


@compiled
def _features(  # type: ignore[no-untyped-def]
    user, ts, past, ages_s, liked, items, category, first_ts, last_ts, out
):  # fmt: skip
    for row in range(len(items)):
        _fill(user[row], ts[row], past[row], ages_s[row], liked[row], items[row], category, first_ts, last_ts, out[row])


@compiled
def _score(  # type: ignore[no-untyped-def]
    user, ts, past, ages_s, liked, items, category, first_ts, last_ts, weights, out
):  # fmt: skip
    pair = np.zeros(FEATURES, np.int64)
    for q in range(len(items)):
        for c in range(items.shape[1]):
            if items[q, c] == NOTHING:
                continue
            _fill(user[q], ts[q], past[q], ages_s[q], liked[q], items[q, c], category, first_ts, last_ts, pair)
            total = 0.0
            for feature in pair:
                total += weights[feature]
            out[q, c] = total
