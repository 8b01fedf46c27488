"""`streamrec replay`: a log sent to its topic."""

from __future__ import annotations

from typing import Annotated

import typer

from streamrec.cli.application import app
from streamrec.cli.options import Connection, LogLineOptions, LogOptions, unfolded


@app.command(epilog="Example: streamrec replay clicks.csv --map type=@click --map ts=when --speed 60")
@unfolded
def replay(
    log: LogOptions,
    lines: LogLineOptions,
    connection: Connection,
    speed: Annotated[
        float | None,
        typer.Option("--speed", metavar="X", min=1e-6, help="Times real time; without it as fast as it goes."),
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on where an interrupted replay of the same log stopped.")] = True,
) -> None:
    """Send a historical log to the events topic, checked before anything is sent."""
    lines.apply()
    from streamrec.cli.commands import replay as command

    command.run(log.part(), connection.settings(), speed=speed, resume=resume)
