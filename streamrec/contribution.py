"""Nobody teaches more than their share: a script that clicks all night must not decide what everybody sees.

Every example is paid for from three leaky buckets, and teaches only if none of them overflows:

    user          what this user teaches
    user, item    what this user teaches of this item
    item          what its regulars teach of an item: repeats fill the bucket, each newcomer drains it

A bucket holds `at_once` examples and leaks `per_hour` of them in the log's own time (leaky bucket as a meter: Turner:
New directions in communications, IEEE Communications Magazine 1986). Memory is bounded: buckets lie in hashed sets of
WAYS places, where the emptiest makes room, so that whoever is about to overflow is never forgotten for a passer-by, and
nobody pays for somebody else.

Decides in log order, from the log alone, and knows nothing of models. What is not admitted still counts in the user's
state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streamrec.compiled import compiled, mixed
from streamrec.features.batch import Array, Int32, Int64, Uint64

Bool = npt.NDArray[np.bool_]

WAYS = 4
BUCKETS = ("user", "user and item", "item")
"""What an example is paid for from, in this order."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """How much a bucket takes."""

    at_once: float
    per_hour: float


USER = Allowance(1_000, 60)
"""A wholesaler's basket and an evening of rating films fit in it: the public logs' busiest user has 737 events in an
hour. A script is held to one example a minute."""
PAIR = Allowance(16, 1)
"""The public shops' and news logs' most faithful user touches one item 24 times in a day."""
ITEM = Allowance(64, 8)
NEWCOMER = 4.0
"""Repeats that one user new to an item makes room for."""


class Contribution:
    """Decides which examples teach, for items with an index below `capacity`."""

    def __init__(
        self,
        capacity: int,
        user: Allowance = USER,
        pair: Allowance = PAIR,
        item: Allowance = ITEM,
        users: int = 2**16,
        pairs: int = 2**17,
    ) -> None:
        """`users` and `pairs` are how many of them are remembered at once; a power of two, at least WAYS."""
        self.allowances = np.array([[a.at_once, a.per_hour / 3_600_000.0] for a in (user, pair, item)])  # per ms
        self._held_back = np.zeros(len(BUCKETS), np.int64)
        self._users = Buckets.empty(users)
        self._pairs = Buckets.empty(pairs)
        self._items = Buckets.empty(capacity)  # the index itself is the place

    def admit(self, users: Uint64, items: Int32, ts: Int64) -> Bool:
        """Which of some examples may teach, (examples,).

        Args:
            users: (examples,) hashes of user ids, in log order.
            items: (examples,) item indices.
            ts: (examples,) ms.
        """
        admitted = np.zeros(len(users), np.bool_)
        tables = (*self._users.arrays(), *self._pairs.arrays(), *self._items.arrays())
        _admit(users, items, ts, self.allowances, *tables, admitted, self._held_back)
        return admitted

    def held_back(self) -> dict[str, int]:
        """Examples that did not teach, by the first bucket that had no room for them."""
        return dict(zip(BUCKETS, self._held_back.tolist(), strict=True))

    def forget(self, items: Int32) -> None:
        """These indices will name other items soon. What users taught of the old ones leaks away by itself."""
        self._items.levels[items] = 0.0

    def state(self) -> dict[str, Array]:
        arrays: dict[str, Array] = {"held_back": self._held_back.copy()}
        for name, buckets in self._tables():
            arrays |= {f"{name}.{field}": values for field, values in buckets.state().items()}
        return arrays

    def restore(self, arrays: Mapping[str, Array]) -> None:
        self._held_back[:] = arrays["held_back"]
        for name, buckets in self._tables():
            buckets.restore({field: arrays[f"{name}.{field}"] for field in ("places", "keys", "levels", "ts")})

    def _tables(self) -> tuple[tuple[str, Buckets], ...]:
        return ("users", self._users), ("pairs", self._pairs), ("items", self._items)


@dataclass(frozen=True, slots=True)
class Buckets:
    """Leaky buckets, each as it was at its own time."""

    keys: Uint64  # whose it is
    levels: npt.NDArray[np.float32]
    ts: Int64  # ms

    @classmethod
    def empty(cls, size: int) -> Buckets:
        return cls(np.zeros(size, np.uint64), np.zeros(size, np.float32), np.zeros(size, np.int64))

    def arrays(self) -> tuple[Uint64, npt.NDArray[np.float32], Int64]:
        return self.keys, self.levels, self.ts

    def state(self) -> dict[str, Array]:
        """Of the buckets that hold something."""
        used = np.flatnonzero(self.levels)
        return {"places": used, "keys": self.keys[used], "levels": self.levels[used], "ts": self.ts[used]}

    def restore(self, arrays: Mapping[str, Array]) -> None:
        self.levels[:] = 0.0
        for name, array in (("keys", self.keys), ("levels", self.levels), ("ts", self.ts)):
            array[arrays["places"]] = arrays[name]


@compiled
def _leaked(levels, times, place, ts, per_ms):  # type: ignore[no-untyped-def]
    """What is left in a bucket by now; a late event does not turn its time back."""
    return max(levels[place] - max(ts - times[place], 0) * per_ms, 0.0)


@compiled
def _place_of(key, keys, levels, times, ts, per_ms):  # type: ignore[no-untyped-def]
    """This key's bucket, else the emptiest of its set, emptied for it."""
    first = np.int64(mixed(key, 0) % np.uint64(len(keys) // WAYS)) * WAYS
    emptiest = first
    for way in range(WAYS):
        place = first + way
        if keys[place] == key:
            return place
        if _leaked(levels, times, place, ts, per_ms) < _leaked(levels, times, emptiest, ts, per_ms):
            emptiest = place
    keys[emptiest], levels[emptiest], times[emptiest] = key, 0.0, ts
    return emptiest


@compiled
def _fill(levels, times, place, level, ts):  # type: ignore[no-untyped-def]
    levels[place] = level
    times[place] = max(times[place], ts)


@compiled
def _admit(  # type: ignore[no-untyped-def]
    users, items, ts, allowances,
    user_keys, user_levels, user_ts, pair_keys, pair_levels, pair_ts, item_keys, item_levels, item_ts,
    admitted, held_back,
):  # fmt: skip
    for e in range(len(users)):
        now, item = ts[e], items[e]
        user = _place_of(users[e], user_keys, user_levels, user_ts, now, allowances[0, 1])
        pair_key = mixed(users[e], item + 1)
        pair = _place_of(pair_key, pair_keys, pair_levels, pair_ts, now, allowances[1, 1])
        by_user = _leaked(user_levels, user_ts, user, now, allowances[0, 1])
        by_pair = _leaked(pair_levels, pair_ts, pair, now, allowances[1, 1])
        by_item = _leaked(item_levels, item_ts, item, now, allowances[2, 1])
        repeats = by_pair > 0.0
        if by_user + 1.0 > allowances[0, 0]:
            held_back[0] += 1
        elif by_pair + 1.0 > allowances[1, 0]:
            held_back[1] += 1
        elif repeats and by_item + 1.0 > allowances[2, 0]:
            held_back[2] += 1
        else:
            admitted[e] = True
            _fill(user_levels, user_ts, user, by_user + 1.0, now)
            _fill(pair_levels, pair_ts, pair, by_pair + 1.0, now)
            _fill(item_levels, item_ts, item, by_item + 1.0 if repeats else max(by_item - NEWCOMER, 0.0), now)
