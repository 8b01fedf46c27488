"""`streamrec topics adopt`: another topic under the same name."""

from __future__ import annotations

from typing import Annotated

import typer

from streamrec.cli.application import topics_app
from streamrec.cli.options import AsJson, Connection, unfolded


@topics_app.command(epilog="Example: streamrec topics adopt --from 2024-03-01T12:00Z")
@unfolded
def adopt(
    connection: Connection,
    start: Annotated[
        str, typer.Option("--from", metavar="PLACE", help="Where workers begin: earliest, latest, a time.")
    ] = "earliest",
    as_json: AsJson = False,
) -> None:
    """Go on with users and models in an events topic that was made anew, or is another cluster's.

    Slates are named by their place in the topic: give the new one new topics for recommendations and outcomes, where
    the places may be the same.
    """
    from streamrec.cli.commands import topics_adopt as command

    command.run(connection.settings(), start, as_json=as_json)
