"""`streamrec trends`: the counting of what is gaining."""

from __future__ import annotations

from typing import Annotated

import typer

from streamrec.cli.application import app
from streamrec.cli.options import Connection, LogLineOptions, unfolded


@app.command(epilog="Example: streamrec trends --kafka localhost:9092 --web-port 6066")
@unfolded
def trends(
    connection: Connection,
    lines: LogLineOptions,
    group: Annotated[str | None, typer.Option("--group", metavar="NAME", help="The workers' consumer group.")] = None,
    web_port: Annotated[int | None, typer.Option("--web-port", metavar="PORT", help="Serve GET /trends here.")] = None,
) -> None:
    """Count what is wanted in windows of log time, and say how that changes, until stopped.

    Several share the work. Ctrl-C or SIGTERM publishes what changed and stops.
    """
    from streamrec.cli.commands import trends as command

    lines.apply(service=True)
    command.run(connection.settings(group_id=group, trends__web_port=web_port))
