"""`streamrec dlq show`: one dead letter."""

from __future__ import annotations

from typing import Annotated

import typer

from streamrec.cli.application import dlq_app
from streamrec.cli.options import AsJson, Connection, unfolded


@dlq_app.command(epilog="Example: streamrec dlq show 3-1041")
@unfolded
def show(
    connection: Connection,
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="As listed: PARTITION-OFFSET.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Show one dead letter whole, and whether its message would be accepted now."""
    from streamrec.cli.commands import dlq_show as command

    command.run(connection.settings(), address, as_json=as_json)
