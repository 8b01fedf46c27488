"""The result of a backtest, and the figures of it that `report.json` holds.

Every metric of the fused slate and of the models can be recomputed from `slates.parquet`.
Knows nothing of models or logs: they are names and arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
from numpy.typing import NDArray

from streamrec.engine.learning.ranking_metrics import RankingMetrics, hits, ranking_metrics
from streamrec.evaluation.backtest.calibration import Calibration
from streamrec.evaluation.backtest.lift import Lift, best_single, lift, lift_by_slice
from streamrec.evaluation.backtest.new_items import NewItems
from streamrec.evaluation.backtest.slices import HOUR_S, YOUNG, TargetContexts, masks
from streamrec.evaluation.backtest.variety import Variety

FUSED = "fused"
POPULARITY = "popularity"
FEW = 100
"""Slices of fewer targets tell nothing: they are folded away."""


@dataclass(frozen=True, slots=True)
class BacktestResult:
    """What a backtest found. Arrays are (targets,), one entry per ranked target, in log order."""

    log: str
    """The log's name, as people call it."""
    seed: int
    settings: Mapping[str, object]
    """Every option and setting of the run, in words that JSON knows."""
    ts: NDArray[np.int64]
    """Time of each target, ms since 1970."""
    known: NDArray[np.bool_]
    """Whether the log had shown the target before."""
    scored: NDArray[np.bool_]
    """Whether the target is past the warm-up."""
    ranks: NDArray[np.integer]
    """The target's place in the fused slate, 1 to 20, 0 = not there."""
    model_ranks: Mapping[str, NDArray[np.integer]]
    """The same for each model alone, and for decayed popularity under the name 'popularity'."""
    known_items: int
    """Distinct items the log had shown by its end."""
    events: int
    """Events handled, whether ranked or not."""
    seconds: float
    """How long handling them took, reading the log included."""
    target_contexts: TargetContexts | None = None
    """What was known when each target was ranked; without it no slices are reported."""
    variety: Variety = field(default_factory=Variety)
    """Of the fused slates of scored targets."""
    new_items: NewItems = field(default_factory=NewItems)
    """How much of those slates is new items."""
    calibration: Calibration | None = None
    """Of the click model's probabilities, where there is a click model."""
    step_seconds: Mapping[str, float] = field(default_factory=dict)
    """Where the time went, by step, each without the steps inside it."""
    weights: Sequence[tuple[int, Mapping[str, float]]] = ()
    """Samples of the fusion's mean weights: events handled so far, and feature to weight."""
    throughput: Sequence[tuple[int, float]] = ()
    """Samples of progress: events handled so far, and seconds since the start."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Whatever else was counted: rows, those refused, dead letters, repeated events."""
    refused: Mapping[str, object] = field(default_factory=dict)
    """Rows refused by reason: how many, the first, and what is wrong with it."""
    peak_memory_mb: float | None = None
    """Most resident memory of the process, in MiB, where it is known."""


def report_figures(result: BacktestResult) -> dict[str, object]:
    """What `report.json` says. Ranking metrics are means over scored targets; shares and metrics are in [0, 1]."""
    scored = result.scored
    return {
        "log": result.log,
        "seed": result.seed,
        "protocol": {
            "order": "prequential: each target is ranked before anything is learned from it",
            "ties": "a basket, or the events of one user at one time, is ranked whole before any of it is learned",
            "slate_length": 20,
            "unknown_targets": "ranked and counted as missed",
        },
        "settings": dict(result.settings),
        "counts": {
            "events": result.events,
            "targets": len(result.ranks),
            "scored_targets": int(scored.sum()),
            "known_items": result.known_items,
            "recommended_items": result.variety.shown_items,
            **result.counts,
        },
        "refused": dict(result.refused),
        "unknown_target_share": float(1 - result.known[scored].mean()) if scored.any() else 0.0,
        "coverage_10": result.variety.coverage_10,
        "metrics": _metrics(result, scored),
        "metrics_of_known_targets": _metrics(result, scored & result.known),
        "slices": {name: _metrics(result, scored & mask) for name, mask in slices(result).items()},
        "baseline": baseline(result),
        "against_baseline": {name: part.as_dict() for name, part in against_baseline(result).items()},
        "newcomers": new_items(result),
        "beyond_accuracy": result.variety.as_dict(),
        "calibration": None if result.calibration is None else asdict(result.calibration),
        "microseconds_per_event": microseconds_per_event(result),
        "seconds": result.seconds,
        "events_per_s": result.events / result.seconds if result.seconds > 0 else 0.0,
        "peak_memory_mb": result.peak_memory_mb,
    }


def all_metrics(result: BacktestResult, scored: NDArray[np.bool_]) -> dict[str, RankingMetrics]:
    """Of every ranker over these targets: the fused slate first, popularity last."""
    return {name: ranking_metrics(ranks, scored) for name, ranks in rankers(result).items()}


def rankers(result: BacktestResult) -> dict[str, NDArray[np.integer]]:
    """The ranks of every ranker, in the order of tables and plots: the fused slate first, popularity last."""
    alone = {name: ranks for name, ranks in result.model_ranks.items() if name != POPULARITY}
    last = {name: ranks for name, ranks in result.model_ranks.items() if name == POPULARITY}
    return {FUSED: result.ranks} | alone | last


def slices(result: BacktestResult) -> Mapping[str, NDArray[np.bool_]]:
    """Masks of the targets of each slice, (targets,), by name; empty without target contexts."""
    return {} if result.target_contexts is None else masks(result.target_contexts, result.known)


def baseline(result: BacktestResult) -> str | None:
    """The best single list, which the fused slate is held to; None where it is alone."""
    return best_single(result.model_ranks, result.scored)


def against_baseline(result: BacktestResult) -> dict[str, Lift]:
    """Lift of the fused list over the best single one, of all scored targets and by slice; empty without any."""
    best = baseline(result)
    return {} if best is None else lift_by_slice(result.ranks, result.model_ranks[best], result.scored, slices(result))


def verdict(result: BacktestResult) -> str:
    """The sentence that opens a report: is it better than the best single list, and by how much."""
    if not result.scored.any():
        return "Nothing was scored: the log ended within the warm-up, or held no event that counts as interest."
    best = baseline(result)
    if best is None:
        found = hits(result.ranks[result.scored], 10)
        return f"{found.mean():.2%} of {len(found):,} targets stood in the first ten; no other list was beside it."
    whole = lift(result.ranks, result.model_ranks[best], result.scored, int(result.scored.sum()))
    return whole.verdict(best)


def model_doubts(result: BacktestResult) -> list[str]:
    """What is to be said of single models: one whose order is worse than chance."""
    found = result.calibration
    if found is None or found.auc >= 0.5:
        return []
    return [
        f"The model clicks orders items worse than chance (AUC {found.auc:.2f}, chance is 0.50): see what it costs "
        "by `streamrec ablate LOG --without clicks`."
    ]


def new_items(result: BacktestResult) -> dict[str, object] | None:
    """Items younger than an hour among targets and among recommended positions; None without item ages."""
    young = against_baseline(result).get(YOUNG)
    if young is None:
        return None
    return {
        "younger_than_s": HOUR_S,
        "share_of_targets": young.share,
        "share_of_places": asdict(result.new_items),
        "recall_10": {FUSED: young.recall_10, baseline(result): young.baseline_recall_10},
    }


def new_items_in_words(result: BacktestResult) -> str:
    """The same in a sentence; empty where there is nothing to say."""
    young, shown = against_baseline(result).get(YOUNG), result.new_items
    if young is None or not result.scored.any():
        return ""
    return (
        f"Items younger than an hour: {young.share:.1%} of what users went on to, and {shown.fused:.1%} of what was "
        f"recommended to them; of those that users went on to, {young.recall_10:.1%} were among the first ten "
        f"({baseline(result)} alone: {young.baseline_recall_10:.1%})."
    )


def microseconds_per_event(result: BacktestResult) -> dict[str, float]:
    """By step, the largest first; `score NAME` and `learn NAME` are a model's."""
    steps = sorted(result.step_seconds.items(), key=lambda step: -step[1])
    return {step: 1e6 * seconds / max(result.events, 1) for step, seconds in steps}


def _metrics(result: BacktestResult, scored: NDArray[np.bool_]) -> dict[str, dict[str, float]]:
    return {name: metrics.as_dict() for name, metrics in all_metrics(result, scored).items()}
