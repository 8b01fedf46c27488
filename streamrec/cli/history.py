"""Commands about logs of the past: send them, learn them, or see what the system would have made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from streamrec.cli.application import app
from streamrec.cli.options import (
    Anonymous,
    AsJson,
    CollapseRepeats,
    Config,
    ExcludeSeen,
    Items,
    Kafka,
    Log,
    Map,
    MapType,
    OncePerSession,
    OnlyItems,
    Positives,
    Preset,
    Redis,
    Rows,
    Seed,
    SkipUnknown,
    Warmup,
    part_of,
    prices_of,
    rehearsal_settings,
    settings_of,
)


@app.command(epilog="Example: streamrec replay clicks.csv --map type=@click --map ts=when --speed 60")
def replay(
    log: Log,
    kafka: Kafka = None,
    redis: Redis = None,
    config: Config = None,
    mapping: Map = None,
    types: MapType = None,
    skip_unknown_types: SkipUnknown = False,
    rows: Rows = None,
    only_items: OnlyItems = None,
    anonymous: Anonymous = None,
    once_per_session: OncePerSession = False,
    speed: Annotated[
        float | None,
        typer.Option("--speed", metavar="X", min=1e-6, help="Times real time; without it as fast as it goes."),
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on where an interrupted replay of the same log stopped.")] = True,
) -> None:
    """Send a historical log to the events topic, checked before anything is sent."""
    from streamrec.cli.commands import replay as command

    part = part_of(log, mapping, types, skip_unknown_types, rows, only_items, anonymous, once_per_session)
    command.run(part, settings_of(config, kafka, redis), speed=speed, resume=resume)


@app.command(epilog="Example: streamrec warmup history.parquet --map type=event --until 2024-03-01")
def warmup(
    log: Log,
    kafka: Kafka = None,
    redis: Redis = None,
    config: Config = None,
    mapping: Map = None,
    types: MapType = None,
    skip_unknown_types: SkipUnknown = False,
    rows: Rows = None,
    only_items: OnlyItems = None,
    anonymous: Anonymous = None,
    once_per_session: OncePerSession = False,
    items: Items = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="TIME", help="The last moment of the log that is learned.")
    ] = None,
    start: Annotated[
        str,
        typer.Option("--from", metavar="PLACE", help="Where the topic goes on: end-of-log, a time, earliest, latest."),
    ] = "end-of-log",
    passes: Annotated[
        int, typer.Option("--passes", metavar="N", min=1, help="How often models with a memory of examples use it.")
    ] = 1,
    partitioner: Annotated[
        Literal["crc32", "murmur2"] | None,
        typer.Option("--partitioner", help="How producers spread users; without it, as the topic shows."),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget what workers have learned so far.")] = False,
) -> None:
    """Learn a historical log before the first worker starts; the worker goes on in the topic where the log ends."""
    from streamrec.cli.commands import warmup as command

    part = part_of(log, mapping, types, skip_unknown_types, rows, only_items, anonymous, once_per_session)
    plan = command.WarmupPlan(until, start, passes, partitioner, fresh)
    command.run(part, settings_of(config, kafka, redis, items=items), plan)


@app.command(epilog="Example: streamrec backtest ratings.parquet --positives 'rating>=4' --exclude-seen --out report")
def backtest(
    log: Log,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where slates and report go.", show_default=False)],
    config: Config = None,
    mapping: Map = None,
    types: MapType = None,
    skip_unknown_types: SkipUnknown = False,
    rows: Rows = None,
    only_items: OnlyItems = None,
    anonymous: Anonymous = None,
    once_per_session: OncePerSession = False,
    items: Items = None,
    positives: Positives = None,
    exclude_seen: ExcludeSeen = None,
    collapse_repeats: CollapseRepeats = None,
    warmup: Warmup = 0.1,
    seed: Seed = None,
    preset: Preset = None,
) -> None:
    """Run the worker over an old log, predicting each event before it is learned, and report how well that went."""
    from streamrec.cli.commands import backtest as command

    settings = rehearsal_settings(config, items, positives, exclude_seen, collapse_repeats, seed, preset)
    part = part_of(log, mapping, types, skip_unknown_types, rows, only_items, anonymous, once_per_session)
    command.run(part, settings, out=out, warmup=warmup)


@app.command(
    epilog="Example: streamrec ablate clicks.parquet --map type=@click --delay 512 --without each --out ablation"
)
def ablate(
    log: Log,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the tables go.", show_default=False)],
    config: Config = None,
    mapping: Map = None,
    types: MapType = None,
    skip_unknown_types: SkipUnknown = False,
    rows: Rows = None,
    only_items: OnlyItems = None,
    anonymous: Anonymous = None,
    once_per_session: OncePerSession = False,
    items: Items = None,
    positives: Positives = None,
    exclude_seen: ExcludeSeen = None,
    collapse_repeats: CollapseRepeats = None,
    warmup: Warmup = 0.1,
    seed: Seed = None,
    delays: Annotated[
        list[int] | None,
        typer.Option("--delay", metavar="EVENTS", min=1, help="Learn so many events late. Repeatable."),
    ] = None,
    context_delays: Annotated[
        list[int] | None,
        typer.Option("--context-delay", metavar="EVENTS", min=1, help="Know users so many events late. Repeatable."),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option("--without", metavar="MODEL", help="Do without this model; 'each' tries all. Repeatable."),
    ] = None,
) -> None:
    """Run a backtest several times with one thing changed: learning late, knowing users late, or without a model."""
    from streamrec.cli.commands import ablate as command

    settings = rehearsal_settings(config, items, positives, exclude_seen, collapse_repeats, seed)
    part = part_of(log, mapping, types, skip_unknown_types, rows, only_items, anonymous, once_per_session)
    changes = command.Ablations(delays or (), context_delays or (), without or ())
    command.run(part, settings, changes, out=out, warmup=warmup)


@app.command(epilog="Example: streamrec ask sales.parquet --items items.parquet --scenario similar --item 85123A")
def ask(
    log: Log,
    config: Config = None,
    mapping: Map = None,
    types: MapType = None,
    skip_unknown_types: SkipUnknown = False,
    rows: Rows = None,
    only_items: OnlyItems = None,
    anonymous: Anonymous = None,
    once_per_session: OncePerSession = False,
    items: Items = None,
    positives: Positives = None,
    exclude_seen: ExcludeSeen = None,
    collapse_repeats: CollapseRepeats = None,
    seed: Seed = None,
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

    settings = rehearsal_settings(config, items, positives, exclude_seen, collapse_repeats, seed, preset)
    part = part_of(log, mapping, types, skip_unknown_types, rows, only_items, anonymous, once_per_session)
    filters = command.filters_of(category, without_category, tag, prices_of(price))
    wanted = command.request_of(user, scenario, k=k, item_id=item, basket=basket, query=query, filters=filters)
    command.run(part, settings, wanted, as_json=as_json)
