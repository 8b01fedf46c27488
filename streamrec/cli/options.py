"""Options that several commands share, alone or in groups, and what is made of them.

A group is a dataclass with an option in each field. A command that takes one as a parameter is `unfolded`: typed are
the fields, and the command is handed the group. Knows nothing of what commands do.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer

from streamrec.cli.application import FORM_HELP, LEVEL_HELP, FormOfLines, LeastSevere
from streamrec.errors import ConfigError

if TYPE_CHECKING:
    from streamrec.cli.shared.dead_letters import DeadLetterSelection
    from streamrec.cli.shared.logs import LogPart
    from streamrec.config.settings import Settings
    from streamrec.evaluation.experiments.arms import ExperimentDesign

HOUR_MS = 3_600_000


def unfolded(command: Callable[..., None]) -> Callable[..., None]:
    """The command as typer takes it: in place of each parameter that is a group, the group's fields.

    Typer has no groups of its own; it reads a command's signature and annotations, so those are what is made here.

    Raises:
        TypeError: two parameters, of groups or not, have one name.
    """
    groups: dict[str, type[Any]] = {}
    parameters: list[inspect.Parameter] = []
    hints = get_type_hints(command, include_extras=True)
    for name, parameter in inspect.signature(command).parameters.items():
        annotation = hints[name]
        if is_dataclass(annotation) and isinstance(annotation, type):
            groups[name] = annotation
            parameters += _parameters_of(annotation)
        else:
            # By name, so that what has to be given may stand behind what has a default.
            parameters.append(parameter.replace(annotation=annotation, kind=inspect.Parameter.KEYWORD_ONLY))
    names = [parameter.name for parameter in parameters]
    if len(set(names)) < len(names):
        raise TypeError(f"{command.__name__}: two options have one name among {', '.join(names)}")

    def typed(**given: Any) -> None:
        folded = {
            name: group(**{field.name: given.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        command(**folded, **given)

    # Not `functools.wraps`: through `__wrapped__` typer would find the groups again.
    typed.__name__, typed.__doc__, typed.__module__ = command.__name__, command.__doc__, command.__module__
    typed.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    typed.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return typed


def _parameters_of(group: type[Any]) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in fields(group)
    ]


Kafka = Annotated[
    str | None, typer.Option("--kafka", metavar="HOST:PORT[,...]", help="Kafka brokers.", rich_help_panel="Connection")
]
Config = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="TOML file with any setting.", rich_help_panel="Connection"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, in a shape that stays.")]
Items = Annotated[
    Path | None, typer.Option("--items", metavar="FILE", help="Catalogue: parquet, csv or jsonl with `item_id`.")
]
Map = Annotated[
    list[str] | None,
    typer.Option(
        "--map", metavar="FIELD=COLUMN", help="Which column holds a field; FIELD=@TEXT is a constant. Repeatable."
    ),
]
MaxRefused = Annotated[
    float,
    typer.Option(
        "--max-refused", metavar="SHARE", min=0, max=1, help="Leave out rows that cannot be used, up to this share."
    ),
]
Separator = Annotated[
    str | None,
    typer.Option("--separator", metavar="CHAR", help="Between the columns of csv files, if no comma is: ';' or '\\t'."),
]
Warmup = Annotated[
    float, typer.Option("--warmup", metavar="SHARE", min=0, max=1, help="This share is learned but not scored.")
]
Since = Annotated[
    str | None,
    typer.Option(
        "--since", metavar="TIME", help="Only slates shown from then on; 'rollout': since it was changed last."
    ),
]
Why = Annotated[str, typer.Option("--why", metavar="TEXT", help="Kept with the revision.")]
Preset = Annotated[
    str | None,
    typer.Option("--preset", metavar="NAME", help="default, or fast: fewer models, several times the speed."),
]


@dataclass(frozen=True, slots=True)
class LogLineOptions:
    """How a command that runs for long writes log lines; typed before its name, they are for every command."""

    log_format: Annotated[
        FormOfLines | None,
        typer.Option("--log-format", help=FORM_HELP, rich_help_panel="Log lines"),
    ] = None
    log_level: Annotated[
        LeastSevere | None,
        typer.Option("--log-level", help=LEVEL_HELP, rich_help_panel="Log lines"),
    ] = None

    def apply(self, *, service: bool = False) -> None:
        """From now on; `service` as in `write_log_lines`."""
        from streamrec.config.log_lines import write_log_lines

        write_log_lines(self.log_format, self.log_level, service=service)


@dataclass(frozen=True, slots=True)
class Connection:
    """Where the system's settings come from; options that are not given leave them as they are."""

    kafka: Kafka = None
    redis: Annotated[
        str | None,
        typer.Option(
            "--redis", metavar="URL", help="Redis server; -: read from standard input.", rich_help_panel="Connection"
        ),
    ] = None
    redis_password_file: Annotated[
        Path | None,
        typer.Option(
            "--redis-password-file", metavar="FILE", help="Holds the password of Redis.", rich_help_panel="Connection"
        ),
    ] = None
    config: Config = None

    def settings(self, **overrides: object) -> Settings:
        """The effective settings.

        Raises:
            ConfigError: there is no such setting, or one does not fit.
        """
        redis = self.redis
        if redis == "-" and not (redis := sys.stdin.readline().strip()):
            raise ConfigError("--redis is -, and standard input is empty; expected the URL of Redis as its first line")
        overrides["redis__password_file"] = self.redis_password_file
        return settings_of(self.config, self.kafka, redis, **overrides)


@dataclass(frozen=True, slots=True)
class DesignOptions:
    """How arms are compared."""

    window_h: Annotated[
        float, typer.Option("--window", metavar="HOURS", min=1e-3, help="A user counts with slates of so long.")
    ] = 24.0
    alpha: Annotated[
        float, typer.Option("--alpha", metavar="P", min=1e-6, max=0.5, help="Chance that a verdict is ever wrong.")
    ] = 0.05
    method: Annotated[
        Literal["asymptotic", "bounded"],
        typer.Option(
            "--method", help="asymptotic is for 100 users an arm and more; bounded is right for any, and wider."
        ),
    ] = "asymptotic"
    bound: Annotated[
        float, typer.Option("--bound", metavar="REWARD", min=1e-6, help="No slate counts for more than this.")
    ] = 1.0

    def design(self) -> ExperimentDesign:
        """The same, as the analysis takes it."""
        from streamrec.evaluation.experiments.arms import ExperimentDesign, SequenceMethod

        return ExperimentDesign(self.alpha, round(self.window_h * HOUR_MS), SequenceMethod(self.method), self.bound)


@dataclass(frozen=True, slots=True)
class LogOptions:
    """Which rows of which log, and how its columns and types are called."""

    log: Annotated[Path, typer.Argument(metavar="LOG", help="A parquet, csv or jsonl file.", show_default=False)]
    mapping: Map = None
    types: Annotated[
        list[str] | None,
        typer.Option(
            "--map-type",
            metavar="VALUE=TYPE",
            help="What a type is called in the log; VALUE= leaves it out. Repeatable.",
        ),
    ] = None
    skip_unknown_types: Annotated[
        bool, typer.Option("--skip-unknown-types", help="Leave out rows of types nobody named.")
    ] = False
    rows: Annotated[
        str | None,
        typer.Option("--rows", metavar="A:B", help="Only rows A to before B, from 0; either may be empty."),
    ] = None
    only_items: Annotated[
        str | None,
        typer.Option("--only-items", metavar="REGEX", help="Leave out rows in whose item id this is not found."),
    ] = None
    anonymous: Annotated[
        str | None,
        typer.Option("--anonymous", metavar="USER", help="This user id is nobody: each of its sessions is a user."),
    ] = None
    once_per_session: Annotated[
        bool,
        typer.Option("--once-per-session", help="Leave out rows that repeat type, user, session and item of another."),
    ] = False
    ts_unit: Annotated[
        Literal["s", "ms", "us", "ns"], typer.Option("--ts-unit", help="What numbers in `ts` count since 1970.")
    ] = "ms"
    max_refused: MaxRefused = 0.0
    separator: Separator = None

    def part(self) -> LogPart:
        """The part of the log that is read.

        Raises:
            typer.BadParameter: a pair or a range is none.
        """
        from streamrec.cli.shared.logs import LogPart
        from streamrec.replay.selection import Selection
        from streamrec.replay.time_units import TimeUnit

        return LogPart(
            path=self.log,
            mapping=pairs_of("--map", "FIELD=COLUMN", self.mapping),
            types=pairs_of("--map-type", "VALUE=TYPE", self.types),
            skip_unknown_types=self.skip_unknown_types,
            rows=range_of(self.rows),
            selection=Selection(self.only_items, self.anonymous, self.once_per_session),
            unit=TimeUnit(self.ts_unit),
            max_refused=self.max_refused,
            separator=separator_of(self.separator),
        )


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """How the system is set up that meets a log in this process."""

    config: Config = None
    items: Items = None
    positives: Annotated[
        str | None,
        typer.Option("--positives", metavar="TYPES", help="What counts as interest, as 'rating>=4,click,purchase'."),
    ] = None
    exclude_seen: Annotated[
        bool | None, typer.Option("--exclude-seen", help="Never recommend what the user has touched before.")
    ] = None
    collapse_repeats: Annotated[
        bool | None, typer.Option("--collapse-repeats", help="A session's consecutive repeats of an item count once.")
    ] = None
    seed: Annotated[int | None, typer.Option("--seed", metavar="N", help="Of every random draw.")] = None

    def settings(self, preset: str | None = None, separator: str | None = None) -> Settings:
        """The effective settings.

        Raises:
            ConfigError: a setting does not fit.
        """
        positives = None if self.positives is None else tuple(part.strip() for part in self.positives.split(","))
        return settings_of(
            self.config,
            preset=preset,
            items=self.items,
            separator=separator_of(separator),
            learning__positives=positives,
            learning__exclude_seen=self.exclude_seen,
            learning__collapse_repeats=self.collapse_repeats,
            learning__seed=self.seed,
        )


@dataclass(frozen=True, slots=True)
class LetterOptions:
    """Which dead letters."""

    reason: Annotated[
        list[str] | None, typer.Option("--reason", metavar="REASON", help="Only letters with this reason. Repeatable.")
    ] = None
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="Only letters put aside from then on.")
    ] = None
    until: Annotated[
        str | None, typer.Option("--until", metavar="TIME", help="Only letters put aside before then.")
    ] = None

    def selection(self) -> DeadLetterSelection:
        """The letters that are meant.

        Raises:
            ConfigError: a time is none.
        """
        from streamrec.cli.shared.dead_letters import DeadLetterSelection
        from streamrec.cli.shared.outcomes import time_of

        since, until = time_of(self.since, "--since"), time_of(self.until, "--until")
        return DeadLetterSelection(frozenset(self.reason or ()), since, until)


def settings_of(
    config: Path | None, kafka: str | None = None, redis: str | None = None, **overrides: object
) -> Settings:
    """The effective settings; options that were not given leave them as they are."""
    from streamrec.config.settings import load_settings

    return load_settings(config, kafka, redis, **overrides)


def pairs_of(option: str, shape: str, given: list[str] | None) -> dict[str, str]:
    """NAME=VALUE options by name."""
    pairs = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{text!r}, expected {shape}", param_hint=option)
        pairs[name] = value
    return pairs


def separator_of(text: str | None) -> str | None:
    """The one character of a `--separator`; a tab may be typed as \\t.

    Raises:
        typer.BadParameter: it is not one character that can stand between columns.
    """
    char = "\t" if text == "\\t" else text
    if char is not None and (len(char) != 1 or char in '"\r\n'):
        raise typer.BadParameter(f"{text!r}, expected one character, as ';' or '\\t'", param_hint="--separator")
    return char


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
