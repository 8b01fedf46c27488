"""Synthetic logs whose targets' true values are known: to test estimators and intervals on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from streamrec.evaluation.ope.reward_model import Actions, Features
from streamrec.evaluation.ope.rounds import Float64, Int64, Rounds
from streamrec.events import Counterfactual, Outcome, Proposal

START_MS = 1_700_000_000_000


@dataclass(frozen=True, slots=True)
class ActionWorld:
    """Single actions: at each visit one of some places is filled with one item, and pays 1 or 0.

    The chance of a reward depends on item and place in a way that no sum of effects describes. Users come again and
    again, each to a place of their own; without them each visit is another's.
    """

    logged: Float64  # (places, items) rows sum to 1
    target: Float64  # (places, items)
    chance: Float64  # (places, items) of a reward
    users: int | None = None

    @classmethod
    def drawn(cls, seed: int, places: int = 3, items: int = 8, spread: float = 1.0) -> ActionWorld:
        """A world at random; the larger the spread, the less the policies have in common."""
        rng = np.random.default_rng(seed)
        chance = 1.0 / (1.0 + np.exp(-rng.normal(-1.5, 1.0, (places, items))))
        logged, target = (_softmax(rng.normal(0.0, spread, (places, items))) for _ in range(2))
        return cls(logged, target, chance)

    @property
    def value(self) -> float:
        """Of the target, per visit."""
        return float((self.target * self.chance).sum(axis=1).mean())

    def log(self, visits: int, rng: np.random.Generator) -> tuple[Rounds, Features, Actions]:
        """So many visits, each place equally often in the long run."""
        places, items = self.logged.shape
        user = np.arange(visits) if self.users is None else rng.integers(0, self.users, visits)
        place = rng.integers(0, places, int(user.max()) + 1)[user]
        item = (rng.random(visits)[:, None] > self.logged.cumsum(axis=1)[place]).sum(axis=1).clip(0, items - 1)
        reward = (rng.random(visits) < self.chance[place, item]).astype(np.float64)
        cluster = None if self.users is None else np.unique(user, return_inverse=True)[1]
        rounds = Rounds(np.arange(visits), reward, self.logged[place, item], self.target[place, item], cluster)
        codes = np.column_stack([item, place])
        features = Features(np.empty((visits, 0)), codes, (items, places))
        return rounds, features, Actions(self.target, place)


@dataclass(frozen=True, slots=True)
class SlateWorld:
    """Slates without repeats by Plackett and Luce; a reward depends on the item and on the one above it (a cascade)."""

    orders: Int64  # (orders, k) every slate there is
    logged: Float64  # (orders, k) of each place given those above
    target: Float64  # (orders, k)
    chance: Float64  # (orders, k) of a reward at each place

    @classmethod
    def drawn(cls, seed: int, items: int = 6, k: int = 3, spread: float = 0.4) -> SlateWorld:
        """A world at random."""
        rng = np.random.default_rng(seed)
        orders = np.array(list(permutations(range(items), k)))
        own, after = rng.normal(-1.0, 1.0, items), rng.normal(0.0, 0.7, (items, items))
        above = np.hstack([np.zeros((len(orders), 1), int), orders[:, :-1]])
        effect = own[orders] + np.where(np.arange(k) > 0, after[above, orders], 0.0)
        logged, target = (_plackett_luce(rng.normal(0.0, spread, items), orders) for _ in range(2))
        return cls(orders, logged, target, 1.0 / (1.0 + np.exp(-effect)))

    @property
    def value(self) -> float:
        """Of the target, per slate."""
        return float(self.target.prod(axis=1) @ self.chance.sum(axis=1))

    def log(self, slates: int, rng: np.random.Generator) -> tuple[Rounds, Features, Features]:
        """So many slates, each with a slate that the target drew itself."""
        k, items = self.orders.shape[1], int(self.orders.max()) + 1
        shown, own, reward = self._drawn(slates, rng)
        rounds = Rounds(
            np.repeat(np.arange(slates), k), reward.ravel(), self.logged[shown].ravel(), self.target[shown].ravel()
        )
        place = np.tile(np.arange(k), slates)

        def described(orders: Int64) -> Features:
            codes = np.column_stack([self.orders[orders].ravel(), place])
            return Features(np.empty((len(codes), 0)), codes, (items, k))

        return rounds, described(shown), described(own)

    def outcomes(self, slates: int, rng: np.random.Generator) -> Iterator[Outcome]:
        """The same as outcomes, a slate a second, of a policy `logging` with the alternative `other`."""
        shown, own, reward = self._drawn(slates, rng)
        for n, (order, proposed) in enumerate(zip(shown, own, strict=True)):
            for place in range(self.orders.shape[1]):
                proposal = Proposal(item_id=f"item-{self.orders[proposed, place]}", score=0.0)
                other = Counterfactual(propensity=float(self.target[order, place]), proposal=proposal)
                yield Outcome(
                    outcome_id=f"{n}-{place}",
                    rec_id=str(n),
                    user_id=f"user-{n % 97}",
                    item_id=f"item-{self.orders[order, place]}",
                    position=place + 1,
                    propensity=float(self.logged[order, place]),
                    reward=float(reward[n, place]),
                    ts=START_MS + n * 1_000,
                    shown_ts=START_MS + n * 1_000,
                    policy="logging",
                    alternatives={"other": other},
                )

    def _drawn(self, slates: int, rng: np.random.Generator) -> tuple[Int64, Int64, Float64]:
        """Which order is shown and which one the target drew, (slates,), and the rewards, (slates, k)."""
        shown, own = (rng.choice(len(p), slates, p=p) for p in (self.logged.prod(axis=1), self.target.prod(axis=1)))
        reward = rng.random((slates, self.orders.shape[1])) < self.chance[shown]
        return shown, own, reward.astype(np.float64)


def _softmax(scores: Float64) -> Float64:
    exponent = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(exponent / exponent.sum(axis=-1, keepdims=True))


def _plackett_luce(scores: Float64, orders: Int64) -> Float64:
    """The probability of each place given those above, (orders, k)."""
    mass = np.exp(scores)[orders]  # (orders, k)
    left = np.exp(scores).sum() - np.hstack([np.zeros((len(orders), 1)), mass.cumsum(axis=1)[:, :-1]])
    return np.asarray(mass / left)
