"""What every user feature promises, on a log of six users and forty items."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence

import msgpack
import numpy as np

from streamrec.config import user_features as listed
from streamrec.config.settings import Settings
from streamrec.config.user_features import UserFeatureEntry
from streamrec.engine.arrays.batch import NOTHING, Examples, Int32, Queries, arrays_of
from streamrec.engine.arrays.timeline import ASK, REMEMBER, Timeline, TimelineStep
from streamrec.engine.items.item_table import ItemTable
from streamrec.engine.users.user_feature import UserFeature, UserFeatureParts
from streamrec.events import EVENT_TYPES
from streamrec.testing.expectations import expect
from streamrec.testing.shop import STARTED_MS
from streamrec.wiring import build_features


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
        expect(_bits(portions) == _bits(whole), "what queries see depends on how the log is cut into portions")
        expect(bench.stored(again) == stored, "what is remembered depends on how the log is cut into portions")
    _, unasked = bench.folded([step for step in log if step[0] == REMEMBER])
    expect(bench.stored(unasked) == stored, "asking changes what is remembered")
    for user in range(USERS):
        _, alone = bench.folded([step for step in log if step[1] == user])
        expect(bench.stored(alone)[user] == stored[user], "what one user does changes what is known of another")

    for value in stored:
        expect(set(value) <= set(feature.keys), f"it stores {sorted(value)}, expected none but keys {feature.keys}")
    before, heir = log[:200], bench.untaught()
    asked, first = bench.folded(before)
    rows, items = slice(0, bench.questions(before)), bench.candidates(bench.questions(before))
    seen, said = _bits(asked), first.describe(asked, rows, items)
    bench.restore(heir, bench.stored(first))
    expect(bench.stored(heir) == bench.stored(first), "a user who comes back from the store is stored otherwise")
    goes_on, came_back = (bench.folded(log[200:], of=one)[0] for one in (first, heir))
    expect(_bits(goes_on) == _bits(came_back), "a user who comes back from the store looks otherwise to queries")
    expect(bench.stored(first) == bench.stored(heir), "a user who comes back from the store goes on otherwise")

    expect(said.shape == (*items.shape, len(feature.names)), f"inputs of the fusion have the shape {said.shape}")
    expect(said.dtype == np.float32, f"inputs of the fusion are {said.dtype}, expected float32")
    expect(bool(np.isfinite(said).all()), "inputs of the fusion are no numbers")
    expect(_bits(asked) == seen, "describing candidates changes the queries")
    later = first.describe(asked, rows, items)
    expect(later.tobytes() == said.tobytes(), "inputs of the fusion change when the user goes on after the query")

    apart = _FeatureBench(entry, apart=True)
    travelled, elsewhere = apart.folded(apart.log(200))
    apart.known.rename(travelled, rows)
    expect(_bits(travelled) == seen, "what queries see depends on the indices that items and categories have")
    told = elsewhere.describe(travelled, rows, items)
    expect(told.tobytes() == said.tobytes(), "candidates look otherwise where models give items other indices")

    feature.forget_items(np.arange(10, dtype=np.int32))
    kept = msgpack.packb(bench.stored(feature))
    expect(not any(f"<{item}>".encode() in kept for item in range(10)), "forgotten items are in what is stored")
    feature.clear(np.arange(USERS, dtype=np.int32))
    expect(bench.stored(feature) == bench.stored(bench.untaught()), "a cleared row knows of who was there")
    expect(_bits(bench.folded(log, of=feature)[0]) == _bits(whole), "a cleared row shows who was there")
    long = [(REMEMBER, 0, 0, STARTED_MS + n * 7_000_000, n, n % ITEMS, n % 3, NOTHING) for n in range(5_000)]
    size = len(msgpack.packb(bench.stored(bench.folded(long)[1])))
    expect(size <= MOST_STORED, f"after 5,000 events of a user {size:,} bytes are stored: it must be bounded")


USERS, ITEMS = 6, 40
MOST_STORED = 65_536


class _FeatureBench:
    """A user feature beside items that fall into five categories; item n is called <n>.

    `apart`: models learn elsewhere, and have other indices for items and categories than users' rows.
    """

    def __init__(self, entry: UserFeatureEntry, *, apart: bool = False) -> None:
        self.known = known = build_features(Settings(), [], None, serving=apart)
        _name(known.items, range(ITEMS))
        if apart:
            _name(known.user_items, reversed(range(ITEMS)))
        self.entry, self.items = entry, known.user_items
        self.parts = UserFeatureParts(known.user_items, known.items, known.catalogue, 1_800.0, False)

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
                index = self.items.lookup(f"<{item}>")
                log.append((REMEMBER, user, 0, ts, draw.randrange(3), index, kind, NOTHING))
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


def _name(table: ItemTable, items: Iterable[int]) -> None:
    for item in items:
        table.categorise(table.intern(f"<{item}>", STARTED_MS), f"kind {item % 5}")


def _bits(queries: Queries) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in arrays_of(queries).items()}
