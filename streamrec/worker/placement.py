"""Whether keys lie where their users' other events do: producers that place them in different ways divide a user.

A key on another partition than `topics.partitioner` puts it on is misplaced: to the worker that reads it, that half of
the user's history is another user. Knows nothing of brokers: it looks at the keys of what was read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from streamrec.transport import Record
from streamrec.transport.partitioners import PARTITIONERS

KEYS_PLACED = 65_536
"""Whose partitions are remembered: murmur2 takes some microseconds."""


class Placement:
    """One worker's count. A way to place keys that is not in PARTITIONERS is not checked."""

    def __init__(self, partitioner: str) -> None:
        self._named = partitioner
        self._keys = 0
        self._fits: Counter[str] = Counter()  # keys that are where this way puts them
        self._ways = {name: lru_cache(KEYS_PLACED)(place) for name, place in PARTITIONERS.items()}

    @property
    def misplaced(self) -> int:
        """Records on another partition than their key belongs to."""
        return self._keys - self._fits[self._named]

    def check(self, records: Sequence[Record], partitions: int) -> int:
        """How many of some records are misplaced, in a topic of so many partitions; 0 if that is not known."""
        if self._named not in self._ways or partitions < 2:
            return 0
        before = self.misplaced
        for record in records:
            if record.key:
                self._keys += 1
                for name, place in self._ways.items():
                    if place(record.key, partitions) == record.partition:
                        self._fits[name] += 1
        return self.misplaced - before

    def told(self) -> str:
        """What is seen, and what to do about it."""
        seen = ", ".join(f"{name} {self._fits[name]:,} of {self._keys:,}" for name in self._ways)
        for name in self._ways:
            if self._fits[name] == self._keys:
                return f"keys are placed by {name} here ({seen}): set topics.partitioner = {name!r}"
        return (
            f"keys are not all placed by {self._named} here ({seen}), so users have two halves: let every producer of "
            f"events place them by {self._named}, or set topics.partitioner to the way of all (other: one of your own)"
        )
