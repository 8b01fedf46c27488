"""Makes the topics that are missing."""

from __future__ import annotations

import json
from dataclasses import asdict

from streamrec.config.settings import Settings
from streamrec.transport import topics


def run(settings: Settings, *, as_json: bool) -> None:
    """Make what is missing, and print what was done and what still differs.

    Raises:
        TransportError: the brokers do not answer, or refuse.
    """
    changes = topics.plan(settings.topics, settings.kafka)
    made = topics.apply(changes, settings.kafka)
    different = [change for change in changes if isinstance(change, topics.DifferentSetting)]
    if as_json:
        print(json.dumps({"made": [*map(asdict, made)], "different": [*map(asdict, different)]}))
        return
    for topic in made:
        print(f"made {topic.topic}: {topic.partitions} partitions, {topic.replication_factor} replicas")
    for change in different:
        print(change)
    if not changes:
        print("all topics are as configured")
