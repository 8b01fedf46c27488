"""Counter-based random numbers: each is a hash of the world's seed and a key (purpose, shopper, step, item, ...).

A number does not depend on which others were drawn before it, so different policies in equal worlds meet the same
randomness: common random numbers (Law: Simulation Modeling and Analysis, ch. 11).
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]


class Purpose(IntEnum):
    """What a number is drawn for: the first part of its key."""

    CENTRE = 1
    ITEM = 2
    CATEGORY = 3
    RELEASE = 4
    TASTE = 5
    FAVOURITE = 6
    ACTIVITY = 7
    ARRIVAL = 8
    SESSION = 9
    VISIT = 10
    LOOK = 11
    ANSWER = 12
    BROWSE = 13
    DRIFT = 14
    BOT = 15
    SHUFFLE = 16


def uniforms(seed: int, purpose: Purpose, *key: ArrayLike) -> Float64:
    """Numbers in (0, 1), one for each combination of the key's parts, which broadcast against each other.

    splitmix64's finaliser after each part (Steele, Lea, Flood, OOPSLA 2014).
    """
    parts = [np.atleast_1d(np.asarray(part, np.int64)).astype(np.uint64) for part in (seed, purpose, *key)]
    z = np.zeros(1, np.uint64)
    for part in parts:
        z = (z ^ part) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(0xD1B54A32D192ED03)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return ((z >> np.uint64(11)).astype(np.float64) + 0.5) / 9007199254740992.0


def normals(seed: int, purpose: Purpose, *key: ArrayLike) -> Float64:
    """Standard normal numbers, as `uniforms`."""
    found: Float64 = ndtri(uniforms(seed, purpose, *key))
    return found


def exponentials(seed: int, purpose: Purpose, *key: ArrayLike) -> Float64:
    """Exponential numbers of mean 1, as `uniforms`."""
    return -np.log(uniforms(seed, purpose, *key))
