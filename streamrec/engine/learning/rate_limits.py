"""Rate limits on what one user teaches: a script that clicks all night must not decide what other people see.

What a user does is an example; what came of a slate of theirs is feedback. Each is paid for from leaky buckets, and
teaches only if none of them overflows:

    user          what this user teaches
    user, item    what this user teaches of this item
    item          what its regulars teach of an item: repeats fill the bucket, each newcomer drains it

A bucket holds `at_once` and leaks `per_hour` in the log's own time (leaky bucket as a meter: Turner: New directions in
communications, IEEE Communications Magazine 1986). Feedback is about every item that was answered, and needs room for
all of them; examples and feedback have buckets of their own. Memory is bounded: buckets lie in hashed sets of WAYS
places, where the emptiest makes room, of several the one that rested longest. So whoever is about to overflow is never
forgotten for a passer-by, and no user pays for another.

Decides in log order, from the log alone, and knows nothing of models. What is not admitted still counts in the user's
state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streamrec.engine.arrays.batch import Array, Int32, Int64, Uint64
from streamrec.engine.arrays.compiled import compiled, mixed

Bool = npt.NDArray[np.bool_]

WAYS = 4
BUCKETS = ("user", "user and item", "item")
"""What is paid from, in this order."""
OF_FEEDBACK = "lessons."
"""Before the names of the buckets that feedback is paid from."""
HOUR_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Allowance:
    """How much a bucket takes."""

    at_once: float
    per_hour: float


USER = Allowance(1_000, 10)
"""A wholesaler's basket and an evening of rating films fit in it: the public logs' busiest user has 737 events in an
hour. A script is held to ten examples an hour in the long run."""
LESSONS = Allowance(64, 4)
"""A long evening of slates. They teach weights that hold for all users, so more of one person's add little."""
PAIR = Allowance(16, 1)
"""The public shops' and news logs' most faithful user touches one item 24 times in a day."""
ITEM = Allowance(8, 0.25)
"""What regulars teach of an item beside what new users make room for. So N users who push one teach of it little more
than 1 + NEWCOMER times N a week, however often they try; 6 examples a day come on top."""
NEWCOMER = 3.0
"""Repeats that one user new to an item makes room for: to see, click, basket and buy is one example and three."""
REMEMBERED_MS = 7 * 24 * HOUR_MS
"""Every user is new to an item once in so long: so the room for what many like again and again grows with how many."""


class RateLimits:
    """Decides what teaches, for items with an index below `capacity`."""

    def __init__(
        self,
        capacity: int,
        user: Allowance = USER,
        pair: Allowance = PAIR,
        item: Allowance = ITEM,
        feedback: Allowance = LESSONS,
        users: int = 2**16,
        pairs: int = 2**17,
    ) -> None:
        """`users` and `pairs` are how many of them are remembered at once; a power of two, at least WAYS.

        `feedback` is what a user has for feedback in the place of `user`.
        """
        self._examples = _Purse.empty((user, pair, item), users, pairs, capacity)
        self._lessons = _Purse.empty((feedback, pair, item), users, pairs, capacity)

    @classmethod
    def unlimited(cls, capacity: int) -> RateLimits:
        """Everything teaches."""
        any_ = Allowance(np.inf, 0.0)
        return cls(capacity, any_, any_, any_, any_, WAYS, WAYS)

    def admit(self, users: Uint64, items: Int32, ts: Int64) -> Bool:
        """Which of some examples may teach, (examples,).

        Args:
            users: (examples,) hashes of user ids, in log order.
            items: (examples,) item indices.
            ts: (examples,) ms.
        """
        return self._examples.admit(users, items, np.arange(len(items) + 1), ts)

    def admit_feedback(self, users: Uint64, answered: Sequence[Int32], ts: Int64) -> Bool:
        """Which feedback may teach, (slates,).

        Args:
            users: (slates,) hashes of user ids, in log order.
            answered: for each slate the indices of the items that were answered, each once; there may be none.
            ts: (slates,) ms.
        """
        starts = np.concatenate([[0], np.cumsum([len(items) for items in answered])]).astype(np.int64)
        return self._lessons.admit(users, np.concatenate([np.empty(0, np.int32), *answered]), starts, ts)

    def held_back(self) -> dict[str, int]:
        """What did not teach, by the first bucket that had no room for it."""
        examples, feedback = self._examples.held_back.tolist(), self._lessons.held_back.tolist()
        return dict(zip(BUCKETS, examples, strict=True)) | dict(
            zip([f"lessons: {name}" for name in BUCKETS], feedback, strict=True)
        )

    def forget(self, items: Int32) -> None:
        """These indices will name other items soon. What users taught of the old ones leaks away by itself."""
        for purse in (self._examples, self._lessons):
            purse.items.levels[items] = 0.0

    def state(self) -> dict[str, Array]:
        """What a snapshot holds."""
        feedback = {OF_FEEDBACK + name: array for name, array in self._lessons.state().items()}
        return self._examples.state() | feedback

    def restore(self, arrays: Mapping[str, Array]) -> None:
        """The inverse of `state`; a snapshot without buckets for feedback leaves them empty."""
        of_lessons = {name[len(OF_FEEDBACK) :]: arrays[name] for name in arrays if name.startswith(OF_FEEDBACK)}
        self._examples.restore(arrays)
        self._lessons.restore(of_lessons)


@dataclass(frozen=True, slots=True)
class _Purse:
    """What one kind of deed is paid from. A deed is of one user and any number of items."""

    allowances: npt.NDArray[np.float64]  # (buckets, 2) at once, per ms
    users: Buckets
    pairs: Buckets
    items: Buckets  # an item's index itself is its place
    new_at: Int64  # by place of the pair: when this user counted as new to this item, ms
    held_back: Int64  # (buckets,)

    @classmethod
    def empty(cls, allowances: Sequence[Allowance], users: int, pairs: int, items: int) -> _Purse:
        per_ms = np.array([[allowance.at_once, allowance.per_hour / HOUR_MS] for allowance in allowances])
        held_back = np.zeros(len(BUCKETS), np.int64)
        new_at = np.zeros(pairs, np.int64)
        return cls(per_ms, Buckets.empty(users), Buckets.empty(pairs), Buckets.empty(items), new_at, held_back)

    def admit(self, users: Uint64, items: Int32, starts: Int64, ts: Int64) -> Bool:
        """Which deeds are paid for, (deeds,); the items of deed e are those from starts[e] to starts[e + 1]."""
        admitted = np.zeros(len(users), np.bool_)
        tables = (*self.users.arrays(), *self.pairs.arrays(), self.new_at, *self.items.arrays())
        _admit(users, items, starts, ts, self.allowances, *tables, admitted, self.held_back)
        return admitted

    def state(self) -> dict[str, Array]:
        arrays: dict[str, Array] = {"held_back": self.held_back.copy()}
        for name, buckets in self._tables():
            arrays |= {f"{name}.{field}": values for field, values in buckets.state().items()}
        return arrays | {"pairs.new_at": self.new_at[arrays["pairs.places"]]}

    def restore(self, arrays: Mapping[str, Array]) -> None:
        self.held_back[:] = arrays.get("held_back", 0)
        for name, buckets in self._tables():
            buckets.clear()
            if f"{name}.places" in arrays:
                buckets.restore({field: arrays[f"{name}.{field}"] for field in ("places", "keys", "levels", "ts")})
        self.new_at[:] = self.pairs.ts  # of a snapshot from before it was kept
        if "pairs.new_at" in arrays:
            self.new_at[arrays["pairs.places"]] = arrays["pairs.new_at"]

    def _tables(self) -> tuple[tuple[str, Buckets], ...]:
        return ("users", self.users), ("pairs", self.pairs), ("items", self.items)


@dataclass(frozen=True, slots=True)
class Buckets:
    """Leaky buckets, each as it was at its own time."""

    keys: Uint64  # whose it is
    levels: npt.NDArray[np.float32]
    ts: Int64  # ms, 0 where nothing was ever paid

    @classmethod
    def empty(cls, size: int) -> Buckets:
        return cls(np.zeros(size, np.uint64), np.zeros(size, np.float32), np.zeros(size, np.int64))

    def arrays(self) -> tuple[Uint64, npt.NDArray[np.float32], Int64]:
        return self.keys, self.levels, self.ts

    def state(self) -> dict[str, Array]:
        """Of the buckets that were paid from."""
        used = np.flatnonzero(self.ts)
        return {"places": used, "keys": self.keys[used], "levels": self.levels[used], "ts": self.ts[used]}

    def clear(self) -> None:
        """As if nothing had ever been paid."""
        for array in self.arrays():
            array[:] = 0

    def restore(self, arrays: Mapping[str, Array]) -> None:
        """The inverse of `state`, into cleared buckets."""
        for name, array in (("keys", self.keys), ("levels", self.levels), ("ts", self.ts)):
            array[arrays["places"]] = arrays[name]


@compiled
def _leaked(levels, times, place, ts, per_ms):  # type: ignore[no-untyped-def]
    """What is left in a bucket by now; a late event does not turn its time back."""
    return max(levels[place] - max(ts - times[place], 0) * per_ms, 0.0)


@compiled
def _place_of(key, keys, levels, times, ts, per_ms):  # type: ignore[no-untyped-def]
    """This key's bucket, else the emptiest of its set, of several the one that rested longest."""
    first = np.int64(mixed(key, 0) % np.uint64(len(keys) // WAYS)) * WAYS
    emptiest = first
    least = np.inf
    for way in range(WAYS):
        place = first + way
        if keys[place] == key:
            return place
        left = _leaked(levels, times, place, ts, per_ms)
        if left < least or (left == least and times[place] < times[emptiest]):
            emptiest, least = place, left
    return emptiest


@compiled
def _level(key, place, keys, levels, times, ts, per_ms):  # type: ignore[no-untyped-def]
    """What is left in this key's bucket, which may have to be made there first."""
    return _leaked(levels, times, place, ts, per_ms) if keys[place] == key else 0.0


@compiled
def _fill(key, place, keys, levels, times, level, ts):  # type: ignore[no-untyped-def]
    times[place] = max(times[place], ts) if keys[place] == key else ts
    keys[place] = key
    levels[place] = level


@compiled
def _refused_by(  # type: ignore[no-untyped-def]
    user, item, now, allowances, pair_keys, pair_levels, pair_ts, new_at, item_levels, item_ts
):  # fmt: skip
    """The first bucket without room for what this user does to this item: 1 or 2, else 0."""
    key = mixed(user, item + 1)
    pair = _place_of(key, pair_keys, pair_levels, pair_ts, now, allowances[1, 1])
    if _level(key, pair, pair_keys, pair_levels, pair_ts, now, allowances[1, 1]) + 1.0 > allowances[1, 0]:
        return 1
    repeats = pair_keys[pair] == key and now - new_at[pair] < REMEMBERED_MS
    if repeats and _leaked(item_levels, item_ts, item, now, allowances[2, 1]) + 1.0 > allowances[2, 0]:
        return 2
    return 0


@compiled
def _pay(  # type: ignore[no-untyped-def]
    user, item, now, allowances, pair_keys, pair_levels, pair_ts, new_at, item_keys, item_levels, item_ts
):  # fmt: skip
    key = mixed(user, item + 1)
    pair = _place_of(key, pair_keys, pair_levels, pair_ts, now, allowances[1, 1])
    repeats = pair_keys[pair] == key and now - new_at[pair] < REMEMBERED_MS
    by_pair = _level(key, pair, pair_keys, pair_levels, pair_ts, now, allowances[1, 1])
    by_item = _leaked(item_levels, item_ts, item, now, allowances[2, 1])
    _fill(key, pair, pair_keys, pair_levels, pair_ts, by_pair + 1.0, now)
    if not repeats:
        new_at[pair] = now
    level = by_item + 1.0 if repeats else max(by_item - NEWCOMER, 0.0)
    _fill(item_keys[item], item, item_keys, item_levels, item_ts, level, now)


@compiled
def _admit(  # type: ignore[no-untyped-def]
    users, items, starts, ts, allowances,
    user_keys, user_levels, user_ts, pair_keys, pair_levels, pair_ts, new_at, item_keys, item_levels, item_ts,
    admitted, held_back,
):  # fmt: skip
    for e in range(len(users)):
        user, now = users[e], ts[e]
        place = _place_of(user, user_keys, user_levels, user_ts, now, allowances[0, 1])
        by_user = _level(user, place, user_keys, user_levels, user_ts, now, allowances[0, 1])
        if by_user + 1.0 > allowances[0, 0]:
            held_back[0] += 1
            continue
        refused = 0
        for at in range(starts[e], starts[e + 1]):
            if refused == 0:
                refused = _refused_by(
                    user, items[at], now, allowances, pair_keys, pair_levels, pair_ts, new_at, item_levels, item_ts
                )
        if refused:
            held_back[refused] += 1
            continue
        admitted[e] = True
        _fill(user, place, user_keys, user_levels, user_ts, by_user + 1.0, now)
        for at in range(starts[e], starts[e + 1]):
            _pay(
                user,
                items[at],
                now,
                allowances,
                pair_keys,
                pair_levels,
                pair_ts,
                new_at,
                item_keys,
                item_levels,
                item_ts,
            )
