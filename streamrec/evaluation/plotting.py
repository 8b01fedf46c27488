"""The one style of all plots: frames, strokes and names for matplotlib, and the SVG that is written of them.

Two lines have a colour, blue and vermilion, which those who see no red or no green tell apart too (Okabe and Ito: Color
universal design, 2008); all others are grey, and each is named at its end. A plot is drawn in stand-ins for the page's
own colours, so that it suits light and dark, and once for a phone. Equal drawings give equal bytes. Knows nothing of
what is drawn.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator

INK, QUIET, GRID = "#010203", "#010204", "#040506"
SERIES = ("#0a0b01", "#0a0b02")
"""Stand-ins, replaced in the finished SVG by the style sheet's variables."""
ON_WHITE = {
    "--series-1": "#0072b2",
    "--series-2": "#d55e00",
    "--ink": "#22262b",
    "--quiet": "#5a626b",
    "--grid": "#d9dde1",
}
"""What the page's variables are on white paper, for plots that stand alone."""
WIDE_IN, NARROW_IN = 9.6, 4.6
"""Widths of a plot: on a screen, and on a phone, where it is shown in about its own size."""
FONT_PT = 11
LINE_PT = 1.25 * FONT_PT
"""From name to name."""
MARK = (0, (2, 2))
"""The dash of what is no series: a level, a moment, a baseline."""
EMPTY = '<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>\n'
"""The picture of nothing."""
FONTS_DIFFER = 1.15
"""So much wider may the page's own font be than the one that a plot is measured in."""
DAY_MS = 24 * 3_600_000


def framed(width_in: float, height_in: float, *, grid: Literal["x", "y"] = "y") -> tuple[Figure, Axes]:
    """A figure with one pair of axes: a bottom line, and a grid across the named axis."""
    figure = Figure(figsize=(width_in, height_in), dpi=72)  # as it is saved: what is measured is in points
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    axes.grid(axis=grid, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, colors=INK, labelsize=FONT_PT)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(INK)
        label.set_fontsize(FONT_PT)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    return figure, axes


def framed_lines(width_in: float, height_in: float = 3.6) -> tuple[Figure, Axes]:
    """A frame for lines, with room for names at its right; see `name_ends`."""
    figure, axes = framed(width_in, height_in)
    figure.subplots_adjust(left=0.65 / width_in, right=0.98, top=1 - 0.15 / height_in, bottom=0.62 / height_in)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.tick_params(axis="x", pad=7)
    axes.margins(x=0.01)
    return figure, axes


def stroke(number: int) -> dict[str, Any]:
    """How line `number` is drawn: the first thick and the second dashed, in a colour each; all others thin and grey."""
    if number >= len(SERIES):
        return {"color": QUIET, "linewidth": 0.9, "alpha": 0.65}
    return {
        "color": SERIES[number],
        "linestyle": ("-", (0, (5, 2)))[number],
        "linewidth": (2.6, 1.8)[number],
        "zorder": 3,
    }


def name_ends(axes: Axes, most_letters: int = 60) -> None:
    """Name each line at its end, one below the other, and give the names the room that the longest takes.

    On a phone names of more than 22 letters are cut.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    width_in = figure.get_figwidth()
    most = 22 if width_in < WIDE_IN else most_letters
    axes.autoscale_view()
    ends = []
    for line in axes.get_lines():
        values = np.asarray(line.get_ydata(), np.float64)
        values = values[np.isfinite(values)]
        if not str(line.get_label()).startswith("_") and len(values):
            ends.append((float(axes.transData.transform((0, values[-1]))[1]), line))
    ends.sort(key=lambda end: end[0])
    box = axes.get_window_extent().frozen()
    places = _apart([height for height, _ in ends], LINE_PT, box.y0, box.y1)
    longest_pt = 0.0
    for place, (_, line) in zip(places, ends, strict=True):
        name = str(line.get_label())
        name = name if len(name) <= most else name[: most - 1] + "…"
        text = axes.annotate(
            name,
            (1.0, (place - box.y0) / box.height),
            (6, 0),
            xycoords="axes fraction",
            textcoords="offset points",
            va="center",
            color=line.get_color(),
            fontsize=FONT_PT,
            fontweight="bold" if line.get_color() == SERIES[0] else "normal",
            annotation_clip=False,
        )
        longest_pt = max(longest_pt, text.get_window_extent().width)
    room_in = (FONTS_DIFFER * longest_pt + 10) / 72
    figure.subplots_adjust(right=max(0.35, 1 - room_in / width_in))


def _apart(heights: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Rising heights, moved so little that each is `gap` above the one below, and in the frame if that is possible."""
    places: list[float] = []
    for height in heights:
        places.append(max(height, low, places[-1] + gap if places else low))
    ceiling = high
    for at in reversed(range(len(places))):
        places[at] = min(places[at], ceiling)
        ceiling = places[at] - gap
    return places


def date_ticks(axes: Axes, places: Sequence[float], ts_ms: Sequence[int]) -> None:
    """Say at some places of the x axis which time they stand for, as exactly as the times are far apart."""
    span_ms = ts_ms[-1] - ts_ms[0]
    words = "%d %b %H:%M" if span_ms < 3 * DAY_MS else "%d %b" if span_ms < 300 * DAY_MS else "%b %Y"
    figure = axes.get_figure(root=True)
    wide = figure is not None and figure.get_figwidth() >= WIDE_IN
    count = (6 if wide else 3) - ("%H" in words)
    at = np.unique(np.linspace(0, len(places) - 1, count).round().astype(int)).tolist()
    axes.xaxis.set_major_locator(FixedLocator([places[n] for n in at]))
    axes.set_xticklabels([datetime.fromtimestamp(ts_ms[n] / 1000, UTC).strftime(words) for n in at])
    labels = axes.get_xticklabels()
    labels[0].set_horizontalalignment("left")  # both within the frame
    labels[-1].set_horizontalalignment("right" if len(labels) > 1 else "left")


def for_screens(draw: Callable[[float], str]) -> str:
    """What a function draws at a width in inches, for wide screens and for narrow ones; the page shows one of both."""
    wide = draw(WIDE_IN)
    if not wide.startswith("<svg"):
        return wide
    narrow = draw(NARROW_IN)
    return wide.replace("<svg", '<svg class="wide"', 1) + narrow.replace("<svg", '<svg class="narrow"', 1)


def svg_of(figure: Figure, description: str) -> str:
    """The figure for a page, in the page's colours; the description says what is seen to those who do not see it."""
    buffer = io.StringIO()
    salt = f"{description} {figure.get_figwidth()}"
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    for number, stand_in in enumerate(SERIES, start=1):
        text = text.replace(stand_in, f"var(--series-{number})")
    text = text.replace(INK, "var(--ink)").replace(QUIET, "var(--quiet)").replace(GRID, "var(--grid)")
    words = description.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    return text[text.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{words}"', 1)


def standalone(svg: str) -> str:
    """A plot as a file of its own: wide, on white, in the page's colours for light surroundings; words become EMPTY."""
    if not svg.startswith("<svg"):
        return EMPTY
    svg = svg[: svg.index("</svg>") + len("</svg>\n")].replace(' class="wide"', "", 1)
    for variable, colour in ON_WHITE.items():
        svg = svg.replace(f"var({variable})", colour)
    return svg.replace("<svg", '<svg style="background: #ffffff; font-family: sans-serif"', 1)
