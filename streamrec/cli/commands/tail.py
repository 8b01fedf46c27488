"""Prints slates as they are published, for people or one JSON object a line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime
from itertools import islice

import msgspec

from streamrec.cli.shared.console import PlainConsole
from streamrec.cli.shared.titles import Titles
from streamrec.client import RecommendationConsumer
from streamrec.codec import JOINERS, brief, harmless
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
    titles = Titles(settings)
    whose = "slates" if user_id is None else f"slates of {brief(user_id, 300)!r}"
    since = "all there are, and new ones" if from_beginning else "new ones; --from-beginning shows old ones too"
    PlainConsole(stderr=True).print(
        f"waiting for {whose} in {settings.topics.recommendations}: {since}", soft_wrap=True
    )
    with closing(consumer):
        for slate in islice(_of_user(consumer, user_id), count):
            if as_json:
                print(msgspec.json.encode(slate).decode(), flush=True)
            else:
                known = titles.of([place.item_id for place in slate.items[:SHOWN_ITEMS]])
                print(harmless(line(slate, known), JOINERS), flush=True)


def _of_user(consumer: RecommendationConsumer, user_id: str | None) -> Iterator[Slate]:
    return (slate for slate in consumer if user_id is None or slate.user_id == user_id)


def line(slate: Slate, titles: Mapping[str, str] | None = None) -> str:
    """A slate in one line: when, which, for whom, and the first items with their titles and scores."""
    when = f"{datetime.fromtimestamp(slate.ts / 1000, UTC):%Y-%m-%d %H:%M:%S}Z  {slate.rec_id}"
    names = {item: f"{title} [{item}]" for item, title in (titles or {}).items()}
    if slate.refused is not None:
        return f"{when}  {slate.user_id}: refused: {slate.refused.detail}"
    items = ", ".join(
        f"{names.get(place.item_id, place.item_id)} ({place.score:.3g})" for place in slate.items[:SHOWN_ITEMS]
    )
    more = f" and {len(slate.items) - SHOWN_ITEMS} more" if len(slate.items) > SHOWN_ITEMS else ""
    return f"{when}  {slate.user_id}: {items or 'nothing'}{more}"
