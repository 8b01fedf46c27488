"""`streamrec warmup`: a log learned before the first worker starts."""

from __future__ import annotations

from typing import Annotated

import typer

from streamrec.cli.application import app
from streamrec.cli.options import AsJson, Connection, Items, LogLineOptions, LogOptions, unfolded


@app.command(epilog="Example: streamrec warmup history.parquet --map type=event --until 2024-03-01")
@unfolded
def warmup(
    log: LogOptions,
    lines: LogLineOptions,
    connection: Connection,
    items: Items = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="TIME", help="The last moment of the log that is learned.")
    ] = None,
    start: Annotated[
        str,
        typer.Option("--from", metavar="PLACE", help="Where the topic goes on: end-of-log, a time, earliest, latest."),
    ] = "end-of-log",
    passes: Annotated[
        int, typer.Option("--passes", metavar="N", min=1, help="How often models with a memory of examples use it.")
    ] = 1,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget what workers have learned so far.")] = False,
    as_json: AsJson = False,
) -> None:
    """Learn a historical log before the first worker starts; the worker goes on in the topic where the log ends."""
    lines.apply()
    from streamrec.cli.commands import warmup as command

    plan = command.WarmupPlan(until, start, passes, fresh)
    part = log.part()
    settings = connection.settings(items=items, separator=part.separator)
    command.run(part, settings, plan, as_json=as_json)
