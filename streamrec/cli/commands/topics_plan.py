"""Says which topics are missing, or differ from the configuration."""

from __future__ import annotations

import json
from dataclasses import asdict

from streamrec.config.settings import Settings
from streamrec.transport import topics


def run(settings: Settings, *, as_json: bool) -> None:
    """Print what is missing or differs; change nothing.

    Raises:
        TransportError: the brokers do not answer.
    """
    changes = topics.plan(settings.topics, settings.kafka)
    if as_json:
        kinds = {"missing": topics.MissingTopic, "different": topics.DifferentSetting}
        print(json.dumps({name: [asdict(c) for c in changes if isinstance(c, kind)] for name, kind in kinds.items()}))
        return
    for change in changes:
        print(change)
    if not changes:
        print("all topics are as configured")
