"""`streamrec rollout`: the rollout and its history."""

from __future__ import annotations

from streamrec.cli.application import app
from streamrec.cli.options import AsJson, Connection, unfolded


@app.command(epilog="Example: streamrec rollout --redis redis://localhost:6379/0")
@unfolded
def rollout(connection: Connection, as_json: AsJson = False) -> None:
    """Print who gets which policy now, and every change that led there."""
    from streamrec.cli.commands import rollout as command

    command.run(connection.settings(), as_json=as_json)
