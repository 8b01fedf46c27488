"""`streamrec items show`: an item as its topic has it."""

from __future__ import annotations

from typing import Annotated

import typer

from streamrec.cli.application import items_app
from streamrec.cli.options import AsJson, Connection, unfolded


@items_app.command(epilog="Example: streamrec items show 85123A")
@unfolded
def show(
    connection: Connection,
    item_id: Annotated[str, typer.Argument(metavar="ITEM_ID", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Print what the items topic says of an item."""
    from streamrec.cli.commands import items_show as command

    command.run(connection.settings(), item_id, as_json=as_json)
