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
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from streamrec.engine.arrays.batch import NOTHING, Array, Float64
from streamrec.engine.arrays.logistic import Feature, learn_one
from streamrec.engine.arrays.packing import packed_strings, unpacked_strings
from streamrec.engine.following.served import Arrays, ChangedRows, Rows

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
        self._ads: list[str] = []  # those taught, in the order in which they came
        self._rows: dict[Feature, int] = {weight: weight for weight in PRIOR}  # where each stands in the table
        # Weight, z and n of each, with room; what learns need not be there yet.
        self._table: Float64 = np.array([(value, -value * BETA / ALPHA, 0.0) for value in PRIOR.values()])

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
        weights = self._table[:, 0]
        usual = self._usual if self.version else float(np.mean(utilities)) if utilities.size else 0.0
        liking = np.clip(utilities - usual, -FURTHEST, FURTHEST)
        logits = weights[BIAS] + weights[LIKING] * liking + peculiar
        chance: Float64 = -np.logaddexp(0.0, -logits)
        return chance

    def peculiar(self, ads: Sequence[str]) -> Float64:
        """What is added to the log-odds of each ad for being that ad, 0 where nothing was learned, (ads,)."""
        rows = [self._rows.get(ad, NOTHING) for ad in ads]
        return np.array([0.0 if row == NOTHING else self._table[row, 0] for row in rows], np.float64)

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
                self._copy(features)
        self.version += 1
        if len(self._ftrl.n) > len(PRIOR) + MAX_TAUGHT:
            self._forget_least_shown()

    def _forget_least_shown(self) -> None:
        taught = sorted((ad for ad in self._ftrl.n if isinstance(ad, str)), key=lambda ad: (self._ftrl.n[ad], ad))
        for ad in taught[: len(taught) - MAX_TAUGHT * 3 // 4]:
            for weights in (self._ftrl.n, self._ftrl.z, self._weights):
                del weights[ad]
        self._lay_out([ad for ad in self._ads if ad in self._ftrl.n])

    def _lay_out(self, ads: list[str]) -> None:
        """The table has rows for these ads."""
        self._ads = ads
        self._rows = {name: row for row, name in enumerate((*PRIOR, *ads))}
        self._table = np.zeros((len(self._rows), 3))
        self._copy(self._rows)

    def _copy(self, names: Iterable[Feature]) -> None:
        """What was learned of these into the table."""
        for name in list(names):
            row = self._rows.get(name)
            if row is None:
                row = self._rows[name] = len(self._rows)
                self._ads.append(str(name))
                if row == len(self._table):
                    self._table = np.concatenate([self._table, np.zeros_like(self._table)])
            self._table[row] = self._weights[name], self._ftrl.z[name], self._ftrl.n.get(name, 0.0)

    # Snapshots

    def served(self) -> dict[str, Rows]:
        """In the order in which ads were first taught; it begins anew when some are forgotten."""
        return {
            "weights": self._table[: len(self._rows)],
            "usual": np.array([self._usual]),
            "counts": np.array([self.version, self.skipped], np.int64),
            "ads": self._ads,
        }

    def serve(self, arrays: Arrays, changed: ChangedRows | None = None) -> None:
        """By another one's weights."""
        self._table, self._usual = arrays["weights"], float(arrays["usual"][0])
        self.version, self.skipped = (int(count) for count in arrays["counts"])
        self._ads = arrays["ads"]
        if changed is None or "ads" in changed:
            self._rows = {name: row for row, name in enumerate((*PRIOR, *self._ads))}

    def state(self) -> dict[str, Array]:
        """What a snapshot holds."""
        served = self.served()
        return {
            **{name: np.array(served[name]) for name in ("weights", "usual", "counts")},
            "iterations": np.array([self._ftrl.n_iterations], np.int64),
            **packed_strings("ads", self._ads),
        }

    def restore(self, arrays: Mapping[str, Array]) -> None:
        """The inverse of `state`."""
        self._weights = defaultdict(float)
        self._ftrl.z.clear()
        self._ftrl.n.clear()
        ads = unpacked_strings("ads", arrays)
        for name, (weight, z, n) in zip((*PRIOR, *ads), arrays["weights"].tolist(), strict=True):
            self._weights[name], self._ftrl.z[name], self._ftrl.n[name] = weight, z, n
        self._usual = float(arrays["usual"][0])
        self._lay_out(ads)
        self.version, self.skipped = (int(count) for count in arrays["counts"])
        self._ftrl.n_iterations = int(arrays["iterations"][0])
