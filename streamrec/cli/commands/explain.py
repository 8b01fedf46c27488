"""Finds a slate by its name, and says why each item is on it.

A rec_id is the place of the request in the events topic: the request says who asked and when, and the slate is the
user's latest in the store, or in the recommendations topic from then on.
"""

from __future__ import annotations

import re
from contextlib import closing

import msgspec

from streamrec.cli.shared.console import PlainConsole
from streamrec.cli.shared.explanation import Explanation, as_plain, print_words
from streamrec.codec import decode_event, decode_slate
from streamrec.config.settings import Settings
from streamrec.engine.arrays.logged_event import LoggedEvent
from streamrec.errors import BadEvent, ConfigError, StateError
from streamrec.events import Slate
from streamrec.replay.catalogue_file import CatalogueItems, read_catalogue
from streamrec.state import Store
from streamrec.state import inspection as inspect
from streamrec.state.inspection import Known
from streamrec.transport import Record
from streamrec.transport.positions import TopicReader
from streamrec.wiring import build_store
from streamrec.worker.validation import not_ahead

REC_ID = re.compile(r"(?P<topic>[A-Za-z0-9._-]+)-(?P<partition>\d{1,9})-(?P<offset>\d{1,18})")
"""Read from the right: a topic's name may have dashes and digits of its own."""
CLOCKS_APART_MS = 60_000
"""A worker's clock may lag behind a producer's: slates are looked for from so long before their request on."""
ANSWERED_WITHIN_MS = 24 * 3_600_000
"""A slate published later than this after its request is not looked for."""


def run(settings: Settings, rec_id: str, *, as_json: bool, derive: bool) -> None:
    """Print why each item is on a slate.

    Args:
        settings: of the workers that made it.
        rec_id: the slate's name.
        as_json: one object, in a shape that stays.
        derive: find reasons now where the slate was published without.

    Raises:
        ConfigError: `rec_id` is not the name of a slate.
        StateError: there is no such slate any more, there never was one, or reasons cannot be derived here.
        TransportError: no broker answers, or there is no such topic.
    """
    catalogue = read_catalogue(settings.items, settings.separator) if settings.items is not None else CatalogueItems()
    with closing(build_store(settings)) as store:
        logged, sent_ms = asked(settings, rec_id)
        user = inspect.user(store, logged.event.user_id)
        slate = answered(settings, store, logged, sent_ms, user)
        derived = derive and not slate.reasons and len(slate.items) > 0
        if derived:
            from streamrec.cli.shared.hindsight import (
                reasons_now,  # and with it the models, which take seconds to load
            )

            reasons = reasons_now(settings, store, slate, logged, catalogue)
            slate = msgspec.structs.replace(slate, reasons=reasons)
    explanation = Explanation(slate, logged.event, user, catalogue, settings.fusion.temperature, derived)
    if as_json:
        print(msgspec.json.encode(as_plain(explanation)).decode())
    else:
        print_words(PlainConsole(), explanation)


def asked(settings: Settings, rec_id: str) -> tuple[LoggedEvent, int]:
    """The event that a slate of this name answers, and when it was sent, in ms by the sender's clock.

    Raises:
        ConfigError: it is not the name of a slate.
        StateError: the record is kept no longer, has not come yet, or is no event.
        TransportError: no broker answers, or there is no such topic.
    """
    named = REC_ID.fullmatch(rec_id)
    if named is None:
        raise ConfigError(f"{rec_id!r} is no rec_id, expected TOPIC-PARTITION-OFFSET as user-events-3-1041")
    partition, offset = int(named["partition"]), int(named["offset"])
    with closing(TopicReader(named["topic"], settings.kafka)) as topic:
        record = topic.record(partition, offset)
        if record is None:
            raise StateError(_no_record(topic, partition, offset))
    limits = settings.limits
    try:
        event = decode_event(
            record.value, record.headers, max_bytes=limits.max_message_bytes, max_depth=limits.max_depth
        )
    except BadEvent as error:
        raise StateError(f"{rec_id}: the record there is no event, so no items were chosen: {error}") from None
    if event.type not in settings.serving.recommend_on:
        answers = ", ".join(sorted(settings.serving.recommend_on))
        raise StateError(f"{rec_id}: the event there is a {event.type.value}; serving.recommend_on answers {answers}")
    event = not_ahead(event, record)
    return LoggedEvent(event, partition, offset, learned=True, topic=named["topic"]), record.timestamp_ms


def _no_record(topic: TopicReader, partition: int, offset: int) -> str:
    place = f"topic {topic.topic!r} partition {partition} offset {offset}"
    if partition >= topic.partitions:
        return f"{place}: the topic has {topic.partitions} partitions, counted from 0"
    first = topic.beginning()[partition]
    if offset < first:
        return f"{place}: expired, the topic now begins at offset {first} (topics.retention_ms); nobody knows who asked"
    return f"{place}: no record has been written there yet"


def answered(settings: Settings, store: Store, logged: LoggedEvent, sent_ms: int, user: Known | None) -> Slate:
    """The slate that answers an event: the user's latest, else what was published since the event was sent.

    Raises:
        StateError: there is none, or none but the reason why the request was refused.
        TransportError: no broker answers, or there is no such topic.
    """
    latest = None if user is None else user["slate"]
    if latest is not None and latest["rec_id"] == logged.place:
        return msgspec.convert(latest, Slate)
    since, span_ms = max(sent_ms - CLOCKS_APART_MS, 0), ANSWERED_WITHIN_MS + CLOCKS_APART_MS
    with closing(TopicReader(settings.topics.recommendations, settings.kafka)) as topic:
        found = topic.find(since, span_ms, lambda record: _named(record, logged.place) is not None)
    slate = None if found is None else _named(found, logged.place)
    if slate is None:
        raise StateError(_no_slate(settings, store, logged))
    if slate.refused is not None:
        raise StateError(f"{slate.rec_id}: the request was refused, so no items were chosen: {slate.refused.detail}")
    return slate


def _named(record: Record, rec_id: str) -> Slate | None:
    """The slate in a record, if it has this name."""
    value = record.value or b""
    if rec_id.encode() not in value:  # decoding every slate costs more
        return None
    try:
        slate = decode_slate(value, record.headers)
    except BadEvent:
        return None
    return slate if slate.rec_id == rec_id else None


def _no_slate(settings: Settings, store: Store, logged: LoggedEvent) -> str:
    mark = store.marks().get(logged.partition)
    if mark is None or mark.watermark is None or mark.watermark <= logged.offset:
        stands = "none has started" if mark is None or mark.watermark is None else f"they stand at {mark.watermark}"
        return f"{logged.place}: not answered yet: workers have not saved a checkpoint beyond it ({stands})"
    return (
        f"{logged.place}: no slate of this name, neither the latest of user {logged.event.user_id!r} nor in topic "
        f"{settings.topics.recommendations!r}: it has expired there, or the event repeated an event_id and was ignored"
    )
