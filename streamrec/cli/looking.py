"""Commands that look at what is known: of a user, an item, a slate, and of what ads spent."""

from __future__ import annotations

from typing import Annotated

import typer

from streamrec.cli.application import app
from streamrec.cli.options import AsJson, Config, Items, Kafka, Redis, settings_of


@app.command(epilog="Example: streamrec user u42 --items catalogue.parquet")
def user(
    user_id: Annotated[str, typer.Argument(metavar="USER_ID", show_default=False)],
    kafka: Kafka = None,
    redis: Redis = None,
    config: Config = None,
    items: Items = None,
    as_json: AsJson = False,
) -> None:
    """Say what the system knows of a user: habits, tastes, prices, recent items, who answers, the latest slate."""
    from streamrec.cli.commands import lookup as command

    command.user(settings_of(config, kafka, redis, items=items), user_id, as_json=as_json)


@app.command(epilog="Example: streamrec item 85123A --redis redis://localhost:6379/0")
def item(
    item_id: Annotated[str, typer.Argument(metavar="ITEM_ID", show_default=False)],
    kafka: Kafka = None,
    redis: Redis = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Print what the system knows of an item: counts, recent users, category."""
    from streamrec.cli.commands import lookup as command

    command.item(settings_of(config, kafka, redis), item_id, as_json=as_json)


@app.command(epilog="Example: streamrec ads --items catalogue.parquet --json")
def ads(
    kafka: Kafka = None,
    redis: Redis = None,
    config: Config = None,
    items: Items = None,
    as_json: AsJson = False,
) -> None:
    """Print what was spent on each ad on the newest day of the log: the sum, and by partition."""
    from streamrec.cli.commands import ads as command

    command.run(settings_of(config, kafka, redis, items=items), as_json=as_json)


@app.command(epilog="Example: streamrec explain user-events-3-1041 --items catalogue.parquet")
def explain(
    rec_id: Annotated[str, typer.Argument(metavar="REC_ID", show_default=False)],
    kafka: Kafka = None,
    redis: Redis = None,
    config: Config = None,
    items: Items = None,
    as_json: AsJson = False,
    derive: Annotated[
        bool, typer.Option(help="Find reasons with the models as of now where the slate was published without.")
    ] = True,
) -> None:
    """Say why each item is on a slate: who wanted it, by what chance, because of which events, by which rules."""
    from streamrec.cli.commands import explain as command

    command.run(settings_of(config, kafka, redis, items=items), rec_id, as_json=as_json, derive=derive)
