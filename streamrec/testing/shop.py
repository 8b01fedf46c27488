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
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgpack
import numpy as np

from streamrec.codec import CONTENT_TYPE, MSGPACK, encode_event
from streamrec.config import user_features as listed
from streamrec.config.settings import Settings
from streamrec.config.user_features import UserFeatureEntry
from streamrec.engine.arrays.batch import NOTHING, Examples, Int32, Queries, arrays_of
from streamrec.engine.arrays.timeline import ASK, REMEMBER, Timeline, TimelineStep
from streamrec.engine.users.user_feature import UserFeature, UserFeatureParts
from streamrec.events import EVENT_TYPES, Event, EventType
from streamrec.transport import Record
from streamrec.wiring import build_features

STARTED_MS = 1_704_067_200_000  # 2024-01-01: in the past wherever tests run, so no event is dated ahead of its sending
HEADERS = ((CONTENT_TYPE, MSGPACK.encode()),)
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
    """A user's partition, as Kafka's default partitioner of librdkafka has it (CRC32 of the key)."""
    return zlib.crc32(user_id.encode()) % partitions


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


# What every user feature promises


def check_user_feature(entry: UserFeatureEntry) -> None:
    """Ask a user feature for what `UserFeature` promises, on a log of six users and forty items.

    Raises:
        AssertionError: it breaks a promise, which the message names.
    """
    bench = _FeatureBench(entry)
    log = bench.log(400)
    whole, feature = bench.folded(log)
    stored = bench.stored(feature)

    for size in (1, 7):
        portions, again = bench.folded(log, size)
        _expect(_bits(portions) == _bits(whole), "what queries see depends on how the log is cut into portions")
        _expect(bench.stored(again) == stored, "what is remembered depends on how the log is cut into portions")
    _, unasked = bench.folded([step for step in log if step[0] == REMEMBER])
    _expect(bench.stored(unasked) == stored, "asking changes what is remembered")
    for user in range(USERS):
        _, alone = bench.folded([step for step in log if step[1] == user])
        _expect(bench.stored(alone)[user] == stored[user], "what one user does changes what is known of another")

    for value in stored:
        _expect(set(value) <= set(feature.keys), f"it stores {sorted(value)}, expected none but keys {feature.keys}")
    before, heir = log[:200], bench.untaught()
    asked, first = bench.folded(before)
    rows, items = slice(0, bench.questions(before)), bench.candidates(bench.questions(before))
    seen, said = _bits(asked), first.describe(asked, rows, items)
    bench.restore(heir, bench.stored(first))
    _expect(bench.stored(heir) == bench.stored(first), "a user who comes back from the store is stored otherwise")
    goes_on, came_back = (bench.folded(log[200:], of=one)[0] for one in (first, heir))
    _expect(_bits(goes_on) == _bits(came_back), "a user who comes back from the store looks otherwise to queries")
    _expect(bench.stored(first) == bench.stored(heir), "a user who comes back from the store goes on otherwise")

    _expect(said.shape == (*items.shape, len(feature.names)), f"inputs of the fusion have the shape {said.shape}")
    _expect(said.dtype == np.float32, f"inputs of the fusion are {said.dtype}, expected float32")
    _expect(bool(np.isfinite(said).all()), "inputs of the fusion are no numbers")
    _expect(_bits(asked) == seen, "describing candidates changes the queries")
    later = first.describe(asked, rows, items)
    _expect(later.tobytes() == said.tobytes(), "inputs of the fusion change when the user goes on after the query")

    feature.forget_items(np.arange(10, dtype=np.int32))
    kept = msgpack.packb(bench.stored(feature))
    _expect(not any(f"<{item}>".encode() in kept for item in range(10)), "forgotten items are in what is stored")
    feature.clear(np.arange(USERS, dtype=np.int32))
    _expect(bench.stored(feature) == bench.stored(bench.untaught()), "a cleared row knows of who was there")
    _expect(_bits(bench.folded(log, of=feature)[0]) == _bits(whole), "a cleared row shows who was there")
    long = [(REMEMBER, 0, 0, STARTED_MS + n * 7_000_000, n, n % ITEMS, n % 3, NOTHING) for n in range(5_000)]
    size = len(msgpack.packb(bench.stored(bench.folded(long)[1])))
    _expect(size <= MOST_STORED, f"after 5,000 events of a user {size:,} bytes are stored: it must be bounded")


USERS, ITEMS = 6, 40
MOST_STORED = 65_536


class _FeatureBench:
    """A user feature beside items that fall into five categories; item n is called <n>."""

    def __init__(self, entry: UserFeatureEntry) -> None:
        known = build_features(Settings(), [], None)
        for item in range(ITEMS):
            known.items.categorise(known.items.intern(f"<{item}>", STARTED_MS), f"kind {item % 5}")
        self.entry, self.items = entry, known.items
        self.parts = UserFeatureParts(known.items, known.catalogue, 1_800.0, False)

    def untaught(self) -> UserFeature:
        feature = listed.built(self.entry, self.parts)
        feature.grow(USERS)
        feature.clear(np.arange(USERS, dtype=np.int32))
        return feature

    def log(self, steps: int) -> list[TimelineStep]:
        """Events of all types and questions, some of them late."""
        draw, log, asked = random.Random(5), list[TimelineStep](), 0
        for step in range(steps):
            user, ts = draw.randrange(USERS), STARTED_MS + step * 600_000 - draw.choice([0, 0, 900_000])
            if draw.random() < 0.3:
                log.append((ASK, user, asked, ts, 0, NOTHING, 0, NOTHING))
                asked += 1
            else:
                item, kind = draw.choice([NOTHING, *range(ITEMS)]), draw.randrange(len(EVENT_TYPES))
                log.append((REMEMBER, user, 0, ts, draw.randrange(3), item, kind, NOTHING))
        return log

    def questions(self, log: Sequence[TimelineStep]) -> int:
        return sum(kind == ASK for kind, *_ in log)

    def candidates(self, rows: int) -> Int32:
        """Every item and an empty place, (rows, ITEMS + 1)."""
        return np.tile(np.array([*range(ITEMS), NOTHING], np.int32), (rows, 1))

    def folded(
        self, log: Sequence[TimelineStep], size: int = 1_000_000, of: UserFeature | None = None
    ) -> tuple[Queries, UserFeature]:
        """What the questions of a log see, folded in portions of `size`, and the feature afterwards."""
        feature = self.untaught() if of is None else of
        queries = Queries.empty(1 + max((step[2] for step in log), default=0), feature.columns())
        for start in range(0, len(log), size):
            feature.fold(Timeline.of(list(log[start : start + size])), queries, Examples.empty(1))
        return queries, feature

    def stored(self, feature: UserFeature) -> list[dict[str, object]]:
        """What the store keeps of each user, as it comes back from there."""
        packed = [msgpack.packb(dict(feature.pack(row, self.items.ids))) for row in range(USERS)]
        return [msgpack.unpackb(value, strict_map_key=False) for value in packed]

    def restore(self, feature: UserFeature, stored: Sequence[Mapping[str, object]]) -> None:
        for row, value in enumerate(stored):
            if value:
                named = [item_id for item_id in feature.stored_items(value) if item_id is not None]
                feature.unpack(row, value, {item_id: self.items.lookup(item_id) for item_id in named})


def _bits(queries: Queries) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in arrays_of(queries).items()}


def _expect(held: bool, otherwise: str) -> None:
    if not held:
        raise AssertionError(otherwise)
