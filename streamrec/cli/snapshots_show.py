"""`streamrec snapshots show`: one snapshot."""

from __future__ import annotations

from typing import Annotated

import typer

from streamrec.cli.application import snapshots_app
from streamrec.cli.options import AsJson, Config, settings_of


@snapshots_app.command(epilog="Example: streamrec snapshots show 0000000042-9f86d081884c7d65")
def show(
    reference: Annotated[str, typer.Argument(metavar="REFERENCE", help="As listed.", show_default=False)],
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Show what one snapshot says it holds: components, schema, positions, and which models were in doubt."""
    from streamrec.cli.commands import snapshots_show as command

    command.run(settings_of(config), reference, as_json=as_json)
