"""Our off-policy estimates on the Open Bandit logs, beside the truth and obp's: `-m tools.benchmarks.openbandit`.

Two policies filled the same three places of a shop in the same week: one at random, one by Bernoulli Thompson sampling
(bts). So the value of each can be estimated from the log of the other, and be compared with what it earned.

What bts does is not in the random log. Either it is simulated from the Beta priors that production started with (they
ship with obp, the Open Bandit Pipeline: Saito et al., "Open Bandit Dataset and Pipeline", NeurIPS 2021), or it is the
share of each item at each place in the bts log. Relative estimation error is |estimate - truth| / truth.
"""

from __future__ import annotations

import csv
import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from streamrec.evaluation.ope import estimators
from streamrec.evaluation.ope.action_rows import RowOptions
from streamrec.evaluation.ope.estimators import TITLES
from streamrec.evaluation.ope.evaluation import Evaluation, EvaluationOptions, TargetLog, evaluate, folds_of
from streamrec.evaluation.ope.reward_model import Actions, predictions
from streamrec.evaluation.ope.rounds import Float64, Rounds
from streamrec.evaluation.ope.tables import UNIFORM, ActionLog, TableOptions, read_actions
from streamrec.evaluation.ope.weights import importance_weights

PLACES = 3
AT_ONCE = 20_000
MAPPING = {"reward": "click", "propensity": "propensity_score", "item": "item_id", "position": "position"}
USER_FEATURES = tuple(f"user_feature_{n}" for n in range(4))
REFERENCE = Path(__file__).parents[1] / "obp_reference.py"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
Priors = Annotated[
    Path | None, typer.Option("--priors", metavar="FILE", help="obp's policy/conf/prior_bts.yaml; needs pyyaml.")
]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Holds random.parquet and bts.parquet.")]
Campaign = Annotated[str, typer.Option("--campaign", metavar="NAME", help="all, men or women.")]
Sims = Annotated[int, typer.Option("--sims", min=1_000, help="Draws of the priors.")]


@dataclass(frozen=True, slots=True)
class Case:
    """One policy valued from the other's log."""

    name: str
    logged: TargetLog
    truth: float  # what the target earned a row in its own log


@app.command()
def compare(
    folder: Folder,
    campaign: Campaign = "all",
    priors: Priors = None,
    sims: Sims = 1_000_000,
    runs: Annotated[int, typer.Option("--runs", min=2, help="Bootstrapped logs for the mean error.")] = 30,
    with_users: Annotated[bool, typer.Option("--users", help="The reward model sees user features too.")] = False,
    obp: Annotated[
        Path | None,
        typer.Option("--obp", metavar="PYTHON", help="An interpreter that has obp: compare number by number."),
    ] = None,
) -> None:
    """Estimates, intervals and relative errors of every case that the logs allow."""
    for case in cases(folder, campaign, priors, sims, USER_FEATURES if with_users else ()):
        print(f"\n{case.name}, campaign {campaign}, {len(case.logged.rounds):,} rows, truth {case.truth:.5f}\n")
        print_estimates(evaluate(case.logged, EvaluationOptions()), errors(case, runs), case.truth, runs)
        if obp is not None:
            print(f"\nlargest relative difference to obp on the same inputs: {difference(case.logged, obp):.1e}")


@app.command()
def target(
    folder: Folder,
    out: Annotated[Path, typer.Argument(metavar="FILE", help="A csv for `streamrec ope --target`.")],
    campaign: Campaign = "all",
    priors: Priors = None,
    sims: Sims = 1_000_000,
) -> None:
    """Write what bts does as a table: by the priors where they are given, else by its own log."""
    log = read(folder, "bts", campaign) if priors is None else read(folder, "random", campaign)
    write_table(out, log, shares(log) if priors is None else thompson(priors, campaign, log, sims))


def cases(folder: Path, campaign: str, priors: Path | None, sims: int, features: Sequence[str]) -> list[Case]:
    """Random from the bts log, and bts from the random log, once per way to know what bts does."""
    random, bts = (read(folder, name, campaign, features) for name in ("random", "bts"))
    earned = {"random": float(random.reward.mean()), "bts": float(bts.reward.mean())}
    found = [Case("bts log -> random", bts.logged(UNIFORM), earned["random"])]
    tables = {"its own shares": shares(bts)}
    if priors is not None:
        tables = {f"its priors, {sims:,} draws": thompson(priors, campaign, random, sims)} | tables
    with tempfile.TemporaryDirectory(prefix="streamrec-openbandit-") as place:
        for words, table in tables.items():
            path = Path(place, "bts.csv")
            write_table(path, bts if words == "its own shares" else random, table)
            found.append(Case(f"random log -> bts by {words}", random.logged(str(path)), earned["bts"]))
    return found


def read(folder: Path, behaviour: str, campaign: str, features: Sequence[str] = ()) -> ActionLog:
    """One policy's log of one campaign."""
    options = TableOptions(mapping=MAPPING, rows=RowOptions({"campaign": campaign}, features))
    return read_actions(folder / f"{behaviour}.parquet", options)


def shares(log: ActionLog) -> Float64:
    """How often each item is shown at each place, (places, items)."""
    count = np.zeros((len(log.places), len(log.items)))
    np.add.at(count, (log.place, log.item), 1.0)
    return np.asarray(count / count.sum(axis=1, keepdims=True))


def thompson(priors: Path, campaign: str, log: ActionLog, sims: int) -> Float64:
    """How often each item is among the best three of a draw from the Beta priors, by place, (places, items)."""
    import yaml  # type: ignore[import-untyped]  # a development dependency

    prior = yaml.safe_load(priors.read_text(encoding="utf-8"))[campaign]
    order = np.array([int(name) for name in log.items])
    alpha, beta = (np.array(prior[name], np.float64)[order] for name in ("alpha", "beta"))
    rng = np.random.default_rng(0)
    count = np.zeros((PLACES, len(order)))
    for start in range(0, sims, AT_ONCE):
        drawn = rng.beta(alpha, beta, (min(AT_ONCE, sims - start), len(order)))
        best = np.argsort(-drawn, axis=1)[:, :PLACES]
        for place in range(PLACES):
            count[place] += np.bincount(best[:, place], minlength=len(order))
    return count / sims


def write_table(path: Path, log: ActionLog, probability: Float64) -> None:
    """A table of item, position and probability."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["item", "position", "probability"])
        for place, name in enumerate(log.places):
            writer.writerows(
                [item, name, repr(float(p))] for item, p in zip(log.items, probability[place], strict=True)
            )


def estimates(logged: TargetLog, seed: int = 0) -> dict[str, float]:
    """Every estimator's value, without intervals."""
    rounds = logged.rounds
    assert logged.shown_features is not None
    assert logged.target_features is not None
    weights = importance_weights(rounds)
    fitted = predictions(logged.shown_features, rounds.reward, folds_of(rounds, 3, seed), logged.target_features)
    found = [
        estimators.ips(rounds, weights),
        estimators.clipped_ips(rounds, weights, EvaluationOptions().clip),
        estimators.snips(rounds, weights),
        estimators.direct_method(rounds, fitted),
        estimators.doubly_robust(rounds, weights, fitted),
        estimators.switch_dr(rounds, weights, fitted),
        estimators.shrunk_dr(rounds, weights, fitted),
    ]
    return {estimator.name: estimator.estimate for estimator in found}


def errors(case: Case, runs: int) -> Mapping[str, Float64]:
    """Relative estimation errors over bootstrapped logs, (runs,), drawn as obp draws them."""
    found: dict[str, list[float]] = {name: [] for name in TITLES}
    for run in range(runs):
        for name, value in estimates(resampled(case.logged, run)).items():
            found[name].append(abs(value - case.truth) / case.truth)
    return {name: np.array(values) for name, values in found.items()}


def resampled(logged: TargetLog, seed: int) -> TargetLog:
    """As many rows, drawn with replacement."""
    rounds = logged.rounds
    rows = np.random.RandomState(seed).choice(np.arange(len(rounds)), size=len(rounds), replace=True)
    assert logged.shown_features is not None
    assert isinstance(logged.target_features, Actions)
    return TargetLog(
        logged.target,
        Rounds(np.arange(len(rows)), rounds.reward[rows], rounds.logged[rows], rounds.target[rows]),
        logged.origin,
        logged.shown_features.take(rows),
        Actions(logged.target_features.probability, logged.target_features.place[rows]),
    )


def print_estimates(evaluation: Evaluation, error: Mapping[str, Float64], truth: float, runs: int) -> None:
    """A table in Markdown, then the warnings."""
    print(f"| estimator | value | 95% bootstrap | error | error over {runs} resampled logs, mean (sd) |")
    print("|---|---|---|---|---|")
    for value in evaluation.values:
        over, interval = error[value.name], value.interval
        ends = "none" if interval is None else f"{interval.low:.5f} to {interval.high:.5f}"
        print(
            f"| {TITLES[value.name]} | {value.value:.5f} | {ends} | {abs(value.value - truth) / truth:.3f} "
            f"| {over.mean():.3f} ({over.std(ddof=1):.3f}) |"
        )
    print(f"\n{evaluation.ess:.0f} effective of {evaluation.rounds.slates:,} rows; " + "; ".join(evaluation.warnings))


def difference(logged: TargetLog, python: Path) -> float:
    """The largest relative difference between our estimates and obp's on the same weights and predictions."""
    rounds, wanted, described = logged.rounds, logged.target_features, logged.shown_features
    assert described is not None
    assert isinstance(wanted, Actions)
    weights = importance_weights(rounds)
    fitted = predictions(described, rounds.reward, folds_of(rounds, 3, 0), wanted)
    switch, shrinkage = float(np.quantile(weights, 0.9)), 100.0
    ours = {
        "ipw": estimators.ips(rounds, weights),
        "snipw": estimators.snips(rounds, weights),
        "dm": estimators.direct_method(rounds, fitted),
        "dr": estimators.doubly_robust(rounds, weights, fitted),
        "switch-dr": estimators.switch_dr(rounds, weights, fitted, switch),
        "dr-os": estimators.shrunk_dr(rounds, weights, fitted, shrinkage),
    }
    items = wanted.probability.shape[1]
    # obp asks for a prediction of every action: of the shown one ours, of the others what makes the target's mean ours.
    own = wanted.probability[wanted.place, described.codes[:, 0]]
    others = np.where(own < 1, (fitted.target - own * fitted.shown) / np.maximum(1 - own, 1e-300), 0.0)
    expected = np.repeat(others[:, None], items, axis=1)
    expected[np.arange(len(rounds)), described.codes[:, 0]] = fitted.shown
    with tempfile.TemporaryDirectory(prefix="streamrec-openbandit-") as place:
        inputs = Path(place, "inputs.npz")
        np.savez(
            inputs,
            action=described.codes[:, 0],
            position=wanted.place,
            reward=rounds.reward,
            pscore=rounds.logged,
            probability=wanted.probability,
            expected=expected,
            switch=switch,
            shrinkage=shrinkage,
        )
        command = [str(python), str(REFERENCE), "estimate", str(inputs)]
        theirs = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return max(abs(ours[name].estimate / float(theirs[name]) - 1.0) for name in ours)


if __name__ == "__main__":
    app()
