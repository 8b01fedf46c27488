"""`streamrec experiment`: the verdict on an experiment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from streamrec.cli.application import app
from streamrec.cli.options import AsJson, Connection, DesignOptions, Since, unfolded


@app.command(epilog="Example: streamrec experiment --since rollout --out experiment")
@unfolded
def experiment(
    connection: Connection,
    design: DesignOptions,
    since: Since = None,
    until: Annotated[str | None, typer.Option("--until", metavar="TIME", help="Only slates shown before.")] = None,
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

    question = command.Question(since, until, outcomes, design.design(), control)
    command.run(connection.settings(), question, as_json=as_json, out=out)
