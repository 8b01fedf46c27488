"""`streamrec dlq redrive`: dead letters sent back."""

from __future__ import annotations

from typing import Annotated

import typer

from streamrec.cli.application import dlq_app
from streamrec.cli.options import AsJson, Connection, LetterOptions, unfolded


@dlq_app.command(epilog="Example: streamrec dlq redrive --reason too_large --dry-run")
@unfolded
def redrive(
    connection: Connection,
    letters: LetterOptions,
    addresses: Annotated[
        list[str] | None, typer.Argument(metavar="[ADDRESS]...", help="Only these letters.", show_default=False)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be sent; send nothing.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Send also what would be refused again.")] = False,
    as_json: AsJson = False,
) -> None:
    """Send dead letters that would be accepted now back to the events topic, each once however often this is run."""
    from streamrec.cli.commands import dlq_redrive as command

    selection = letters.selection()
    command.run(connection.settings(), selection, addresses or [], dry_run=dry_run, force=force, as_json=as_json)
