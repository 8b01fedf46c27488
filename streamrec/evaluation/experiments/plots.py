"""Draws an experiment: each arm's confidence sequence over time, and the preference between interleaved policies.

Knows nothing of how they were computed.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from streamrec.evaluation.experiments.arms import Experiment, IntervalsOverTime
from streamrec.evaluation.experiments.interleaving import InterleavingResult
from streamrec.evaluation.plotting import (
    EMPTY,
    INK,
    add_key,
    date_ticks,
    framed_lines,
    shade,
    standalone,
    stroke,
    svg_of,
)

POINTS = 400
"""Of a line in a plot."""


def pictures(experiment: Experiment, interleaving: InterleavingResult | None) -> Mapping[str, str]:
    """SVG files by name: the sequences over time."""
    drawn = {}
    if any(arm.users for arm in experiment.arms):
        drawn["arms.svg"] = sequences("reward per slate", {arm.name: arm.trace for arm in experiment.arms})
    if interleaving is not None:
        drawn["interleaving.svg"] = sequences(
            f"preference over {interleaving.second}", {interleaving.first: interleaving.trace}, level=0.5
        )
    return drawn


def sequences(label: str, traces: Mapping[str, IntervalsOverTime], level: float | None = None) -> str:
    """Means with their intervals over time, as an SVG file; `level` is a line to compare them with."""
    drawn = {name: _thinned(trace) for name, trace in traces.items() if len(trace.ts)}
    if not drawn:
        return EMPTY
    figure, axes = framed_lines(label)
    for number, (name, trace) in enumerate(drawn.items()):
        axes.plot(trace.ts, trace.mean, label=name, **stroke(number))
        axes.fill_between(trace.ts, trace.lower, trace.upper, **shade(number))
    if level is not None:
        axes.axhline(level, color=INK, linewidth=1)
    known = [np.isfinite(trace.lower) & (np.arange(len(trace.ts)) >= len(trace.ts) // 5) for trace in drawn.values()]
    framed = [(trace.lower[at], trace.upper[at]) for trace, at in zip(drawn.values(), known, strict=True) if at.any()]
    low = min((float(np.quantile(lower, 0.1)) for lower, _ in framed), default=0.0)
    high = max((float(np.quantile(upper, 0.9)) for _, upper in framed), default=0.0)
    if low < high:  # the first intervals span everything: they may leave the frame
        axes.set_ylim(low - 0.1 * (high - low), high + 0.1 * (high - low))
    first, last = min(int(trace.ts[0]) for trace in drawn.values()), max(int(trace.ts[-1]) for trace in drawn.values())
    at = np.unique(np.linspace(first, last, 6).round().astype(np.int64)).tolist()
    date_ticks(axes, at, at)
    axes.set_xlabel("time")
    add_key(axes)
    return standalone(svg_of(figure, f"{label} over time, with intervals: {', '.join(drawn)}"))


def _thinned(trace: IntervalsOverTime) -> IntervalsOverTime:
    at = np.unique(np.linspace(0, len(trace.ts) - 1, POINTS).round().astype(int))
    return IntervalsOverTime(trace.ts[at], trace.mean[at], trace.lower[at], trace.upper[at])
