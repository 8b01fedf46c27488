"""A model's share of its mass over a query's candidates, as it stands among the features that the fusion sees.

A score is a log mass, so a share is a probability over the same candidates whichever model says it.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from streamrec.engine.arrays.batch import Float32, Float64

Floats = TypeVar("Floats", Float32, Float64)

FLOOR = -10.0
"""A log share below this says no more than this."""
SCALE = 5.0
"""Log shares are divided by it, so that every feature is of the size of one."""
PARTS = ("share", "rank", "present", "share@1", "share@2")
"""Features per model; the share again where little is known of the user (@1) and where more is (@2)."""
BY_MODEL = len(PARTS)
PRESENT = PARTS.index("present")


def log_shares(features: Floats, models: int) -> Floats:
    """The log of each model's share of its mass, -inf where it knows nothing, (..., models)."""
    known = features[..., PRESENT * models : (PRESENT + 1) * models] > 0
    shares: Floats = np.where(known, features[..., :models] * np.float32(SCALE), np.float32(-np.inf))
    return shares
