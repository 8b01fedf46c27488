"""`streamrec serve`: the gateway."""

from __future__ import annotations

from typing import Annotated

import typer

from streamrec.cli.application import app
from streamrec.cli.options import Connection, LogLineOptions, unfolded


@app.command(epilog="Example: streamrec serve --config streamrec.toml --port 8080")
@unfolded
def serve(
    connection: Connection,
    lines: LogLineOptions,
    host: Annotated[str | None, typer.Option("--host", metavar="ADDRESS", help="Where it answers.")] = None,
    port: Annotated[int | None, typer.Option("--port", metavar="PORT", help="On which port.")] = None,
) -> None:
    """Take events and answer requests over HTTP, until stopped; /docs says how.

    Workers do the work: this publishes to their topics, and hands their slates over.
    """
    from streamrec.cli.commands import serve as command

    lines.apply(service=True)
    command.run(connection.settings(gateway__host=host, gateway__port=port))
