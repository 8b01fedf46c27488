"""Writes what a backtest found: `report.json` for programs, and `report.html`, one page that needs nothing else.

Every metric of the fused slate and of the models can be recomputed from `slates.parquet`.
Knows nothing of models or logs: they are names and arrays.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from string import Template

import numpy as np
from numpy.typing import NDArray

from streamrec.replay import plots
from streamrec.replay.metrics import (
    RankingMetrics,
    coverage,
    hits,
    ranking_metrics,
    reciprocal_ranks,
    rolling_mean,
)

FUSED = "fused"
POPULARITY = "popularity"
WINDOWS = 20
"""The rolling window is the scored targets over this, between 50 and 2,000: short enough to see a drift, long enough to
see through the noise of single hits."""
POINTS = 240


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
    recommended_items: int
    """Distinct items in the first ten places of the fused slates of scored targets."""
    known_items: int
    """Distinct items the log had shown by its end."""
    events: int
    """Events handled, whether ranked or not."""
    seconds: float
    """How long handling them took, reading the log included."""
    weights: Sequence[tuple[int, Mapping[str, float]]] = ()
    """Samples of the fusion's mean weights: events handled so far, and feature to weight."""
    throughput: Sequence[tuple[int, float]] = ()
    """Samples of progress: events handled so far, and seconds since the start."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Whatever else was counted: rows left out, late events, bad messages."""
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
            "recommended_items": result.recommended_items,
            **result.counts,
        },
        "unknown_target_share": float(1 - result.known[scored].mean()) if scored.any() else 0.0,
        "coverage_10": coverage(result.recommended_items, result.known_items),
        "metrics": {name: metrics.as_dict() for name, metrics in _all_metrics(result, scored).items()},
        "metrics_of_known_targets": {
            name: metrics.as_dict() for name, metrics in _all_metrics(result, scored & result.known).items()
        },
        "seconds": result.seconds,
        "events_per_s": result.events / result.seconds if result.seconds > 0 else 0.0,
        "peak_memory_mb": result.peak_memory_mb,
    }


def write_report(directory: Path, result: BacktestResult) -> Path:
    """Write `report.json` and `report.html` into `directory`, which is made if need be; returns the page's path.

    Raises:
        ValueError: arrays differ in length, or a rank is not in 0 to 20.
        OSError: the directory cannot be written.
    """
    figures = report_figures(result)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "report.json").write_text(json.dumps(figures, indent=2, ensure_ascii=False, default=_plain) + "\n")
    page = directory / "report.html"
    page.write_text(_page(result, figures), encoding="utf-8")
    return page


def _plain(value: object) -> object:
    """What JSON has no word for: sets in a fixed order, anything else as its text."""
    return sorted(map(str, value)) if isinstance(value, set | frozenset) else str(value)


def _all_metrics(result: BacktestResult, scored: NDArray[np.bool_]) -> dict[str, RankingMetrics]:
    return {name: ranking_metrics(ranks, scored) for name, ranks in _rankers(result).items()}


def _rankers(result: BacktestResult) -> dict[str, NDArray[np.integer]]:
    """The fused slate first, popularity last: the order of tables and plots."""
    alone = {name: ranks for name, ranks in result.model_ranks.items() if name != POPULARITY}
    last = {name: ranks for name, ranks in result.model_ranks.items() if name == POPULARITY}
    return {FUSED: result.ranks} | alone | last


def _page(result: BacktestResult, figures: Mapping[str, object]) -> str:
    whole = _all_metrics(result, result.scored)
    known = _all_metrics(result, result.scored & result.known)
    window = int(np.clip(result.scored.sum() // WINDOWS, 50, 2_000))
    template = Template((Path(__file__).parent / "report_page.html").read_text(encoding="utf-8"))
    return template.substitute(
        log=escape(result.log),
        summary=_summary(result, whole),
        tiles=_tiles(result, whole),
        metrics=_metrics_table(whole),
        known_metrics=_metrics_table(known),
        window=f"{window:,}",
        hit_rate=plots.over_time("Hit rate at 10", _rolling(result, window, "hits")),
        mrr=plots.over_time("MRR at 20", _rolling(result, window, "mrr")),
        weights=plots.weights(result.weights, list(whole)),
        throughput=plots.throughput(result.throughput),
        counts=_pairs_table(figures["counts"]),
        settings=_pairs_table(result.settings),
    )


def _rolling(result: BacktestResult, window: int, what: str) -> dict[str, plots.Line]:
    """Per ranker, the rolling mean against the time of the window's last target."""
    times = result.ts[result.scored]
    lines = {}
    for name, ranks in _rankers(result).items():
        scored = ranks[result.scored]
        values = hits(scored, 10) if what == "hits" else reciprocal_ranks(scored, 20)
        ends, means = rolling_mean(values, window, POINTS)
        lines[name] = plots.Line(ends, means, times[ends])
    return lines


def _summary(result: BacktestResult, metrics: Mapping[str, RankingMetrics]) -> str:
    fused = metrics[FUSED]
    if not fused.targets:
        return "Nothing was scored: the log ended within the warm-up, or held no event that counts as interest."
    text = (
        f"Of {fused.targets:,} things that users went on to do, {fused.recall_10:.1%} were among the first ten "
        f"recommended to them a moment before"
    )
    if POPULARITY in metrics:
        text += f"; recommending what is popular right now would have found {metrics[POPULARITY].recall_10:.1%}"
    return escape(text + ".")


def _tiles(result: BacktestResult, metrics: Mapping[str, RankingMetrics]) -> str:
    unknown = 1 - result.known[result.scored].mean() if result.scored.any() else 0.0
    rate = result.events / result.seconds if result.seconds > 0 else 0.0
    tiles = [
        ("Recall@10", f"{metrics[FUSED].recall_10:.4f}"),
        ("MRR@20", f"{metrics[FUSED].mrr_20:.4f}"),
        ("Coverage at 10", f"{coverage(result.recommended_items, result.known_items):.1%}"),
        ("Targets never seen before", f"{unknown:.1%}"),
        ("Events per second", f"{rate:,.0f}"),
    ]
    if result.peak_memory_mb is not None:
        tiles.append(("Peak memory", f"{result.peak_memory_mb:,.0f} MiB"))
    return "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in tiles)


def _metrics_table(metrics: Mapping[str, RankingMetrics]) -> str:
    """One row per ranker, the best of each column in bold."""
    columns = ("recall_10", "recall_20", "mrr_20", "ndcg_10")
    best = {column: max(getattr(m, column) for m in metrics.values()) for column in columns}
    rows = []
    for name, values in metrics.items():
        cells = [(getattr(values, column), best[column]) for column in columns]
        marked = (f'<td class="best">{v:.4f}</td>' if v == top > 0 else f"<td>{v:.4f}</td>" for v, top in cells)
        rows.append(f'<tr><th scope="row">{escape(name)}</th>{"".join(marked)}</tr>')
    return "".join(rows)


def _pairs_table(pairs: object) -> str:
    assert isinstance(pairs, Mapping)
    return "".join(
        f'<tr><th scope="row">{escape(str(k))}</th><td>{escape(_words(v))}</td></tr>' for k, v in pairs.items()
    )


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
