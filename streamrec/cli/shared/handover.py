"""Where a log ends and a topic takes over, and whether it may: asked before anything is learned.

Knows nothing of learning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache

from rich.console import Console

from streamrec.config.settings import Settings
from streamrec.errors import BadEvent, ConfigError, StateError, TransportError
from streamrec.events import Event
from streamrec.replay.time_units import UNITS_IN_WORDS, TimeUnit, looks_like
from streamrec.state import MOVING, Store
from streamrec.transport import Record
from streamrec.transport.partitioners import PARTITIONERS, Partitioner
from streamrec.transport.positions import TopicReader, group_is_live
from streamrec.worker.placement import Placement

SAMPLE = 100
"""Records of each partition by which the partitioner is told."""
USERS_PLACED = 100_000
"""Users whose partition is remembered: murmur2 takes some microseconds."""
EARLIEST, LATEST, END_OF_LOG = "earliest", "latest", "end-of-log"


def refuse_live_workers(settings: Settings) -> None:
    """Refuse to pull state and models from under running workers and learners.

    Raises:
        StateError: somebody reads as one of their consumer groups.
    """
    for who, group in (("workers", settings.group_id), ("learners", settings.learners_group)):
        if group_is_live(group, settings.kafka):
            raise StateError(
                f"{who} of group {group!r} are running; stop them first (the brokers count one that was killed as "
                "running for up to a session timeout)"
            )


def refuse_checkpoints(store: Store, prefix: str, fresh: bool) -> None:
    """Refuse to learn a past behind what was learned already, unless that may go. An unfinished warm-up always may.

    Raises:
        StateError: there are checkpoints, and not `fresh`.
    """
    moving = MOVING in store.known_topic({})
    begun = [p for p, mark in store.marks().items() if mark.watermark is not None and (moving or not mark.sealed)]
    if begun and not fresh:
        raise StateError(
            f"there are checkpoints of {len(begun)} partitions under prefix {prefix!r}: something was learned already, "
            "and the past has to come first. --fresh forgets all of it; with another redis.prefix it stays"
        )


def configured_partitioner(settings: Settings) -> Partitioner:
    """The way in which producers place users.

    Raises:
        ConfigError: from the configured way no user's partition follows.
    """
    named = settings.topics.partitioner
    if named not in PARTITIONERS:
        raise ConfigError(
            f"topics.partitioner is {named!r}, from which no user's partition follows, expected one of "
            f"{', '.join(PARTITIONERS)}; without either, replay the history into a new topic instead"
        )
    return PARTITIONERS[named]


def partitioner_of(settings: Settings, sample: Sequence[Record], partitions: int) -> Partitioner:
    """The configured way, if a sample of the topic does not show another one.

    Raises:
        TransportError: the sample does.
        ConfigError: from the configured way no user's partition follows.
    """
    placed = configured_partitioner(settings)
    placement = Placement(settings.topics.partitioner)
    placement.check(sample, partitions)
    if placement.misplaced:
        raise TransportError(
            f"topic {settings.topics.events!r}: {placement.told()}; users whose past lies elsewhere would start anew"
        )
    return placed


def home_of(spread: Partitioner, partitions: int) -> Callable[[str], int]:
    """The partition that each user's events come on, when producers spread keys like this."""
    return lru_cache(USERS_PLACED)(lambda user_id: spread(user_id.encode("utf-8", "surrogatepass"), partitions))


def moment_of(text: str, option: str) -> int:
    """A time as it is typed, in ms: ISO 8601, without a zone UTC, or milliseconds since 1970.

    Raises:
        ConfigError: it is neither.
    """
    if text.isdecimal():
        guess = looks_like(text)
        if guess is not None:
            meant = UNITS_IN_WORDS[guess] if isinstance(guess, TimeUnit) else f"{guess:%Y-%m-%d}"
            raise ConfigError(
                f"{option} is {text}, expected milliseconds since 1970; write it as a date if {meant} is meant"
            )
        return int(text)
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            f"{option} is {text!r}, expected a time as 2024-03-01T12:00Z or in milliseconds since 1970"
        ) from None
    return int((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() * 1000)


def positions(
    topic: TopicReader, start: str | int, end: int, event_of: Callable[[Record], Event], console: Console
) -> dict[int, int]:
    """For every partition, the first live event: at `start`, or the first after the log's `end` (ms).

    Raises:
        TransportError: the topic cannot be read.
    """

    def moment(record: Record) -> int | None:
        try:
            return event_of(record).ts
        except BadEvent:
            return None

    if start == EARLIEST:
        return topic.beginning()
    if start == LATEST:
        return topic.end()
    found = topic.since(end + 1 if start == END_OF_LOG else int(start), moment)
    kept = topic.beginning()
    late = [partition for partition, offset in found.items() if offset == kept[partition] > 0]
    if late:
        console.print(
            f"note: partitions {late} of {topic.topic} keep nothing from before the handover; events between the end "
            "of the log and their first record, if there were any, are in neither",
            highlight=False,
        )
    return found


def still_kept(topic: TopicReader, starts: Mapping[int, int], console: Console) -> dict[int, int]:
    """The same positions, but for records that the topic has deleted in the meantime."""
    kept = topic.beginning()
    for partition, start in starts.items():
        if kept[partition] > start:
            console.print(
                f"note: partition {partition} of {topic.topic} has deleted {kept[partition] - start:,} records past "
                "the handover while the log was learned; they are not learned",
                highlight=False,
            )
    return {partition: max(start, kept[partition]) for partition, start in starts.items()}
