"""How items are called, for people: from the catalogue file, and from the items topic where one answers in time.

A look and no more: titles are a comfort, and nothing fails or waits long for want of them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager

from streamrec.config.settings import Settings
from streamrec.errors import BadEvent, ConfigError, TransportError
from streamrec.replay.catalogue_file import read_catalogue
from streamrec.worker.catalogue_feed import LOOK_RECORDS, id_of, item_of

LOOK_S = 3.0
"""So long the topic may take."""
AGAIN_S = 10.0


def titles_of(settings: Settings, items: Collection[str]) -> dict[str, str]:
    """The titles of items, as far as they are known: those of the file, and what the topic says of the others.

    Raises:
        TableError: the catalogue file cannot be read.
    """
    titles: dict[str, str] = {}
    if settings.items is not None:
        catalogue = read_catalogue(settings.items, settings.separator)
        titles = {item: title for item in items if item in catalogue and (title := catalogue[item].title) is not None}
    lacking = {item for item in items if item not in titles}
    if lacking:
        titles.update(_told(settings, lacking))
    return titles


class Titles:
    """Titles of whatever comes along, looked up again at most every `AGAIN_S`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._known: dict[str, str] = {}
        self._asked: set[str] = set()
        self._next_s = 0.0

    def of(self, items: Collection[str]) -> dict[str, str]:
        """The titles of items, as far as they are known by now."""
        lacking = set(items) - self._asked
        if lacking and time.monotonic() >= self._next_s:
            self._known.update(titles_of(self._settings, lacking))
            self._asked |= lacking
            self._next_s = time.monotonic() + AGAIN_S
        return self._known


def _told(settings: Settings, items: Collection[str]) -> dict[str, str]:
    """What the topic says now, or had said until time was up."""
    from streamrec.transport.confluent_follower import KafkaFollower
    from streamrec.transport.librdkafka import LOG

    titles: dict[str, str] = {}
    limits, until = settings.limits, time.monotonic() + LOOK_S
    try:
        with _quiet(LOG), closing(KafkaFollower(settings.topics.items, settings.kafka)) as topic:
            while not topic.whole() and time.monotonic() < until:
                for record in topic.look(LOOK_RECORDS, 0.1):
                    try:
                        item_id = id_of(record)
                        if item_id not in items:
                            continue
                        said = item_of(record, limits.max_message_bytes, limits.max_depth) if record.value else None
                    except BadEvent:
                        continue
                    titles.pop(item_id, None)
                    if said is not None and said.title is not None:
                        titles[item_id] = said.title
    except (ConfigError, TransportError):
        return {}
    return titles


@contextmanager
def _quiet(log: logging.Logger) -> Iterator[None]:
    """That no broker answers is no news here."""
    was, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = was
