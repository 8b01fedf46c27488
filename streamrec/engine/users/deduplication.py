"""Which event ids a user's stream has seen lately: an event sent twice is counted once.

The last REMEMBERED ids of each user are kept as 64-bit hashes; a repeat that comes later than that is not recognised.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from streamrec.engine.arrays.batch import Array, Int32, Uint64
from streamrec.engine.arrays.compiled import compiled
from streamrec.engine.users.user_feature import UserFeature, UserFeatureParts

REMEMBERED = 32


class Deduplication(UserFeature):
    """One row per user of the user table."""

    arrays = {"seen": 0, "pushed": 0}  # noqa: RUF012
    keys = ("event_ids",)

    def __init__(self, rows: int) -> None:
        self.seen = np.zeros((rows, REMEMBERED), np.uint64)
        self.pushed = np.zeros(rows, np.int64)

    def first_time(self, rows: Int32, ids: Uint64) -> Array:
        """Which events are new, in order; their ids are remembered. An id of 0 means none was given."""
        return np.asarray(_first_time(rows, ids, self.seen, self.pushed))

    def pack(self, row: int, item_ids: Sequence[str]) -> dict[str, Any]:
        pushed = int(self.pushed[row])
        kept = [int(self.seen[row, place % REMEMBERED]) for place in range(max(0, pushed - REMEMBERED), pushed)]
        return {"event_ids": kept}

    def unpack(self, row: int, value: Mapping[str, Any], indices: Mapping[str, int]) -> None:
        kept = value["event_ids"][-REMEMBERED:]
        self.seen[row, : len(kept)] = kept
        self.pushed[row] = len(kept)


def build(parts: UserFeatureParts) -> Deduplication:
    """The feature, without any user yet."""
    return Deduplication(0)


@compiled
def _first_time(rows, ids, seen, pushed):  # type: ignore[no-untyped-def]
    fresh = np.ones(len(rows), np.bool_)
    for event in range(len(rows)):
        if ids[event] == 0:
            continue
        row = rows[event]
        for slot in range(REMEMBERED):
            if seen[row, slot] == ids[event]:
                fresh[event] = False
                break
        if fresh[event]:
            seen[row, pushed[row] % REMEMBERED] = ids[event]
            pushed[row] += 1
    return fresh
