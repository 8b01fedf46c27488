"""The order of things inside a micro-batch: a list of steps, each one event to remember or one query to answer.

Every user feature walks the same steps, so a query sees exactly what came before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from streamrec.engine.arrays.batch import Float64, Int8, Int32, Int64, Uint64

TimelineStep = tuple[int, int, int, int, int, int, int, int]
"""One step: the fields of `Timeline` but the price, in their order."""

REMEMBER = 0
ASK = 1
_NO_PRICES: Mapping[int, float] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Timeline:
    """Arrays of one length, in log order."""

    kind: Int8  # REMEMBER or ASK
    user: Int32  # row of the user table
    ref: Int32  # ASK: row of the queries
    ts: Int64  # ms
    session: Uint64  # hash of the session id, 0 without one
    item: Int32  # REMEMBER: item index, NOTHING without one
    type: Int8  # REMEMBER: code of the event type
    example: Int32  # REMEMBER: row of the examples, NOTHING when it teaches nothing
    price: Float64  # REMEMBER: what the item costs, NaN where that is not known

    @classmethod
    def of(cls, rows: list[TimelineStep], prices: Mapping[int, float] = _NO_PRICES) -> Timeline:
        """From tuples in the order of the fields, and prices by place in the list."""
        price = np.full(len(rows), np.nan)
        price[list(prices)] = list(prices.values())
        kinds, users, refs, times, sessions, items, types, examples = zip(*rows, strict=True)
        return cls(
            np.array(kinds, np.int8),
            np.array(users, np.int32),
            np.array(refs, np.int32),
            np.array(times, np.int64),
            np.array(sessions, np.uint64),
            np.array(items, np.int32),
            np.array(types, np.int8),
            np.array(examples, np.int32),
            price,
        )
