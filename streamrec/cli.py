"""The command line: what can be typed, with a description and an example of each.

Declares and hands over. Everything heavy is imported inside a command's body, so that `--help` answers at once; what
the commands do is in `streamrec.commands`.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from streamrec.errors import ConfigError, StreamrecError

if TYPE_CHECKING:
    from streamrec.commands.logs import LogPart
    from streamrec.settings import Settings

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_BY_SIGNAL = 128

app = typer.Typer(
    name="streamrec",
    help="A recommender that learns from every event, on Kafka.",
    epilog="Example: streamrec worker --kafka localhost:9092 --redis redis://localhost:6379/0",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # a traceback with local variables would print secrets
)
topics_app = typer.Typer(
    name="topics",
    help="Make the topics: say what is missing, or create it.",
    epilog="Example: streamrec topics plan --kafka localhost:9092",
    no_args_is_help=True,
)
app.add_typer(topics_app)

Kafka = Annotated[
    str | None, typer.Option("--kafka", metavar="HOST:PORT[,...]", help="Kafka brokers.", rich_help_panel="Connection")
]
Redis = Annotated[
    str | None, typer.Option("--redis", metavar="URL", help="Redis server.", rich_help_panel="Connection")
]
Config = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="TOML file with any setting.", rich_help_panel="Connection"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, in a shape that stays.")]
Items = Annotated[
    Path | None, typer.Option("--items", metavar="FILE", help="Catalogue: parquet, csv or jsonl with `item_id`.")
]
Log = Annotated[Path, typer.Argument(metavar="LOG", help="A parquet, csv or jsonl file.", show_default=False)]
Map = Annotated[
    list[str] | None,
    typer.Option(
        "--map", metavar="FIELD=COLUMN", help="Which column holds a field; FIELD=@TEXT is a constant. Repeatable."
    ),
]
MapType = Annotated[
    list[str] | None,
    typer.Option(
        "--map-type", metavar="VALUE=TYPE", help="What a type is called in the log; VALUE= leaves it out. Repeatable."
    ),
]
SkipUnknown = Annotated[bool, typer.Option("--skip-unknown-types", help="Leave out rows of types nobody named.")]
Rows = Annotated[
    str | None,
    typer.Option("--rows", metavar="A:B", help="Only rows A to before B, from 0; either may be empty."),
]
OnlyItems = Annotated[
    str | None,
    typer.Option("--only-items", metavar="REGEX", help="Leave out rows in whose item id this is not found."),
]
Anonymous = Annotated[
    str | None,
    typer.Option("--anonymous", metavar="USER", help="This user id is nobody: each of its sessions is a user."),
]
OncePerSession = Annotated[
    bool, typer.Option("--once-per-session", help="Leave out rows that repeat type, user, session and item of another.")
]
Positives = Annotated[
    str | None,
    typer.Option("--positives", metavar="TYPES", help="What counts as interest, as 'rating>=4,click,purchase'."),
]
ExcludeSeen = Annotated[
    bool | None, typer.Option("--exclude-seen", help="Never recommend what the user has touched before.")
]
CollapseRepeats = Annotated[
    bool | None, typer.Option("--collapse-repeats", help="A session's consecutive repeats of an item count once.")
]
Warmup = Annotated[
    float, typer.Option("--warmup", metavar="SHARE", min=0, max=1, help="This share is learned but not scored.")
]
Seed = Annotated[int | None, typer.Option("--seed", metavar="N", help="Of every random draw.")]


Preset = Annotated[
    str | None,
    typer.Option("--preset", metavar="NAME", help="default, or fast: fewer models, several times the speed."),
]


@app.command(epilog="Example: streamrec worker --config streamrec.toml --metrics-port 9100")
def worker(
    kafka: Kafka = None,
    redis: Redis = None,
    config: Config = None,
    items: Items = None,
    group: Annotated[str | None, typer.Option("--group", metavar="NAME", help="Kafka consumer group.")] = None,
    metrics_port: Annotated[int | None, typer.Option("--metrics-port", metavar="PORT", help="Prometheus port.")] = None,
    preset: Preset = None,
) -> None:
    """Read events, learn from each, and answer requests with slates until stopped.

    Ctrl-C or SIGTERM finishes the batch and saves a checkpoint; a second Ctrl-C stops at once.
    """
    from streamrec.commands import worker as command

    command.run(_settings(config, kafka, redis, items=items, group_id=group, metrics_port=metrics_port, preset=preset))


@app.command(name="config", epilog="Example: STREAMREC_LEARNING__SEED=7 streamrec config --config streamrec.toml")
def show_config(kafka: Kafka = None, redis: Redis = None, config: Config = None) -> None:
    """Print the effective configuration as TOML, secrets hidden."""
    from streamrec.commands import configuration as command

    command.show(_settings(config, kafka, redis))


@topics_app.command(epilog="Example: streamrec topics plan --kafka localhost:9092")
def plan(kafka: Kafka = None, redis: Redis = None, config: Config = None) -> None:
    """Say which topics are missing or differ from the configuration; change nothing."""
    from streamrec.commands import topics as command

    command.plan(_settings(config, kafka, redis))


@topics_app.command(epilog="Example: streamrec topics apply --kafka localhost:9092")
def apply(kafka: Kafka = None, redis: Redis = None, config: Config = None) -> None:
    """Create the topics that are missing; what exists is never changed."""
    from streamrec.commands import topics as command

    command.apply(_settings(config, kafka, redis))


@app.command(epilog="Example: streamrec tail --kafka localhost:9092 --user u42 --count 3")
def tail(
    kafka: Kafka = None,
    redis: Redis = None,
    config: Config = None,
    user_id: Annotated[str | None, typer.Option("--user", metavar="USER_ID", help="Only this user's slates.")] = None,
    as_json: AsJson = False,
    from_beginning: Annotated[bool, typer.Option("--from-beginning", help="Old slates too.")] = False,
    count: Annotated[int | None, typer.Option("--count", metavar="N", min=1, help="Stop after N slates.")] = None,
) -> None:
    """Print slates as they are published."""
    from streamrec.commands import tail as command

    command.run(
        _settings(config, kafka, redis), user_id=user_id, as_json=as_json, from_beginning=from_beginning, count=count
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
    from streamrec.commands import replay as command

    part = _part(log, mapping, types, skip_unknown_types, rows, only_items, anonymous, once_per_session)
    command.run(part, _settings(config, kafka, redis), speed=speed, resume=resume)


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
    from streamrec.commands import warmup as command

    part = _part(log, mapping, types, skip_unknown_types, rows, only_items, anonymous, once_per_session)
    plan = command.Plan(until, start, passes, partitioner, fresh)
    command.run(part, _settings(config, kafka, redis, items=items), plan)


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
    from streamrec.commands import backtest as command

    settings = _rehearsal_settings(config, items, positives, exclude_seen, collapse_repeats, seed, preset)
    part = _part(log, mapping, types, skip_unknown_types, rows, only_items, anonymous, once_per_session)
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
    from streamrec.commands import ablate as command

    settings = _rehearsal_settings(config, items, positives, exclude_seen, collapse_repeats, seed)
    part = _part(log, mapping, types, skip_unknown_types, rows, only_items, anonymous, once_per_session)
    changes = command.Changes(delays or (), context_delays or (), without or ())
    command.run(part, settings, changes, out=out, warmup=warmup)


@app.command(epilog="Example: streamrec user u42 --json")
def user(
    user_id: Annotated[str, typer.Argument(metavar="USER_ID", show_default=False)],
    kafka: Kafka = None,
    redis: Redis = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Print what the system knows of a user: counts, recent items, affinities, the latest slate."""
    from streamrec.commands import lookup as command

    command.user(_settings(config, kafka, redis), user_id, as_json=as_json)


@app.command(epilog="Example: streamrec item 85123A --redis redis://localhost:6379/0")
def item(
    item_id: Annotated[str, typer.Argument(metavar="ITEM_ID", show_default=False)],
    kafka: Kafka = None,
    redis: Redis = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Print what the system knows of an item: counts, recent users, category."""
    from streamrec.commands import lookup as command

    command.item(_settings(config, kafka, redis), item_id, as_json=as_json)


@app.command(epilog="Example: streamrec schema > event.schema.json")
def schema() -> None:
    """Print the JSON Schema of an event, generated from the type that decodes it."""
    from streamrec.commands import schema as command

    command.show()


@app.command(
    epilog="Example: streamrec demo --quick",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def demo(
    context: typer.Context,
    quick: Annotated[bool, typer.Option("--quick", help="A short run, for a first look and for tests.")] = False,
) -> None:
    """Replay a real shop log on this machine through a broker and a Redis server started for it."""
    from streamrec.commands import demo as command

    command.run([*(["--quick"] if quick else []), *context.args])


def main() -> None:
    """The `streamrec` console script: one clear line and an exit code for whatever goes wrong.

    Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 130 Ctrl-C, 143 SIGTERM.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)
    try:
        app()
    except StreamrecError as error:
        print(f"streamrec: {error}", file=sys.stderr)
        sys.exit(EXIT_USAGE if isinstance(error, ConfigError) else EXIT_FAILED)


def _leave(number: int, frame: FrameType | None) -> None:
    """Quietly, through every `finally`: an exception that no library mistakes for its own."""
    raise SystemExit(EXIT_BY_SIGNAL + number)


def _settings(config: Path | None, kafka: str | None = None, redis: str | None = None, **overrides: object) -> Settings:
    from streamrec.settings import load_settings

    return load_settings(config, kafka, redis, **overrides)


def _rehearsal_settings(
    config: Path | None,
    items: Path | None,
    positives: str | None,
    exclude_seen: bool | None,
    collapse_repeats: bool | None,
    seed: int | None,
    preset: str | None = None,
) -> Settings:
    return _settings(
        config,
        preset=preset,
        items=items,
        learning__positives=None if positives is None else tuple(part.strip() for part in positives.split(",")),
        learning__exclude_seen=exclude_seen,
        learning__collapse_repeats=collapse_repeats,
        learning__seed=seed,
    )


def _part(
    log: Path,
    mapping: list[str] | None,
    types: list[str] | None,
    skip_unknown_types: bool,
    rows: str | None,
    only_items: str | None = None,
    anonymous: str | None = None,
    once_per_session: bool = False,
) -> LogPart:
    from streamrec.commands.logs import LogPart
    from streamrec.replay.selection import Selection

    return LogPart(
        path=log,
        mapping=_pairs("--map", "FIELD=COLUMN", mapping),
        types=_pairs("--map-type", "VALUE=TYPE", types),
        skip_unknown_types=skip_unknown_types,
        rows=_range(rows),
        selection=Selection(only_items, anonymous, once_per_session),
    )


def _pairs(option: str, shape: str, given: list[str] | None) -> dict[str, str]:
    pairs = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{text!r}, expected {shape}", param_hint=option)
        pairs[name] = value
    return pairs


def _range(text: str | None) -> tuple[int | None, int | None]:
    first, colon, last = (text or ":").partition(":")
    if not colon or not all(part == "" or part.isdecimal() for part in (first, last)):
        raise typer.BadParameter(f"{text!r}, expected A:B with whole numbers, as 0:1000 or 5000:", param_hint="--rows")
    return (int(first) if first else None), (int(last) if last else None)


if __name__ == "__main__":
    main()
