"""`streamrec topics rescale`: more partitions."""

from __future__ import annotations

from typing import Annotated

import typer

from streamrec.cli.application import topics_app
from streamrec.cli.options import AsJson, Connection, unfolded


@topics_app.command(epilog="Example: streamrec topics rescale --partitions 12 --dry-run")
@unfolded
def rescale(
    connection: Connection,
    partitions: Annotated[
        int, typer.Option("--partitions", metavar="N", min=1, help="How many there shall be.", show_default=False)
    ],
    misplaced: Annotated[
        bool, typer.Option("--misplaced", help="Move users who are not where topics.partitioner puts them, too.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would move; change nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Add partitions to the events topic, and move each user's state to where that user's events come now.

    Stop producers, let the workers handle what is there, and stop them too. What was cut short goes on when it is run
    again; until then no worker starts.
    """
    from streamrec.cli.commands import topics_rescale as command

    command.run(connection.settings(), partitions, misplaced=misplaced, dry_run=dry_run, as_json=as_json)
