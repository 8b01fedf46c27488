"""Slices of a run's targets whose metrics differ much: session starts, new items, heavy users.

A slice is defined by what was known when the target was ranked, never by what came later. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrec.engine.arrays.batch import NOTHING, Float32, Int32, Int64, MicroBatch, Uint64
from streamrec.engine.items.item_table import ItemTable

HOUR_S, DAY_S = 3_600.0, 86_400.0
HEAVY = 100
"""A user with more targets than this so far is a heavy one."""
HASHED_USERS = 2**20
"""Counters of users' targets, 4 MB. Users that share one by hash look a little heavier than they are."""
YOUNG = "item: first seen within an hour"


@dataclass(frozen=True, slots=True)
class TargetContexts:
    """What was known of user and item when each target was ranked: (targets,) each."""

    session_items: Int32
    """Items of the same session before it, at most as many as a user's history holds."""
    user_items: Int32
    """Items of the user before it, likewise."""
    user_targets: Int32
    """Targets of the user before it and its basket."""
    item_age_s: Float32
    """Since the log first showed the item, in its own time; 0 when it never had."""


def masks(target_contexts: TargetContexts, known: NDArray[np.bool_]) -> Mapping[str, NDArray[np.bool_]]:
    """The targets of every slice, (targets,) each, by the slice's name.

    `known` says whether the log had shown the target before.
    """
    session, user = target_contexts.session_items, target_contexts.user_items
    settled, heavy = user >= 3, target_contexts.user_targets > HEAVY
    young, fresh = target_contexts.item_age_s < HOUR_S, target_contexts.item_age_s < DAY_S
    return {
        "session: 1st event": session == 0,
        "session: 2nd event": session == 1,
        "session: 3rd event": session == 2,
        "session: later": session >= 3,
        "user: 1st event": user == 0,
        "user: 2nd event": user == 1,
        "user: 3rd event": user == 2,
        f"user: 4th event to {HEAVY}th": settled & ~heavy,
        f"user: after {HEAVY} events": settled & heavy,
        "item: never seen before": ~known,
        YOUNG: known & young,
        "item: first seen an hour to a day before": known & fresh & ~young,
        "item: older": known & ~fresh,
    }


class TargetContextRecorder:
    """Records the contexts of a run's targets, batch by batch; 16 bytes a target."""

    def __init__(self) -> None:
        self._user_targets = np.zeros(HASHED_USERS, np.int32)
        self._now_ms, self._ranked = 0, dict[int, int]()  # by user: targets before the ranking made at this time
        self._parts: list[TargetContexts] = []

    def add(self, batch: MicroBatch, rows: Int64, examples: Int64, items: ItemTable) -> None:
        """Record some targets.

        Args:
            batch: holds their queries and examples, not learned yet.
            rows: (targets,) query rows; `examples` their example rows.
            examples: see rows.
            items: says when each item was first seen.
        """
        queries = batch.queries
        age_ms = batch.examples.ts[examples] - items.first_ts[batch.examples.item[examples]]
        self._parts.append(
            TargetContexts(
                session_items=queries.session[rows].astype(np.int32),
                user_items=(queries.items[rows] != NOTHING).sum(1, dtype=np.int32),
                user_targets=self._counted(queries.user[rows], queries.ts[rows]),
                item_age_s=(np.maximum(age_ms, 0) / 1000).astype(np.float32),
            )
        )

    def _counted(self, users: Uint64, ts: Int64) -> Int32:
        """Targets of these users so far, (targets,), as of their rankings: a basket's are all of the same."""
        before = np.empty(len(users), np.int32)
        buckets = users % np.uint64(HASHED_USERS)
        for at, (bucket, now_ms) in enumerate(zip(buckets.tolist(), ts.tolist(), strict=True)):
            if now_ms != self._now_ms:
                self._now_ms = now_ms
                self._ranked.clear()
            before[at] = self._ranked.setdefault(bucket, int(self._user_targets[bucket]))
            self._user_targets[bucket] += 1
        return before

    def recorded(self) -> TargetContexts:
        """Everything noted so far, in log order."""

        def joined(name: str, dtype: type[np.generic]) -> NDArray[Any]:
            return np.concatenate([np.empty(0, dtype), *(getattr(part, name) for part in self._parts)])

        return TargetContexts(
            session_items=joined("session_items", np.int32),
            user_items=joined("user_items", np.int32),
            user_targets=joined("user_targets", np.int32),
            item_age_s=joined("item_age_s", np.float32),
        )
