"""What all Kafka clients share: which librdkafka setting is for which client, connecting, messages, hopeless errors.

A user's `[kafka]` table is one flat list for everything that connects. librdkafka warns about every property that is
meant for the other kind of client, so the table is divided here before a client sees it. Names that stand in neither
set below go to every client, so TLS, SASL and whatever librdkafka adds later pass through untouched.

Knows nothing of topics. Source: librdkafka's CONFIGURATION.md, column C/P.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from confluent_kafka import KafkaError, KafkaException, Message

from streamrec.config.log_lines import RepeatFilter, get_logger
from streamrec.config.secrets import note_secrets, without_secrets
from streamrec.errors import ConfigError
from streamrec.transport import Headers, Record


def _without_secrets(record: logging.LogRecord) -> bool:
    """It quotes the URL of a token endpoint, with all that is in it."""
    if isinstance(record.msg, str):
        record.msg, record.args = without_secrets(record.getMessage()), None
    return True


LOG = logging.getLogger("streamrec.kafka")
"""Where librdkafka's own lines go, each kind once in a while: it repeats them many times a second."""
LOG.addFilter(_without_secrets)
LOG.addFilter(RepeatFilter())
EVENTS = get_logger("streamrec.kafka")
"""For what our own clients have to say."""

Client = TypeVar("Client")
Setting = str | int | float | bool
Settings = Mapping[str, Setting]

CONSUMER_ONLY = frozenset(
    {
        "auto.commit.interval.ms",
        "auto.offset.reset",
        "check.crcs",
        "coordinator.query.interval.ms",
        "enable.auto.commit",
        "enable.auto.offset.store",
        "enable.partition.eof",
        "fetch.error.backoff.ms",
        "fetch.max.bytes",
        "fetch.message.max.bytes",
        "fetch.min.bytes",
        "fetch.queue.backoff.ms",
        "fetch.wait.max.ms",
        "group.id",
        "group.instance.id",
        "group.protocol",
        "group.protocol.type",
        "group.remote.assignor",
        "heartbeat.interval.ms",
        "isolation.level",
        "max.partition.fetch.bytes",
        "max.poll.interval.ms",
        "partition.assignment.strategy",
        "queued.max.messages.kbytes",
        "queued.min.messages",
        "session.timeout.ms",
    }
)

PRODUCER_ONLY = frozenset(
    {
        "acks",
        "batch.num.messages",
        "batch.size",
        "compression.codec",
        "compression.level",
        "compression.type",
        "delivery.report.only.error",
        "delivery.timeout.ms",
        "enable.gapless.guarantee",
        "enable.idempotence",
        "linger.ms",
        "message.send.max.retries",
        "message.timeout.ms",
        "partitioner",
        "queue.buffering.backpressure.threshold",
        "queue.buffering.max.kbytes",
        "queue.buffering.max.messages",
        "queue.buffering.max.ms",
        "queuing.strategy",
        "request.required.acks",
        "request.timeout.ms",
        "retries",
        "sticky.partitioning.linger.ms",
        "transaction.timeout.ms",
        "transactional.id",
    }
)


DECIDED_BY_BROKER = frozenset(
    {"group.protocol.type", "heartbeat.interval.ms", "partition.assignment.strategy", "session.timeout.ms"}
)
"""What a member of a group of the newer protocol (KIP-848) may not say."""


SESSION_TIMEOUT_MS, HEARTBEAT_MS = 8_000, 2_000
"""Of a group's members. Heartbeats are sent by a thread that waits for nothing of ours."""


def newer_protocol(settings: Settings) -> bool:
    """Whether the broker assigns the partitions of a group (`group.protocol` is `consumer`, KIP-848)."""
    return str(settings.get("group.protocol", "classic")).lower() == "consumer"


def for_consumer(settings: Settings) -> dict[str, Setting]:
    """What of `settings` a consumer understands."""
    foreign = PRODUCER_ONLY | DECIDED_BY_BROKER if newer_protocol(settings) else PRODUCER_ONLY
    return {name: value for name, value in settings.items() if name not in foreign}


def for_member(settings: Settings) -> dict[str, Setting]:
    """What of `settings` a member of a consumer group understands.

    One that dies is missed after eight seconds, not librdkafka's 45, unless the settings or, in the newer protocol, the
    brokers say otherwise.
    """
    pace = {"session.timeout.ms": SESSION_TIMEOUT_MS, "heartbeat.interval.ms": HEARTBEAT_MS}
    return {**({} if newer_protocol(settings) else pace), **for_consumer(settings)}


def for_producer(settings: Settings) -> dict[str, Setting]:
    """What of `settings` a producer understands."""
    return {name: value for name, value in settings.items() if name not in CONSUMER_ONLY}


def for_admin(settings: Settings) -> dict[str, Setting]:
    """What of `settings` concerns the connection alone."""
    return {name: value for name, value in for_consumer(settings).items() if name not in CONSUMER_ONLY}


HOPELESS = frozenset(
    {
        KafkaError._AUTHENTICATION,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.INCONSISTENT_GROUP_PROTOCOL,
    }
)
"""Errors that librdkafka retries for ever although only a person can help."""


def connect(make: Callable[[dict[str, Any]], Client], config: dict[str, Any]) -> Client:
    """The client that `make` makes of `config`.

    Raises:
        ConfigError: librdkafka does not know a setting, or two of them contradict each other.
    """
    note_secrets({name: value for name, value in config.items() if not callable(value)})
    try:
        return make(config)
    except (KafkaException, TypeError, ValueError) as error:
        detail = without_secrets(error.args[0].str() if isinstance(error, KafkaException) else str(error))
        raise ConfigError(f"the Kafka settings were refused: {detail}; see librdkafka's CONFIGURATION.md") from error


def headers_of(message: Message) -> Headers:
    """A message's headers, those without a value left out."""
    pairs = message.headers()
    # librdkafka hands over a list of pairs, or None.
    return tuple((name, value) for name, value in pairs if isinstance(value, bytes)) if isinstance(pairs, list) else ()


def record_of(message: Message, topic: str) -> Record:
    """A message without an error as a record of `topic`."""
    return Record(
        topic,
        message.partition() or 0,
        message.offset() or 0,
        message.key(),
        message.value(),
        headers_of(message),
        max(0, message.timestamp()[1]),
    )
