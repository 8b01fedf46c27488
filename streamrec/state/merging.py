"""One value of two, where a user was met on two partitions: no event of theirs is lost to the counts.

Of a user the larger one is kept, with the counts of both, the newest of both histories and what both know of repeats;
what else the smaller one knew is forgotten. Open slates are put together, and the newest slate is the latest.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec

from streamrec.engine.arrays.batch import HISTORY
from streamrec.engine.attribution.open_slates import merged_slates
from streamrec.events import Slate
from streamrec.state import Kind


def merged(kind: Kind, one: bytes, other: bytes) -> bytes:
    """The two as one; whichever is named first."""
    if kind is Kind.USER:
        return _user(msgspec.msgpack.decode(one), msgspec.msgpack.decode(other))
    if kind is Kind.OPEN:
        return merged_slates(one, other)
    return max(one, other, key=lambda value: (msgspec.msgpack.decode(value, type=Slate).ts, value))


def _user(one: dict[str, Any], other: dict[str, Any]) -> bytes:
    smaller, larger = sorted([one, other], key=lambda user: (sum(user["counts"].values()), user["last_ts"]))
    older, newer = sorted([one, other], key=lambda user: user["last_ts"])
    recent = sorted([*newer["recent"], *older["recent"]], key=lambda event: -event[2])
    together: dict[str, Any] = {
        "counts": dict(Counter(smaller["counts"]) + Counter(larger["counts"])),
        "first_ts": min(one["first_ts"], other["first_ts"]),
        "last_ts": newer["last_ts"],
        "recent": recent[:HISTORY],
        "event_ids": [*older["event_ids"], *newer["event_ids"]],
    }
    return msgspec.msgpack.encode({**larger, **together})
