"""How often, how recently: exact counts per event type, and a decayed count of everything.

The counts are exact: the state after a crash and a replay equals an offline recount of the log.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from streamrec.engine.arrays.batch import Examples, Queries
from streamrec.engine.arrays.compiled import compiled
from streamrec.engine.arrays.timeline import REMEMBER, Timeline
from streamrec.engine.users.user_feature import UserFeature, UserFeatureParts
from streamrec.events import EVENT_TYPES, TYPE_CODES, EventType

ACTIVITY_HALF_LIFE_S = 7 * 24 * 3600.0


class Counts(UserFeature):
    """One row per user of the user table."""

    arrays = {"counts": 0, "first_ts": 0, "last_ts": 0, "activity": 0}  # noqa: RUF012
    keys = ("counts", "first_ts", "last_ts", "activity")

    def __init__(self, rows: int) -> None:
        self.counts = np.zeros((rows, len(EVENT_TYPES)), np.int64)
        self.first_ts = np.zeros(rows, np.int64)
        self.last_ts = np.zeros(rows, np.int64)
        self.activity = np.zeros(rows, np.float64)  # decayed count as of last_ts

    def fold(self, steps: Timeline, queries: Queries, examples: Examples) -> None:
        """Queries see the decayed activity before their moment; events are counted."""
        _fold(
            steps.kind,
            steps.user,
            steps.ref,
            steps.ts,
            steps.type,
            self.counts,
            self.first_ts,
            self.last_ts,
            self.activity,
            queries.activity,
        )

    def pack(self, row: int, item_ids: Sequence[str]) -> dict[str, Any]:
        return {
            "counts": {kind.value: int(n) for kind, n in zip(EVENT_TYPES, self.counts[row], strict=True) if n},
            "first_ts": int(self.first_ts[row]),
            "last_ts": int(self.last_ts[row]),
            "activity": float(self.activity[row]),
        }

    def unpack(self, row: int, value: Mapping[str, Any], indices: Mapping[str, int]) -> None:
        for name, count in value["counts"].items():
            self.counts[row, TYPE_CODES[EventType(name)]] = count
        self.first_ts[row] = value["first_ts"]
        self.last_ts[row] = value["last_ts"]
        self.activity[row] = value["activity"]


def build(parts: UserFeatureParts) -> Counts:
    """The feature, without any user yet."""
    return Counts(0)


@compiled
def _fold(  # type: ignore[no-untyped-def]
    kind, user, ref, ts, event_type, counts, first_ts, last_ts, activity, query_activity
):  # fmt: skip
    for step in range(len(kind)):
        row = user[step]
        elapsed_s = max(ts[step] - last_ts[row], 0) / 1000.0
        decayed = activity[row] * 0.5 ** (elapsed_s / ACTIVITY_HALF_LIFE_S)
        if kind[step] != REMEMBER:
            query_activity[ref[step]] = decayed
            continue
        if counts[row].sum() == 0 or ts[step] < first_ts[row]:
            first_ts[row] = ts[step]
        counts[row, event_type[step]] += 1
        activity[row] = decayed + 1.0
        last_ts[row] = max(last_ts[row], ts[step])
