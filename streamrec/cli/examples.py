"""`streamrec examples`: the training log as parquet files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from streamrec.cli.application import app
from streamrec.cli.options import AsJson, Connection, unfolded


@app.command(epilog="Example: streamrec examples --out training --from 2024-03-01 --until 2024-03-08")
@unfolded
def examples(
    connection: Connection,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="A directory that holds no parquet files.", show_default=False)
    ],
    since: Annotated[str | None, typer.Option("--from", metavar="TIME", help="Only events from then on.")] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="TIME", help="Only events before then.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write what every event taught to parquet files, and in others what came of each place of a slate."""
    from streamrec.cli.commands import examples as command
    from streamrec.cli.shared.outcomes import time_of

    span = command.Span(time_of(since, "--from"), time_of(until, "--until"))
    command.run(connection.settings(), out, span, as_json=as_json)
