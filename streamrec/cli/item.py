"""`streamrec item`: an item as the system knows it."""

from __future__ import annotations

from typing import Annotated

import typer

from streamrec.cli.application import app
from streamrec.cli.options import AsJson, Connection, unfolded


@app.command(epilog="Example: streamrec item 85123A --redis redis://localhost:6379/0")
@unfolded
def item(
    connection: Connection,
    item_id: Annotated[str, typer.Argument(metavar="ITEM_ID", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Print what the system knows of an item: counts, recent users, category."""
    from streamrec.cli.commands import item as command

    command.run(connection.settings(), item_id, as_json=as_json)
