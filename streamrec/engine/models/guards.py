"""A guard over the steps of a model that learns by gradients: a step that harms is not kept, and the next are shorter.

    refuse     a step on a loss or a gradient that is no number, or on a loss of SPIKE times the usual or the first one
    take back  a step after which its own micro-batch fits worse (a step must decrease what it descends: Armijo, Pacific
               Journal of Mathematics 1966); asked for the first steps, and as long as steps are shortened
    shorten    every step by one factor, halved by a step taken back or by several refused soon after another; it
               doubles in RECOVERY steps that did no harm

A loss that rose because the world changed is not refused: what counts as usual follows it, and the loss of the first
step, when nothing was known, never counts as a spike.

Belongs to no model. Deterministic: what it decides follows from the losses it was given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from streamrec.engine.arrays.batch import Array

SPIKE = 3.0
"""A model that is sure and wrong loses about twice what one loses that knows nothing; more is broken or garbage."""
WORSE = 1.05
"""A loss after the step this many times the one before it is harm; less may be dropped rounding."""
MEMORY = 64.0
"""Steps after which a loss counts half in the usual one, and a refusal half in the count of them."""
PATIENCE = 3.0
"""So many refusals soon after another are no accident of one micro-batch: the steps are too long."""
RECOVERY = 512.0
"""Steps without harm in which the factor doubles."""
FIRST_STEPS = 64
"""Steps that are looked back on at the start, when a careless learning rate shows."""
SHORTEST = 2.0**-20


class StepGuard:
    """One per model. `factor` is what its next step is multiplied by, in (0, 1]."""

    def __init__(self) -> None:
        self.factor = 1.0
        self.steps = 0
        self.refused = 0
        self.taken_back = 0
        self._usual = math.inf  # decayed mean of the losses that were not refused
        self._first = math.inf
        self._strikes = 0.0  # decayed number of refusals

    @property
    def wary(self) -> bool:
        """Whether the next step should be checked by `stands`; it takes another look at the micro-batch."""
        return self.factor < 1.0 or self.steps < FIRST_STEPS

    def allow(self, loss: float, norm: float = 0.0) -> float:
        """What the step is to be multiplied by, 0.0 to refuse it.

        Args:
            loss: mean loss of the micro-batch before the step, 0 or more.
            norm: of the gradient; only whether it is a number counts.
        """
        self.steps += 1
        self._strikes *= 0.5 ** (1.0 / MEMORY)
        if not math.isfinite(loss + norm) or loss > SPIKE * max(self._usual, self._first):
            self.refused += 1
            self._strike()
            return 0.0
        if self._usual == math.inf:
            self._usual = self._first = loss
        kept = 0.5 ** (1.0 / MEMORY)
        self._usual = kept * self._usual + (1.0 - kept) * loss
        self.factor = min(1.0, self.factor * 2.0 ** (1.0 / RECOVERY))
        return self.factor

    def stands(self, before: float, after: float) -> bool:
        """Whether a step may be kept that took the loss of its own micro-batch from `before` to `after`."""
        if after <= WORSE * before:  # never true of what is no number
            return True
        self.taken_back += 1
        self._shorten()
        return False

    def _strike(self) -> None:
        self._strikes += 1.0
        if self._strikes > PATIENCE - 0.5:
            self._strikes = 0.0
            self._shorten()

    def _shorten(self) -> None:
        self.factor = max(0.5 * self.factor, SHORTEST)

    def state(self) -> dict[str, Array]:
        return {
            "guard.counts": np.array([self.steps, self.refused, self.taken_back], np.int64),
            "guard.levels": np.array([self.factor, self._usual, self._first, self._strikes]),
        }

    def restore(self, arrays: Mapping[str, Array]) -> None:
        self.steps, self.refused, self.taken_back = (int(count) for count in arrays["guard.counts"])
        self.factor, self._usual, self._first, self._strikes = (float(level) for level in arrays["guard.levels"])
