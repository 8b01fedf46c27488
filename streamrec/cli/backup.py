"""`streamrec backup`: state and models, as they are, in a folder."""

from __future__ import annotations

from typing import Annotated

import typer

from streamrec.cli.application import app
from streamrec.cli.options import AsJson, Connection, unfolded

Place = Annotated[
    str, typer.Argument(metavar="PLACE", help="A folder, s3://BUCKET/PATH or gs://BUCKET/PATH.", show_default=False)
]


@app.command(epilog="Example: streamrec backup /backups/2024-03-01")
@unfolded
def backup(place: Place, connection: Connection, as_json: AsJson = False) -> None:
    """Copy the state in Redis, with positions, and the newest models into a new folder; workers may run meanwhile."""
    from streamrec.cli.commands import backup as command

    command.run(connection.settings(), place, as_json=as_json)
