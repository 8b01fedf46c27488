"""`streamrec top`: how workers and learners do, now."""

from __future__ import annotations

from typing import Annotated

import typer

from streamrec.cli.application import app
from streamrec.cli.options import AsJson, Config, settings_of


@app.command(epilog="Example: streamrec top --metrics worker-1:9100 --metrics worker-2:9100 --metrics learner:9100")
def top(
    addresses: Annotated[
        list[str] | None,
        typer.Option(
            "--metrics",
            metavar="HOST:PORT",
            help="Where a worker or learner answers; else metrics_port and learner.metrics_port here. Repeatable.",
        ),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Print one picture, and end.")] = False,
    as_json: AsJson = False,
    config: Config = None,
) -> None:
    """Show every second how workers and learners do: events, slates, lag, latency, models, dead letters, health."""
    from streamrec.cli.commands import top as command

    command.run(settings_of(config), addresses=addresses or [], once=once, as_json=as_json)
