"""`streamrec user`: a user as the system knows one."""

from __future__ import annotations

from typing import Annotated

import typer

from streamrec.cli.application import app
from streamrec.cli.options import AsJson, Connection, Items, Separator, separator_of, unfolded


@app.command(epilog="Example: streamrec user u42 --items catalogue.parquet")
@unfolded
def user(
    connection: Connection,
    user_id: Annotated[str, typer.Argument(metavar="USER_ID", show_default=False)],
    items: Items = None,
    separator: Separator = None,
    as_json: AsJson = False,
) -> None:
    """Say what the system knows of a user: habits, tastes, prices, recent items, who answers, the latest slate."""
    from streamrec.cli.commands import user as command

    command.run(connection.settings(items=items, separator=separator_of(separator)), user_id, as_json=as_json)
