"""Plots of an evaluation: each estimator's interval beside the logging policy's value, and a histogram of the weights.

Equal evaluations give equal bytes.
"""

from __future__ import annotations

import numpy as np

from streamrec.evaluation.ope.estimators import TITLES
from streamrec.evaluation.ope.evaluation import Evaluation
from streamrec.evaluation.plotting import FONT_PT, GRID, INK, MARK, SERIES, for_screens, framed, svg_of

BLUE, ORANGE = SERIES
BINS = 40


def intervals(evaluation: Evaluation) -> str:
    """Values and bootstrap intervals, empirical Bernstein as a thin line behind them, for a page."""
    values, logged = evaluation.values, evaluation.logged
    reach = [v.value for v in (*values, logged)]
    reach += [end for v in (*values, logged) if v.interval is not None for end in (v.interval.low, v.interval.high)]
    margin = 0.15 * max(max(reach) - min(reach), 1e-9)
    estimates = ", ".join(f"{TITLES[value.name]} {value.value:.3g}" for value in values)

    def draw(width_in: float) -> str:
        figure, axes = framed(width_in, 0.45 * len(values) + 1.3, grid="x")
        figure.set_layout_engine("constrained")
        if logged.interval is not None:
            axes.axvspan(logged.interval.low, logged.interval.high, color=GRID, alpha=0.6, linewidth=0)
        axes.axvline(logged.value, color=INK, linewidth=1.2, linestyle=MARK)
        for place, value in enumerate(reversed(values)):
            colour = ORANGE if value.biased else BLUE
            if value.bernstein is not None:
                axes.hlines(place, value.bernstein.low, value.bernstein.high, color=colour, linewidth=0.8, alpha=0.6)
            if value.interval is not None:
                axes.hlines(place, value.interval.low, value.interval.high, color=colour, linewidth=4, alpha=0.75)
            axes.plot(value.value, place, "s" if value.biased else "o", color=colour, markersize=6)
        axes.set_xlim(min(reach) - margin, max(reach) + margin)  # Bernstein's ends may lie far outside
        axes.set_ylim(-0.6, len(values) - 0.4)
        axes.set_yticks(range(len(values)), [TITLES[value.name] for value in reversed(values)])
        axes.set_xlabel("reward per slate; squares: biased")
        axes.set_title(f"dashed: as it happened, {logged.value:.3g}", fontsize=FONT_PT, color=INK, loc="left")
        return svg_of(figure, f"Estimates of {evaluation.target}: {estimates}; as it happened {logged.value:.3g}")

    return for_screens(draw)


def weights(evaluation: Evaluation) -> str:
    """Histogram of the rows' weights, for a page; zero weights are at the left end."""
    positive = evaluation.weights[evaluation.weights > 0]
    low = float(np.log10(positive.min())) if len(positive) else -1.0
    high = float(np.log10(positive.max())) if len(positive) else 1.0
    exponents = np.log10(np.maximum(evaluation.weights, 10.0 ** (low - 0.5)))
    bins = np.linspace(low - 0.5, max(high, low + 0.5) + 0.1, BINS).tolist()

    def draw(width_in: float) -> str:
        figure, axes = framed(width_in, 3.0, grid="x")
        figure.set_layout_engine("constrained")
        axes.hist(exponents, bins=bins, color=BLUE, alpha=0.8)
        axes.axvline(0.0, color=INK, linewidth=1.2, linestyle=MARK)
        axes.set_yscale("symlog", linthresh=1)
        axes.set_xlabel("importance weight, power of ten")
        axes.set_ylabel("rows")
        largest = float(evaluation.weights.max(initial=0.0))
        return svg_of(figure, f"Importance weights of {evaluation.target}: from 0 to {largest:.3g}, 1 is dashed")

    return for_screens(draw)
