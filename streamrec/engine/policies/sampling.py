"""Compiled kernels that draw a slate: which component, which of the candidates left.

Random numbers are hashes of the slate's seed and of a counter, so each kind of lot has counters of its own. Compiled
code: everything is called from within `drawing` and `constrained`.
"""

from __future__ import annotations

from streamrec.engine.arrays.batch import NOTHING
from streamrec.engine.arrays.compiled import compiled, uniform

# Counters of a slate's random numbers. A candidate's Gumbel number is at GUMBEL + its place; where every place of the
# slate needs fresh ones, at AFRESH + the slate's place * candidates + its place.
COMPONENT, GUMBEL, RESERVED, EVENLY, TURN, AFRESH = 0, 1, 10_000, 20_000, 30_000, 40_000
SECOND = 100_000
"""Added to the counters of the second of two interleaved policies."""


@compiled
def component_drawn(weights, at):  # type: ignore[no-untyped-def]
    """The component whose share of the weights the number `at`, in (0, 1), falls into."""
    chosen = 0
    while chosen < len(weights) - 1 and at >= weights[chosen] / weights.sum():
        at -= weights[chosen] / weights.sum()
        chosen += 1
    return chosen


@compiled
def best_left(keys, left):  # type: ignore[no-untyped-def]
    """Equal keys go by place."""
    best = NOTHING
    for c in range(len(keys)):
        if left[c] and (best == NOTHING or keys[c] > keys[best]):
            best = c
    return best


@compiled
def uncertainty_of(left, uncertainty):  # type: ignore[no-untyped-def]
    """The summed uncertainty of all candidates left."""
    uncertain = 0.0
    for c in range(len(left)):
        if left[c]:
            uncertain += uncertainty[c]
    return uncertain


@compiled
def by_uncertainty(left, uncertainty, uncertain, at):  # type: ignore[no-untyped-def]
    """The candidate left into whose share of the uncertainty the number `at`, in (0, 1), falls."""
    last, reached = NOTHING, 0.0
    for c in range(len(left)):
        if left[c]:
            last = c
            reached += uncertainty[c]
            if at * uncertain < reached:
                break
    return last


@compiled
def whose_turn(teams, seed, at):  # type: ignore[no-untyped-def]
    """Of a team draft: a round's first pick is by the coin, its second by whoever is left."""
    if at % 2 == 1:
        return 1 - teams[at - 1]
    return 0 if uniform(seed, TURN + at) < 0.5 else 1


@compiled
def chance_in_draft(team, at, first, second):  # type: ignore[no-untyped-def]
    """The probability of a pick, from its probability with each of the two: before the coin it may be either's."""
    if at % 2 == 0:
        return 0.5 * first + 0.5 * second
    return first if team == 0 else second
