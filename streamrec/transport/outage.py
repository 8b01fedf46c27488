"""What the log says while no broker answers: that it is so, for how long by now, and when one answers again.

Knows nothing of how a broker is asked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from streamrec.config.log_lines import get_logger

LOG = get_logger("streamrec.kafka")
REMIND_S = 30.0
"""Between two lines about one outage."""


class Outage:
    """One client's. Not said twice by clients of one process: see `_known`."""

    def __init__(self, settings: Mapping[str, object], clock: Callable[[], float] = time.monotonic) -> None:
        self._brokers = str(settings.get("bootstrap.servers"))
        self._clock = clock

    def goes_on(self) -> None:
        """A broker was asked, and none answered."""
        now = self._clock()
        since, said_at = _known.get(self._brokers, (now, None))
        if said_at is None or now - said_at >= REMIND_S:
            LOG.warning("no broker answers; trying again", brokers=self._brokers, for_s=round(now - since))
            said_at = now
        _known[self._brokers] = since, said_at

    def over(self) -> None:
        """A broker has answered."""
        known = _known.pop(self._brokers, None)
        if known is not None:
            LOG.info("a broker answers again", brokers=self._brokers, after_s=round(self._clock() - known[0]))


_known: dict[str, tuple[float, float | None]] = {}
"""Outages that were said, by the brokers' addresses: since when, and when last."""
