"""How fast a user asks: one who sends hundreds of requests at once must not hold up everybody else on the worker.

    level <- max(0, level - per_s * elapsed_s);  answered, and level <- level + 1, if that stays within `at_once`

A leaky bucket as a meter (Turner: New directions in communications, IEEE Communications Magazine 1986), in the log's
own time and stored with the user: read again after a crash, the same requests are turned away. Those cost nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from streamrec.engine.users.user_feature import UserFeature, UserFeatureParts


class RequestPace(UserFeature):
    """One bucket per user of the user table."""

    arrays = {"level": 0.0, "as_of": 0}  # noqa: RUF012
    keys = ("asked",)

    def __init__(self, at_once: int, per_s: float) -> None:
        self.at_once = at_once
        self.per_s = per_s
        self.level = np.zeros(0, np.float64)
        self.as_of = np.zeros(0, np.int64)  # ms; a late request does not turn it back

    def admits(self, row: int, ts: int) -> bool:
        """Whether the user's request of that time, ms, is to be answered; then it counts."""
        as_of = max(int(self.as_of[row]), ts)
        level = max(float(self.level[row]) - self.per_s * (as_of - int(self.as_of[row])) / 1000, 0.0)
        if level + 1.0 > self.at_once:
            return False
        self.level[row], self.as_of[row] = level + 1.0, as_of
        return True

    def pack(self, row: int, item_ids: Sequence[str]) -> dict[str, Any]:
        return {"asked": [float(self.level[row]), int(self.as_of[row])]} if self.as_of[row] else {}

    def unpack(self, row: int, value: Mapping[str, Any], indices: Mapping[str, int]) -> None:
        self.level[row], self.as_of[row] = value["asked"]


def build(parts: UserFeatureParts) -> RequestPace:
    """The feature, without any user yet."""
    return RequestPace(parts.requests_at_once, parts.requests_per_s)
