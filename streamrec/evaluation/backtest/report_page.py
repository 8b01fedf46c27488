"""Renders a backtest as one page of HTML that needs nothing else: tables, and plots in the page's own colours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streamrec.engine.learning.ranking_metrics import RankingMetrics, hits, reciprocal_ranks, rolling_mean
from streamrec.evaluation.backtest import plots
from streamrec.evaluation.backtest.lift import Lift
from streamrec.evaluation.backtest.report import (
    FEW,
    FUSED,
    BacktestResult,
    against_baseline,
    all_metrics,
    baseline,
    microseconds_per_event,
    model_doubts,
    new_items_in_words,
    rankers,
    verdict,
)
from streamrec.evaluation.pages import escaped, filled, table_row

WINDOWS = 20
"""The rolling window is the scored targets over this, between 50 and 2,000: short enough to see a drift, long enough to
see through the noise of single hits."""
POINTS = 240
BELIEVED_ECE = 0.05
"""So far may probabilities lie from what came true, on the average."""


def report_page(result: BacktestResult, figures: Mapping[str, object], made: str = "") -> str:
    """The page as text; `figures` is what `report.json` says, `made` when and how it came about."""
    whole = all_metrics(result, result.scored)
    known = all_metrics(result, result.scored & result.known)
    times = result.ts[result.scored]
    scored = {name: ranks[result.scored] for name, ranks in rankers(result).items()}
    return filled(
        Path(__file__).parent / "report_page.html",
        log=escaped(result.log),
        verdict=escaped(verdict(result)),
        doubts="".join(f'<p class="doubt">{escaped(doubt)}</p>' for doubt in model_doubts(result)),
        baseline=escaped(baseline(result) or "no other list"),
        made=escaped(made),
        tiles=_tiles(result, whole),
        metrics=_metrics_table(whole),
        known_metrics=_metrics_table(known),
        window=f"{window_of(len(times)):,}",
        hit_rate=plots.over_time(
            "Hit rate at 10", rolling_lines(times, scored, lambda ranks: hits(ranks, 10)), baseline(result)
        ),
        mrr=plots.over_time(
            "MRR at 20", rolling_lines(times, scored, lambda ranks: reciprocal_ranks(ranks, 20)), baseline(result)
        ),
        slices=_slices_table(against_baseline(result)),
        new_items=escaped(new_items_in_words(result)),
        variety=_pairs_table(_variety(result)),
        believed=_believed(result),
        calibration=_calibration(result),
        weights=plots.weights(result.weights),
        costs=_costs_table(microseconds_per_event(result)),
        throughput=plots.throughput(result.throughput),
        counts=_pairs_table(figures["counts"]) + _pairs_table(_refused(result)),
        settings=_pairs_table(result.settings),
    )


def window_of(targets: int) -> int:
    """How many targets a rolling mean is over."""
    return int(np.clip(targets // WINDOWS, 50, 2_000))


def rolling_lines(
    ts: NDArray[np.int64],
    ranks: Mapping[str, NDArray[np.integer]],
    measure: Callable[[NDArray[np.integer]], NDArray[np.float64]],
) -> dict[str, plots.Line]:
    """Per ranker, the rolling mean of a measure of its ranks against the time of the window's last target.

    Args:
        ts: (targets,) ms; `ranks` (targets,) by ranker.
        ranks: see ts.
        measure: (targets,) of ranks.
    """
    lines = {}
    for name, places in ranks.items():
        ends, means = rolling_mean(measure(places), window_of(len(ts)), POINTS)
        lines[name] = plots.Line(ends, means, ts[ends])
    return lines


def _tiles(result: BacktestResult, metrics: Mapping[str, RankingMetrics]) -> str:
    unknown = 1 - result.known[result.scored].mean() if result.scored.any() else 0.0
    rate = result.events / result.seconds if result.seconds > 0 else 0.0
    tiles = [
        ("Recall@10", f"{metrics[FUSED].recall_10:.4f}"),
        ("MRR@20", f"{metrics[FUSED].mrr_20:.4f}"),
        ("Coverage at 10", f"{result.variety.coverage_10:.1%}"),
        ("Targets never seen before", f"{unknown:.1%}"),
        ("Events per second", f"{rate:,.0f}"),
    ]
    if result.peak_memory_mb is not None:
        tiles.append(("Peak memory", f"{result.peak_memory_mb:,.0f} MiB"))
    return "".join(f"<div><dt>{escaped(name)}</dt><dd>{escaped(value)}</dd></div>" for name, value in tiles)


def _metrics_table(metrics: Mapping[str, RankingMetrics]) -> str:
    """One row per ranker, the best of each column in bold."""
    columns = ("recall_10", "recall_20", "mrr_20", "ndcg_10")
    best = {column: max(getattr(m, column) for m in metrics.values()) for column in columns}
    rows = []
    for name, values in metrics.items():
        cells = [(getattr(values, column), best[column]) for column in columns]
        marked = (f'<td class="best">{v:.4f}</td>' if v == top > 0 else f"<td>{v:.4f}</td>" for v, top in cells)
        rows.append(f'<tr><th scope="row">{escaped(name)}</th>{"".join(marked)}</tr>')
    return "".join(rows)


def _slices_table(parts: Mapping[str, Lift]) -> str:
    """One row per slice that has targets: how many, both hit rates, and how far they lie apart; small ones folded."""
    head = "".join(
        f"<th>{name}</th>" for name in ("targets", "number", "share", "slates", "best single list", "ahead by")
    )

    def table(chosen: Mapping[str, Lift]) -> str:
        rows = (
            table_row(
                name,
                [
                    f"{part.targets:,}",
                    f"{part.share:.1%}",
                    f"{part.recall_10:.2%}",
                    f"{part.baseline_recall_10:.2%}",
                    part.words(),
                ],
            )
            for name, part in chosen.items()
        )
        body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
        return f'<div class="scroll"><table class="figures">{body}</table></div>'

    small = {name: part for name, part in parts.items() if 0 < part.targets < FEW}
    large = {name: part for name, part in parts.items() if part.targets >= FEW}
    folded = f"<details><summary>Fewer than {FEW} targets each: too few to tell</summary>{table(small)}</details>"
    return table(large) + (folded if small else "")


def _variety(result: BacktestResult) -> dict[str, str]:
    """Beyond accuracy, in words and numbers."""
    variety = result.variety
    diversity = "no categories known" if variety.diversity_10 is None else f"{variety.diversity_10:.1%}"
    return {
        "Coverage: known items that were shown": f"{variety.coverage_10:.1%}",
        "Gini of exposure: 0 all items alike, 1 one item alone": f"{variety.gini_10:.3f}",
        "Novelty: surprise of a shown item": f"{variety.novelty_10_bits:.1f} bits",
        "Personalisation: what two slates do not share": f"{variety.personalisation_10:.1%}",
        "Diversity: pairs in a slate of different categories": diversity,
    }


def _refused(result: BacktestResult) -> dict[str, object]:
    return {f"refused for {reason}": rows for reason, rows in result.refused.items()}


def _believed(result: BacktestResult) -> str:
    """Whether the click model's probabilities can be, in words."""
    found = result.calibration
    if found is None:
        return "not measured"
    if found.auc < 0.5:
        return "not to be believed, they order items worse than chance"
    return (
        "to be believed" if found.ece <= BELIEVED_ECE else f"off by {found.ece:.2f} on the average, not to be believed"
    )


def _calibration(result: BacktestResult) -> str:
    """The reliability table and what it comes to."""
    found = result.calibration
    if found is None:
        return '<p class="empty">No model gave probabilities, or nothing was scored.</p>'
    rows = [
        table_row(
            f"{place / 10:.1f} to {(place + 1) / 10:.1f}", [f"{b.pairs:,}", f"{b.predicted:.3f}", f"{b.observed:.3f}"]
        )
        for place, b in enumerate(found.bins)
        if b.pairs
    ]
    head = "<tr><th>predicted</th><th>pairs</th><th>mean predicted</th><th>came true</th></tr>"
    return (
        f"<p>Calibration error (ECE) {found.ece:.3f}, AUC {found.auc:.3f}, over {found.pairs:,} pairs.</p>"
        f'<div class="scroll"><table class="figures"><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def _costs_table(steps: Mapping[str, float]) -> str:
    """Microseconds per event: each model's scoring and learning, then every other step."""
    models = [step.removeprefix("learn ") for step in steps if f"score {step.removeprefix('learn ')}" in steps]
    rows = [table_row(name, [f"{steps[f'score {name}']:.1f}", f"{steps[f'learn {name}']:.1f}"]) for name in models]
    told = {f"{way} {name}" for name in models for way in ("score", "learn")}
    rows += [table_row(step, ["", f"{cost:.1f}"]) for step, cost in steps.items() if step not in told]
    return "".join(rows)


def _pairs_table(pairs: object) -> str:
    assert isinstance(pairs, Mapping)
    return "".join(table_row(str(name), [escaped(_words(value))]) for name, value in pairs.items())


def _words(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {_words(member)}" for key, member in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return (
            ", ".join(str(member) for member in (sorted(value) if isinstance(value, set | frozenset) else value))
            or "none"
        )
    return "not set" if value is None else str(value)
