"""Waiting for what is away: a store that restarts, a disk that is full, brokers that cannot be reached.

None of it is a reason to stop, and none to go on as if nothing had happened. What was attempted is attempted again,
ever more seldom, until it works; meanwhile the worker is not ready and says why.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from streamrec.errors import PublishDelayed, StateUnavailable, TransportUnavailable
from streamrec.transport import Source
from streamrec.worker.backpressure import Brake
from streamrec.worker.health import Health, Need

FIRST_WAIT_S, LONGEST_WAIT_S = 0.05, 1.0
"""Between two attempts: the second twice as long as the first, and so on."""
Away = StateUnavailable | PublishDelayed | TransportUnavailable
AWAY = (StateUnavailable, PublishDelayed, TransportUnavailable)
"""What passes by itself."""

Answer = TypeVar("Answer")


class Retry:
    """One worker's. `stop_by` is when it has no more time, on the clock given; None while it has all the time."""

    def __init__(self, source: Source, brake: Brake, health: Health, clock: Callable[[], float]) -> None:
        self.stop_by: float | None = None
        self._source = source
        self._brake = brake
        self._health = health
        self._clock = clock

    def endure(self, attempt: Callable[[], None]) -> None:
        """Do it, however long that takes: nothing is read meanwhile, but the source is polled.

        So partitions may come and go between two attempts, and the worker stays in its group.

        Raises:
            Away: the worker is to stop, and its time is up.
        """
        wait_s = FIRST_WAIT_S
        while (away := self._away(attempt)) is not None:
            if self.stop_by is not None and self._clock() > self.stop_by:
                raise away
            self._brake.press(_need(away).value, away)
            self._source.poll(1, wait_s)  # of a source that is stopped: nothing but callbacks
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)
        for need in (Need.STATE, Need.LOG):
            self._brake.release(need.value)

    def insist(self, attempt: Callable[[], Answer], limit_s: float) -> Answer:
        """Do it within a time, where nothing else may happen meanwhile.

        Raises:
            Away: the time is up.
        """
        answers: list[Answer] = []
        limit, wait_s = self._clock() + limit_s, FIRST_WAIT_S
        while (away := self._away(lambda: answers.append(attempt()))) is not None:
            if self._clock() + wait_s > (limit if self.stop_by is None else min(limit, self.stop_by)):
                raise away
            time.sleep(wait_s)
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)
        return answers[0]

    def _away(self, attempt: Callable[[], None]) -> Away | None:
        """Try it; what was away, if anything."""
        self._health.beat()
        try:
            attempt()
        except AWAY as error:
            self._health.lack(_need(error), str(error))
            return error
        self._health.have(Need.STATE)
        return None


def _need(away: Away) -> Need:
    return Need.STATE if isinstance(away, StateUnavailable) else Need.LOG
