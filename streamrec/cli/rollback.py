"""`streamrec rollback`: a step of the rollout back."""

from __future__ import annotations

from typing import Annotated

import typer

from streamrec.cli.application import app
from streamrec.cli.options import AsJson, Connection, Why, unfolded


@app.command(epilog="Example: streamrec rollback --why 'complaints about repeats'")
@unfolded
def rollback(
    connection: Connection,
    revision: Annotated[int | None, typer.Argument(metavar="REVISION", min=0, show_default=False)] = None,
    why: Why = "",
    as_json: AsJson = False,
) -> None:
    """Return to an earlier revision of the rollout at once; without a number, to the one before."""
    from streamrec.cli.commands import rollback as command

    command.run(connection.settings(), revision, why=why, as_json=as_json)
