"""Says which topics are missing, and makes them."""

from __future__ import annotations

from streamrec.config.settings import Settings
from streamrec.transport import topics


def plan(settings: Settings) -> None:
    """Print what is missing or differs; change nothing.

    Raises:
        TransportError: the brokers do not answer.
    """
    changes = topics.plan(settings.topics, settings.kafka)
    for change in changes:
        print(change)
    if not changes:
        print("all topics are as configured")


def apply(settings: Settings) -> None:
    """Make what is missing, and print what was done and what still differs.

    Raises:
        TransportError: the brokers do not answer, or refuse.
    """
    changes = topics.plan(settings.topics, settings.kafka)
    made = topics.apply(changes, settings.kafka)
    for topic in made:
        print(f"made {topic.topic}: {topic.partitions} partitions, {topic.replication_factor} replicas")
    for change in changes:
        if isinstance(change, topics.DifferentSetting):
            print(change)
    if not changes:
        print("all topics are as configured")
