"""An experiment's figures as plain values for JSON, with keys that do not change.

Unknown figures are null. Knows nothing of where outcomes come from.
"""

from __future__ import annotations

import math
from typing import Any

from streamrec.evaluation.experiments.arms import Arm, Comparison, Experiment, ExperimentDesign
from streamrec.evaluation.experiments.confidence import MeanInterval
from streamrec.evaluation.experiments.imitation import Imitation
from streamrec.evaluation.experiments.interleaving import InterleavingResult
from streamrec.evaluation.experiments.significance import Significance
from streamrec.evaluation.experiments.slates import SettledSlates


def figures(
    settled: SettledSlates,
    design: ExperimentDesign,
    experiment: Experiment,
    interleaving: InterleavingResult | None,
    imitation: Imitation | None,
) -> dict[str, Any]:
    """What `streamrec experiment --json` prints."""
    times = [slate.ts for slate in settled.slates()]
    return {
        "first_ts": times[0] if times else None,
        "last_ts": times[-1] if times else None,
        "outcomes": settled.outcomes,
        "duplicates": settled.duplicates,
        "slates": len(times),
        "moved_slates": experiment.moved_slates,
        "alpha": design.alpha,
        "method": design.method.value,
        "window_h": design.window_ms / 3_600_000,
        "bound": settled.bound,
        "control": experiment.arms[0].name if experiment.arms else None,
        "arms": [_arm(arm) for arm in experiment.arms],
        "comparisons": [_comparison(compared) for compared in experiment.comparisons],
        "interleaving": None if interleaving is None else _interleaving(interleaving),
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
        **_verdict(compared.significance),
    }


def _interleaving(interleaving: InterleavingResult) -> dict[str, Any]:
    return {
        "first": interleaving.first,
        "second": interleaving.second,
        "slates": interleaving.slates,
        "wins": interleaving.wins,
        "losses": interleaving.losses,
        "ties": interleaving.ties,
        "preference": _interval(interleaving.preference),
        **_verdict(interleaving.significance),
    }


def _imitation(imitation: Imitation) -> dict[str, Any]:
    return {
        "policy": imitation.policy,
        "slates": imitation.slates,
        "match_rate": _interval(imitation.match_rate),
        "overlap": _number(imitation.overlap),
        "k": imitation.k,
    }


def _verdict(significance: Significance) -> dict[str, Any]:
    return {
        "verdict": significance.decision.value,
        "slates_needed": significance.slates_needed,
        "in_words": str(significance),
    }


def _interval(interval: MeanInterval) -> dict[str, float | None]:
    return {name: _number(value) for name, value in interval._asdict().items()}


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
