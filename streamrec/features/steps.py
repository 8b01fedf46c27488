"""The order of things inside a micro-batch: a list of steps, each one event to remember or one query to answer.

Every feature family walks the same steps, so a query sees exactly what came before it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from streamrec.features.batch import Int8, Int32, Int64, Uint64

Step = tuple[int, int, int, int, int, int, int, int]
"""One step: the fields of `Steps`, in their order."""

REMEMBER = 0
ASK = 1


@dataclass(frozen=True, slots=True)
class Steps:
    """Arrays of one length, in log order."""

    kind: Int8  # REMEMBER or ASK
    user: Int32  # row of the user table
    ref: Int32  # ASK: row of the queries
    ts: Int64  # ms
    session: Uint64  # hash of the session id, 0 without one
    item: Int32  # REMEMBER: item index, NOTHING without one
    type: Int8  # REMEMBER: code of the event type
    example: Int32  # REMEMBER: row of the examples, NOTHING when it teaches nothing

    @classmethod
    def of(cls, rows: list[Step]) -> Steps:
        """From tuples in the order of the fields."""
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
        )
