"""What came of a slate, as models, fusion, policies and ads learn it.

Knows nothing of how slates are made or judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np

from streamrec.engine.arrays.batch import Bool, Float32, Float64, Int32, Int64

LARGEST_IMPORTANCE = 10.0
"""Of an unlikely item, when feedback is weighed."""


@dataclass(frozen=True, slots=True)
class ShownAds:
    """What is kept of a slate with ads, to charge for clicks and to learn from them."""

    bids: Int64  # (items,) millionths, 0 for what is no ad
    limits: Int64  # (items,) what the partition may spend on each in the slate's day, millionths
    utilities: Float64  # (items,) the fusion's, before anything was added to them
    clicked: Bool  # (items,)


@dataclass(frozen=True, slots=True)
class SlateFeedback:
    """What came of a slate: its items that were seen, from the top."""

    policy: str
    context: int
    features: Float32  # (seen, features) as they were when the slate was made
    propensity: Float64  # (seen,)
    reward: Float64  # (seen,) in [-1, 1]
    candidates: int  # that there were to choose from
    ts: int  # of the slate, ms
    traces: Mapping[str, Int32] = field(
        default_factory=dict
    )  # by model: what it asked to get back with the feedback, (seen, any)
    schema: int = 0  # a hash of what the features are
    user_id: str = ""
    items: tuple[str, ...] = ()  # (seen,) ids
    ads: ShownAds | None = None  # of a slate with ads: what came of them, (seen,)

    @property
    def importance(self) -> Float64:
        """How unlikely each place was beside an even draw from what was left, LARGEST_IMPORTANCE at most, (seen,)."""
        left = np.maximum(self.candidates - np.arange(len(self.reward)), 1)
        weights: Float64 = np.minimum(1.0 / np.maximum(self.propensity * left, 1e-9), LARGEST_IMPORTANCE)
        return weights


@runtime_checkable
class CountsRefusals(Protocol):
    """What those do that may refuse to learn: for a number that is none, or a loss that exploded."""

    @property
    def refused(self) -> int:
        """Updates refused so far; what was only taken back does not count."""
