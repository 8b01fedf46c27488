"""Drawing slates that must be made of something: one category must not crowd it, and some of it must be young.

As in `drawing`, with two differences: what stands above lowers the scores of what is like it, and not every candidate
that is left may come next. So each place is drawn afresh, by Gumbel numbers of its own, from

    P(c | before) = sum_m b_m [ (1 - e) q_m(c | may come) + e d_c / sum of d over those that may come ]
    q_m           by the scores s_mc - scale * weight * max over the items above of similar(c, item)

and every probability is still exact. The scores that count are those of the place, so this is an order of magnitude
slower: some 0.2 ms for a slate of 20 with 8 components.
"""

from __future__ import annotations

import numpy as np

from streamrec.engine.arrays.batch import NOTHING
from streamrec.engine.arrays.compiled import compiled, uniform
from streamrec.engine.policies.sampling import (
    AFRESH,
    COMPONENT,
    EVENLY,
    RESERVED,
    SECOND,
    best_left,
    by_uncertainty,
    chance_in_draft,
    component_drawn,
    uncertainty_of,
    whose_turn,
)


@compiled
def _may_come(left, above, group, young, most_per_group, young_share):  # type: ignore[no-untyped-def]
    """Which of those left may take the next place; `above` are the places already taken."""
    may = left.copy()
    if most_per_group > 0:
        for c in range(len(may)):
            if may[c] and group[c] != NOTHING:
                same = 0
                for taken in above:
                    same += group[taken] == group[c]
                may[c] = same < most_per_group
        if not may.any():
            may[:] = left
    if young_share > 0.0:
        there = 0
        for taken in above:
            there += young[taken]
        if there < int((len(above) + 1) * young_share + 1e-9):
            owed = may & young
            if not owed.any():  # the young come before the bound on groups
                owed = left & young
            if owed.any():
                may = owed
    return may


@compiled
def _lowered(scores, like, lowered_by, out):  # type: ignore[no-untyped-def]
    """The scores as of this place; `like` is each candidate's similarity to the most similar item above."""
    for m in range(len(scores)):
        for c in range(scores.shape[1]):
            out[m, c] = scores[m, c] - lowered_by * like[c]


@compiled
def _next(scores, chosen, hard, explore, uncertainty, uncertain, may, seed, shift, at):  # type: ignore[no-untyped-def]
    """The candidate that takes place `at`, by the component that was chosen."""
    if explore > 0.0 and uniform(seed, shift + RESERVED + at) < explore:
        return by_uncertainty(may, uncertainty, uncertain, uniform(seed, shift + EVENLY + at))
    keys = scores[chosen].copy()
    if not hard:
        for c in range(len(keys)):
            if may[c]:
                keys[c] -= np.log(-np.log(uniform(seed, shift + AFRESH + at * len(keys) + c)))
    return best_left(keys, may)


@compiled
def _chances(belief, scores, hard, explore, reserved, may, c, each):  # type: ignore[no-untyped-def]
    """P(c comes next), and into `each` the joint probability with every component."""
    total = 0.0
    for m in range(len(scores)):
        if hard:
            own = 1.0 if best_left(scores[m], may) == c else 0.0
        else:
            top, mass = -np.inf, 0.0
            for d in range(scores.shape[1]):
                if may[d]:
                    top = max(top, scores[m, d])
            for d in range(scores.shape[1]):
                if may[d]:
                    mass += np.exp(scores[m, d] - top)
            own = np.exp(scores[m, c] - top) / mass
        each[m] = belief[m] * ((1.0 - explore) * own + explore * reserved)
        total += each[m]
    return total


@compiled
def _note(like, similar, weight, left, c):  # type: ignore[no-untyped-def]
    """Candidate c has taken a place."""
    left[c] = False
    if weight != 0.0:
        for d in range(len(like)):
            like[d] = max(like[d], similar[c, d])


@compiled
def constrained_slate(  # type: ignore[no-untyped-def]
    weights, scores, hard, explore, scale, uncertainty, similar, group, young, weight, most_per_group, young_share,
    seed, given, places, propensity,
):  # fmt: skip
    """Draw one slate into `places`, or take it as it is `given` there; its propensities either way."""
    left = scores[0] > -np.inf
    belief = weights / weights.sum()
    chosen = component_drawn(weights, uniform(seed, COMPONENT))
    now, each, like = np.empty_like(scores), np.empty(len(scores)), np.zeros(len(left))
    for at in range(len(places)):
        if not left.any() or (given and places[at] == NOTHING):
            return
        may = _may_come(left, places[:at], group, young, most_per_group, young_share)
        _lowered(scores, like, scale * weight, now)
        uncertain = uncertainty_of(may, uncertainty)
        if given:
            c = places[at]
            if not may[c]:  # no policy makes such a slate
                return
        else:
            c = _next(now, chosen, hard, explore, uncertainty, uncertain, may, seed, 0, at)
        total = _chances(belief, now, hard, explore, uncertainty[c] / uncertain, may, c, each)
        places[at], propensity[at] = c, total
        if total <= 0.0:
            return
        belief = each / total
        _note(like, similar, weight, left, c)


@compiled
def constrained_draft(  # type: ignore[no-untyped-def]
    weights_0, scores_0, hard_0, explore_0, weights_1, scores_1, hard_1, explore_1, scale_0, scale_1, uncertainty,
    similar, group, young, weight, most_per_group, young_share, seed, places, propensity, teams,
):  # fmt: skip
    """Team draft by two policies, each place under the same constraints."""
    left = scores_0[0] > -np.inf
    belief_0, belief_1 = weights_0 / weights_0.sum(), weights_1 / weights_1.sum()
    chosen_0 = component_drawn(weights_0, uniform(seed, COMPONENT))
    chosen_1 = component_drawn(weights_1, uniform(seed, SECOND + COMPONENT))
    now_0, now_1 = np.empty_like(scores_0), np.empty_like(scores_1)
    each_0, each_1, like = np.empty(len(scores_0)), np.empty(len(scores_1)), np.zeros(len(left))
    for at in range(len(places)):
        if not left.any():
            return
        may = _may_come(left, places[:at], group, young, most_per_group, young_share)
        _lowered(scores_0, like, scale_0 * weight, now_0)
        _lowered(scores_1, like, scale_1 * weight, now_1)
        uncertain = uncertainty_of(may, uncertainty)
        team = whose_turn(teams, seed, at)
        if team == 0:
            c = _next(now_0, chosen_0, hard_0, explore_0, uncertainty, uncertain, may, seed, 0, at)
        else:
            c = _next(now_1, chosen_1, hard_1, explore_1, uncertainty, uncertain, may, seed, SECOND, at)
        reserved = uncertainty[c] / uncertain
        total_0 = _chances(belief_0, now_0, hard_0, explore_0, reserved, may, c, each_0)
        total_1 = _chances(belief_1, now_1, hard_1, explore_1, reserved, may, c, each_1)
        propensity[at] = chance_in_draft(team, at, total_0, total_1)
        # Each policy's picks say which of its components is at work; the other's say nothing of it.
        if team == 0:
            belief_0 = each_0 / total_0
        else:
            belief_1 = each_1 / total_1
        places[at], teams[at] = c, team
        _note(like, similar, weight, left, c)
