"""Drawing slates from a mixture of rankings, and the probability of any slate under it.

A component m is drawn by its weight and ranks the whole slate. The probability that candidate c comes next, given what
came before, is

    P(c | before) = sum_m b_m [ (1 - e) q_m(c | left) + e d_c / sum of d over those left ]

    q_m    1 for the best one left when the component is hard, else exp(s_mc) / sum over those left (Plackett 1975,
           Luce 1959; drawn by the Gumbel top-k trick, Kool et al., ICML 2019)
    b_m    the component's weight times its probability of what came before: Bayes' rule, so every probability is exact
    e      the share of places that are reserved for exploration
    d      the uncertainty about a candidate: the same for all, they are drawn evenly

Slates that must be made of something (`policies.Constraints`) are drawn by `policies.constrained`.

Every random number is a hash of the slate's seed: a slate drawn again is the same slate, and a longer one begins with
the shorter one. Knows nothing of how scores came to be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from streamrec.engine.arrays.batch import NOTHING, Bool, Float32, Float64, Int8, Int32, Int64, Uint64
from streamrec.engine.arrays.compiled import compiled, uniform
from streamrec.engine.policies import Choice, Components, Constraints
from streamrec.engine.policies.constrained import constrained_draft, constrained_slate
from streamrec.engine.policies.sampling import (
    COMPONENT,
    EVENLY,
    GUMBEL,
    RESERVED,
    SECOND,
    best_left,
    by_uncertainty,
    chance_in_draft,
    component_drawn,
    uncertainty_of,
    whose_turn,
)

SEED_BITS = 0x3FFFFFFFFFFFFFFF
EXHAUSTED = 1e-6
"""Of the mass of all candidates: when so little of it is left, sums are made anew instead of by subtraction."""


@dataclass(frozen=True, slots=True)
class SamplingTerms:
    """What holds whoever makes the slates: see `policies.Asked`."""

    uncertainty: Float64  # (rows, candidates)
    constraints: Sequence[Constraints | None]  # (rows,)

    @classmethod
    def of(cls, components: Components) -> SamplingTerms:
        """Equal uncertainty about all candidates, and no constraints."""
        return cls(np.ones(components.scores.shape[:2]), [None] * len(components.weights))


def drawn(components: Components, seeds: Uint64, k: int, terms: SamplingTerms | None = None) -> Choice:
    """A slate of at most `k` for each row, and the probability of each of its places given the ones before.

    Args:
        components: of the policy, (rows, ...).
        seeds: (rows,).
        k: places of a slate.
        terms: for the same rows.
    """
    rows = len(seeds)
    places = np.full((rows, k), NOTHING, np.int64)
    propensity = np.zeros((rows, k))
    for row in range(rows):
        seed = np.int64(seeds[row] & np.uint64(SEED_BITS))
        _fill(components, row, terms or SamplingTerms.of(components), seed, False, places[row], propensity[row])
    return Choice(places, np.minimum(propensity, 1.0))  # sums of many parts may end a last digit above


def propensities(components: Components, places: Int64, terms: SamplingTerms | None = None) -> Float64:
    """The probability of each place of these slates given the ones before it, (rows, k); 0 past a slate's end.

    Args:
        components: of the policy, (rows, ...).
        places: (rows, k) among the candidates, NOTHING past the end of a slate.
        terms: for the same rows.
    """
    found = np.zeros(places.shape)
    for row in range(len(places)):
        _fill(components, row, terms or SamplingTerms.of(components), np.int64(0), True, places[row], found[row])
    return np.minimum(found, 1.0)


def interleaved(
    first: Components, second: Components, seeds: Uint64, k: int, terms: SamplingTerms | None = None
) -> tuple[Choice, Int8]:
    """Slates that two policies pick in turns, and the policy that picked each place: 0, 1, NOTHING past the end, (rows,
    k).

    Team draft (Radlinski, Kurup, Joachims: How does clickthrough data reflect retrieval quality?, CIKM 2008): in each
    round a coin says which picks first, and each picks the next of its own ranking that is left. The propensity of a
    place is given the places before it and the policies that picked them, which the slate says.
    """
    rows = len(seeds)
    places = np.full((rows, k), NOTHING, np.int64)
    propensity = np.zeros((rows, k))
    teams = np.full((rows, k), NOTHING, np.int8)
    terms = terms or SamplingTerms.of(first)
    for row in range(rows):
        seed = np.int64(seeds[row] & np.uint64(SEED_BITS))
        one, other, bound = _of(first, row), _of(second, row), terms.constraints[row]
        out = places[row], propensity[row], teams[row]
        if bound is None:
            _team_draft(*one, *other, terms.uncertainty[row], seed, *out)
        else:
            scales = first.scale, second.scale
            constrained_draft(*one, *other, *scales, terms.uncertainty[row], *_plain(bound), seed, *out)
    return Choice(places, np.minimum(propensity, 1.0)), teams


def _fill(
    components: Components,
    row: int,
    terms: SamplingTerms,
    seed: np.int64,
    given: bool,
    places: Int64,
    propensity: Float64,
) -> None:
    """Draw one slate into `places`, or take it as it is `given` there; its propensities either way."""
    mixture, uncertainty, bound = _of(components, row), terms.uncertainty[row], terms.constraints[row]
    if bound is None:
        _slate(*mixture, uncertainty, seed, given, places, propensity)
    else:
        constrained_slate(*mixture, components.scale, uncertainty, *_plain(bound), seed, given, places, propensity)


def _of(components: Components, row: int) -> tuple[Float64, Float64, bool, float]:
    scores = np.ascontiguousarray(components.scores[row].T, dtype=np.float64)  # (components, candidates)
    return components.weights[row], scores, components.hard, components.explore


def _plain(bound: Constraints) -> tuple[Float32, Int32, Bool, float, int, float]:
    return bound.similar, bound.group, bound.young, bound.weight, bound.most_per_group, bound.young_share


@compiled
def _begun(weights, scores):  # type: ignore[no-untyped-def]
    """What is known before the first place: belief in each component, its largest score left and the mass left."""
    belief = weights / weights.sum()
    tops = np.empty(len(scores))
    mass = np.empty(len(scores))
    for m in range(len(scores)):
        tops[m] = scores[m].max()
        mass[m] = 0.0
        if tops[m] > -np.inf:
            for c in range(scores.shape[1]):
                mass[m] += np.exp(scores[m, c] - tops[m])
    return belief, tops, mass, mass.copy()


@compiled
def _keys(weights, scores, hard, seed, shift):  # type: ignore[no-untyped-def]
    """The order of the component that the seed draws: candidates are taken by falling key."""
    keys = scores[component_drawn(weights, uniform(seed, shift + COMPONENT))].copy()
    if not hard:
        for c in range(len(keys)):
            keys[c] -= np.log(-np.log(uniform(seed, shift + GUMBEL + c)))
    return keys


@compiled
def _picked(keys, left, uncertainty, uncertain, explore, seed, at):  # type: ignore[no-untyped-def]
    """The next of an order, or one of those left drawn by uncertainty where the place is reserved."""
    if explore > 0.0 and uniform(seed, RESERVED + at) < explore:
        return by_uncertainty(left, uncertainty, uncertain, uniform(seed, EVENLY + at))
    return best_left(keys, left)


@compiled
def _chance(belief, scores, tops, mass, hard, explore, left, reserved, c, each):  # type: ignore[no-untyped-def]
    """P(c comes next), and into `each` the joint probability with every component.

    `reserved` is the chance of c where the place is reserved.
    """
    total = 0.0
    for m in range(len(scores)):
        if hard:
            own = 1.0 if best_left(scores[m], left) == c else 0.0
        else:
            own = min(np.exp(scores[m, c] - tops[m]) / max(mass[m], 1e-300), 1.0)
        each[m] = belief[m] * ((1.0 - explore) * own + explore * reserved)
        total += each[m]
    return total


@compiled
def _taken(scores, tops, mass, summed, left, c):  # type: ignore[no-untyped-def]
    """Candidate c is gone: what every component has left to choose from."""
    for m in range(len(scores)):
        mass[m] -= np.exp(scores[m, c] - tops[m])
        # What is left is a small difference of large numbers when the best are gone: sum it anew.
        if mass[m] < EXHAUSTED * summed[m]:
            top = -np.inf
            for d in range(scores.shape[1]):
                if left[d]:
                    top = max(top, scores[m, d])
            tops[m], mass[m] = top, 0.0
            if top > -np.inf:
                for d in range(scores.shape[1]):
                    if left[d]:
                        mass[m] += np.exp(scores[m, d] - top)
            summed[m] = mass[m]


@compiled
def _slate(weights, scores, hard, explore, uncertainty, seed, given, places, propensity):  # type: ignore[no-untyped-def]
    left = scores[0] > -np.inf
    remaining = left.sum()
    belief, tops, mass, summed = _begun(weights, scores)
    keys = scores[0] if given else _keys(weights, scores, hard, seed, 0)
    each = np.empty(len(scores))
    for at in range(len(places)):
        if remaining == 0 or (given and places[at] == NOTHING):
            return
        uncertain = uncertainty_of(left, uncertainty)
        c = places[at] if given else _picked(keys, left, uncertainty, uncertain, explore, seed, at)
        total = _chance(belief, scores, tops, mass, hard, explore, left, uncertainty[c] / uncertain, c, each)
        places[at], propensity[at] = c, total
        if total <= 0.0:  # this policy never makes such a slate, so what comes after has no probability either
            return
        belief = each / total
        left[c] = False
        remaining -= 1
        _taken(scores, tops, mass, summed, left, c)


@compiled
def _team_draft(  # type: ignore[no-untyped-def]
    weights_0, scores_0, hard_0, explore_0, weights_1, scores_1, hard_1, explore_1, uncertainty,
    seed, places, propensity, teams,
):  # fmt: skip
    left = scores_0[0] > -np.inf
    remaining = left.sum()
    belief_0, tops_0, mass_0, summed_0 = _begun(weights_0, scores_0)
    belief_1, tops_1, mass_1, summed_1 = _begun(weights_1, scores_1)
    keys_0 = _keys(weights_0, scores_0, hard_0, seed, 0)
    keys_1 = _keys(weights_1, scores_1, hard_1, seed, SECOND)
    each_0, each_1 = np.empty(len(scores_0)), np.empty(len(scores_1))
    for at in range(len(places)):
        if remaining == 0:
            return
        uncertain = uncertainty_of(left, uncertainty)
        team = whose_turn(teams, seed, at)
        if team == 0:
            c = _picked(keys_0, left, uncertainty, uncertain, explore_0, seed, at)
        else:
            c = _picked(keys_1, left, uncertainty, uncertain, explore_1, seed, SECOND + at)
        reserved = uncertainty[c] / uncertain
        total_0 = _chance(belief_0, scores_0, tops_0, mass_0, hard_0, explore_0, left, reserved, c, each_0)
        total_1 = _chance(belief_1, scores_1, tops_1, mass_1, hard_1, explore_1, left, reserved, c, each_1)
        propensity[at] = chance_in_draft(team, at, total_0, total_1)
        # Each policy's picks say which of its components is at work; the other's say nothing of it.
        if team == 0:
            belief_0 = each_0 / total_0
        else:
            belief_1 = each_1 / total_1
        places[at], teams[at] = c, team
        left[c] = False
        remaining -= 1
        _taken(scores_0, tops_0, mass_0, summed_0, left, c)
        _taken(scores_1, tops_1, mass_1, summed_1, left, c)
