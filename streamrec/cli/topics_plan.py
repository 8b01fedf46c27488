"""`streamrec topics plan`: what the topics lack."""

from __future__ import annotations

from streamrec.cli.application import topics_app
from streamrec.cli.options import AsJson, Connection, unfolded


@topics_app.command(epilog="Example: streamrec topics plan --kafka localhost:9092")
@unfolded
def plan(connection: Connection, as_json: AsJson = False) -> None:
    """Say which topics are missing or differ from the configuration; change nothing."""
    from streamrec.cli.commands import topics_plan as command

    command.run(connection.settings(), as_json=as_json)
