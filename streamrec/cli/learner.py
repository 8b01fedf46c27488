"""`streamrec learner`: the learner."""

from __future__ import annotations

from typing import Annotated

import typer

from streamrec.cli.application import app
from streamrec.cli.options import Connection, LogLineOptions, Preset, unfolded


@app.command(epilog="Example: streamrec learner --config streamrec.toml --metrics-port 9101")
@unfolded
def learner(
    connection: Connection,
    lines: LogLineOptions,
    group: Annotated[str | None, typer.Option("--group", metavar="NAME", help="The workers' consumer group.")] = None,
    metrics_port: Annotated[int | None, typer.Option("--metrics-port", metavar="PORT", help="Prometheus port.")] = None,
    preset: Preset = None,
) -> None:
    """Learn from the examples of all workers, where workers do not start a learner beside themselves.

    Of several, one learns; the others take over when it is gone.
    """
    from streamrec.cli.commands import learner as command

    lines.apply(service=True)
    command.run(connection.settings(group_id=group, learner__metrics_port=metrics_port, preset=preset))
