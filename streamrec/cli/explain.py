"""`streamrec explain`: the reasons of a slate."""

from __future__ import annotations

from typing import Annotated

import typer

from streamrec.cli.application import app
from streamrec.cli.options import AsJson, Connection, Items, Separator, separator_of, unfolded


@app.command(epilog="Example: streamrec explain user-events-3-1041 --items catalogue.parquet")
@unfolded
def explain(
    connection: Connection,
    rec_id: Annotated[str, typer.Argument(metavar="REC_ID", show_default=False)],
    items: Items = None,
    separator: Separator = None,
    as_json: AsJson = False,
    derive: Annotated[
        bool, typer.Option(help="Find reasons with the models as of now where the slate was published without.")
    ] = True,
) -> None:
    """Say why each item is on a slate: who wanted it, by what chance, because of which events, by which rules."""
    from streamrec.cli.commands import explain as command

    settings = connection.settings(items=items, separator=separator_of(separator))
    command.run(settings, rec_id, as_json=as_json, derive=derive)
