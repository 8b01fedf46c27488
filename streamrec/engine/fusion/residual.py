"""A small network on top of the linear fusion: what no weighted sum of the models' scores can say.

    residual(c) = v . relu(B relu(A [x_c ; q] + a) + b)         x_c the candidate's features, q the query's context

Learned by softmax over a few candidates, added to the linear score, which it only corrects: it starts at zero. Its
output is one more feature of the fusion, which weighs it like the word of any other adviser, and trusts it as far as
it has been right about what it had not yet learned. Fine-tuned on the newest queries together with others drawn from a
replay buffer, for one pass over a stream is too few for a network.

It scores by plain arrays; torch is loaded when there is enough to learn (`residual_training`), so that what only serves
needs none. Knows nothing of candidates' origin, nor of posteriors and slates.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from streamrec.engine.arrays.batch import HISTORY, NOTHING, Array, Float32, Float64, Int64, Queries
from streamrec.engine.arrays.compiled import drawn_below
from streamrec.engine.following.served import Arrays, ChangedRows, Rows

if TYPE_CHECKING:
    from streamrec.engine.fusion.residual_training import ResidualTraining

CONTEXT = ("session length", "activity", "pause", "history length")
HIDDEN = (32, 16)
SHOWN = 32
"""Candidates that a learned query keeps: the wanted ones and others drawn evenly."""
PORTION = 64
"""New queries per update..."""
REPLAYED = 64
"""...and older ones learned again with them."""
FIRST, SECOND, LAST = "module.first.weight", "module.second.weight", "module.last.weight"
FIRST_BIAS, SECOND_BIAS = "module.first.bias", "module.second.bias"


class Residual:
    """Scores with numpy, query by query in one shape, so that bits do not depend on how many came together."""

    def __init__(self, features: int, *, buffer: int = 2_048, learning_rate: float = 4e-3, seed: int = 0) -> None:
        """`features` of a candidate, without this network's own output."""
        self.features = features
        self.seed = seed
        self.skipped = 0  # updates refused for a loss or gradient that is not finite
        self.updates = 0
        self._learning_rate = learning_rate
        self._training: ResidualTraining | None = None  # begins with the first update
        self._weights = _silent(features + len(CONTEXT))
        self._inputs = np.zeros((buffer, SHOWN, features + len(CONTEXT)), np.float16)
        self._wanted = np.zeros((buffer, SHOWN), np.float32)  # sums to one over the wanted
        self._there = np.zeros((buffer, SHOWN), bool)
        self._stored = 0
        self._fresh = 0

    def score(self, features: Float32, queries: Queries, rows: slice) -> Float32:
        """The correction of each candidate, (rows, candidates), from features (rows, candidates, features)."""
        first, second, last = (self._weights[name] for name in (FIRST, SECOND, LAST))
        of_features, of_context = first[:, : self.features].T, first[:, self.features :].T
        corrections = np.empty(features.shape[:2], np.float32)
        for row, (candidates, user) in enumerate(zip(features, context(queries, rows), strict=True)):
            hidden = candidates @ of_features + (user @ of_context + self._weights[FIRST_BIAS])  # (candidates, hidden)
            hidden = np.maximum(hidden, 0.0) @ second.T + self._weights[SECOND_BIAS]
            corrections[row] = np.maximum(hidden, 0.0) @ last[0]
        return corrections

    def remember(self, features: Float32, queries: Queries, row: int, wanted: list[int]) -> None:
        """Keep a query for learning.

        Args:
            features: (candidates, features) of the candidates there were.
            queries: of which this is the one in `row`.
            row: see queries.
            wanted: places of the wanted candidates.
        """
        if not np.isfinite(features).all():  # it would be met again and again in replay
            self.skipped += 1
            return
        slot = self._stored % len(self._inputs)
        wanted = wanted[: SHOWN // 2]
        others = np.delete(np.arange(len(features)), wanted)
        drawn = drawn_below(2**31, len(others), self.seed + 1, self._stored)
        shown = np.concatenate([wanted, others[np.argsort(drawn, kind="stable")]])[:SHOWN].astype(np.int64)
        used = len(shown)
        self._inputs[slot, :used, : self.features] = features[shown]
        self._inputs[slot, :used, self.features :] = context(queries, slice(row, row + 1))[0]
        self._wanted[slot] = 0.0
        self._wanted[slot, : len(wanted)] = 1.0 / len(wanted)
        self._there[slot] = np.arange(SHOWN) < used
        self._stored += 1
        self._fresh += 1

    def learn(self, weights: Float64) -> None:
        """One step, when enough queries have come: correct the linear score of these weights, (features,)."""
        if self._fresh < PORTION:
            return
        newest = (self._stored - 1 - np.arange(self._fresh)) % len(self._inputs)
        self._fresh = 0
        held = min(self._stored, len(self._inputs))
        chosen: Int64 = np.concatenate([newest, drawn_below(held, REPLAYED, self.seed + 2, self.updates)])
        inputs = self._inputs[chosen].astype(np.float32)  # (queries, SHOWN, features + context)
        linear = inputs[:, :, : self.features] @ weights.astype(np.float32)  # (queries, SHOWN)
        training = self._begun()
        self.updates += 1
        self.skipped += not training.step(inputs, linear, self._there[chosen], self._wanted[chosen])

    def _begun(self) -> ResidualTraining:
        if self._training is None:
            from streamrec.engine.fusion.residual_training import ResidualTraining

            self._training = ResidualTraining(self.features + len(CONTEXT), HIDDEN, self._learning_rate, self.seed)
            self._weights = self._training.weights
        return self._training

    def served(self) -> dict[str, Rows]:
        """The layers' weights."""
        return {**self._weights}

    def serve(self, arrays: Arrays, changed: ChangedRows | None = None) -> None:
        """Score by another one's layers."""
        self._weights = {**arrays}

    def state(self) -> dict[str, Array]:
        """What a snapshot holds."""
        held = min(self._stored, len(self._inputs))
        learned = self._weights if self._training is None else self._training.state()
        return {name: np.array(array) for name, array in learned.items()} | {
            "inputs": self._inputs[:held].copy(),
            "wanted": self._wanted[:held].copy(),
            "there": self._there[:held].copy(),
            "counts": np.array([self._stored, self._fresh, self.updates, self.skipped], np.int64),
        }

    def restore(self, arrays: Mapping[str, Array]) -> None:
        """The inverse of `state`."""
        held = len(arrays["wanted"])
        self._inputs[:held], self._wanted[:held] = arrays["inputs"], arrays["wanted"]
        self._there[:held] = arrays["there"]
        self._stored, self._fresh, self.updates, self.skipped = (int(count) for count in arrays["counts"])
        if self.updates:
            self._begun().restore(arrays)
        else:
            self._training, self._weights = None, _silent(self.features + len(CONTEXT))


def context(queries: Queries, rows: slice) -> Float32:
    """What is known of the user, each number of the size of one, (rows, context)."""
    columns = (
        np.log1p(queries.session[rows]) / 3.0,
        np.log1p(queries.activity[rows]) / 5.0,
        np.log1p(queries.ages_s[rows, 0]) / 10.0,
        (queries.items[rows] != NOTHING).sum(1) / HISTORY,
    )
    return np.stack(columns, axis=1).astype(np.float32)


def _silent(inputs: int) -> dict[str, Float32]:
    """Layers that make 0 of everything, as those that begin to learn do."""
    shapes = {
        FIRST: (HIDDEN[0], inputs),
        FIRST_BIAS: (HIDDEN[0],),
        SECOND: (HIDDEN[1], HIDDEN[0]),
        SECOND_BIAS: (HIDDEN[1],),
        LAST: (1, HIDDEN[1]),
    }
    return {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
