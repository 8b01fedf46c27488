"""`streamrec ask`: one request at the end of a log."""

from __future__ import annotations

from typing import Annotated

import typer

from streamrec.cli.application import app
from streamrec.cli.options import AsJson, LogOptions, Preset, Rehearsal, prices_of, unfolded


@app.command(epilog="Example: streamrec ask sales.parquet --items items.parquet --scenario similar --item 85123A")
@unfolded
def ask(
    log: LogOptions,
    rehearsal: Rehearsal,
    preset: Preset = "fast",
    user: Annotated[str, typer.Option("--user", metavar="ID", help="Who asks; nobody known by default.")] = "visitor",
    scenario: Annotated[str, typer.Option("--scenario", metavar="NAME", help="What is asked for.")] = "home",
    item: Annotated[str | None, typer.Option("--item", metavar="ID", help="The item that others go with.")] = None,
    basket: Annotated[
        list[str] | None, typer.Option("--basket", metavar="ID", help="An item of the basket. Repeatable.")
    ] = None,
    query: Annotated[str | None, typer.Option("--query", metavar="TEXT", help="What is searched for.")] = None,
    category: Annotated[
        list[str] | None, typer.Option("--category", metavar="NAME", help="Only of one of these. Repeatable.")
    ] = None,
    without_category: Annotated[
        list[str] | None, typer.Option("--without-category", metavar="NAME", help="Of none of these. Repeatable.")
    ] = None,
    tag: Annotated[list[str] | None, typer.Option("--tag", metavar="NAME", help="With all of these.")] = None,
    price: Annotated[str | None, typer.Option("--price", metavar="A:B", help="From A to B.")] = None,
    k: Annotated[int, typer.Option("-k", metavar="N", min=1, max=100, help="Items at most.")] = 5,
    as_json: AsJson = False,
) -> None:
    """Learn a log in this process, answer one request at its end, and say why each item is on the slate."""
    from streamrec.cli.commands import ask as command

    settings = rehearsal.settings(preset, log.separator)
    filters = command.filters_of(category, without_category, tag, prices_of(price))
    wanted = command.request_of(user, scenario, k=k, item_id=item, basket=basket, query=query, filters=filters)
    command.run(log.part(), settings, wanted, as_json=as_json)
