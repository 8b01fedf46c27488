"""A compacted topic inside the process: the catalogue of a worker in tests, and in programs without Kafka.

Guarantee: as `Follower`. Knows nothing of what the records say.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Sequence

from streamrec.transport import Record


class LocalFollower:
    """`records` are what the topic holds at the start; `append` lengthens it, from any thread."""

    def __init__(self, topic: str, records: Iterable[Record] = ()) -> None:
        self._topic = topic
        self._coming = deque(records)
        self._first = len(self._coming)  # so many records are left of those held at the start
        self._changed = threading.Condition()

    @property
    def topic(self) -> str:
        """The topic that is followed."""
        return self._topic

    def append(self, records: Iterable[Record]) -> None:
        """Lengthen the topic."""
        with self._changed:
            self._coming.extend(records)
            self._changed.notify_all()

    def look(self, most: int, wait_s: float = 0.0) -> Sequence[Record]:
        """See `Follower`."""
        with self._changed:
            if not self._coming and wait_s > 0:
                self._changed.wait(wait_s)
            seen = [self._coming.popleft() for _ in range(min(most, len(self._coming)))]
        self._first = max(0, self._first - len(seen))
        return seen

    def whole(self) -> bool:
        """See `Follower`."""
        return self._first == 0

    def close(self) -> None:
        """Nothing to let go of."""
