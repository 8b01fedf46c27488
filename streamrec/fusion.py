"""The bandit over model scores: what every model says of a candidate becomes one score, an order, and its probability.

A multinomial logit over the candidates of a query, P(wanted = c) = exp(w . x_c) / sum_d exp(w . x_d), whose weights
have a Gaussian posterior N(m, L^-1) that moves by Laplace steps (Newton's method on each micro-batch, with
forgetting):

    L <- g L + (1 - g) L_0 + sum_q X_q^T (diag(p_q) - p_q p_q^T) X_q
    m <- m + L^-1 (sum_q X_q^T (y_q - p_q) + (1 - g) L_0 (m_0 - m))

Exploration is ensemble sampling (Lu, Van Roy, NeurIPS 2017): a few weight vectors are drawn from the posterior after
each micro-batch, a query takes one of them by its seed, and the slate is a Plackett-Luce draw from its scores (Gumbel
top-k; Kool et al., ICML 2019). Since the vectors are few, each propensity is summed over all of them: exact, not
estimated.

The features are linear in what the models say; a small network may add one that is not (`residual`). It is weighed
like the others, so the posterior is one over the last layer (Riquelme et al.: Deep Bayesian bandits showdown, ICLR
2018), and the ways to explore and to explain stay the same.

Knows nothing of how candidates were found, nor of events, topics or stores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy.linalg

from streamrec.compiled import compiled, uniform
from streamrec.features.batch import (
    NOTHING,
    Array,
    Candidates,
    Float32,
    Float64,
    Int8,
    Int32,
    Int64,
    MicroBatch,
    Queries,
)

FLOOR = -10.0
"""A log share below this says no more than this."""
SCALE = 5.0
"""Log shares are divided by it, so that every feature is of the size of one."""
PARTS = ("share", "rank", "present", "share@1", "share@2")
"""Features per model; the share again where little is known of the user (@1) and where more is (@2)."""
PAST_PER_SESSION_ITEM = 16
"""So many items of the past tell as much as one of the session: one or two are little, three are more."""
BY_MODEL = len(PARTS)
RESIDUAL = "residual"
ITEM_FEATURES = ("item age", "item idle", "just touched", "in session", "in history")
PRIOR_PRECISION = 8.0
PRIOR_WEIGHT = 0.3
"""Weight of a model's log share before anything is learned, unless told otherwise."""
LARGEST_STEP = 0.5
"""No weight moves further than this in one micro-batch."""


if TYPE_CHECKING:
    from streamrec.residual import Residual


@dataclass(frozen=True, slots=True)
class Choice:
    """The slates chosen for some queries."""

    places: Int64  # (rows, k) place among the candidates, NOTHING where there were fewer
    propensity: Float64  # (rows, k) given the places before
    utility: Float64  # (rows, k) mean score


class Fusion:
    """Features per model: log share, reciprocal rank, presence, and the log share again per session length."""

    def __init__(
        self,
        models: Sequence[str],
        *,
        policy: str = "thompson",
        temperature: float = 0.25,
        particles: int = 8,
        forgetting: float = 0.9999,
        seed: int = 0,
        prior: Mapping[str, float] | None = None,
        form: str = "linear",
    ) -> None:
        """`prior` gives the weights of some models' log shares before anything is learned; `form` is linear or mlp."""
        self.models = tuple(models)
        self.policy = policy
        self.temperature = temperature
        self.forgetting = forgetting
        self.seed = seed
        count = len(self.models)
        self.names = tuple(f"{model} {part}" for part in PARTS for model in self.models)
        self.names += ITEM_FEATURES
        self.plain = len(self.names)  # features that are no network's
        self.residual: Residual | None = None
        if form == "mlp":
            from streamrec.residual import Residual  # torch, which the linear form need not load

            self.residual = Residual(self.plain, seed=seed)
            self.names += (RESIDUAL,)
        self.width = len(self.names)
        self._prior_mean = np.zeros(self.width)
        self._prior_mean[self.plain :] = 1.0
        self._prior_mean[:count] = [(prior or {}).get(model, PRIOR_WEIGHT) for model in self.models]
        self.mean = self._prior_mean.copy()
        self.precision = np.eye(self.width) * PRIOR_PRECISION
        self.particles = np.tile(self.mean, (particles, 1))  # (particles, features)
        self.version = 0
        self.skipped = 0  # updates refused because a number in them was not finite

    def describe(self, queries: Queries, rows: slice, candidates: Candidates, first_ts: Int64, last_ts: Int64) -> None:
        """Fill features and mean utility of these rows from the models' scores."""
        items = candidates.items[rows]
        features = candidates.features[rows]
        _describe(
            candidates.scores[:, rows],
            items,
            queries.ts[rows],
            queries.session[rows],
            queries.items[rows],
            first_ts,
            last_ts,
            features,
        )
        if self.residual is not None:
            plain = np.ascontiguousarray(features[:, :, : self.plain])
            features[:, :, self.plain] = self.residual.score(plain, queries, rows)
        candidates.features[rows] = features
        utility = features @ self.mean.astype(np.float32)  # (rows, candidates)
        candidates.utility[rows] = np.where(items == NOTHING, -np.inf, utility)

    def choose(self, queries: Queries, rows: Int64, candidates: Candidates, k: int) -> Choice:
        """Draw a slate of at most `k` for each of these query rows."""
        utility = candidates.utility[rows].astype(np.float64)  # (rows, candidates)
        if self.policy == "greedy":
            places = ranked(utility, k)
            return Choice(places, np.where(places == NOTHING, 0.0, 1.0), _at(utility, places))
        scores = candidates.features[rows] @ self.particles.T.astype(np.float32)  # (rows, candidates, particles)
        scores = np.where(np.isfinite(utility)[:, :, None], scores / self.temperature, -np.inf)
        places = np.full((len(rows), k), NOTHING, np.int64)
        propensity = np.zeros((len(rows), k))
        _draw(scores.astype(np.float64), queries.seed[rows], places, propensity)
        return Choice(places, propensity, _at(utility, places))

    def shares(self, features: Float32, places: Int64) -> Float64:
        """Each model's part of the score of the chosen, beside the average candidate: (chosen, models + 1).

        Args:
            features: (candidates, features) of one query.
            places: (chosen,) which of the candidates. The last column is the item's own features.
        """
        if len(places) == 0:
            return np.empty((0, len(self.models) + 1))
        parts = (features[places] - features.mean(0)) * self.mean  # (chosen, features)
        count = len(self.models)
        by_model = parts[:, : BY_MODEL * count].reshape(len(parts), BY_MODEL, count).sum(1)
        return np.concatenate([by_model, parts[:, BY_MODEL * count :].sum(1, keepdims=True)], axis=1)

    def learn(self, batch: MicroBatch) -> None:
        """One Laplace step on the queries of a micro-batch that were followed by a wanted item."""
        gradient = np.zeros(self.width)
        curvature = np.zeros((self.width, self.width))
        learned = 0
        for q, wanted in self._targets(batch).items():
            used = int((batch.candidates.items[q] != NOTHING).sum())
            x = batch.candidates.features[q, :used].astype(np.float64)  # (used, features)
            p = np.exp(x @ self.mean - np.max(x @ self.mean))
            p /= p.sum()
            mean = p @ x
            gradient += x[wanted].mean(0) - mean
            curvature += (x * p[:, None]).T @ x - np.outer(mean, mean)
            learned += 1
            if self.residual is not None:
                self.residual.remember(batch.candidates.features[q, :used, : self.plain], batch.queries, q, wanted)
        if learned == 0:
            return
        kept = self.forgetting**learned
        precision = kept * self.precision + curvature
        precision[np.diag_indices(self.width)] += (1.0 - kept) * PRIOR_PRECISION
        gradient += (1.0 - kept) * PRIOR_PRECISION * (self._prior_mean - self.mean)
        self._move(precision, gradient)
        if self.residual is not None:
            self.residual.learn(self.mean[: self.plain])

    def _targets(self, batch: MicroBatch) -> dict[int, list[int]]:
        """Places of the wanted items among the candidates, by query row."""
        examples, targets = batch.examples, dict[int, list[int]]()
        for e in np.flatnonzero(examples.label[: batch.learned] == 1).tolist():
            q = int(examples.query[e])
            if q == NOTHING:
                continue
            places = np.flatnonzero(batch.candidates.items[q] == examples.item[e])
            if len(places):
                targets.setdefault(q, []).append(int(places[0]))
        return targets

    def _move(self, precision: Float64, gradient: Float64) -> None:
        if not (np.isfinite(precision).all() and np.isfinite(gradient).all()):
            self.skipped += 1
            return
        lower = scipy.linalg.cholesky(precision, lower=True)
        step = scipy.linalg.cho_solve((lower, True), gradient)
        step *= min(1.0, LARGEST_STEP / max(float(np.abs(step).max()), 1e-12))
        self.precision = precision
        self.mean = self.mean + step
        self.version += 1
        noise = _normal(self.seed + 7, self.version, *self.particles.shape)  # (particles, features)
        self.particles = self.mean + scipy.linalg.solve_triangular(lower, noise.T, trans="T", lower=True).T

    def weights(self) -> dict[str, float]:
        """The mean weight of each model's log share, for plots."""
        return {model: float(w) for model, w in zip(self.models, self.mean[: len(self.models)], strict=True)}

    def state(self) -> dict[str, Array]:
        residual = {} if self.residual is None else self.residual.state()
        return {
            "mean": self.mean.copy(),
            "precision": self.precision.copy(),
            "particles": self.particles.copy(),
            "counts": np.array([self.version, self.skipped], np.int64),
            **{f"{RESIDUAL}.{name}": array for name, array in residual.items()},
        }

    def restore(self, arrays: Mapping[str, Array]) -> None:
        self.mean = np.array(arrays["mean"])
        self.precision = np.array(arrays["precision"])
        self.particles = np.array(arrays["particles"])
        self.version, self.skipped = (int(count) for count in arrays["counts"])
        if self.residual is not None:
            own = len(RESIDUAL) + 1
            self.residual.restore({name[own:]: a for name, a in arrays.items() if name.startswith(RESIDUAL + ".")})


def ranked(utility: Float32 | Float64, k: int) -> Int64:
    """Places of the `k` best candidates, best first, (rows, k), NOTHING past the last; ties stay in candidate order."""
    order = np.argsort(-utility, axis=1, kind="stable")[:, :k]
    return np.where(np.isfinite(np.take_along_axis(utility, order, axis=1)), order, NOTHING).astype(np.int64)


def ranks(scores: Float32, fill: Float32, items: Int32, targets: Int32) -> Int8:
    """Where each target stands in a list ordered by `scores` and filled up by `fill`: 1 to 20, 0 when further down.

    Args:
        scores: (lists, rows, candidates), -inf for what a list does not know; fill: (rows, candidates).
        items: (rows, candidates); targets: (rows,) item indices.
    """
    out = np.zeros((scores.shape[0], len(targets)), np.int8)
    _ranks(scores, fill, items, targets, out)
    return out


def _at(values: Float64, places: Int64) -> Float64:
    found = np.take_along_axis(values, np.maximum(places, 0), axis=1)
    return np.where(places == NOTHING, 0.0, found)


@compiled
def _normal(seed: int, version: int, rows: int, width: int) -> Float64:
    """Standard normal numbers that belong to one version of the weights, (rows, width) (Box, Muller, 1958)."""
    out = np.empty((rows, width))
    for row in range(rows):
        for at in range(width):
            counter = version * 1_000_003 + 2 * (row * width + at)
            radius = np.sqrt(-2.0 * np.log(uniform(seed, counter)))
            out[row, at] = radius * np.cos(2.0 * np.pi * uniform(seed, counter + 1))
    return out


@compiled
def _describe(scores, items, ts, session, past, first_ts, last_ts, features):  # type: ignore[no-untyped-def]
    models = scores.shape[0]
    width = items.shape[1]
    keys = np.empty(width, np.float32)
    for q in range(len(items)):
        used = 0
        while used < width and items[q, used] != NOTHING:
            used += 1
        known = session[q]
        if known == 0:  # at a session's start the past must do, though each of its items tells less
            for item in past[q]:
                known += item != NOTHING
            known = (known + PAST_PER_SESSION_ITEM - 1) // PAST_PER_SESSION_ITEM
        bucket = 0 if known == 0 else (1 if known <= 2 else 2)
        features[q] = 0.0
        for m in range(models):
            top = np.float32(-np.inf)
            for c in range(used):
                top = max(top, scores[m, q, c])
                keys[c] = -scores[m, q, c]
            if top == -np.inf:
                continue
            total = 0.0
            for c in range(used):
                total += np.exp(scores[m, q, c] - top)
            log_total = top + np.log(total)
            order = np.argsort(keys[:used])
            rank = 0
            for at in range(used):
                c = order[at]
                if scores[m, q, c] == -np.inf:
                    features[q, c, m] = FLOOR / SCALE
                else:
                    if at == 0 or keys[c] > keys[order[at - 1]]:
                        rank = at + 1  # equals share a rank
                    features[q, c, m] = max(scores[m, q, c] - log_total, FLOOR) / SCALE
                    features[q, c, models + m] = 1.0 / rank
                    features[q, c, 2 * models + m] = 1.0
                if bucket > 0:
                    features[q, c, (2 + bucket) * models + m] = features[q, c, m]
        for c in range(used):
            age_s = max(ts[q] - first_ts[items[q, c]], 0) / 1000.0
            idle_s = max(ts[q] - last_ts[items[q, c]], 0) / 1000.0
            features[q, c, BY_MODEL * models] = np.log1p(age_s) / 10.0
            features[q, c, BY_MODEL * models + 1] = np.log1p(idle_s) / 10.0
            for place in range(past.shape[1]):
                if past[q, place] == items[q, c]:
                    kind = 2 if place == 0 else (3 if place < session[q] else 4)
                    features[q, c, BY_MODEL * models + kind] = 1.0
                    break


@compiled
def _ranks(scores, fill, items, targets, out):  # type: ignore[no-untyped-def]
    for row in range(len(targets)):
        place = -1
        for c in range(items.shape[1]):
            if items[row, c] == targets[row]:
                place = c
        if place < 0:
            continue
        for m in range(len(scores)):
            before = 0
            for c in range(items.shape[1]):
                if items[row, c] == NOTHING or c == place:
                    continue
                s, t = scores[m, row, c], scores[m, row, place]
                f, g = fill[row, c], fill[row, place]
                before += s > t or (s == t and (f > g or (f == g and c < place)))
            out[m, row] = before + 1 if before < 20 else 0


@compiled
def _draw(scores, seeds, places, propensity):  # type: ignore[no-untyped-def]
    rows, width, particles = scores.shape
    k = places.shape[1]
    for row in range(rows):
        seed = np.int64(seeds[row] & np.uint64(0x3FFFFFFFFFFFFFFF))
        chosen = int(uniform(seed, 0) * particles)
        keys = np.empty(width)
        used = 0
        for c in range(width):
            keys[c] = -np.inf
            if scores[row, c, chosen] > -np.inf:
                keys[c] = scores[row, c, chosen] - np.log(-np.log(uniform(seed, c + 1)))
                used += 1
        order = np.argsort(-keys)[: min(k, used)]
        mass = np.zeros(particles)  # of what each particle has left to choose from
        tops = np.empty(particles)
        for m in range(particles):
            tops[m] = scores[row, :, m].max()
            for c in range(width):
                mass[m] += np.exp(scores[row, c, m] - tops[m])
        summed = mass.copy()  # as of the last time it was summed
        belief = np.full(particles, 1.0 / particles)  # which particle it was, given the places so far
        for at in range(len(order)):
            c = order[at]
            total = 0.0
            for m in range(particles):
                weight = np.exp(scores[row, c, m] - tops[m])
                belief[m] *= min(weight / max(mass[m], 1e-300), 1.0)
                mass[m] -= weight
                # What is left is a small difference of large numbers when the best are gone: sum it anew.
                if mass[m] < 1e-6 * summed[m]:
                    tops[m], mass[m] = _remaining(scores[row, :, m], order[: at + 1])
                    summed[m] = mass[m]
                total += belief[m]
            places[row, at] = c
            propensity[row, at] = total
            for m in range(particles):
                belief[m] /= max(total, 1e-300)


@compiled
def _remaining(scores, gone):  # type: ignore[no-untyped-def]
    """The largest score left, and the sum of exp(score - largest)."""
    left = scores.copy()
    for c in gone:
        left[c] = -np.inf
    top = left.max()
    return top, np.exp(left - top).sum() if top > -np.inf else 0.0
