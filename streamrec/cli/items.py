"""Commands about the catalogue: put a file into its topic, and look at what the topic says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from streamrec.cli.application import items_app
from streamrec.cli.options import AsJson, Config, Kafka, Redis, settings_of


@items_app.command(epilog="Example: streamrec items load catalogue.parquet --withdraw --dry-run")
def load(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A parquet, csv or jsonl file.", show_default=False)],
    kafka: Kafka = None,
    redis: Redis = None,
    config: Config = None,
    withdraw: Annotated[bool, typer.Option("--withdraw", help="Withdraw items that the file does not have.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be sent; send nothing.")] = False,
    embed: Annotated[
        bool | None,
        typer.Option(
            "--embed/--no-embed", help="Give vectors to items without; by default if learning.encoder is a model."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Send to the items topic what a catalogue file says otherwise than the topic does."""
    from streamrec.cli.commands import items as command

    settings = settings_of(config, kafka, redis)
    command.load(settings, file, withdraw=withdraw, dry_run=dry_run, as_json=as_json, embed=embed)


@items_app.command(epilog="Example: streamrec items show 85123A")
def show(
    item_id: Annotated[str, typer.Argument(metavar="ITEM_ID", show_default=False)],
    kafka: Kafka = None,
    redis: Redis = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Print what the items topic says of an item."""
    from streamrec.cli.commands import items as command

    command.show(settings_of(config, kafka, redis), item_id, as_json=as_json)
