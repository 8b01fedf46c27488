"""A factorisation machine over (user, last item, item), by river.

    score(user, item) = w(item) + <v(item), v(user)> + <v(item), u(last item)>

Rendle: Factorization machines, ICDM 2010; with the last item as a feature it factorises the transitions of FPMC
(Rendle et al., WWW 2010). Learns each wanted item against one candidate it was preferred to and items drawn evenly
from the catalogue. River's latent vectors are rows of one array, so what it learns is what is scored.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import numpy as np
from river import facto, optim

from streamrec.compiled import compiled, mixed, uniform
from streamrec.features.batch import NOTHING, Array, Float32, Float64, Int32, Int64, MicroBatch, Queries

USERS = 2**16
"""Users share so many rows by hash: bounded memory, and a snapshot needs no list of users."""
SPREAD = 0.1
NORM_LIMIT = 3.0
"""Longer latent vectors are shortened: a careless step must not run away."""


class Rows(defaultdict[int, Float64]):
    """River's dictionary of latent vectors: its values are rows of one array and appear when first asked for."""

    def __init__(self, rows: int, factors: int, seed: int) -> None:
        super().__init__()
        self.array: Float64 = np.zeros((rows, factors))
        self._seed = seed

    def __missing__(self, row: int) -> Float64:
        vector: Float64 = self.array[row]
        for factor in range(len(vector)):
            # A triangular draw has the spread of the normal one, and needs no generator that remembers.
            draw = uniform(self._seed, row * 256 + 2 * factor) - uniform(self._seed, row * 256 + 2 * factor + 1)
            vector[factor] = SPREAD * 6.0**0.5 * draw
        self[row] = vector
        return vector


class Factorisation:
    """Row layout: items, then last items, then users by hash."""

    def __init__(
        self,
        name: str,
        capacity: int,
        factors: int = 8,
        learning_rate: float = 0.08,
        uniform_negatives: int = 1,
        seed: int = 0,
    ) -> None:
        self.name = name
        self.capacity = capacity
        self.uniform_negatives = uniform_negatives
        self.rows = 0  # items below this index have been learned
        self._latents = Rows(2 * capacity + USERS, factors, seed)
        self._bias = np.zeros(capacity)
        self._river = facto.FMClassifier(
            n_factors=factors,
            weight_optimizer=optim.SGD(learning_rate),
            latent_optimizer=optim.SGD(learning_rate),
            l2_latent=1e-3,
            intercept_lr=0.0,
            clip_gradient=1.0,
            seed=seed,
        )
        self._river.latents = self._latents

    def score(self, queries: Queries, rows: slice, items: Int32) -> Float32:
        out = np.full(items.shape, -np.inf, np.float32)
        users = (queries.user[rows] % np.uint64(USERS)).astype(np.int64) + 2 * self.capacity
        _score(users, queries.items[rows][:, 0], items, self.rows, self.capacity, self._latents.array, self._bias, out)
        return out

    def learn(self, batch: MicroBatch) -> None:
        examples, queries = batch.examples, batch.queries
        for e in np.flatnonzero(examples.label[: batch.learned] >= 0).tolist():
            q, item = int(examples.query[e]), int(examples.item[e])
            if q == NOTHING:
                continue
            self.rows = max(self.rows, item + 1)
            user = int(queries.user[q] % np.uint64(USERS)) + 2 * self.capacity
            last = int(queries.items[q, 0])
            self._learn_pair(user, last, item, bool(examples.label[e]))
            if examples.label[e]:
                for other in self._negatives(batch, q, e, item):
                    self._learn_pair(user, last, other, False)

    def _negatives(self, batch: MicroBatch, q: int, e: int, item: int) -> list[int]:
        seed = int(batch.queries.seed[q]) % 2**62
        candidates = batch.candidates.items[q]
        offered = int((candidates != NOTHING).sum())
        drawn = [int(candidates[int(mixed(seed, e * 64 + 32)) % offered])] if offered else []
        drawn += [int(mixed(seed, e * 64 + 33 + draw)) % self.rows for draw in range(self.uniform_negatives)]
        return [other for other in drawn if other != item]

    def _learn_pair(self, user: int, last: int, item: int, wanted: bool) -> None:
        features = {item: 1.0, user: 1.0}
        if last != NOTHING:
            features[self.capacity + last] = 1.0
        self._river.learn_one(features, wanted)  # type: ignore[no-untyped-call]
        self._bias[item] = self._river.weights[item]
        for row in features:
            vector = self._latents[row]
            norm = float(vector @ vector) ** 0.5
            if norm > NORM_LIMIT:
                vector *= NORM_LIMIT / norm

    def forget(self, items: Int32) -> None:
        for item in items.tolist():
            for row in (item, self.capacity + item):
                self._latents.pop(row, None)
                self._river.weights.pop(row, None)
                self._latents.array[row] = 0.0
            self._bias[item] = 0.0

    def state(self) -> dict[str, Array]:
        rows = np.fromiter(self._latents, np.int64, len(self._latents))
        weights = np.array([self._river.weights.get(int(row), 0.0) for row in rows], np.float64)
        # Which row is whose depends on the capacity, which may change: so kinds (item, last item, user) and places.
        kinds = np.minimum(rows // self.capacity, 2)
        return {
            "kinds": kinds,
            "places": rows - kinds * self.capacity,
            "latents": self._latents.array[rows],
            "weights": weights,
            "learned": np.array([self.rows], np.int64),
        }

    def restore(self, arrays: Mapping[str, Array]) -> None:
        rows: Int64 = np.add(arrays["places"], np.multiply(arrays["kinds"], self.capacity), dtype=np.int64)
        self._latents.array[rows] = arrays["latents"]
        for row, weight in zip(rows.tolist(), arrays["weights"].tolist(), strict=True):
            self._latents[row] = self._latents.array[row]
            self._river.weights[row] = weight
            if row < self.capacity:
                self._bias[row] = weight
        self.rows = int(arrays["learned"][0])


@compiled
def _score(users, last, items, learned, capacity, latents, bias, out):  # type: ignore[no-untyped-def]
    factors = latents.shape[1]
    context = np.empty(factors)
    for q in range(len(items)):
        for f in range(factors):
            context[f] = latents[users[q], f]
            if last[q] != NOTHING:
                context[f] += latents[capacity + last[q], f]
        for c in range(items.shape[1]):
            item = items[q, c]
            if item == NOTHING or item >= learned:
                continue
            total = bias[item]
            for f in range(factors):
                total += latents[item, f] * context[f]
            out[q, c] = total
