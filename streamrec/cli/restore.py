"""`streamrec restore`: a backup, back into Redis and the snapshots' directory."""

from __future__ import annotations

from streamrec.cli.application import app
from streamrec.cli.backup import Place
from streamrec.cli.options import AsJson, Connection, unfolded


@app.command(epilog="Example: streamrec restore /backups/2024-03-01 --redis redis://new-server:6379/0")
@unfolded
def restore(place: Place, connection: Connection, as_json: AsJson = False) -> None:
    """Bring a backup back into a Redis that holds nothing of this topic; workers go on from its positions.

    What was cut short goes on when it is run again; until then no worker starts.
    """
    from streamrec.cli.commands import restore as command

    command.run(connection.settings(), place, as_json=as_json)
