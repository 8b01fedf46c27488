"""`streamrec snapshots fetch`: a copy of one snapshot."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from streamrec.cli.application import snapshots_app
from streamrec.cli.options import AsJson, Config, settings_of


@snapshots_app.command(epilog="Example: streamrec snapshots fetch 0000000042-9f86d081884c7d65 copies")
def fetch(
    reference: Annotated[str, typer.Argument(metavar="REFERENCE", help="As listed.", show_default=False)],
    directory: Annotated[
        Path, typer.Argument(metavar="DIRECTORY", help="Of this machine; made if needed.", show_default=False)
    ],
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Copy one snapshot, verified, to a directory that can itself be used as snapshots.url."""
    from streamrec.cli.commands import snapshots_fetch as command

    command.run(settings_of(config), reference, directory, as_json=as_json)
