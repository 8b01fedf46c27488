"""Writes an evaluation's figures, with keys that do not change, as `report.json`, and two plots per target."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from streamrec.evaluation import pages
from streamrec.evaluation.ope.estimators import TITLES
from streamrec.evaluation.ope.evaluation import MIN_REWARDED, Evaluation, PolicyValue
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


def verdict(evaluation: Evaluation) -> str:
    """Whether the target would have earned more than what was logged, in a sentence, by the estimate to trust first."""
    by_name = {value.name: value for value in evaluation.values}
    trusted, target = by_name.get("dr", by_name["snips"]), evaluation.target
    logged, interval = evaluation.logged.value, trusted.interval
    known = interval is not None and not trusted.impossible and not interval.low <= logged <= interval.high
    beside = f"{TITLES[trusted.name]} says {trusted.value:.4g} per slate"
    if interval is None:
        beside += ", without an interval"
    else:
        beside += f" ({interval.low:.3g} to {interval.high:.3g})"
    beside += f", as it happened it was {logged:.4g}"
    if not known:
        return f"Whether {target} would have earned more than what was shown is not known: {beside}."
    more = "more" if trusted.value > logged else "less"
    return f"{target} would have earned {more} than what was shown: {beside}."


def rows(evaluation: Evaluation) -> list[list[str]]:
    """The table of an evaluation: what was logged first, then each estimate."""
    logged = evaluation.logged
    found = [["logged", f"{logged.value:.4g}", _said(logged.interval), _said(logged.bernstein), ""]]
    for value in evaluation.values:
        title = TITLES[value.name] if value.tuned is None else f"{TITLES[value.name]} {value.tuned:.3g}"
        title += (" *" if value.biased else "") + (" !" if value.impossible else "")
        beside = "" if not logged.value or value.impossible else f"{value.value / logged.value:.3f}"
        found.append([title, f"{value.value:.4g}", _said(value.interval), _said(value.bernstein), beside])
    return found


def head(evaluation: Evaluation) -> tuple[str, ...]:
    """The columns of `rows`."""
    percent = f"{evaluation.options.level:.0%}"
    return "", "value", f"{percent} bootstrap", f"{percent} Bernstein", "to logged"


def remarks(evaluation: Evaluation) -> list[str]:
    """What is to be known of the table, what to doubt last."""
    rounds, options = evaluation.rounds, evaluation.options
    unit = "slate" if rounds.users is None else "user"
    users = "" if rounds.users is None else f" ({rounds.users:,})"
    words = f"weights by {options.weighting.value}, intervals by {unit}{users}"
    lines = [f"{evaluation.ess:,.1f} effective slates; reward per slate: the sum over its items; {words}"]
    if any(value.biased for value in evaluation.values):
        lines.append("* no interval: nothing tells how large the estimate's bias is")
    told = (evaluation.logged, *evaluation.values)
    if any(value.interval is None and not (value.biased or value.impossible) for value in told):
        lines.append(f"none: the rewards are of fewer than {MIN_REWARDED:.0f} equal {unit}s, or all the same")
    if evaluation.without_model is not None:
        lines.append(f"no direct or doubly robust estimates: {evaluation.without_model}")
    return lines + [f"warning: {warning}" for warning in evaluation.warnings]


def write_report(directory: Path, evaluations: Sequence[Evaluation], made: str = "") -> None:
    """Write `report.html`, `report.json`, and per target `intervals-NAME.svg` and `weights-NAME.svg`.

    Makes the directory if need be. `made` says when and how they came about, at the page's foot.

    Raises:
        OSError: the directory cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "report.json").write_text(json.dumps(report(evaluations), indent=2) + "\n", encoding="utf-8")
    from streamrec.evaluation.ope import plots  # matplotlib is slow to load
    from streamrec.evaluation.plotting import standalone

    body = ""
    for evaluation in evaluations:
        name = "".join(c if c.isalnum() or c in "-_." else "-" for c in evaluation.target)
        drawn = {"intervals": plots.intervals(evaluation), "weights": plots.weights(evaluation)}
        for kind, picture in drawn.items():
            (directory / f"{kind}-{name}.svg").write_text(standalone(picture), encoding="utf-8")
        said = "".join(f"<p>{pages.escaped(remark)}</p>" for remark in remarks(evaluation))
        figures = "".join(f"<figure>{picture}</figure>" for picture in drawn.values())
        table = pages.table_of(head(evaluation), rows(evaluation))
        body += f"<h2>{pages.escaped(evaluation.target)}</h2>{table}{said}{figures}"
    found = [verdict(evaluation) for evaluation in evaluations]
    (directory / "report.html").write_text(pages.page("What policies are worth", found, body, made), encoding="utf-8")


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


def _said(interval: Interval | None) -> str:
    return "none" if interval is None else f"{interval.low:.3g} to {interval.high:.3g}"


def _ends(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [interval.low, interval.high]


def _finite(number: float) -> float | None:
    return number if np.isfinite(number) else None
