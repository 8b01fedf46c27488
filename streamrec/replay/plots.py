"""Draws the plots of a backtest as inline SVG whose colours are the page's own, so that they suit light and dark.

Knows nothing of backtests: lines come with a name each. Equal lines give equal bytes.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FixedLocator, MaxNLocator
from numpy.typing import NDArray

INK, GRID = "#010203", "#040506"
SERIES = tuple(f"#0a0b{n:02x}" for n in range(1, 9))
"""Stand-ins, replaced in the finished SVG by the style sheet's variables."""
ON_WHITE = {
    "--series-1": "#0b62c4",
    "--series-2": "#c2500a",
    "--series-3": "#16803c",
    "--series-4": "#a3279b",
    "--series-5": "#8a6d00",
    "--series-6": "#0b8190",
    "--series-7": "#cc2a49",
    "--series-8": "#5b50c7",
    "--ink": "#22262b",
    "--grid": "#d9dde1",
}
"""What the page's variables are on white paper, for plots that stand alone."""
DASHES: tuple[str | tuple[int, tuple[float, ...]], ...] = ("-", (0, (5, 2)), (0, (1.2, 1.8)), (0, (6, 2, 1.2, 2)))
"""Beside its colour, each line has its own dash: nobody has to tell colours apart."""
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
    figure, axes = _axes(label)
    for number, (name, line) in enumerate(lines.items()):
        _draw(axes, number, name, line.places, line.values)
    first = next(iter(lines.values()))
    at = np.unique(np.linspace(0, len(first.places) - 1, 6).round().astype(int))
    axes.xaxis.set_major_locator(FixedLocator(first.places[at].tolist()))
    span_ms = int(first.ts[-1] - first.ts[0])
    axes.set_xticklabels([_when(int(first.ts[n]), span_ms) for n in at])
    axes.set_xlabel("time in the log (equal steps are equal numbers of targets)")
    axes.set_ylim(bottom=0)
    return _svg(figure, axes, f"{label} over time: {', '.join(lines)}")


def weights(samples: Sequence[tuple[int, Mapping[str, float]]], rankers: Sequence[str] = ()) -> str:
    """The fusion's weights, those that mattered most if they are many; `rankers` keep their colours of other plots."""
    if len(samples) < 2:
        return NOTHING
    names = list(dict.fromkeys(name for _, weight in samples for name in weight))
    largest = {name: max(abs(weight.get(name, 0.0)) for _, weight in samples) for name in names}
    shown = sorted(names, key=lambda name: (-largest[name], name))[: len(SERIES)]
    figure, axes = _axes("weight")
    at = np.array([events for events, _ in samples])
    places = {name: number for number, name in enumerate(dict.fromkeys([*(rankers or ("",)), *shown]))}
    for name in sorted(shown, key=lambda name: places[name]):
        _draw(axes, places[name], name, at, np.array([weight.get(name, np.nan) for _, weight in samples]))
    axes.axhline(0, color=GRID, linewidth=1)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlabel("events")
    return _svg(figure, axes, f"Fusion weights over time: {', '.join(shown)}")


def throughput(samples: Sequence[tuple[int, float]]) -> str:
    """Events per second between samples."""
    events = np.array([0, *(count for count, _ in samples)], np.float64)
    seconds = np.array([0.0, *(elapsed for _, elapsed in samples)])
    moved = np.diff(seconds) > 0
    if moved.sum() < 2:
        return NOTHING
    figure, axes = _axes("events per second")
    _draw(axes, 0, "throughput", events[1:][moved].astype(np.int64), np.diff(events)[moved] / np.diff(seconds)[moved])
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("events")
    return _svg(figure, axes, "Events per second over the run", legend=False)


def standalone(svg: str) -> str:
    """A plot as a file of its own: on white, in the page's colours for light surroundings."""
    if svg == NOTHING:
        return '<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>\n'
    for variable, colour in ON_WHITE.items():
        svg = svg.replace(f"var({variable})", colour)
    return svg.replace("<svg", '<svg style="background: #ffffff; font-family: sans-serif"', 1)


def _axes(label: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(9.6, 3.6))
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    figure.subplots_adjust(left=0.08, right=0.8, top=0.97, bottom=0.17)
    axes.set_ylabel(label)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, colors=INK)
    axes.tick_params(axis="x", pad=7)
    for label_ in (axes.xaxis.label, axes.yaxis.label):
        label_.set_color(INK)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.margins(x=0.01)
    return figure, axes


def _draw(axes: Axes, number: int, name: str, x: NDArray[np.int64], y: NDArray[np.float64]) -> None:
    """The first line is the one to look at: thicker. The baseline is drawn in the colour of the text."""
    colour = INK if name == BASELINE else SERIES[number % len(SERIES)]
    dash = (0, (2, 2)) if name == BASELINE else DASHES[number % len(DASHES)]
    axes.plot(x, y, color=colour, linestyle=dash, linewidth=2.6 if number == 0 else 1.6, label=name)


def _when(ts_ms: int, span_ms: int) -> str:
    """A tick's words, as exact as the log is long."""
    when = datetime.fromtimestamp(ts_ms / 1000, UTC)
    if span_ms < 3 * 24 * 3_600_000:
        return f"{when:%d %b %H:%M}"
    return f"{when:%d %b}" if span_ms < 300 * 24 * 3_600_000 else f"{when:%b %Y}"


def _svg(figure: Figure, axes: Axes, description: str, legend: bool = True) -> str:
    if legend:
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, labelcolor=INK, handlelength=3)
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": description, "font.size": 10}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    for number, stand_in in enumerate(SERIES, start=1):
        text = text.replace(stand_in, f"var(--series-{number})")
    text = text.replace(INK, "var(--ink)").replace(GRID, "var(--grid)")
    return _described(text[text.index("<svg") :], description)


def _described(svg: str, description: str) -> str:
    """The picture as a figure that a screen reader can name."""
    words = description.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    return svg.replace("<svg", f'<svg role="img" aria-label="{words}"', 1)
