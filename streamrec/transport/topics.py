"""The topics streamrec reads and writes: what is missing on a cluster, what differs, and making what is missing.

What exists is changed by `grow` alone: a difference is reported for a person to decide on. Knows nothing of records.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TypeVar

from confluent_kafka import KafkaError, KafkaException

# These names are public, but the library's type hints do not say so.
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourceType,
)

from streamrec.config.groups import Topics
from streamrec.errors import TransportError
from streamrec.transport.librdkafka import LOG, Settings, connect, for_admin

LONG_RETENTION = 4
"""The retention of dead letters and outcomes, as a multiple of that of events."""
UPDATES_KEPT_MS = 6 * 3_600_000
"""How long updates of the models are kept: longer than from one snapshot to the next."""
LISTING_PAUSE_S = 0.1
"""Between two looks at whether a new topic is listed."""

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class MissingTopic:
    """A topic that does not exist; `apply` creates it with these settings."""

    topic: str
    partitions: int
    replication_factor: int
    config: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        config = ", ".join(f"{name}={value}" for name, value in self.config.items())
        return f"{self.topic}: missing; {self.partitions} partitions, {self.replication_factor} replicas, {config}"


@dataclass(frozen=True, slots=True)
class DifferentSetting:
    """A setting of an existing topic that is not as configured; never changed by `apply`."""

    topic: str
    setting: str
    wanted: str
    found: str

    def __str__(self) -> str:
        return f"{self.topic}: {self.setting} is {self.found}, the configuration says {self.wanted}; left as it is"


Change = MissingTopic | DifferentSetting


def wanted(topics: Topics) -> list[MissingTopic]:
    """Every topic as the configuration describes it, as if none were there."""
    retention = {"cleanup.policy": "delete", "retention.ms": str(topics.retention_ms)}
    long = {**retention, "retention.ms": str(topics.retention_ms * LONG_RETENTION if topics.retention_ms > 0 else -1)}
    compact = {"cleanup.policy": "compact"}
    configs = {
        topics.events: retention,
        topics.items: compact,
        topics.recommendations: retention,
        topics.outcomes: long,
        topics.trends: compact,
        topics.dead_letters: long,
    }
    # One order of what teaches, and one of what changed by it; a snapshot stands for all that is older.
    single = {topics.examples: retention, topics.model_updates: {**retention, "retention.ms": str(UPDATES_KEPT_MS)}}
    replicas = topics.replication_factor
    return [
        *(MissingTopic(name, topics.partitions, replicas, config) for name, config in configs.items()),
        *(MissingTopic(name, 1, replicas, config) for name, config in single.items()),
    ]


def plan(topics: Topics, settings: Settings, *, timeout_s: float = 10.0) -> list[Change]:
    """What a cluster lacks of `topics`, and what it has otherwise; empty when all is as configured.

    Raises:
        TransportError: the brokers did not answer within `timeout_s` a call.
        ConfigError: librdkafka does not know a setting.
    """
    admin = _admin(settings)
    try:
        # The whole list: asking for a topic by name makes some brokers create it.
        there = admin.list_topics(timeout=timeout_s).topics
    except KafkaException as error:
        raise _unanswered("list its topics", error, timeout_s) from error
    changes: list[Change] = []
    existing: list[MissingTopic] = []
    for topic in wanted(topics):
        if topic.topic not in there:
            changes.append(topic)
            continue
        existing.append(topic)
        partitions = there[topic.topic].partitions
        replicas = min((len(partition.replicas) for partition in partitions.values()), default=0)
        changes += _differences(topic.topic, "partitions", topic.partitions, len(partitions))
        changes += _differences(topic.topic, "replicas", topic.replication_factor, replicas)
    found = _configs(admin, [topic.topic for topic in existing], timeout_s)
    for topic in existing:
        for name, value in topic.config.items():
            # A broker that does not tell a setting cannot be said to differ in it.
            changes += _differences(topic.topic, name, value, found[topic.topic].get(name, value))
    return changes


def apply(changes: Iterable[Change], settings: Settings, *, timeout_s: float = 30.0) -> list[MissingTopic]:
    """Make what is missing of a plan, and return that; differences are left as they are.

    A topic that somebody else made in the meantime is not an error.

    Raises:
        TransportError: a topic could not be made, or the brokers did not answer within `timeout_s`.
    """
    missing = [change for change in changes if isinstance(change, MissingTopic)]
    if not missing:
        return []
    new = [NewTopic(c.topic, c.partitions, c.replication_factor, config=dict(c.config)) for c in missing]
    admin = _admin(settings)
    answers = admin.create_topics(new, operation_timeout=timeout_s, request_timeout=timeout_s)
    made = []
    for change in missing:
        try:
            _wait(answers[change.topic], timeout_s)
        except KafkaException as error:
            if error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
                continue
            raise _unanswered(f"make topic {change.topic!r}", error, timeout_s) from error
        made.append(change)
    _wait_until_listed(admin, {change.topic: change.partitions for change in made}, timeout_s)
    return made


def grow(topics: Topics, partitions: int, group_id: str, settings: Settings, *, timeout_s: float = 30.0) -> list[str]:
    """Add partitions to the events topic, and to what goes with it partition by partition; returns what has grown.

    Those with as many or more are left as they are. The events topic comes last: a failure before it changes nothing
    for users.

    Raises:
        TransportError: partitions could not be added, or the brokers did not answer within `timeout_s`.
    """
    admin = _admin(settings)
    try:
        there = {name: len(topic.partitions) for name, topic in admin.list_topics(timeout=timeout_s).topics.items()}
    except KafkaException as error:
        raise _unanswered("list its topics", error, timeout_s) from error
    changelogs = [name for name in there if name.startswith(f"{group_id}-trends-") and name.endswith("-changelog")]
    beside = [topics.recommendations, topics.outcomes, topics.trends, *changelogs]
    small = [name for name in [*beside, topics.events] if there.get(name, partitions) < partitions]
    for name in small:
        answers = admin.create_partitions([NewPartitions(name, partitions)], request_timeout=timeout_s)
        try:
            _wait(answers[name], timeout_s)
        except KafkaException as error:
            raise _unanswered(f"add partitions to topic {name!r}", error, timeout_s) from error
    _wait_until_listed(admin, dict.fromkeys(small, partitions), timeout_s)
    return small


def _wait_until_listed(admin: AdminClient, wanted: Mapping[str, int], timeout_s: float) -> None:
    """A controller says that partitions are made before every broker lists them; whoever looks next must find them."""
    deadline = time.monotonic() + timeout_s
    lacking = True
    while lacking and time.monotonic() < deadline:
        try:
            there = admin.list_topics(timeout=timeout_s).topics
        except KafkaException as error:
            raise _unanswered("list its topics", error, timeout_s) from error
        lacking = any(name not in there or len(there[name].partitions) < least for name, least in wanted.items())
        if lacking:
            time.sleep(LISTING_PAUSE_S)


def _admin(settings: Settings) -> AdminClient:
    return connect(lambda config: AdminClient(config, logger=LOG), dict(for_admin(settings)))


def _configs(admin: AdminClient, names: Sequence[str], timeout_s: float) -> dict[str, dict[str, str]]:
    if not names:
        return {}
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in names]
    configs: dict[str, dict[str, str]] = {}
    for resource, answer in admin.describe_configs(resources, request_timeout=timeout_s).items():
        try:
            entries: Mapping[str, ConfigEntry] = _wait(answer, timeout_s)
        except KafkaException as error:
            raise _unanswered(f"describe topic {resource.name!r}", error, timeout_s) from error
        configs[resource.name] = {name: entry.value for name, entry in entries.items() if entry.value is not None}
    return configs


def _wait(answer: Future[Answer], timeout_s: float) -> Answer:
    try:
        return answer.result(timeout_s + 1.0)  # a little longer than librdkafka's own limit, whose error says more
    except TimeoutError:
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT)) from None


def _differences(topic: str, setting: str, wanted: object, found: object) -> list[DifferentSetting]:
    return [] if str(wanted) == str(found) else [DifferentSetting(topic, setting, str(wanted), str(found))]


def _unanswered(what: str, error: KafkaException, timeout_s: float) -> TransportError:
    return TransportError(
        f"the cluster could not {what} (time limit {timeout_s:.0f} s): {error.args[0].str()}; "
        "check bootstrap.servers, and that this user may do so"
    )
