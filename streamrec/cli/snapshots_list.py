"""`streamrec snapshots list`: the snapshots there are."""

from __future__ import annotations

from streamrec.cli.application import snapshots_app
from streamrec.cli.options import AsJson, Config, settings_of


@snapshots_app.command(name="list", epilog="Example: streamrec snapshots list --config streamrec.toml")
def list_snapshots(config: Config = None, as_json: AsJson = False) -> None:
    """List the models' snapshots, newest first, and say which are whole: each is read to its end."""
    from streamrec.cli.commands import snapshots_list as command

    command.run(settings_of(config), as_json=as_json)
