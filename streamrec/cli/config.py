"""`streamrec config`: a look at the configuration."""

from __future__ import annotations

from streamrec.cli.application import app
from streamrec.cli.options import AsJson, Connection, unfolded


@app.command(epilog="Example: STREAMREC_LEARNING__SEED=7 streamrec config --config streamrec.toml")
@unfolded
def config(connection: Connection, as_json: AsJson = False) -> None:
    """Print the effective configuration as TOML, secrets hidden."""
    from streamrec.cli.commands import config as command

    command.run(connection.settings(), as_json=as_json)
