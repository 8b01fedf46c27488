"""Summarises what the store holds of a user or an item, over all partitions, for people and tools.

Reads the values that workers write and changes none. Knows nothing of Redis, Kafka or how values come to be.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import msgspec

from streamrec.engine.partition_tables import DIRECTORY
from streamrec.errors import StateError
from streamrec.events import Slate
from streamrec.state import Kind, Store

LAYOUT = 1
"""The `v` of stored values that this module reads."""

RecentEvent = tuple[str | None, str, int]
"""(item or user id, event type, ts in ms); no id where the item was forgotten for want of room"""
Known = dict[str, Any]
"""What is known, as plain values in a stable shape (`docs/12-commands.md` lists the fields)."""


class StoredSession(msgspec.Struct, frozen=True):
    """The session a user is in, or was in last. `started` is in ms."""

    started: int
    items: int
    id: str | None = None


class StoredPrices(msgspec.Struct, frozen=True):
    """The logarithms of the prices of what a user wanted: how many, their mean, and how far they are from it.

    `squares` is the sum of the squared distances by weight, and `weight` that of the weights.
    """

    weight: float
    mean: float
    squares: float
    events: int


class StoredClock(msgspec.Struct, frozen=True):
    """The newest time of a partition's log, ms; other fields of the directory it stands in are not read."""

    clock_ms: int


class StoredUser(msgspec.Struct, frozen=True):
    """A user as one partition keeps it. Times are in ms, `recent` is newest first; other fields are not read."""

    v: int
    user_id: str
    counts: dict[str, int]
    first_ts: int
    last_ts: int
    recent: tuple[RecentEvent, ...] = ()
    affinities: dict[str, float] = {}
    session: StoredSession | None = None
    prices: StoredPrices | None = None


class StoredItem(msgspec.Struct, frozen=True):
    """An item as one partition keeps it: of the users of that partition alone."""

    v: int
    item_id: str
    counts: dict[str, int]
    first_ts: int
    last_ts: int
    recent_users: tuple[RecentEvent, ...] = ()
    category: str | None = None


Stored = TypeVar("Stored", StoredUser, StoredItem)


def user(store: Store, user_id: str) -> Known | None:
    """What is known of a user, and the latest slate; None for a user never seen.

    A user lives on one partition. More than one is found only after partitions were added: counts are then summed, and
    affinities, prices and session are those of the latest.

    Raises:
        StateError: a stored value cannot be read.
    """
    parts = _stored(store, Kind.USER, user_id, StoredUser)
    if not parts:
        return None
    latest = max(parts, key=lambda part: part.last_ts)
    return {
        "user_id": user_id,
        **_counted(parts),
        "recent": _newest_first("item_id", (part.recent for part in parts)),
        "affinities": dict(sorted(latest.affinities.items(), key=lambda pair: (-pair[1], pair[0]))),
        "session": None if latest.session is None else msgspec.to_builtins(latest.session),
        "slate": _latest_slate(store, user_id),
        "prices": None if latest.prices is None else _priced(latest.prices),
        "log_ts": None if (clock := log_ts(store)) is None else max(latest.last_ts, clock),
    }


def item(store: Store, item_id: str) -> Known | None:
    """What is known of an item over all partitions; None for an item never seen.

    Raises:
        StateError: a stored value cannot be read.
    """
    parts = _stored(store, Kind.ITEM, item_id, StoredItem)
    if not parts:
        return None
    latest_first = sorted(parts, key=lambda part: -part.last_ts)
    return {
        "item_id": item_id,
        **_counted(parts),
        "category": next((part.category for part in latest_first if part.category is not None), None),
        "recent_users": _newest_first("user_id", (part.recent_users for part in parts)),
    }


def log_ts(store: Store) -> int | None:
    """The newest time of the log as far as the store knows, ms; None where it keeps no clock.

    Raises:
        StateError: a stored value cannot be read.
    """
    try:
        directories = store.find(Kind.DUE, DIRECTORY).values()
        clocks = [msgspec.msgpack.decode(value, type=StoredClock).clock_ms for value in directories]
    except msgspec.DecodeError as error:
        raise StateError(f"the clock of a partition cannot be read: {error}") from None
    return max(clocks, default=None)


def _stored(store: Store, kind: Kind, name: str, shape: type[Stored]) -> list[Stored]:
    parts = []
    for partition, value in sorted(store.find(kind, name).items()):
        try:
            part = msgspec.msgpack.decode(value, type=shape)
        except msgspec.DecodeError as error:
            raise StateError(
                f"{kind.value} {name!r} in partition {partition} cannot be read: {error}; "
                f"was it written by another version, or by another program under the same prefix?"
            ) from None
        if part.v != LAYOUT:
            raise StateError(
                f"{kind.value} {name!r} in partition {partition} has layout {part.v}, expected {LAYOUT}; "
                f"use the streamrec version that wrote it"
            )
        parts.append(part)
    return parts


def _latest_slate(store: Store, user_id: str) -> Any:
    try:
        slates = [msgspec.msgpack.decode(value, type=Slate) for value in store.find(Kind.SLATE, user_id).values()]
    except msgspec.DecodeError as error:
        raise StateError(f"the latest slate of user {user_id!r} cannot be read: {error}") from None
    if not slates:
        return None
    return msgspec.json.decode(msgspec.json.encode(max(slates, key=lambda slate: slate.ts)))


def _priced(prices: StoredPrices) -> Known:
    """The typical price, and a standard deviation below and above it: of the logarithms, so as a factor."""
    deviation = math.sqrt(max(prices.squares, 0.0) / prices.weight)
    return {
        "events": prices.events,
        "typical": math.exp(prices.mean),
        "low": math.exp(prices.mean - deviation),
        "high": math.exp(prices.mean + deviation),
    }


def _counted(parts: Sequence[Stored]) -> Known:
    counts: Counter[str] = Counter()
    for part in parts:
        counts.update(part.counts)
    return {
        "events": counts.total(),
        "counts": dict(sorted(counts.items())),
        "first_ts": min(part.first_ts for part in parts),
        "last_ts": max(part.last_ts for part in parts),
    }


def _newest_first(name: str, parts: Iterable[Iterable[RecentEvent]]) -> list[Known]:
    events = [event for part in parts for event in part if event[0] is not None]
    events.sort(key=lambda event: -event[2])
    return [{name: who, "type": kind, "ts": ts} for who, kind, ts in events]
