"""`streamrec items load`: a catalogue file into its topic."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from streamrec.cli.application import items_app
from streamrec.cli.options import AsJson, Connection, MaxRefused, Separator, separator_of, unfolded


@items_app.command(epilog="Example: streamrec items load catalogue.parquet --withdraw --dry-run")
@unfolded
def load(
    connection: Connection,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A parquet, csv or jsonl file.", show_default=False)],
    withdraw: Annotated[bool, typer.Option("--withdraw", help="Withdraw items that the file does not have.")] = False,
    max_withdrawn: Annotated[
        float,
        typer.Option(
            "--max-withdrawn", metavar="SHARE", min=0, max=1, help="To withdraw more of the topic's items, it asks."
        ),
    ] = 0.2,
    yes: Annotated[bool, typer.Option("--yes", help="Withdraw however many; do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be sent; send nothing.")] = False,
    embed: Annotated[
        bool | None,
        typer.Option(
            "--embed/--no-embed", help="Give vectors to items without; by default if learning.encoder is a model."
        ),
    ] = None,
    separator: Separator = None,
    max_refused: MaxRefused = 0.0,
    as_json: AsJson = False,
) -> None:
    """Send to the items topic what a catalogue file says otherwise than the topic does."""
    from streamrec.cli.commands import items_load as command

    settings = connection.settings(separator=separator_of(separator))
    withdrawal = command.Withdrawal(1.0 if yes else max_withdrawn) if withdraw else None
    command.run(settings, file, command.LoadPlan(withdrawal, dry_run, embed, max_refused), as_json=as_json)
