"""A made-up shop, its log as a broker would hold it, and a recount.

    log = shop(2_000, seed=7)
    source = LocalSource("user-events", records("user-events", log, partitions=3), partitions=3)
    ...
    assert what_the_worker_counted == recount(log).users

The shop is random but repeatable, and has something to learn: people keep to a few kinds of items, and one item leads
to the next. The recount adds events up one by one and knows nothing of how a worker does it.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from streamrec.codec import MSGPACK, MSGPACK_HEADERS, encode_event
from streamrec.events import Event, EventType
from streamrec.transport import Record
from streamrec.transport.partitioners import murmur2

STARTED_MS = 1_704_067_200_000  # 2024-01-01: in the past wherever tests run, so no event is dated ahead of its sending
HEADERS = MSGPACK_HEADERS
WEIGHTS: Mapping[EventType, int] = {
    EventType.VIEW: 30,
    EventType.CLICK: 25,
    EventType.REQUEST: 20,
    EventType.ADD_TO_CART: 8,
    EventType.PURCHASE: 8,
    EventType.IMPRESSION: 3,
    EventType.SEARCH: 2,
    EventType.LIKE: 2,
    EventType.SKIP: 1,
    EventType.RATING: 1,
}
"""How often each type comes in a hundred events."""


def shop(
    count: int,
    *,
    users: int = 60,
    items: int = 200,
    kinds: int = 8,
    seed: int = 0,
    apart_ms: int = 900,
    start_ms: int = STARTED_MS,
) -> list[Event]:
    """So many events in time order, each with an `event_id` of its own; some share their user and time, as baskets do.

    Args:
        users, items, kinds: how many there are; items of one kind follow one another.
        apart_ms: from one event to the next, on average.
        start_ms: of the first event.
    """
    draw = random.Random(seed)
    types, weights = list(WEIGHTS), list(WEIGHTS.values())
    last: dict[int, int] = {}
    log: list[Event] = []
    user, ts = 0, start_ms
    for number in range(count):
        if not (number and draw.random() < 0.15):  # else another one of the same basket
            user = min(int(draw.expovariate(4 / users)), users - 1)
            ts += draw.randrange(2 * apart_ms)
        before = last.get(user, user)
        item = draw.choices(
            [(before + kinds) % items, draw.randrange(items // kinds) * kinds + before % kinds, draw.randrange(items)],
            [60, 25, 15],
        )[0]
        kind = draw.choices(types, weights)[0]
        itemless = kind is EventType.SEARCH or (kind is EventType.REQUEST and draw.random() < 0.9)
        if not itemless:
            last[user] = item
        log.append(
            Event(
                type=kind,
                user_id=f"user-{user}",
                ts=ts,
                item_id=None if itemless else f"item-{item}",
                event_id=f"{seed}-{number}",
                session_id=f"{user}-{ts // 600_000}" if user % 2 else None,
                value=float(draw.randrange(1, 6)) if kind is EventType.RATING else None,
                context=None if itemless else {"category": f"kind-{item % kinds}"},
                k=draw.choice([None, 5, 10]) if kind is EventType.REQUEST else None,
            )
        )
    return log


def partition_of(user_id: str, partitions: int) -> int:
    """A user's partition, as producers have it unless they are told otherwise."""
    return murmur2(user_id.encode(), partitions)


def records(topic: str, log: Iterable[Event], partitions: int = 1) -> list[Record]:
    """A log as a broker would hold it: each user's events in one partition, offsets counted from 0 in each."""
    ends = [0] * partitions
    held = []
    for event in log:
        partition = partition_of(event.user_id, partitions)
        key, value = event.user_id.encode(), encode_event(event, MSGPACK)
        held.append(Record(topic, partition, ends[partition], key, value, HEADERS, event.ts))
        ends[partition] += 1
    return held


@dataclass(frozen=True, slots=True)
class Recount:
    """Events by type, per user and per item."""

    users: dict[str, dict[str, int]] = field(default_factory=dict)
    items: dict[str, dict[str, int]] = field(default_factory=dict)


def recount(log: Iterable[Event]) -> Recount:
    """What a worker must have counted of a log; an event whose id its user has sent before counts once."""
    users: dict[str, Counter[str]] = {}
    items: dict[str, Counter[str]] = {}
    known: set[tuple[str, str]] = set()
    for event in log:
        if event.event_id is not None:
            if (event.user_id, event.event_id) in known:
                continue
            known.add((event.user_id, event.event_id))
        users.setdefault(event.user_id, Counter())[event.type.value] += 1
        if event.item_id is not None:
            items.setdefault(event.item_id, Counter())[event.type.value] += 1
    return Recount(_plain(users), _plain(items))


def _plain(counts: Mapping[str, Counter[str]]) -> dict[str, dict[str, int]]:
    return {name: dict(counter) for name, counter in counts.items()}


def requests(log: Sequence[Event]) -> list[Event]:
    """The events that ask for a slate, with the default settings."""
    return [event for event in log if event.type in (EventType.REQUEST, EventType.SEARCH)]
