"""Writes an evaluation's figures, with keys that do not change, as `report.json`, and two plots per target."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from streamrec.evaluation.ope.evaluation import Evaluation, PolicyValue
from streamrec.evaluation.ope.intervals import Interval
from streamrec.evaluation.ope.support import mean_interval

VERSION = 2


def figures(evaluation: Evaluation) -> dict[str, Any]:
    """The figures of one target. Values are mean rewards per slate; shares are in [0, 1]."""
    options, rounds, origin = evaluation.options, evaluation.rounds, evaluation.origin
    return {
        "target": evaluation.target,
        "log": origin.name,
        "logging_policies": list(origin.policies),
        "slates": rounds.slates,
        "users": rounds.users,
        "rows": len(rounds),
        "rewarded_rows": int(np.count_nonzero(rounds.reward)),
        "options": {**asdict(options), "weighting": options.weighting.value},
        "logged": _value(evaluation.logged, None),
        "estimates": {value.name: _value(value, evaluation.logged.value) for value in evaluation.values},
        "without_reward_model": evaluation.without_model,
        "effective_sample_size": evaluation.ess,
        "effective_rewarded": evaluation.rewarded,
        "weights": [
            {
                "place": step.step,
                "rows": step.rows,
                "mean": step.mean,
                "mean_interval_99": [_finite(end) for end in mean_interval(step)],
                "largest": step.largest,
                "effective_sample_size": step.ess,
            }
            for step in evaluation.steps
        ],
        "clipped_share": float((evaluation.weights > options.clip).mean()),
        "never_shown": origin.never_shown,
        "estimated_from": origin.estimated_from,
        "warnings": list(evaluation.warnings),
    }


def report(evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    """What `--json` prints and `report.json` holds."""
    return {"version": VERSION, "evaluations": [figures(evaluation) for evaluation in evaluations]}


def write_report(directory: Path, evaluations: Sequence[Evaluation]) -> None:
    """Write `report.json`, and per target `intervals-NAME.svg` and `weights-NAME.svg`; makes the directory if need be.

    Raises:
        OSError: the directory cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "report.json").write_text(json.dumps(report(evaluations), indent=2) + "\n", encoding="utf-8")
    from streamrec.evaluation.ope import plots  # matplotlib is slow to load

    for evaluation in evaluations:
        name = "".join(c if c.isalnum() or c in "-_." else "-" for c in evaluation.target)
        (directory / f"intervals-{name}.svg").write_text(plots.intervals(evaluation), encoding="utf-8")
        (directory / f"weights-{name}.svg").write_text(plots.weights(evaluation), encoding="utf-8")


def _value(value: PolicyValue, beside: float | None) -> dict[str, Any]:
    return {
        "value": value.value,
        "bootstrap": _ends(value.interval),
        "bernstein": _ends(value.bernstein),
        "biased": value.biased,
        "impossible": value.impossible,
        "tuned": None if value.tuned is None else _finite(value.tuned),
        "relative_to_logged": None if not beside else value.value / beside,
    }


def _ends(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [interval.low, interval.high]


def _finite(number: float) -> float | None:
    return number if np.isfinite(number) else None
