"""Tables of the results page with one column per log: slices, variety, calibration, costs, and each model's worth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from streamrec.evaluation.backtest.calibration import BINS
from streamrec.evaluation.backtest.report import FUSED, POPULARITY
from tools.benchmarks.estimates import estimate, short
from tools.benchmarks.findings import Findings

Cell = Callable[[Findings], str]
"""What stands in a row of a table for one log."""
OTHER_STEPS = ("retrieve", "fuse", "learn fusion")
"""Steps that belong to no model and are worth a row of the costs."""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def named(found: Findings) -> str:
    """A log's name, marked where it is held out."""
    return f"`{found.protocol.name}`" + (" †" if found.protocol.held_out else "")


def served(findings: Sequence[Findings]) -> str:
    """Slices of targets by what was known at their moment."""
    rows = {name: partial(_slice, name) for name in findings[0].first["slices"]}
    return _by_log(findings, rows)


def _slice(name: str, found: Findings) -> str:
    reports = list(found.runs.values())
    targets = found.first["slices"][name][FUSED]["targets"]
    if not targets:
        return ""
    recalls = [[report["slices"][name][ranker]["recall_10"] for report in reports] for ranker in (FUSED, POPULARITY)]
    share = targets / found.first["counts"]["scored_targets"]
    return " / ".join(short(estimate(recall).mean) for recall in recalls) + f" ({share:.0%})"


def variety(findings: Sequence[Findings]) -> str:
    """Coverage, exposure, novelty and the like."""
    rows = {
        "coverage of known items": partial(_variety, "coverage_10", "{:.1%}"),
        "Gini of exposure": partial(_variety, "gini_10", "{:.3f}"),
        "novelty, bits": partial(_variety, "novelty_10_bits", "{:.1f}"),
        "personalisation": partial(_variety, "personalisation_10", "{:.3f}"),
        "diversity": partial(_variety, "diversity_10", "{:.3f}"),
    }
    return _by_log(findings, rows)


def _variety(key: str, shape: str, found: Findings) -> str:
    values = [report["beyond_accuracy"][key] for report in found.runs.values()]
    return "" if None in values else shape.format(estimate(values).mean)


def calibration(findings: Sequence[Findings]) -> str:
    """How far the click model's probabilities came true."""
    rows: dict[str, Cell] = {
        "ECE": partial(_calibrated, "ece", "{:.3f}"),
        "AUC": partial(_calibrated, "auc", "{:.3f}"),
        "pairs": partial(_calibrated, "pairs", "{:,}"),
    }
    rows |= {f"said {at / BINS:.1f} to {(at + 1) / BINS:.1f}": partial(_came_true, at) for at in range(BINS)}
    return _by_log(findings, rows)


def _calibrated(key: str, shape: str, found: Findings) -> str:
    figures = found.first["calibration"]
    return shape.format(figures[key]) if figures else ""


def _came_true(place: int, found: Findings) -> str:
    figures = found.first["calibration"]
    told = figures["bins"][place] if figures else {"pairs": 0}
    return f"{short(told['observed'])} ({told['pairs']:,})" if told["pairs"] else ""


def costs(findings: Sequence[Findings]) -> str:
    """Microseconds per event, by model and way."""
    models = list(dict.fromkeys(name for found in findings for name in found.rankers if name != FUSED))
    rows: dict[str, Cell] = {name: partial(_model_cost, name) for name in models}
    rows |= {step: partial(_step_cost, step) for step in OTHER_STEPS}
    rows["everything together"] = _whole_cost
    return _by_log(findings, rows)


def _model_cost(name: str, found: Findings) -> str:
    return f"{_step_cost(f'score {name}', found)} + {_step_cost(f'learn {name}', found)}"


def _step_cost(step: str, found: Findings) -> str:
    costs = [report["microseconds_per_event"].get(step, 0.0) for report in found.runs.values()]
    return f"{estimate(costs).mean:,.0f}"


def _whole_cost(found: Findings) -> str:
    return f"{estimate([1e6 / report['events_per_s'] for report in found.runs.values()]).mean:,.0f}"


def worth(findings: Sequence[Findings]) -> str:
    """Change of the fused figures, in thousandths, when one model is left out."""
    models = list(dict.fromkeys(model for found in findings for model in found.without))
    if not models:
        return "Not measured this time (`--leave-one-out`)."
    rows = _by_log(findings, {model: partial(_loss, model) for model in models})
    return f"Change of the fused figures, in thousandths, without each model and all it proposes; first seed.\n\n{rows}"


def _loss(model: str, found: Findings) -> str:
    if model not in found.without:
        return ""
    whole, rest = found.first["metrics"][FUSED], found.without[model]["metrics"][FUSED]
    return " / ".join(f"{1000 * (rest[metric] - whole[metric]):+.1f}" for metric in ("recall_10", "mrr_20"))


def _by_log(findings: Sequence[Findings], rows: Mapping[str, Cell]) -> str:
    """One column per log; rows that say nothing of any log are left out."""
    cells = {name: [cell(found) for found in findings] for name, cell in rows.items()}
    return table(["", *map(named, findings)], [[name, *row] for name, row in cells.items() if any(row)])
