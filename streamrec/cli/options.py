"""Options that several commands share, and what is made of them.

Knows nothing of what commands do.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from streamrec.errors import ConfigError

if TYPE_CHECKING:
    from streamrec.cli.commands.logs import LogPart
    from streamrec.config.settings import Settings

HOUR_MS = 3_600_000

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
Since = Annotated[
    str | None,
    typer.Option(
        "--since", metavar="TIME", help="Only slates shown from then on; 'rollout': since it was changed last."
    ),
]
Window = Annotated[
    float, typer.Option("--window", metavar="HOURS", min=1e-3, help="A user counts with slates of so long.")
]
Alpha = Annotated[
    float, typer.Option("--alpha", metavar="P", min=1e-6, max=0.5, help="Chance that a verdict is ever wrong.")
]
Why = Annotated[str, typer.Option("--why", metavar="TEXT", help="Kept with the revision.")]
Preset = Annotated[
    str | None,
    typer.Option("--preset", metavar="NAME", help="default, or fast: fewer models, several times the speed."),
]


def settings_of(
    config: Path | None, kafka: str | None = None, redis: str | None = None, **overrides: object
) -> Settings:
    """The effective settings; options that were not given leave them as they are."""
    from streamrec.config.settings import load_settings

    return load_settings(config, kafka, redis, **overrides)


def rehearsal_settings(
    config: Path | None,
    items: Path | None,
    positives: str | None,
    exclude_seen: bool | None,
    collapse_repeats: bool | None,
    seed: int | None,
    preset: str | None = None,
) -> Settings:
    """The settings of a backtest."""
    return settings_of(
        config,
        preset=preset,
        items=items,
        learning__positives=None if positives is None else tuple(part.strip() for part in positives.split(",")),
        learning__exclude_seen=exclude_seen,
        learning__collapse_repeats=collapse_repeats,
        learning__seed=seed,
    )


def part_of(
    log: Path,
    mapping: list[str] | None,
    types: list[str] | None,
    skip_unknown_types: bool,
    rows: str | None,
    only_items: str | None = None,
    anonymous: str | None = None,
    once_per_session: bool = False,
) -> LogPart:
    """Which rows of a log are read, and how."""
    from streamrec.cli.commands.logs import LogPart
    from streamrec.replay.selection import Selection

    return LogPart(
        path=log,
        mapping=pairs_of("--map", "FIELD=COLUMN", mapping),
        types=pairs_of("--map-type", "VALUE=TYPE", types),
        skip_unknown_types=skip_unknown_types,
        rows=range_of(rows),
        selection=Selection(only_items, anonymous, once_per_session),
    )


def pairs_of(option: str, shape: str, given: list[str] | None) -> dict[str, str]:
    """NAME=VALUE options by name."""
    pairs = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{text!r}, expected {shape}", param_hint=option)
        pairs[name] = value
    return pairs


def prices_of(text: str | None) -> tuple[float | None, float | None]:
    """The least and the highest price of a range like 1.50:20, None where it is open.

    Raises:
        ConfigError: it is no range of numbers.
    """
    if text is None:
        return None, None
    least, colon, most = text.partition(":")
    if not colon:
        raise ConfigError(f"--price is {text!r}, expected A:B, as 1.50:20, 5: or :20")
    return (number_of(least, "--price") if least else None), (number_of(most, "--price") if most else None)


def number_of(text: str, option: str) -> float:
    """A number that stands in a NAME=VALUE option."""
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r}, expected a number", param_hint=option) from None


def range_of(text: str | None) -> tuple[int | None, int | None]:
    """The rows of an A:B option."""
    first, colon, last = (text or ":").partition(":")
    if not colon or not all(part == "" or part.isdecimal() for part in (first, last)):
        raise typer.BadParameter(f"{text!r}, expected A:B with whole numbers, as 0:1000 or 5000:", param_hint="--rows")
    return (int(first) if first else None), (int(last) if last else None)
