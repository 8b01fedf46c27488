"""`streamrec tail`: slates as they come."""

from __future__ import annotations

from typing import Annotated

import typer

from streamrec.cli.application import app
from streamrec.cli.options import AsJson, Connection, unfolded


@app.command(epilog="Example: streamrec tail --kafka localhost:9092 --user u42 --count 3")
@unfolded
def tail(
    connection: Connection,
    user_id: Annotated[str | None, typer.Option("--user", metavar="USER_ID", help="Only this user's slates.")] = None,
    as_json: AsJson = False,
    from_beginning: Annotated[bool, typer.Option("--from-beginning", help="Old slates too.")] = False,
    count: Annotated[int | None, typer.Option("--count", metavar="N", min=1, help="Stop after N slates.")] = None,
) -> None:
    """Print slates as they are published."""
    from streamrec.cli.commands import tail as command

    command.run(connection.settings(), user_id=user_id, as_json=as_json, from_beginning=from_beginning, count=count)
