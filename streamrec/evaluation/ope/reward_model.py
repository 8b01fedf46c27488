"""The reward model of the direct method and of doubly robust estimates: a regression of rewards on what was shown.

Rewards of 0 and 1 are fitted by logistic regression (Newton steps), others by ridge regression, both with the penalty
of a standard normal prior on each coefficient. Each slate is predicted by the fit of the other folds (cross-fitting:
Chernozhukov et al., "Double/debiased machine learning", 2018), so overfitting does not bias estimates.

Equal rows are fitted as one, with a count: a log of single actions without context has as many distinct rows as
there are items and positions, however long it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
import scipy.linalg

from streamrec.evaluation.ope.rounds import Bool, Float64, Int64, Predictions

PENALTY = 1.0
CHUNK_ROWS = 32_768
NEWTON_STEPS = 25
ITEM = 0
"""The first factor is the item shown."""


class Link(StrEnum):
    """The link between the linear predictor and the expected reward."""

    LOGISTIC = "logistic"
    LINEAR = "linear"

    @classmethod
    def of(cls, reward: Float64) -> Link:
        """Logistic for rewards that are 0 or 1."""
        return cls.LOGISTIC if bool(np.isin(reward, (0.0, 1.0)).all()) else cls.LINEAR


@dataclass(frozen=True, slots=True)
class Features:
    """Features of rows: numbers, and factors as category codes, -1 for none."""

    dense: Float64  # (rows, numbers)
    codes: Int64  # (rows, factors)
    sizes: tuple[int, ...]  # categories of each factor

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def width(self) -> int:
        """Number of coefficients: the intercept, one per number, one per category."""
        return int(1 + self.dense.shape[1] + sum(self.sizes))

    def take(self, rows: Int64 | Bool | slice) -> Features:
        """Some of the rows."""
        return replace(self, dense=self.dense[rows], codes=self.codes[rows])

    def matrix(self) -> Float64:
        """The design matrix, (rows, width)."""
        out = np.zeros((len(self), self.width))
        out[:, 0] = 1.0
        start = 1 + self.dense.shape[1]
        out[:, 1:start] = self.dense
        for factor, size in enumerate(self.sizes):
            known = np.flatnonzero(self.codes[:, factor] >= 0)
            out[known, start + self.codes[known, factor]] = 1.0
            start += size
        return out

    def first_column(self, factor: int) -> int:
        """The column of a factor's first category."""
        return int(1 + self.dense.shape[1] + sum(self.sizes[:factor]))


@dataclass(frozen=True, slots=True)
class Actions:
    """The target's whole distribution over items, where it depends on the position alone."""

    probability: Float64  # (places, items) rows sum to 1
    place: Int64  # (rows,)


@dataclass(frozen=True, slots=True)
class RewardModel:
    """Coefficients by fold; a row is predicted by the coefficients fitted without its fold."""

    link: Link
    coefficients: Float64  # (folds, width)

    def predict(self, features: Features, fold: Int64) -> Float64:
        """The expected reward of each row, (rows,)."""
        out = np.empty(len(features))
        for rows in _chunks(len(features)):
            out[rows] = np.einsum("rw,rw->r", features.take(rows).matrix(), self.coefficients[fold[rows]])
        return _inverse_link(out, self.link)

    def expect(self, features: Features, fold: Int64, actions: Actions) -> Float64:
        """The expected reward of each row if its item is drawn from the target, (rows,)."""
        codes = features.codes.copy()
        codes[:, ITEM] = -1
        others = replace(features, codes=codes)
        first, kind = _distinct_rows(others, np.column_stack([fold, actions.place]))
        at = features.first_column(ITEM)
        effects = self.coefficients[:, at : at + features.sizes[ITEM]]  # (folds, items)
        out = np.empty(len(first))
        for part in _chunks(len(first)):
            rows = first[part]
            base = np.einsum("rw,rw->r", others.take(rows).matrix(), self.coefficients[fold[rows]])
            rewards = _inverse_link(base[:, None] + effects[fold[rows]], self.link)  # (rows, items)
            out[part] = (rewards * actions.probability[actions.place[rows]]).sum(axis=1)
        return out[kind]


def cross_fit(features: Features, reward: Float64, fold: Int64, link: Link | None = None) -> RewardModel:
    """Fit one model per fold to the rows of the other folds."""
    link = link or Link.of(reward)
    first, kind = _distinct_rows(features, fold[:, None])
    distinct, of_cell = features.take(first), fold[first]
    count = np.bincount(kind, minlength=len(first)).astype(np.float64)
    earned = np.bincount(kind, reward, len(first)).astype(np.float64)
    start = _fit(distinct, count, earned, link, None)
    folds = [
        _fit(distinct, np.where(of_cell == k, 0.0, count), earned, link, start) for k in range(int(fold.max()) + 1)
    ]
    return RewardModel(link, np.array(folds))


def predictions(
    features: Features, reward: Float64, fold: Int64, target: Features | Actions, link: Link | None = None
) -> Predictions:
    """Cross-fitted predictions for what was shown and for what the target would show.

    Args:
        features: (rows,) of what was shown.
        reward: (rows,).
        fold: (rows,) from 0; all rows of a slate in one fold.
        target: the target's distribution, or (rows,) one draw from it per row.
        form: by the rewards when not given.
    """
    model = cross_fit(features, reward, fold, link)
    shown = model.predict(features, fold)
    if isinstance(target, Actions):
        return Predictions(shown, model.expect(features, fold, target))
    return Predictions(shown, model.predict(target, fold))


def _distinct_rows(features: Features, more: Int64) -> tuple[Int64, Int64]:
    """Indices of the distinct rows, and for every row which it equals; rows with numbers all count as distinct."""
    if features.dense.shape[1]:
        every = np.arange(len(features))
        return every, every
    key = np.zeros(len(features), np.int64)
    for column in [*more.T, *(features.codes.T + 1)]:
        _, key = np.unique(key * (int(column.max(initial=0)) + 1) + column, return_inverse=True)
    _, first, kind = np.unique(key, return_index=True, return_inverse=True)
    return first, kind


def _fit(distinct: Features, count: Float64, earned: Float64, link: Link, start: Float64 | None) -> Float64:
    """Penalised coefficients, (width,), by Newton steps: one is enough for the linear form."""
    weights = np.zeros(distinct.width) if start is None else start
    penalty = np.full(distinct.width, PENALTY)
    penalty[0] = 1e-6  # the intercept is hardly penalised
    used = np.flatnonzero(count)
    for _ in range(1 if link is Link.LINEAR else NEWTON_STEPS):
        gradient = -penalty * weights
        curvature = np.diag(penalty)
        for part in _chunks(len(used)):
            rows = used[part]
            x = distinct.take(rows).matrix()
            mean = _inverse_link(x @ weights, link)
            spread = mean * (1.0 - mean) if link is Link.LOGISTIC else np.ones(len(rows))
            gradient += x.T @ (earned[rows] - count[rows] * mean)
            curvature += (x * (count[rows] * spread)[:, None]).T @ x
        step = scipy.linalg.solve(curvature, gradient, assume_a="pos")
        step *= min(1.0, 4.0 / max(float(np.abs(step).max()), 1e-12)) if link is Link.LOGISTIC else 1.0
        weights = weights + step
        if float(np.abs(step).max()) < 1e-6:
            break
    return weights


def _inverse_link(effects: Float64, link: Link) -> Float64:
    return effects if link is Link.LINEAR else 1.0 / (1.0 + np.exp(-np.clip(effects, -30.0, 30.0)))


def _chunks(rows: int) -> Iterator[slice]:
    return (slice(start, start + CHUNK_ROWS) for start in range(0, rows, CHUNK_ROWS))
