"""`streamrec dlq list`: the dead letters there are."""

from __future__ import annotations

from typing import Annotated

import typer

from streamrec.cli.application import dlq_app
from streamrec.cli.options import AsJson, Connection, LetterOptions, unfolded


@dlq_app.command(name="list", epilog="Example: streamrec dlq list --reason invalid --since 2024-03-01 --limit 5")
@unfolded
def list_letters(
    connection: Connection,
    letters: LetterOptions,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=0, max=10_000, help="Newest letters shown.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Count the dead letters by reason and field, and show the newest."""
    from streamrec.cli.commands import dlq_list as command

    command.run(connection.settings(), letters.selection(), limit=limit, as_json=as_json)
