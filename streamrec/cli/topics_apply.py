"""`streamrec topics apply`: the making of topics."""

from __future__ import annotations

from streamrec.cli.application import topics_app
from streamrec.cli.options import AsJson, Connection, unfolded


@topics_app.command(epilog="Example: streamrec topics apply --kafka localhost:9092")
@unfolded
def apply(connection: Connection, as_json: AsJson = False) -> None:
    """Create the topics that are missing; what exists is never changed."""
    from streamrec.cli.commands import topics_apply as command

    command.run(connection.settings(), as_json=as_json)
