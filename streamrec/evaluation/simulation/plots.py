"""Draws curves with an interval around each, as inline SVG in the page's own colours. Knows nothing of contests."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.ticker import EngFormatter, MaxNLocator

from streamrec.evaluation.plotting import INK, MARK, add_key, framed_lines, shade, stroke, svg_of
from streamrec.evaluation.simulation.standings import IntervalCurve


def curves_plot(label: str, curves: Mapping[str, IntervalCurve], marked: int | None = None) -> str:
    """Lines over the number of requests, the first one thicker; `marked` requests are marked by an upright line."""
    figure, axes = framed_lines(label, height_in=4.2)
    figure.subplots_adjust(right=0.78, bottom=0.14)  # contenders have long names
    for number, (name, interval_curve) in enumerate(curves.items()):
        axes.plot(interval_curve.at, interval_curve.mean, label=name, **stroke(number))
        axes.fill_between(interval_curve.at, interval_curve.low, interval_curve.high, **shade(number))
    if marked is not None:
        axes.axvline(marked, color=INK, linewidth=1, linestyle=MARK)
    axes.set_xlabel("requests")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.yaxis.set_major_locator(MaxNLocator(6))
    add_key(axes)
    return svg_of(figure, f"{label} over time: {', '.join(curves)}")
