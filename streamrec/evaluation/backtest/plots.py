"""Draws the plots of a backtest as inline SVG. Knows nothing of backtests: lines come with a name each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter
from numpy.typing import NDArray

from streamrec.evaluation.plotting import GRID, INK, MARK, SERIES, add_key, date_ticks, framed_lines, stroke, svg_of

BASELINE = "popularity"
NOTHING = '<p class="empty">Too little was scored to draw this.</p>'


@dataclass(frozen=True, slots=True)
class Line:
    """One line: places along the scored targets, values, and the time (ms) of each place."""

    places: NDArray[np.int64]
    values: NDArray[np.float64]
    ts: NDArray[np.int64]


def over_time(label: str, lines: Mapping[str, Line]) -> str:
    """Rankers compared along the log: x counts scored targets, and its ticks say when that was."""
    if not any(len(line.values) for line in lines.values()):
        return NOTHING
    figure, axes = framed_lines(label)
    for number, (name, line) in enumerate(lines.items()):
        _draw(axes, number, name, line.places, line.values)
    first = next(iter(lines.values()))
    at = np.unique(np.linspace(0, len(first.places) - 1, 6).round().astype(int))
    date_ticks(axes, first.places[at].tolist(), first.ts[at].tolist())
    axes.set_xlabel("time in the log (equal steps are equal numbers of targets)")
    axes.set_ylim(bottom=0)
    add_key(axes)
    return svg_of(figure, f"{label} over time: {', '.join(lines)}")


def weights(samples: Sequence[tuple[int, Mapping[str, float]]], rankers: Sequence[str] = ()) -> str:
    """The fusion's weights, the largest if they are many; `rankers` keep the colours they have in other plots."""
    if len(samples) < 2:
        return NOTHING
    names = list(dict.fromkeys(name for _, weight in samples for name in weight))
    largest = {name: max(abs(weight.get(name, 0.0)) for _, weight in samples) for name in names}
    shown = sorted(names, key=lambda name: (-largest[name], name))[: len(SERIES)]
    figure, axes = framed_lines("weight")
    at = np.array([events for events, _ in samples])
    places = {name: number for number, name in enumerate(dict.fromkeys([*(rankers or ("",)), *shown]))}
    for name in sorted(shown, key=lambda name: places[name]):
        _draw(axes, places[name], name, at, np.array([weight.get(name, np.nan) for _, weight in samples]))
    axes.axhline(0, color=GRID, linewidth=1)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlabel("events")
    add_key(axes)
    return svg_of(figure, f"Fusion weights over time: {', '.join(shown)}")


def throughput(samples: Sequence[tuple[int, float]]) -> str:
    """Events per second between samples."""
    events = np.array([0, *(count for count, _ in samples)], np.float64)
    seconds = np.array([0.0, *(elapsed for _, elapsed in samples)])
    moved = np.diff(seconds) > 0
    if moved.sum() < 2:
        return NOTHING
    figure, axes = framed_lines("events per second")
    _draw(axes, 0, "throughput", events[1:][moved].astype(np.int64), np.diff(events)[moved] / np.diff(seconds)[moved])
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("events")
    return svg_of(figure, "Events per second over the run")


def _draw(axes: Axes, number: int, name: str, x: NDArray[np.int64], y: NDArray[np.float64]) -> None:
    """The baseline is drawn in the colour of the text."""
    baseline = {"color": INK, "linestyle": MARK} if name == BASELINE else {}
    axes.plot(x, y, label=name, **(stroke(number) | baseline))
