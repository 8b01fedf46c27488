"""Draws the plots of a backtest as inline SVG. Knows nothing of backtests: lines come with a name each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter
from numpy.typing import NDArray

from streamrec.evaluation.plotting import (
    GRID,
    SERIES,
    date_ticks,
    for_screens,
    framed_lines,
    name_ends,
    stroke,
    svg_of,
)

NOTHING = '<p class="empty">Too little was scored to draw this.</p>'
MOST_NAMES = 14
"""Lines that a plot has room to name."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line: places along the scored targets, values, and the time (ms) of each place."""

    places: NDArray[np.int64]
    values: NDArray[np.float64]
    ts: NDArray[np.int64]


def over_time(label: str, lines: Mapping[str, Line], baseline: str | None = None) -> str:
    """Rankers along the log: x counts scored targets, and its ticks say when that was.

    The first line and that of the `baseline` have a colour, and what lies between them is shaded.
    """
    if not any(len(line.values) for line in lines.values()):
        return NOTHING
    first = next(iter(lines))
    second = baseline or next((name for name in lines if name != first), first)
    order = list(dict.fromkeys([first, second, *lines]))
    mine, other = lines[first], lines[second]

    def frame(axes: Axes) -> None:
        for number, name in reversed(list(enumerate(order))):
            axes.plot(lines[name].places, lines[name].values, label=name, **stroke(number))
        if second != first:
            axes.fill_between(mine.places, mine.values, other.values, color=SERIES[0], alpha=0.15, linewidth=0)
        date_ticks(axes, mine.places.tolist(), mine.ts.tolist())
        axes.set_xlabel("time in the log")
        axes.set_ylim(bottom=0)

    above = float((mine.values > other.values).mean())
    seen = (
        f"{label} over time: {first} ends at {mine.values[-1]:.3f}, {second} at {other.values[-1]:.3f}; {first} lies "
        f"above {second} for {above:.0%} of the time. In grey: {', '.join(order[2:]) or 'nothing'}."
    )
    return _drawn(frame, seen)


def weights(samples: Sequence[tuple[int, Mapping[str, float]]]) -> str:
    """The fusion's weights: the two that end largest in colour, all others in grey, the largest of them named."""
    if len(samples) < 2:
        return NOTHING
    last = samples[-1][1]
    names = sorted(
        dict.fromkeys(name for _, weight in samples for name in weight), key=lambda n: (-abs(last.get(n, 0.0)), n)
    )
    at = np.array([events for events, _ in samples])
    unnamed = names[MOST_NAMES:]

    def frame(axes: Axes) -> None:
        axes.axhline(0, color=GRID, linewidth=1)
        for number, name in reversed(list(enumerate(names))):
            values = np.array([weight.get(name, np.nan) for _, weight in samples])
            axes.plot(at, values, label=name if number < MOST_NAMES else "_", **stroke(number))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set_xlabel("events")
        if unnamed:
            smallest = max(abs(last.get(name, 0.0)) for name in unnamed)
            axes.set_title(
                f"{len(unnamed)} more, between ±{smallest:.2g} at the end, have no name here", fontsize=9, loc="left"
            )

    largest = ", ".join(f"{name} {last.get(name, 0.0):+.2f}" for name in names[:MOST_NAMES])
    return _drawn(frame, f"Weights of the fusion over the run; at the end, the largest first: {largest}.")


def throughput(samples: Sequence[tuple[int, float]]) -> str:
    """Events per second between samples."""
    events = np.array([0, *(count for count, _ in samples)], np.float64)
    seconds = np.array([0.0, *(elapsed for _, elapsed in samples)])
    moved = np.diff(seconds) > 0
    if moved.sum() < 2:
        return NOTHING
    rates = np.diff(events)[moved] / np.diff(seconds)[moved]

    def frame(axes: Axes) -> None:
        axes.plot(events[1:][moved], rates, label="_", **stroke(0))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(EngFormatter(sep=""))
        axes.set_ylim(bottom=0)
        axes.set_xlabel("events")

    middle = float(np.median(rates))
    return _drawn(frame, f"Events per second over the run: median {middle:,.0f}, least {rates.min():,.0f}.")


def _drawn(frame: Callable[[Axes], None], seen: str) -> str:
    def draw(width_in: float) -> str:
        figure, axes = framed_lines(width_in)
        frame(axes)
        name_ends(axes)
        return svg_of(figure, seen)

    return for_screens(draw)
