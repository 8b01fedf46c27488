"""Whether a worker is alive, and whether it is ready.

    alive   its loop has come round within `stuck_s`, and no partition with records to read has given none for so long;
            one that is not alive should be ended and started anew
    ready   nothing it needs is missing; one that is not comes to by itself, or says what it waits for

Knows nothing of how it is asked: `worker/http.py` answers over HTTP. Safe to read from another thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from enum import StrEnum

LONGEST_LOOK_S = 5.0
"""Between two looks at the partitions, so much at most counts as time in which one stood still."""


class Need(StrEnum):
    """What a worker cannot work without."""

    PARTITIONS = "partitions"
    """The group has said which are its own; none is an answer too."""
    MODELS = "models"
    """What the checkpoint names is in memory."""
    STATE = "state"
    """Store and disk take what they are given."""
    CATALOGUE = "catalogue"
    """The catalogue has been read to where it ended at the start."""
    LOG = "log"
    """Brokers can be reached, and acknowledge."""


class Health:
    """One worker's: everything is missing at first."""

    def __init__(self, stuck_s: float = 120.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._stuck_s = stuck_s
        self._clock = clock
        self._beat_at = clock()
        self._looked_at = clock()
        self._still_s: Mapping[int, float] = {}  # by partition with records to read: how long it has given none
        # Replaced, never changed: another thread may be reading.
        self._missing: Mapping[Need, str] = {
            Need.PARTITIONS: "the consumer group has assigned none yet",
            Need.MODELS: "not restored yet",
        }
        self._notes: Mapping[Need, str] = {}

    def beat(self) -> None:
        """The loop has come round."""
        self._beat_at = self._clock()

    def read(self, partitions: Iterable[int]) -> None:
        """Something was read of these."""
        moved = {*partitions} & self._still_s.keys()
        if moved:
            self._still_s = {partition: s for partition, s in self._still_s.items() if partition not in moved}

    def watch(self, lag: Mapping[int, int], stopped: Collection[int], drained: bool) -> None:
        """Take how many records are unread by partition, and of which partitions none are read on purpose.

        `drained`: the last poll gave everything there was, so that a partition did not have to wait for others.
        """
        now = self._clock()
        passed_s = min(now - self._looked_at, LONGEST_LOOK_S) if drained else 0.0
        self._looked_at = now
        behind = [partition for partition, records in lag.items() if records and partition not in stopped]
        self._still_s = {p: self._still_s[p] + passed_s if p in self._still_s else 0.0 for p in behind}

    def standstill_s(self) -> float:
        """How long a partition with records to read has given none; the longest, 0 while all are read."""
        return max(self._still_s.values(), default=0.0)

    def lack(self, need: Need, why: str) -> None:
        """`need` is missing, for the reason given; while it is, no partition is to blame that none is read."""
        self._still_s = {}
        self._missing = {**self._missing, need: why}

    def have(self, *needs: Need) -> None:
        """These are there."""
        if any(need in self._missing for need in needs):
            self._missing = {need: why for need, why in self._missing.items() if need not in needs}

    def stuck(self) -> str | None:
        """Why the worker is not alive, None while it is."""
        still_s = self._clock() - self._beat_at
        if still_s >= self._stuck_s:
            return f"the loop has not come round for {still_s:.0f} s, expected less than {self._stuck_s:g} s"
        for partition, idle_s in self._still_s.items():
            if idle_s >= self._stuck_s:
                return f"partition {partition} has records to read, and has given none for {idle_s:.0f} s"
        return None

    def note(self, need: Need, said: str) -> None:
        """Say how it stands with what is there: it makes nobody unready."""
        self._notes = {**self._notes, need: said}

    def notes(self) -> dict[str, str]:
        """How it stands with what is there."""
        return {need.value: said for need, said in self._notes.items() if need not in self._missing}

    def missing(self) -> dict[str, str]:
        """What is missing, and why; empty when the worker is ready."""
        return {need.value: why for need, why in self._missing.items()}
