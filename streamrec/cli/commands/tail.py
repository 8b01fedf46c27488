"""Prints slates as they are published, for people or one JSON object a line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from itertools import islice

import msgspec

from streamrec.client import RecommendationConsumer
from streamrec.codec import JOINERS, harmless
from streamrec.config.settings import Settings
from streamrec.events import Slate

SHOWN_ITEMS = 10
"""Items of a slate printed for people; `--json` prints them all."""


def run(settings: Settings, *, user_id: str | None, as_json: bool, from_beginning: bool, count: int | None) -> None:
    """Print slates until interrupted, or until `count` of them.

    Raises:
        TransportError: no broker answers, or there is no such topic.
    """
    consumer = RecommendationConsumer(
        str(settings.kafka["bootstrap.servers"]),
        topic=settings.topics.recommendations,
        from_beginning=from_beginning,
        settings=settings.kafka,
    )
    with closing(consumer):
        for slate in islice(_of_user(consumer, user_id), count):
            print(msgspec.json.encode(slate).decode() if as_json else harmless(line(slate), JOINERS), flush=True)


def _of_user(consumer: RecommendationConsumer, user_id: str | None) -> Iterator[Slate]:
    return (slate for slate in consumer if user_id is None or slate.user_id == user_id)


def line(slate: Slate) -> str:
    """A slate in one line: when, for whom, and the first items with their scores."""
    when = f"{datetime.fromtimestamp(slate.ts / 1000, UTC):%Y-%m-%d %H:%M:%S}Z"
    if slate.refused is not None:
        return f"{when}  {slate.user_id}: refused: {slate.refused.detail}"
    items = ", ".join(f"{place.item_id} ({place.score:.3g})" for place in slate.items[:SHOWN_ITEMS])
    more = f" and {len(slate.items) - SHOWN_ITEMS} more" if len(slate.items) > SHOWN_ITEMS else ""
    return f"{when}  {slate.user_id}: {items or 'nothing'}{more}"
