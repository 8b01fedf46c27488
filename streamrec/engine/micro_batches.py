"""Where the log is cut: into chunks that are ranked at once, and at the cuts at which models learn.

Both are counted in the log's own events and clock, so that how it was cut into polls changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from streamrec.engine.arrays.batch import Array
from streamrec.engine.arrays.logged_event import LoggedEvent
from streamrec.events import EventType


@dataclass(frozen=True, slots=True)
class Batching:
    """When the models learn, and how they are fed."""

    micro_batch: int = 32
    micro_batch_s: float = 30.0
    seed: int = 0
    recommend_on: frozenset[EventType] = frozenset({EventType.REQUEST, EventType.SEARCH})


class MicroBatchSchedule:
    """How far the log has come since the last learning cut."""

    def __init__(self, batching: Batching) -> None:
        self.latest_ts = 0  # ms, of the newest event; late ones do not turn it back
        self._batching = batching
        self._events = 0  # since the last learning cut
        self._first_ts = 0  # ms, of the first of them

    def due(self) -> bool:
        """Whether the micro-batch is full, so that models learn now."""
        return self._events >= self._batching.micro_batch

    def overdue(self, ts: int) -> bool:
        """Whether models must learn before an event of that time, ms, is handled."""
        return self._events > 0 and ts - self._first_ts >= self._batching.micro_batch_s * 1000

    def end_of_chunk(self, logged_events: Sequence[LoggedEvent], start: int, *, one_answer_each: bool) -> int:
        """The place in `logged_events` before which the chunk from `start` on ends; nothing in it comes after a cut.

        With `one_answer_each`, it ends before whatever a user does after asking, too.
        """
        stop = min(len(logged_events), start + self._batching.micro_batch - self._events)
        stop = self._before_overdue(logged_events, start, stop)
        return self._before_next_moves(logged_events, start, stop) if one_answer_each else stop

    def _before_overdue(self, logged_events: Sequence[LoggedEvent], start: int, stop: int) -> int:
        first_ts = self._first_ts if self._events else logged_events[start].event.ts
        for at in range(start, stop):
            if logged_events[at].event.ts - first_ts >= self._batching.micro_batch_s * 1000:
                return at
        return stop

    def _before_next_moves(self, logged_events: Sequence[LoggedEvent], start: int, stop: int) -> int:
        asked = set[tuple[int, str]]()
        for at in range(start, stop):
            user = logged_events[at].partition, logged_events[at].event.user_id
            if user in asked:
                return at
            if logged_events[at].event.type in self._batching.recommend_on:
                asked.add(user)
        return stop

    def met(self, logged_events: Sequence[LoggedEvent]) -> None:
        """Count the events of a chunk that was handled."""
        if self._events == 0:
            self._first_ts = logged_events[0].event.ts
        self._events += len(logged_events)

    def begin_batch(self) -> None:
        """Begin to count anew: the models have learned."""
        self._events = 0

    def state(self) -> Array:
        """Three numbers."""
        return np.array([self._events, self._first_ts, self.latest_ts], np.int64)

    def restore(self, counts: Array) -> None:
        """The inverse of `state`."""
        self._events, self._first_ts, self.latest_ts = (int(count) for count in counts)
