"""Loops over arrays, compiled: the one place that says how.

Compiled code is cached on disk beside the source, so only the first run of a fresh install pays for compilation.
Arithmetic stays in IEEE order (no fastmath): two runs over one log give the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, SupportsInt, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def compiled(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Compile a function over numbers and arrays on its first call."""
    return cast(Callable[Parameters, Result], numba.njit(function, cache=True, nogil=True))


@compiled
def mixed(seed: SupportsInt, counter: SupportsInt) -> np.uint64:
    """A 64-bit hash of two integers: a random number addressed by position instead of drawn in sequence.

    splitmix64's finaliser (Steele, Lea, Flood: Fast splittable pseudorandom number generators, OOPSLA 2014).
    """
    z = np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(counter) * np.uint64(0xD1B54A32D192ED03)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@compiled
def uniform(seed: SupportsInt, counter: SupportsInt) -> float:
    """A number in (0, 1) addressed by position."""
    return (float(mixed(seed, counter) >> np.uint64(11)) + 0.5) / 9007199254740992.0


@compiled
def drawn_below(limit: int, count: int, seed: int, turn: int) -> npt.NDArray[np.int64]:
    """`count` integers in [0, limit), the draws that belong to one turn, (count,)."""
    draws = np.empty(count, np.int64)
    for draw in range(count):
        draws[draw] = np.int64(mixed(seed, turn * 65_536 + draw) % np.uint64(limit))
    return draws


@compiled
def standard_normal(seed: int, first: int, rows: int, width: int) -> npt.NDArray[np.float64]:
    """Standard normal numbers addressed by position, from counter `first` on, (rows, width) (Box, Muller, 1958)."""
    out = np.empty((rows, width))
    for row in range(rows):
        for at in range(width):
            counter = first + 2 * (row * width + at)
            radius = np.sqrt(-2.0 * np.log(uniform(seed, counter)))
            out[row, at] = radius * np.cos(2.0 * np.pi * uniform(seed, counter + 1))
    return out
