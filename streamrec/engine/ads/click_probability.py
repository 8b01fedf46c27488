"""The chance that an ad is clicked where it stands: what makes a bid comparable to another.

    P(click) = 1 / (1 + exp(-(b + l x + p log(position) + a[ad])))

x is how far the ad's utility lies above what is usual for ads that were shown: utilities say what a user would choose
of some candidates, not how often anything is clicked, so `l` and `b` bring them to the scale of chances and a[ad] says
what is peculiar to the ad. What stands lower is clicked less for that; ads are compared as at the first place.

Learned one shown ad at a time by logistic regression with river's FTRL-Proximal (McMahan et al.: Ad click prediction, a
view from the trenches, KDD 2013): every weight has a rate of its own, so that rare ads keep learning fast while the
common weights settle. Priors are set through FTRL's z. Knows nothing of bids, budgets or stores.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from streamrec.engine.arrays.batch import Array, Float64
from streamrec.engine.arrays.logistic import Feature, learn_one
from streamrec.engine.arrays.packing import packed_strings, unpacked_strings

if TYPE_CHECKING:
    from river.optim import FTRLProximal

ALPHA, BETA = 0.3, 1.0
"""Of FTRL: the step is ALPHA / (BETA + sqrt(sum of squared gradients))."""
BIAS, LIKING, PLACE = 0, 1, 2
PRIOR: Mapping[int, float] = {BIAS: -3.0, LIKING: 0.5, PLACE: -0.5}
"""Before anything is learned: one ad in twenty is clicked at the first place, and half as many at the fifth."""
FURTHEST = 5.0
"""No utility counts as further from the usual one."""
USUAL_RATE = 0.02
"""How fast the usual utility follows, by each slate."""
MAX_TAUGHT = 16_384
"""Ads with a weight of their own; of more, those that were shown least go back to the average."""


class ClickProbability:
    """Untaught it gives small chances in the order of utilities."""

    def __init__(self) -> None:
        self.version = 0  # slates of feedback so far
        self.skipped = 0  # places refused because a number in them was not finite
        self._usual = 0.0
        self._weights: dict[Feature, float] = defaultdict(float, PRIOR.items())

    @cached_property
    def _ftrl(self) -> FTRLProximal:
        """What learns, made when there is something to learn: river takes half a second to load, and few have ads."""
        from river.optim import FTRLProximal

        ftrl = FTRLProximal(alpha=ALPHA, beta=BETA, l1=0.0, l2=0.0)
        ftrl.z.update({weight: -value * BETA / ALPHA for weight, value in PRIOR.items()})
        return ftrl

    @property
    def usual(self) -> float | None:
        """The utility that ads had of late where they were shown, None before any was."""
        return self._usual if self.version else None

    def log_chance(self, utilities: Float64, peculiar: Float64) -> Float64:
        """Log P(click) at the first place, by utility and by what is peculiar to each ad (`peculiar`); same shapes."""
        weights = self._weights
        usual = self._usual if self.version else float(np.mean(utilities)) if utilities.size else 0.0
        liking = np.clip(utilities - usual, -FURTHEST, FURTHEST)
        logits = weights[BIAS] + weights[LIKING] * liking + peculiar
        chance: Float64 = -np.logaddexp(0.0, -logits)
        return chance

    def peculiar(self, ads: Sequence[str]) -> Float64:
        """What is added to the log-odds of each ad for being that ad, 0 where nothing was learned, (ads,)."""
        return np.array([self._weights.get(ad, 0.0) for ad in ads], np.float64)

    def learn(self, ads: Sequence[str], positions: Sequence[int], utilities: Float64, clicked: Sequence[bool]) -> None:
        """What came of the ads of one slate that were seen, from the top; positions count from 1."""
        sound = np.isfinite(utilities)
        self.skipped += int((~sound).sum())
        if not sound.any():
            return
        mean = float(utilities[sound].mean())
        self._usual = self._usual + USUAL_RATE * (mean - self._usual) if self.version else mean
        liking = np.clip(utilities - self._usual, -FURTHEST, FURTHEST).tolist()
        for ad, position, x, click, kept in zip(ads, positions, liking, clicked, sound.tolist(), strict=True):
            if kept:
                features: dict[Feature, float] = {BIAS: 1.0, LIKING: x, PLACE: float(np.log(position)), ad: 1.0}
                learn_one(self._weights, self._ftrl, features, click)
        self.version += 1
        if len(self._ftrl.n) > len(PRIOR) + MAX_TAUGHT:
            self._forget_least_shown()

    def _forget_least_shown(self) -> None:
        taught = sorted((ad for ad in self._ftrl.n if isinstance(ad, str)), key=lambda ad: (self._ftrl.n[ad], ad))
        for ad in taught[: len(taught) - MAX_TAUGHT * 3 // 4]:
            for weights in (self._ftrl.n, self._ftrl.z, self._weights):
                del weights[ad]

    # Snapshots

    def state(self) -> dict[str, Array]:
        """What a snapshot holds."""
        weights, ftrl = self._weights, self._ftrl
        names = [*PRIOR, *(name for name in ftrl.n if isinstance(name, str))]
        rows = [(weights[name], ftrl.z[name], ftrl.n.get(name, 0.0)) for name in names]
        return {
            "weights": np.array(rows, np.float64),
            "usual": np.array([self._usual]),
            "counts": np.array([self.version, self.skipped, ftrl.n_iterations], np.int64),
            **packed_strings("ads", [str(name) for name in names[len(PRIOR) :]]),
        }

    def restore(self, arrays: Mapping[str, Array]) -> None:
        """The inverse of `state`."""
        self._weights = defaultdict(float)
        self._ftrl.z.clear()
        self._ftrl.n.clear()
        names = [*PRIOR, *unpacked_strings("ads", arrays)]
        for name, (weight, z, n) in zip(names, arrays["weights"].tolist(), strict=True):
            self._weights[name], self._ftrl.z[name], self._ftrl.n[name] = weight, z, n
        self._usual = float(arrays["usual"][0])
        self.version, self.skipped, self._ftrl.n_iterations = (int(count) for count in arrays["counts"])
