"""An event with its place in the log, and what follows from the place alone: its seed and the id of its slate."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from streamrec.engine.arrays.compiled import mixed
from streamrec.events import Event


class LoggedEvent(NamedTuple):
    """One event as it came."""

    event: Event
    partition: int
    offset: int
    learned: bool = False
    """The models have learned it already (they were restored from a later place than the state was)."""

    topic: str = "user-events"
    early: bool = False
    """It was dated ahead of its message, and its `ts` is the message's time instead."""
    turned_away: bool = False
    """Its user asks too often: it counts as an event, and is not ranked."""

    @property
    def place(self) -> str:
        """Where it came from: the id of its slate or its outcome, the same at every try."""
        return f"{self.topic}-{self.partition}-{self.offset}"

    def seed(self, seed: int) -> int:
        """Every random draw for this event follows from this number, in [0, 2**62)."""
        return int(mixed(mixed(seed, self.partition) % 2**62, self.offset)) % 2**62


def name_hash(name: str | None) -> int:
    """64 bits of a name, stable over processes and machines; 0 for no name."""
    if name is None:
        return 0
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big") or 1
