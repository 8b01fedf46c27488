"""Sees that the topic is still the one whose positions are stored, with as many partitions.

A topic that was deleted and made anew, or another cluster's, is another topic: read on at the old positions, it would
lose its first records in silence. More partitions send users where nobody knows them. Either stops the worker, at the
start as in the middle of its work. Knows nothing of Kafka; what brokers do not tell is not compared.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict

from streamrec.config.log_lines import get_logger
from streamrec.errors import StateError, TransportUnavailable
from streamrec.state import MOVING, Store
from streamrec.transport import TopicIdentity

LOG = get_logger("streamrec.worker.topic_watch")
LOOK_EVERY_S = 1.0
"""Before checkpoints, at most so often: in less nobody deletes a topic, makes it anew and fills it."""
ANSWER_LIMIT_S, ANSWER_LIMIT_BEFORE_CHECKPOINTS_S = 10.0, 2.0

Identity = Callable[[float], TopicIdentity]
"""Asks which topic it is, for so many seconds at most. Raises TransportUnavailable."""


class TopicWatch:
    """One worker's. `identity` None is a log that cannot change."""

    def __init__(self, topic: str, identity: Identity | None, store: Store, clock: Callable[[], float]) -> None:
        self._topic = topic
        self._identity = identity
        self._store = store
        self._clock = clock
        self._seen: dict[str, str] = {}  # what was found right
        self._looked_at = 0.0

    def check(self) -> None:
        """Compare the topic with what is recorded beside its positions; to be called before any is used.

        Raises:
            TransportUnavailable, StateUnavailable: nobody tells just now.
            StateError: it is another topic, or has another number of partitions.
        """
        if self._identity is None:
            return
        told = facts(self._identity(ANSWER_LIMIT_S))
        if not self._seen and "topic_id" not in told:
            LOG.warning("the brokers tell no topic id: a topic that is deleted and made anew will not be noticed")
        self._compare(told, self._seen)
        recorded = self._store.known_topic(told)
        if MOVING not in recorded and differing(told, recorded) and not self._begun():
            self._store.record_topic(told)  # nobody has a position that could be wrong
        else:
            self._compare(told, recorded)
        self._seen, self._looked_at = told, self._clock()

    @property
    def source(self) -> int:
        """A number for this topic, another one if it is made anew; 0 where the brokers do not tell it apart."""
        return zlib.crc32(self._seen["topic_id"].encode()) if "topic_id" in self._seen else 0

    @property
    def partitions(self) -> int:
        """Of the topic, 0 where that is not known."""
        return int(self._seen.get("partitions", 0))

    def look(self) -> None:
        """Whether the topic has changed since it was found right; to be called before anything read is saved.

        Raises:
            StateError: it has.
        """
        if self._identity is None or not self._seen or self._clock() - self._looked_at < LOOK_EVERY_S:
            return
        self._looked_at = self._clock()
        try:
            told = facts(self._identity(ANSWER_LIMIT_BEFORE_CHECKPOINTS_S))
        except TransportUnavailable as error:  # the source knows when brokers are away, and a topic is gone
            LOG.info("the topic cannot be looked at", error=str(error))
            return
        self._compare(told, self._seen)

    def _begun(self) -> bool:
        return any(mark.watermark is not None for mark in self._store.marks().values())

    def _compare(self, told: Mapping[str, str], recorded: Mapping[str, str]) -> None:
        if MOVING in recorded:
            raise StateError(
                f"users of topic {self._topic!r} are being moved to {recorded[MOVING]} partitions, or that was cut "
                f"short: run `streamrec topics rescale --partitions {recorded[MOVING]}`, which goes on where it stopped"
            )
        refuse_another(self._topic, told, recorded)
        if differing(told, recorded):
            raise StateError(
                f"topic {self._topic!r} has {told['partitions']} partitions, its users were spread over "
                f"{recorded['partitions']}: their next events come where nobody knows them. Stop all workers, run "
                f"`streamrec topics rescale --partitions {told['partitions']}`, which moves the users, and start again"
            )


def refuse_another(topic: str, told: Mapping[str, str], recorded: Mapping[str, str]) -> None:
    """Refuse a topic that is not the one whose positions are stored.

    Raises:
        StateError: it was made anew, or is another cluster's.
    """
    if changed := another(told, recorded):
        detail = ", ".join(f"{name} is {told[name]}, recorded {recorded[name]}" for name in changed)
        raise StateError(
            f"topic {topic!r} is not the one whose positions are stored ({detail}): it was made anew, or is another "
            "cluster's. If the brokers are the wrong ones, mend kafka.bootstrap.servers; else `streamrec topics adopt` "
            "keeps users and models, and begins this topic at its beginning or where you say"
        )


def another(told: Mapping[str, str], recorded: Mapping[str, str]) -> list[str]:
    """By what it shows that this is not the topic that is recorded; nothing if it may be."""
    return [
        name
        for name in differing(told, recorded)
        if name != "partitions" or int(told[name]) < int(recorded[name])  # Kafka takes none away
    ]


def facts(identity: TopicIdentity) -> dict[str, str]:
    """What is told, as it is recorded."""
    return {name: str(told) for name, told in asdict(identity).items() if told}


def differing(told: Mapping[str, str], recorded: Mapping[str, str]) -> list[str]:
    """The names of what both know, and know otherwise."""
    return [name for name, word in told.items() if recorded.get(name, word) != word]
