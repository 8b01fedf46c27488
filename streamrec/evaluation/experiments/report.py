"""An experiment's figures as plain values, in a shape that stays.

Figures that are not known are null. Knows nothing of where outcomes come from.
"""

from __future__ import annotations

import math
from typing import Any

from streamrec.evaluation.experiments.arms import Arm, Comparison, Experiment, SignificanceTerms
from streamrec.evaluation.experiments.confidence import Interval
from streamrec.evaluation.experiments.imitation import Imitation
from streamrec.evaluation.experiments.interleaving import InterleavedPair
from streamrec.evaluation.experiments.significance import Significance
from streamrec.evaluation.experiments.slates import Settlement


def figures(
    settlement: Settlement,
    terms: SignificanceTerms,
    experiment: Experiment,
    duel: InterleavedPair | None,
    imitation: Imitation | None,
) -> dict[str, Any]:
    """Everything that `streamrec experiment --json` prints."""
    times = [slate.ts for slate in settlement.slates()]
    return {
        "first_ts": times[0] if times else None,
        "last_ts": times[-1] if times else None,
        "outcomes": settlement.outcomes,
        "duplicates": settlement.duplicates,
        "slates": len(times),
        "moved_slates": experiment.moved_slates,
        "alpha": terms.alpha,
        "method": terms.method.value,
        "window_h": terms.window_ms / 3_600_000,
        "bound": settlement.bound,
        "control": experiment.arms[0].name if experiment.arms else None,
        "arms": [_arm(arm) for arm in experiment.arms],
        "comparisons": [_comparison(compared) for compared in experiment.comparisons],
        "interleaving": None if duel is None else _duel(duel),
        "imitation": None if imitation is None else _imitation(imitation),
    }


def _arm(arm: Arm) -> dict[str, Any]:
    return {
        "arm": arm.name,
        "policies": list(arm.policies),
        "users": arm.users,
        "users_waiting": arm.waiting,
        "slates": arm.slates,
        "reward_per_slate": _number(arm.reward_per_slate),
        "deviation": _number(arm.deviation),
        "reward": _interval(arm.reward),
    }


def _comparison(compared: Comparison) -> dict[str, Any]:
    return {
        "arm": compared.arm,
        "control": compared.control,
        "difference": _interval(compared.difference),
        **_verdict(compared.verdict),
    }


def _duel(duel: InterleavedPair) -> dict[str, Any]:
    return {
        "first": duel.first,
        "second": duel.second,
        "slates": duel.slates,
        "wins": duel.wins,
        "losses": duel.losses,
        "ties": duel.ties,
        "preference": _interval(duel.preference),
        **_verdict(duel.verdict),
    }


def _imitation(imitation: Imitation) -> dict[str, Any]:
    return {
        "policy": imitation.policy,
        "slates": imitation.slates,
        "match_rate": _interval(imitation.match_rate),
        "overlap": _number(imitation.overlap),
        "k": imitation.k,
    }


def _verdict(verdict: Significance) -> dict[str, Any]:
    return {"verdict": verdict.standing.value, "slates_needed": verdict.slates_needed, "in_words": str(verdict)}


def _interval(interval: Interval) -> dict[str, float | None]:
    return {name: _number(value) for name, value in interval._asdict().items()}


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
