"""The effective settings: defaults, a TOML file, the environment and the command line, read and checked once.

Later sources win. Every value keeps the name of the place it came from, so that an error can point there.
Knows nothing of what the settings are for.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from streamrec.config import parts
from streamrec.config.groups import (
    Attribution,
    Checkpointing,
    FusionSettings,
    GatewaySettings,
    LearnerSettings,
    Learning,
    Limits,
    Redis,
    Rollout,
    Serving,
    SnapshotSettings,
    Topics,
    TrendsSettings,
    preset_settings,
)
from streamrec.config.scenarios import ScenarioSettings, merged
from streamrec.config.secrets import HIDDEN, note_secrets, shown_kafka, shown_url
from streamrec.errors import ConfigError, did_you_mean

PREFIX = "STREAMREC_"
CONFIG_VARIABLE = "STREAMREC_CONFIG"
NOT_SETTINGS = frozenset({CONFIG_VARIABLE, "STREAMREC_DATA", "STREAMREC_LOG_FORMAT", "STREAMREC_LOG_LEVEL"})
"""Variables that share the prefix: the configuration file, the real logs that tests use, the form of log lines."""

_SCENARIO_DEPTH = 4
"""Of the name of a scenario's rule: scenarios.home.slates.diversity."""

_RENAMED = {("checkpoints", "directory"): "snapshots.url", ("checkpoints", "keep"): "snapshots.keep"}

KafkaValue = str | int | float | bool
DEFAULT_KAFKA: Mapping[str, KafkaValue] = {"bootstrap.servers": "127.0.0.1:9092"}


class Settings(BaseSettings):
    """Everything that can be set. `Settings()` is the defaults alone; `load_settings` reads the other sources.

    Raises:
        pydantic.ValidationError: a value is out of range or a name unknown.
    """

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,
        use_attribute_docstrings=True,
    )

    preset: Literal["default", "fast"] = "default"
    """What the other settings are unless they are set: fast leaves out the models that cost most per gain."""
    group_id: Annotated[str, Field(min_length=1)] = "streamrec"
    """Kafka consumer group of the workers: those that share it share the partitions."""
    items: Path | None = None
    """Catalogue file (parquet, csv or jsonl) read at start; without it the `items` topic alone is read."""
    separator: Annotated[str, Field(pattern=r'^[^"\r\n]$')] = ","
    """Between the columns of a csv file whose header has it; otherwise a comma is."""
    metrics_port: Annotated[int, Field(ge=1, le=65_535)] | None = None
    """Where a worker answers /metrics, /livez and /readyz; none by default."""
    metrics_host: str = "127.0.0.1"
    """The address it answers on; 0.0.0.0 for probes from outside, which then see metrics too."""
    stuck_s: Annotated[float, Field(ge=5)] = 120.0
    """/livez fails when the loop has not come round, or a partition with records has given none, for so long."""
    kafka: dict[str, KafkaValue] = Field(default_factory=dict)
    """Handed to librdkafka as it stands: brokers, TLS, SASL and everything else it knows."""
    redis: Redis = Redis()
    topics: Topics = Topics()
    limits: Limits = Limits()
    learning: Learning = Field(default_factory=Learning)
    learner: LearnerSettings = LearnerSettings()
    fusion: FusionSettings = FusionSettings()
    attribution: Attribution = Attribution()
    rollout: Rollout = Rollout()
    serving: Serving = Serving()
    checkpoints: Checkpointing = Checkpointing()
    snapshots: SnapshotSettings = SnapshotSettings()
    trends: TrendsSettings = TrendsSettings()
    gateway: GatewaySettings = GatewaySettings()
    scenarios: Annotated[Mapping[str, ScenarioSettings], BeforeValidator(merged)] = Field(
        default_factory=dict, validate_default=True
    )
    """Ways to ask, by name, and the rules by which each is answered."""

    @property
    def learners_group(self) -> str:
        """The consumer group of the learners, beside that of the workers."""
        return f"{self.group_id}-learner"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments alone: `load_settings` merges the sources, because it remembers where each value came from."""
        return (init_settings,)

    @field_validator("kafka")
    @classmethod
    def _keep_a_broker(cls, given: dict[str, KafkaValue]) -> dict[str, KafkaValue]:
        return {**DEFAULT_KAFKA, **given}


class _Environment(EnvSettingsSource):
    """`STREAMREC_GROUP__NAME=value`; lists by commas, tables as JSON; a whole Kafka or Redis is its address."""

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        match field_name:
            case "kafka":
                return {"bootstrap.servers": value}
            case "redis":
                return {"url": value}
            case _ if str(value).lstrip().startswith("{"):
                return _read_table(field_name, str(value))
            case _:
                return [part.strip() for part in str(value).split(",") if part.strip()]


def _read_table(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ConfigError(f"setting {name} (environment) is not JSON: {error}") from None


def load_settings(
    config: Path | None = None,
    kafka: str | None = None,
    redis: str | None = None,
    given_by: str = "command line",
    /,
    **overrides: object,
) -> Settings:
    """The effective settings: defaults < preset < TOML file < environment < options.

    Args:
        config: a TOML file; without it the one named by STREAMREC_CONFIG, if any.
        kafka: HOST:PORT[,HOST:PORT] of the brokers, in place of `kafka."bootstrap.servers"`.
        redis: URL, in place of `redis.url`.
        given_by: what errors call the source of the overrides.
        overrides: any other setting, a group's as `group__name`; None leaves it as it is.

    Raises:
        ConfigError: a setting is unknown or has an unusable value; the message names it and where it came from.
    """
    if config is None and CONFIG_VARIABLE in os.environ:
        config = Path(os.environ[CONFIG_VARIABLE])
    options = _nested({**overrides, "redis__url": redis}, given_by)
    if kafka is not None:
        options["kafka"] = {"bootstrap.servers": kafka}
    layers: list[tuple[str, Mapping[str, Any]]] = [
        (f"file {config}", _read_toml(config) if config is not None else {}),
        ("environment", _read_environment()),
        (given_by, options),
    ]
    chosen = next((layer["preset"] for _, layer in reversed(layers) if "preset" in layer), "default")
    layers.insert(0, (f"preset {chosen}", preset_settings(chosen)))
    values: dict[str, Any] = {}
    sources: dict[tuple[str, ...], str] = {}
    for source, layer in layers:
        for path, value in _leaves(layer):
            _put(values, path, value, source)
            sources[path] = source
    if ("kafka", "partitioner") in sources:
        raise ConfigError(
            f"setting kafka.partitioner ({sources['kafka', 'partitioner']}) cannot be set: topics.partitioner says how "
            "keys are placed, murmur2 (librdkafka's murmur2_random) or crc32 (consistent_random)"
        )
    for path in sources:
        if path in _RENAMED:
            raise ConfigError(f"setting {'.'.join(path)} ({sources[path]}) is {_RENAMED[path]} now: rename it there")
    try:
        settings = Settings(**values)
    except ValidationError as error:
        problems = {_setting(detail["loc"]): _explain(detail, sources) for detail in error.errors()}
        raise ConfigError("; ".join(problems.values())) from None
    note_secrets(settings.kafka, settings.redis.url)
    return settings


def shown(settings: Settings) -> dict[str, Any]:
    """The settings as plain values, secrets replaced by asterisks; what is not set is left out."""
    plain = settings.model_dump(mode="json", exclude_none=True)
    plain["kafka"] = {key: shown_kafka(key, value) for key, value in sorted(plain["kafka"].items())}
    plain["redis"]["url"] = shown_url(plain["redis"]["url"])
    plain["serving"]["recommend_on"] = sorted(plain["serving"]["recommend_on"])
    return plain


def environment_name(setting: str) -> str:
    """The variable that sets `group.name`: STREAMREC_GROUP__NAME."""
    group, dot, name = setting.partition(".")
    return PREFIX + group.upper() + ("__" + name.replace(".", "_").upper() if dot else "")


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"configuration file {path} cannot be read: {error.strerror}; check --config") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"configuration file {path} is not TOML: {error}") from None
    if isinstance(values.get("kafka"), dict):
        # `bootstrap.servers = ...` without quotes is a table in a table to TOML; librdkafka's names are flat.
        values["kafka"] = {".".join(key): value for key, value in _leaves(values["kafka"])}
    return values


def _read_environment() -> dict[str, Any]:
    known = [environment_name(name) for name in Settings.model_fields]
    for name in os.environ:
        if name.startswith(PREFIX) and name not in NOT_SETTINGS and name.split("__")[0] not in known:
            raise ConfigError(f"environment variable {name} sets nothing{_nearest(name, _variables())}")
    values = _Environment(Settings)()
    if isinstance(values.get("kafka"), dict):
        values["kafka"] = {key.replace("_", "."): value for key, value in values["kafka"].items()}
    return values


def _variables() -> list[str]:
    groups = {name: field.annotation for name, field in Settings.model_fields.items()}
    nested = [environment_name(f"{group}.{name}") for group, kind in groups.items() for name in _fields_of(kind)]
    return [environment_name(group) for group in groups] + nested


def _fields_of(kind: Any) -> list[str]:
    return list(getattr(kind, "model_fields", ()))


def _leaves(tree: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*path, key))
        elif value is not None:
            yield (*path, key), value


def _nested(overrides: Mapping[str, object], given_by: str) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, value in overrides.items():
        if value is not None:
            _put(tree, tuple(name.split("__")), value, given_by)
    return tree


def _put(tree: dict[str, Any], path: tuple[str, ...], value: Any, source: str) -> None:
    *groups, name = path
    for depth, group in enumerate(groups):
        tree = tree.setdefault(group, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"setting {'.'.join(path[: depth + 1])} is one value, not a group of them ({source})")
    tree[name] = value


def _setting(location: tuple[int | str, ...]) -> str:
    depth = _SCENARIO_DEPTH if location[:1] == ("scenarios",) else 2
    return ".".join(str(part) for part in location[:depth])


def _explain(detail: ErrorDetails, sources: Mapping[tuple[str, ...], str]) -> str:
    """One line: the setting, what came and from where, what was expected."""
    setting = _setting(detail["loc"])
    group, _, name = setting.partition(".")
    came_from = {".".join(path) + ".": source for path, source in sources.items()}
    place = next((source for path, source in came_from.items() if path.startswith(setting + ".")), "defaults")
    if place == "environment":
        place = f"environment variable {environment_name(setting)}"
    if detail["type"] == "extra_forbidden":
        siblings = _fields_of(Settings.model_fields[group].annotation) if name else list(Settings.model_fields)
        return f"setting {setting} ({place}) is unknown{_nearest(name or group, siblings)}"
    expected = detail["msg"].removeprefix("Input should be ")
    near = ""
    if isinstance(detail["input"], str):
        policies = (f"model:{model}" for model in parts.models())
        near = did_you_mean(detail["input"], (*re.findall(r"[\w:-]+", expected), *policies))
    if not name and _fields_of(Settings.model_fields[group].annotation):
        expected = f"a table: [{group}] and its settings below it"
    elif group == "kafka":
        expected = "a text, a number, true or false" if name else "a table: [kafka] and librdkafka's settings below it"
    return f"setting {setting} is {_shown(setting, detail['input'])!r} ({place}), expected {expected}{near}"


def _nearest(name: str, known: list[str]) -> str:
    return did_you_mean(name, known) or f"; known are {', '.join(known)}"


def _shown(setting: str, value: Any) -> Any:
    """`value` as far as it may be shown."""
    group, _, name = setting.partition(".")
    if group == "kafka":
        return shown_kafka(name, value)
    if setting in ("redis", "redis.url") or (setting == "snapshots.url" and "://" in str(value)):
        return shown_url(value) if isinstance(value, str) else value if isinstance(value, int | float) else HIDDEN
    return value
