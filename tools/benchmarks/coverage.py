"""`python -m tools.benchmarks.coverage`: how often the intervals of off-policy estimates hold the true value.

Logs are drawn again and again from invented worlds whose targets' values are known exactly. An interval of 95% should
hold the value in 95 of 100 logs, give or take 2 where there are 500; empirical Bernstein may do so more often.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import typer

from streamrec.evaluation.ope import estimators
from streamrec.evaluation.ope.evaluation import folds_of
from streamrec.evaluation.ope.intervals import bernstein, bootstrap
from streamrec.evaluation.ope.reward_model import predictions
from streamrec.evaluation.ope.rounds import Float64
from streamrec.evaluation.ope.synthetic import ActionWorld, SlateWorld
from streamrec.evaluation.ope.weights import effective_sample_size, importance_weights

LEVEL = 0.95
WORLDS: dict[str, ActionWorld | SlateWorld] = {
    "single actions": ActionWorld.drawn(2, spread=0.7),
    "single actions, far apart": ActionWorld.drawn(1),
    "slates": SlateWorld.drawn(2),
    "users who return": ActionWorld(
        np.array([[0.6, 0.4]] * 2), np.array([[0.3, 0.7]] * 2), np.array([[0.05, 0.1], [0.5, 0.7]]), users=40
    ),
}


@dataclass(frozen=True, slots=True)
class Coverage:
    """Of one estimator over many logs: shares of the logs, and its bias and spread."""

    bootstrap: float
    bernstein: float
    bias: float
    spread: float
    ess: float  # of all slates, on average


def coverage(
    world: ActionWorld | SlateWorld, *, slates: int, logs: int, draws: int, seed: int = 0, by_user: bool = True
) -> dict[str, Coverage]:
    """How often each interval holds the value, by estimator; where there is none, it holds nothing."""
    rng = np.random.default_rng(seed)
    found: dict[str, list[tuple[bool, bool, float, float]]] = {}
    for number in range(logs):
        rounds, shown, wanted = world.log(slates, rng)
        weights = importance_weights(rounds)
        cluster = rounds.cluster if by_user else None
        fitted = predictions(shown, rounds.reward, folds_of(rounds, 2, number), wanted)
        compared = [
            estimators.ips(rounds, weights),
            estimators.snips(rounds, weights),
            estimators.direct_method(rounds, fitted),
            estimators.doubly_robust(rounds, weights, fitted),
        ]
        intervals = bootstrap(compared, draws=draws, level=LEVEL, seed=number, cluster=cluster)
        for estimator, interval in zip(compared, intervals, strict=True):
            exact = bernstein(estimator, LEVEL, cluster)
            holds = tuple(each is not None and each.low <= world.value <= each.high for each in (interval, exact))
            ess = effective_sample_size(weights) / rounds.steps
            found.setdefault(estimator.name, []).append((*holds, estimator.estimate - world.value, ess))
    columns = {name: np.array(rows, np.float64) for name, rows in found.items()}
    return {name: _summary(rows) for name, rows in columns.items()}


def _summary(rows: Float64) -> Coverage:
    bootstrap_holds, bernstein_holds, bias, ess = rows.mean(axis=0).tolist()
    return Coverage(bootstrap_holds, bernstein_holds, bias, float(rows[:, 2].std()), ess)


def main(
    slates: Annotated[int, typer.Option("--slates", min=10, help="In each log.")] = 400,
    logs: Annotated[int, typer.Option("--logs", min=10, help="Of each world.")] = 500,
    draws: Annotated[int, typer.Option("--bootstraps", min=20, help="Resamples of each log.")] = 300,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
) -> None:
    """Print a table in Markdown."""
    print(f"{logs} logs of {slates} slates, {draws} resamples\n")
    print("| world | value | effective | estimator | bootstrap | Bernstein | bias | spread |")
    print("|---|---|---|---|---|---|---|---|")
    for name, world in WORLDS.items():
        for estimator, c in coverage(world, slates=slates, logs=logs, draws=draws, seed=seed).items():
            print(
                f"| {name} | {world.value:.4f} | {c.ess:.0f} | {estimator} | {c.bootstrap:.1%} | {c.bernstein:.1%} "
                f"| {c.bias:+.4f} | {c.spread:.4f} |"
            )


if __name__ == "__main__":
    typer.run(main)
