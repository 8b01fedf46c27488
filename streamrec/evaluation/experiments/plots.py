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
    SERIES,
    date_ticks,
    for_screens,
    framed_lines,
    name_ends,
    stroke,
    svg_of,
)

POINTS = 400
"""Of a line in a plot."""


def pictures(experiment: Experiment, interleaving: InterleavingResult | None) -> Mapping[str, str]:
    """SVG for pages, by the names of files: the sequences over time.

    The arm with the largest mean beside the control, and the control, have a colour and their intervals.
    """
    drawn = {}
    if any(arm.users for arm in experiment.arms):
        control, *others = experiment.arms
        others.sort(key=lambda arm: -np.nan_to_num(arm.reward.mean))
        arms = [*others[:1], control, *others[1:]]
        drawn["arms.svg"] = sequences("reward per slate, capped", {arm.name: arm.trace for arm in arms})
    if interleaving is not None:
        drawn["interleaving.svg"] = sequences(
            f"preference over {interleaving.second}", {interleaving.first: interleaving.trace}, level=0.5
        )
    return drawn


def sequences(label: str, traces: Mapping[str, IntervalsOverTime], level: float | None = None) -> str:
    """Means over time, the first two with their intervals; `level` is a line to compare them with."""
    drawn = {name: _thinned(trace) for name, trace in traces.items() if len(trace.ts)}
    if not drawn:
        return EMPTY
    known = [np.isfinite(trace.lower) & (np.arange(len(trace.ts)) >= len(trace.ts) // 5) for trace in drawn.values()]
    framed = [(trace.lower[at], trace.upper[at]) for trace, at in zip(drawn.values(), known, strict=True) if at.any()]
    low = min((float(np.quantile(lower, 0.1)) for lower, _ in framed), default=0.0)
    high = max((float(np.quantile(upper, 0.9)) for _, upper in framed), default=0.0)
    first, last = min(int(trace.ts[0]) for trace in drawn.values()), max(int(trace.ts[-1]) for trace in drawn.values())
    ticks = np.linspace(first, last, 60).round().astype(np.int64).tolist()
    ends = ", ".join(
        f"{name} ends at {trace.mean[-1]:.3f} ({trace.lower[-1]:.3f} to {trace.upper[-1]:.3f})"
        for name, trace in drawn.items()
    )

    def draw(width_in: float) -> str:
        figure, axes = framed_lines(width_in)
        for number, (name, trace) in enumerate(drawn.items()):
            axes.plot(trace.ts, trace.mean, label=name, **stroke(number))
            if number < len(SERIES):
                axes.fill_between(trace.ts, trace.lower, trace.upper, color=SERIES[number], alpha=0.15, linewidth=0)
        if level is not None:
            axes.axhline(level, color=INK, linewidth=1)
        if low < high:  # the first intervals span everything: they may leave the frame
            axes.set_ylim(low - 0.1 * (high - low), high + 0.1 * (high - low))
        date_ticks(axes, ticks, ticks)
        axes.set_xlabel("time")
        name_ends(axes)
        return svg_of(figure, f"{label} over time: {ends}")

    return for_screens(draw)


def _thinned(trace: IntervalsOverTime) -> IntervalsOverTime:
    at = np.unique(np.linspace(0, len(trace.ts) - 1, POINTS).round().astype(int))
    return IntervalsOverTime(trace.ts[at], trace.mean[at], trace.lower[at], trace.upper[at])
