"""`streamrec worker`: the worker."""

from __future__ import annotations

from typing import Annotated

import typer

from streamrec.cli.application import app
from streamrec.cli.options import Connection, Items, LogLineOptions, Preset, unfolded


@app.command(epilog="Example: streamrec worker --config streamrec.toml --metrics-port 9100")
@unfolded
def worker(
    connection: Connection,
    lines: LogLineOptions,
    items: Items = None,
    group: Annotated[str | None, typer.Option("--group", metavar="NAME", help="Kafka consumer group.")] = None,
    metrics_port: Annotated[int | None, typer.Option("--metrics-port", metavar="PORT", help="Prometheus port.")] = None,
    preset: Preset = None,
) -> None:
    """Read events, learn from each, and answer requests with slates until stopped.

    Ctrl-C or SIGTERM finishes the batch and saves a checkpoint; a second Ctrl-C stops at once.
    """
    from streamrec.cli.commands import worker as command

    lines.apply(service=True)
    command.run(connection.settings(items=items, group_id=group, metrics_port=metrics_port, preset=preset))
