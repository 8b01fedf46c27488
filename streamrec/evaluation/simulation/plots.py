"""Draws curves, the first with the interval around it, as inline SVG in the page's own colours. Knows nothing of
contests.
"""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.ticker import EngFormatter

from streamrec.evaluation.plotting import INK, MARK, SERIES, for_screens, framed_lines, name_ends, stroke, svg_of
from streamrec.evaluation.simulation.standings import IntervalCurve


def curves_plot(label: str, curves: Mapping[str, IntervalCurve], marked: int | None = None) -> str:
    """Lines over the number of requests, the first one thicker; `marked` requests are marked by an upright line."""
    ends = ", ".join(f"{name} {curve.mean[-1]:.3f}" for name, curve in curves.items())

    def draw(width_in: float) -> str:
        figure, axes = framed_lines(width_in)
        for number, (name, curve) in reversed(list(enumerate(curves.items()))):
            axes.plot(curve.at, curve.mean, label=name, **stroke(number))
            if number == 0:
                axes.fill_between(curve.at, curve.low, curve.high, color=SERIES[0], alpha=0.15, linewidth=0)
        if marked is not None:
            axes.axvline(marked, color=INK, linewidth=1, linestyle=MARK, label="_")
        axes.set_xlabel("requests")
        # Of few seeds, intervals leave the frame.
        axes.set_ylim(0, 1.15 * max(float(curve.mean.max()) for curve in curves.values()))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        name_ends(axes)
        return svg_of(figure, f"{label} over time; at the end: {ends}")

    return for_screens(draw)
