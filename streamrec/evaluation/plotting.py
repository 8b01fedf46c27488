"""The one style of all plots: frames, strokes and keys for matplotlib, and the SVG that is written of them.

A plot is drawn in stand-ins for the page's own colours, so that it suits light and dark. Equal drawings give equal
bytes. Knows nothing of what is drawn.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator

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
MARK = (0, (2, 2))
"""The dash of what is no series: a level, a moment, a baseline."""
EMPTY = '<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>\n'
"""The picture of nothing."""
FONTS_DIFFER = 1.15
"""So much wider may the page's own font be than the one that a plot is measured in."""
DAY_MS = 24 * 3_600_000


def framed(width_in: float, height_in: float, *, grid: Literal["x", "y"] = "y") -> tuple[Figure, Axes]:
    """A figure with one pair of axes: a bottom line, and a grid across the named axis."""
    figure = Figure(figsize=(width_in, height_in))
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    axes.grid(axis=grid, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, colors=INK)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(INK)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    return figure, axes


def framed_lines(label: str, height_in: float = 3.6) -> tuple[Figure, Axes]:
    """A wide frame for lines, with room for a key of short names at its right; see `add_key`."""
    figure, axes = framed(9.6, height_in)
    figure.subplots_adjust(left=0.08, right=0.8, top=0.97, bottom=0.17)
    axes.set_ylabel(label)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.tick_params(axis="x", pad=7)
    axes.margins(x=0.01)
    return figure, axes


def stroke(number: int) -> dict[str, Any]:
    """How line `number` is drawn: the first thicker, being the one to look at, and no two of 32 alike.

    Beside its colour, each line has its own dash, for those who cannot tell colours apart.
    """
    dash = DASHES[(number // len(SERIES) + number) % len(DASHES)]
    return {"color": series(number), "linestyle": dash, "linewidth": 2.6 if number == 0 else 1.6}


def shade(number: int) -> dict[str, Any]:
    """How the area around line `number` is filled."""
    return {"color": series(number), "alpha": 0.15, "linewidth": 0}


def series(number: int) -> str:
    """The colour of line `number`."""
    return SERIES[number % len(SERIES)]


def add_key(axes: Axes) -> None:
    """Name the lines at the right of their frame, which gives them the room that the longest name takes."""
    legend = axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, labelcolor=INK, handlelength=3)
    figure = legend.get_figure(root=True)
    assert figure is not None
    width = legend.get_window_extent().width / figure.bbox.width
    right = min(figure.subplotpars.right, 1.0 - FONTS_DIFFER * width - 0.01)
    figure.subplots_adjust(right=right)


def date_ticks(axes: Axes, places: Sequence[float], ts_ms: Sequence[int]) -> None:
    """Say at places of the x axis which time they stand for, as exactly as the times are far apart."""
    span_ms = ts_ms[-1] - ts_ms[0]
    words = "%d %b %H:%M" if span_ms < 3 * DAY_MS else "%d %b" if span_ms < 300 * DAY_MS else "%b %Y"
    axes.xaxis.set_major_locator(FixedLocator(list(places)))
    axes.set_xticklabels([datetime.fromtimestamp(ts / 1000, UTC).strftime(words) for ts in ts_ms])


def svg_of(figure: Figure, description: str) -> str:
    """The figure for a page, in the page's colours; a screen reader names it by its description."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": description, "font.size": 10}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    for number, stand_in in enumerate(SERIES, start=1):
        text = text.replace(stand_in, f"var(--series-{number})")
    text = text.replace(INK, "var(--ink)").replace(GRID, "var(--grid)")
    words = description.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    return text[text.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{words}"', 1)


def standalone(svg: str) -> str:
    """A plot as a file of its own: on white, in the page's colours for light surroundings; words become EMPTY."""
    if not svg.startswith("<svg"):
        return EMPTY
    for variable, colour in ON_WHITE.items():
        svg = svg.replace(f"var({variable})", colour)
    return svg.replace("<svg", '<svg style="background: #ffffff; font-family: sans-serif"', 1)
