"""A factorisation machine over (user, last item, item), by river.

    score(user, item) = w(item) + <v(item), v(user)> + <v(item), u(last item)>

Rendle: Factorization machines, ICDM 2010; with the last item as a feature it factorises the transitions of FPMC
(Rendle et al., WWW 2010). Learns each wanted item against one candidate it was preferred to and items drawn evenly
from the catalogue. River's latent vectors are rows of one array, so what it learns is what is scored.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping

import numpy as np
from river import facto, optim

from streamrec.engine.arrays.batch import NOTHING, Array, Float32, Float64, Int32, Int64, MicroBatch, Queries
from streamrec.engine.arrays.compiled import compiled, mixed, uniform
from streamrec.engine.arrays.labels import REFUSED, WANTED
from streamrec.engine.following.served import Arrays, ChangedRows, Rows
from streamrec.engine.models import ModelParts
from streamrec.engine.models.guards import StepGuard

USERS = 2**16
"""Users share so many rows by hash: bounded memory, and a snapshot needs no list of users."""
SPREAD = 0.1
NORM_LIMIT = 3.0
"""Longer latent vectors are shortened: a careless step must not run away."""


class LatentVectors(defaultdict[int, Float64]):
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
        guard: StepGuard | None = None,
    ) -> None:
        self.name = name
        self.guard = guard or StepGuard()
        self.capacity = capacity
        self.uniform_negatives = uniform_negatives
        self.rows = 0  # items below this index have been learned
        self._begun = 0, 0  # items, and last items, below these have rows
        self._latents = LatentVectors(2 * capacity + USERS, factors, seed)
        self._weights = np.zeros(2 * capacity + USERS)  # river's, by row
        self._served: Arrays = self._parts(capacity, capacity)
        self.learning_rate = learning_rate
        self._pace = optim.schedulers.Constant(learning_rate)
        self._river = facto.FMClassifier(
            n_factors=factors,
            weight_optimizer=optim.SGD(self._pace),
            latent_optimizer=optim.SGD(self._pace),
            l2_latent=1e-3,
            intercept_lr=0.0,
            clip_gradient=1.0,
            seed=seed,
        )
        self._river.latents = self._latents

    @classmethod
    def build(cls, parts: ModelParts) -> Factorisation:
        """As `streamrec.config.parts` lists it."""
        return cls(parts.name, parts.capacity, seed=parts.seed)

    @property
    def refused(self) -> int:
        return self.guard.refused

    @property
    def skipped(self) -> int:
        """Updates that were refused or taken back."""
        return self.guard.refused + self.guard.taken_back

    def score(self, queries: Queries, rows: slice, items: Int32) -> Float32:
        out = np.full(items.shape, -np.inf, np.float32)
        users = (queries.user[rows] % np.uint64(USERS)).astype(np.int64)
        held = self._served
        vectors = held["items.latents"], held["lasts.latents"], held["users.latents"]
        _score(users, queries.items[rows][:, 0], items, self.rows, *vectors, held["items.weights"], out)
        return out

    def _parts(self, items: int, lasts: int) -> dict[str, Float64]:
        """Latent vectors and weights of so many items and last items, and of all users; views."""
        starts = {"items": (0, items), "lasts": (self.capacity, lasts), "users": (2 * self.capacity, USERS)}
        tables = {"latents": self._latents.array, "weights": self._weights}
        return {
            f"{kind}.{name}": table[start : start + size]
            for kind, (start, size) in starts.items()
            for name, table in tables.items()
        }

    def learn(self, batch: MicroBatch) -> None:
        pairs, wanted = self._pairs(batch)
        if len(pairs) == 0:
            return
        before = _loss(pairs, wanted, self._latents.array, self._weights)
        factor = self.guard.allow(before)
        if factor == 0.0:
            return
        undo = self._undo(pairs) if self.guard.wary else None
        self._pace.learning_rate = factor * self.learning_rate
        for rows, label in zip(pairs.tolist(), wanted.tolist(), strict=True):
            self._learn_pair(rows, label)
        if undo is not None and not self.guard.stands(before, _loss(pairs, wanted, self._latents.array, self._weights)):
            undo()

    def _pairs(self, batch: MicroBatch) -> tuple[Int64, Array]:
        """Rows of item, user and last item (NOTHING without one) of what is learned, and whether it was wanted."""
        examples, queries = batch.examples, batch.queries
        pairs: list[tuple[int, int, int]] = []
        wanted: list[bool] = []
        for e in np.flatnonzero(np.isin(examples.label[: batch.learned], (REFUSED, WANTED))).tolist():
            q, item = int(examples.query[e]), int(examples.item[e])
            if q == NOTHING:
                continue
            self.rows = max(self.rows, item + 1)
            user = int(queries.user[q] % np.uint64(USERS)) + 2 * self.capacity
            last = int(queries.items[q, 0])
            last = NOTHING if last == NOTHING else self.capacity + last
            others = self._negatives(batch, q, e, item) if examples.label[e] else []
            pairs += [(row, user, last) for row in (item, *others)]
            wanted += [bool(examples.label[e]), *(False for _ in others)]
            items, lasts = self._begun
            self._begun = max(items, item + 1, *(other + 1 for other in others)), max(lasts, last + 1 - self.capacity)
        for row in dict.fromkeys(row for rows in pairs for row in rows if row != NOTHING):
            self._latents[row]  # begins the row where it is new
        return np.array(pairs, np.int64).reshape(len(pairs), 3), np.array(wanted)

    def _undo(self, pairs: Int64) -> Callable[[], None]:
        """What brings these rows back to where they are now."""
        rows = np.unique(pairs[pairs != NOTHING])
        latents, weights = self._latents.array[rows], self._weights[rows]

        def undo() -> None:
            self._latents.array[rows] = latents
            self._weights[rows] = weights
            self._river.weights.update(zip(rows.tolist(), weights.tolist(), strict=True))

        return undo

    def _negatives(self, batch: MicroBatch, q: int, e: int, item: int) -> list[int]:
        seed = int(batch.queries.seed[q]) % 2**62
        candidates = batch.candidates.items[q]
        offered = int((candidates != NOTHING).sum())
        drawn = [int(candidates[int(mixed(seed, e * 64 + 32)) % offered])] if offered else []
        drawn += [int(mixed(seed, e * 64 + 33 + draw)) % self.rows for draw in range(self.uniform_negatives)]
        return [other for other in drawn if other != item]

    def _learn_pair(self, rows: list[int], wanted: bool) -> None:
        features = {row: 1.0 for row in rows if row != NOTHING}
        self._river.learn_one(features, wanted)  # type: ignore[no-untyped-call]
        for row in features:
            self._weights[row] = self._river.weights[row]
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
                self._weights[row] = 0.0

    def served(self) -> dict[str, Rows]:
        # Which row is whose depends on the capacity, which may change: so items, last items and users apart.
        return {**self._parts(*self._begun), "learned": np.array([self.rows], np.int64)}

    def serve(self, arrays: Arrays, changed: ChangedRows | None = None) -> None:
        self._served = arrays
        self.rows = int(arrays["learned"][0])

    def state(self) -> dict[str, Array]:
        return {name: np.array(rows) for name, rows in self.served().items()} | self.guard.state()

    def restore(self, arrays: Mapping[str, Array]) -> None:
        used = list(self._latents)
        self._latents.array[used] = self._weights[used] = 0.0
        self._latents.clear()
        self._river.weights.clear()
        self.rows = int(arrays["learned"][0])
        self._begun = len(arrays["items.weights"]), len(arrays["lasts.weights"])
        for name, table in self._parts(*self._begun).items():
            table[:] = arrays[name]
        for row in np.flatnonzero(self._latents.array.any(1)).tolist():  # the others have not begun
            self._latents[row] = self._latents.array[row]
            self._river.weights[row] = self._weights[row]
        self.guard.restore(arrays)


@compiled
def _loss(pairs, wanted, latents, weights):  # type: ignore[no-untyped-def]
    """Mean log loss of the factorisation machine over the pairs."""
    total = 0.0
    for p in range(len(pairs)):
        score = 0.0
        for a in range(3):
            if pairs[p, a] == NOTHING:
                continue
            score += weights[pairs[p, a]]
            for b in range(a):
                for f in range(latents.shape[1]):
                    score += latents[pairs[p, a], f] * latents[pairs[p, b], f]
        total += np.logaddexp(0.0, -score if wanted[p] else score)
    return total / len(pairs)


@compiled
def _score(users, last, items, learned, latents, lasts, of_users, weights, out):  # type: ignore[no-untyped-def]
    factors = latents.shape[1]
    context = np.empty(factors)
    for q in range(len(items)):
        for f in range(factors):
            context[f] = of_users[users[q], f]
            if last[q] != NOTHING and last[q] < len(lasts):
                context[f] += lasts[last[q], f]
        for c in range(items.shape[1]):
            item = items[q, c]
            if item == NOTHING or item >= learned:
                continue
            total = weights[item]
            for f in range(factors):
                total += latents[item, f] * context[f]
            out[q, c] = total
