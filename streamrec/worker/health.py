"""Whether a worker is alive, and whether it is ready.

    alive   its loop has come round within `stuck_s`; one that has not should be ended and started anew
    ready   nothing it needs is missing; one that is not comes to by itself, or says what it waits for

Knows nothing of how it is asked: `worker/http.py` answers over HTTP. Safe to read from another thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from enum import StrEnum


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
        # Replaced, never changed: another thread may be reading.
        self._missing: Mapping[Need, str] = {
            Need.PARTITIONS: "the consumer group has assigned none yet",
            Need.MODELS: "not restored yet",
        }

    def beat(self) -> None:
        """The loop has come round."""
        self._beat_at = self._clock()

    def lack(self, need: Need, why: str) -> None:
        """`need` is missing, for the reason given."""
        self._missing = {**self._missing, need: why}

    def have(self, *needs: Need) -> None:
        """These are there."""
        if any(need in self._missing for need in needs):
            self._missing = {need: why for need, why in self._missing.items() if need not in needs}

    def stuck(self) -> str | None:
        """Why the worker is not alive, None while it is."""
        still_s = self._clock() - self._beat_at
        if still_s < self._stuck_s:
            return None
        return f"the loop has not come round for {still_s:.0f} s, expected less than {self._stuck_s:g} s"

    def missing(self) -> dict[str, str]:
        """What is missing, and why; empty when the worker is ready."""
        return {need.value: why for need, why in self._missing.items()}
