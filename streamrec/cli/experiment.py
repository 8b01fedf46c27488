"""`streamrec experiment`: the verdict on an experiment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from streamrec.cli.application import app
from streamrec.cli.options import HOUR_MS, Alpha, AsJson, Connection, Since, Window, unfolded


@app.command(epilog="Example: streamrec experiment --since rollout --out experiment")
@unfolded
def experiment(
    connection: Connection,
    since: Since = None,
    until: Annotated[str | None, typer.Option("--until", metavar="TIME", help="Only slates shown before.")] = None,
    window_h: Window = 24.0,
    alpha: Alpha = 0.05,
    method: Annotated[
        Literal["bounded", "asymptotic"],
        typer.Option("--method", help="asymptotic is narrower, and right only once there are many users."),
    ] = "bounded",
    bound: Annotated[
        float, typer.Option("--bound", metavar="REWARD", min=1e-6, help="No slate counts for more than this.")
    ] = 1.0,
    control: Annotated[
        str | None, typer.Option("--control", metavar="ARM", help="The arm that the others are compared to.")
    ] = None,
    outcomes: Annotated[
        Path | None, typer.Option("--outcomes", metavar="FILE", help="JSON lines in place of the topic.")
    ] = None,
    as_json: AsJson = False,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Where report.json and plots go.")] = None,
) -> None:
    """Say what slates were worth in each arm, and which policy is better, by outcomes read so far.

    The figures are right at every look: look as often as you like, and stop when you know enough.
    """
    from streamrec.cli.commands import experiment as command
    from streamrec.evaluation.experiments.arms import ExperimentDesign, SequenceMethod

    terms = ExperimentDesign(alpha, round(window_h * HOUR_MS), SequenceMethod(method))
    question = command.Question(since, until, outcomes, bound, terms, control)
    command.run(connection.settings(), question, as_json=as_json, out=out)
