"""What a user touched lately, and which of it belongs to the session.

Remembers the last HISTORY items of each user with time and event type. A session ends when the session id changes or,
for events without one, after a pause.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from streamrec.engine.arrays.batch import HISTORY, NOTHING, Examples, Int32, Queries
from streamrec.engine.arrays.compiled import compiled
from streamrec.engine.arrays.timeline import REMEMBER, Timeline
from streamrec.engine.users.user_feature import UserFeature, UserFeatureParts
from streamrec.events import EVENT_TYPES, TYPE_CODES, EventType

TOUCHES = frozenset(
    TYPE_CODES[kind]
    for kind in (
        EventType.VIEW,
        EventType.CLICK,
        EventType.ADD_TO_CART,
        EventType.PURCHASE,
        EventType.RATING,
        EventType.LIKE,
    )
)
"""Codes of the event types that put an item into the history; a skip, a dislike or an impression does not."""


class History(UserFeature):
    """One row per user of the user table."""

    arrays = {  # noqa: RUF012
        "items": NOTHING,
        "times": 0,
        "types": 0,
        "pushed": 0,
        "session": 0,
        "session_started": 0,
        "session_last": 0,
        "session_items": 0,
    }
    keys = ("recent", "session")

    def __init__(self, rows: int, session_gap_s: float, collapse_repeats: bool) -> None:
        self.session_gap_ms = int(session_gap_s * 1000)
        self.collapse_repeats = collapse_repeats
        self.items = np.full((rows, HISTORY), NOTHING, np.int32)  # a ring: slot `pushed % HISTORY` is next
        self.times = np.zeros((rows, HISTORY), np.int64)
        self.types = np.zeros((rows, HISTORY), np.int8)
        self.pushed = np.zeros(rows, np.int64)
        self.session = np.zeros(rows, np.uint64)
        self.session_started = np.zeros(rows, np.int64)
        self.session_last = np.zeros(rows, np.int64)
        self.session_items = np.zeros(rows, np.int32)
        self._touches = np.array([code in TOUCHES for code in range(len(EVENT_TYPES))])

    def fold(self, steps: Timeline, queries: Queries, examples: Examples) -> None:
        """Walk the steps in order: queries and examples see the past, then the event joins it."""
        _fold(
            steps.kind,
            steps.user,
            steps.ref,
            steps.ts,
            steps.session,
            steps.item,
            steps.type,
            steps.example,
            self.items,
            self.times,
            self.types,
            self.pushed,
            self.session,
            self.session_started,
            self.session_last,
            self.session_items,
            self.session_gap_ms,
            self.collapse_repeats,
            self._touches,
            queries.items,
            queries.ages_s,
            queries.steps,
            queries.session,
            examples.recent,
            examples.recent_ages_s,
            examples.recent_steps,
            examples.session,
            examples.label,
        )

    def forget_items(self, items: Int32) -> None:
        """These indices will name other items soon."""
        self.items[np.isin(self.items, items)] = NOTHING

    def pack(self, row: int, item_ids: Sequence[str]) -> dict[str, Any]:
        """What the store keeps: ids, not indices, newest first."""
        recent = []
        for step in range(1, min(int(self.pushed[row]), HISTORY) + 1):
            slot = (int(self.pushed[row]) - step) % HISTORY
            index = int(self.items[row, slot])
            item_id = item_ids[index] if index != NOTHING else None
            recent.append([item_id, EVENT_TYPES[self.types[row, slot]].value, int(self.times[row, slot])])
        session = {
            "key": int(self.session[row]),
            "started": int(self.session_started[row]),
            "last": int(self.session_last[row]),
            "items": int(self.session_items[row]),
        }
        return {"recent": recent, "session": session}

    def unpack(self, row: int, value: Mapping[str, Any], indices: Mapping[str, int]) -> None:
        recent = value["recent"][:HISTORY]
        for slot, (item_id, kind, ts) in enumerate(reversed(recent)):
            self.items[row, slot] = NOTHING if item_id is None else indices.get(item_id, NOTHING)
            self.types[row, slot] = TYPE_CODES[EventType(kind)]
            self.times[row, slot] = ts
        self.pushed[row] = len(recent)
        session = value["session"]
        self.session[row] = session["key"]
        self.session_started[row] = session["started"]
        self.session_last[row] = session["last"]
        self.session_items[row] = session["items"]

    def stored_items(self, value: Mapping[str, Any]) -> Iterable[str | None]:
        return (touch[0] for touch in value["recent"])


def build(parts: UserFeatureParts) -> History:
    """The feature, without any user yet."""
    return History(0, parts.session_gap_s, parts.collapse_repeats)


@compiled
def _look_back(items, times, pushed, now, past, ages_s, steps):  # type: ignore[no-untyped-def]
    """One user's ring, newest first, into `past` and its times."""
    step, total = 0, min(pushed, len(items))
    for place in range(len(past)):
        past[place], ages_s[place], steps[place] = NOTHING, 0.0, step
        if place >= total:
            continue
        slot = (pushed - 1 - place) % len(items)
        if place > 0 and times[slot] != times[(slot + 1) % len(items)]:
            step += 1
        past[place], ages_s[place], steps[place] = items[slot], max(now - times[slot], 0) / 1000.0, step


@compiled
def _fold(  # type: ignore[no-untyped-def]
    kind, user, ref, ts, session, item, event_type, example,
    items, times, types, pushed, sessions, session_started, session_last, session_items, gap_ms, collapse, touches,
    query_items, query_ages, query_steps, query_session,
    recent, recent_ages, recent_steps, example_session, label,
):  # fmt: skip
    # Lengths are asked of the arrays: compiled code on disk would not notice a constant that changed in another file.
    remembered, carried = items.shape[1], recent.shape[1]
    for step in range(len(kind)):
        row = user[step]
        now = ts[step]
        if session[step] != 0:
            fresh = session[step] != sessions[row]
        else:
            fresh = now - session_last[row] > gap_ms
        in_session = 0 if fresh else min(session_items[row], remembered)
        if kind[step] != REMEMBER:
            q = ref[step]
            query_session[q] = in_session
            _look_back(items[row], times[row], pushed[row], now, query_items[q], query_ages[q], query_steps[q])
            continue
        if fresh:
            sessions[row] = session[step]
            session_started[row] = now
            session_items[row] = 0
        session_last[row] = max(session_last[row], now)
        if item[step] == NOTHING:
            continue
        repeat = (
            collapse
            and touches[event_type[step]]
            and in_session > 0
            and items[row, (pushed[row] - 1) % remembered] == item[step]
        )
        e = example[step]
        if e != NOTHING:
            if repeat:
                label[e] = -1
            example_session[e] = min(in_session, carried)
            _look_back(items[row], times[row], pushed[row], now, recent[e], recent_ages[e], recent_steps[e])
        if touches[event_type[step]] and not repeat:
            slot = pushed[row] % remembered
            items[row, slot] = item[step]
            times[row, slot] = now
            types[row, slot] = event_type[step]
            pushed[row] += 1
            session_items[row] += 1
