"""`streamrec ads`: what ads spent."""

from __future__ import annotations

from streamrec.cli.application import app
from streamrec.cli.options import AsJson, Connection, Items, Separator, separator_of, unfolded


@app.command(epilog="Example: streamrec ads --items catalogue.parquet --json")
@unfolded
def ads(
    connection: Connection,
    items: Items = None,
    separator: Separator = None,
    as_json: AsJson = False,
) -> None:
    """Print what was spent on each ad on the newest day of the log: the sum, and by partition."""
    from streamrec.cli.commands import ads as command

    command.run(connection.settings(items=items, separator=separator_of(separator)), as_json=as_json)
