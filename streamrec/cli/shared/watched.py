"""Workers and learners that are read again and again, each by a thread of its own: nobody waits for another."""

from __future__ import annotations

import re
import time
from collections import deque
from threading import Condition, Event, Thread

from streamrec.codec import brief
from streamrec.errors import ConfigError
from streamrec.worker.scraping import STARTED, Reading, read

EVERY_S = 1.0
WINDOW_S = 10.0
"""Over how long rates are taken."""
SILENT_S = 5.0
"""An address of which nothing new has come for so long does not answer, however slowly it sends."""
ADDRESS_CHARS = 200
"""Shown of what is no address."""
_ADDRESS = re.compile(r"(?:\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):(?P<port>\d{1,5})")


class Watched:
    """One address, read every second by a thread of its own until it is closed."""

    def __init__(self, address: str) -> None:
        """Begin to read `address`, HOST:PORT.

        Raises:
            ConfigError: it is no address.
        """
        if (match := _ADDRESS.fullmatch(address)) is None or not 0 < int(match["port"]) < 65_536:
            raise ConfigError(f"--metrics is {brief(address, ADDRESS_CHARS)}, expected HOST:PORT, as worker-1:9100")
        self.address = address
        self._began_s = time.monotonic()
        self._readings: deque[Reading] = deque(maxlen=round(WINDOW_S / EVERY_S) + 1)
        self._news, self._over = Condition(), Event()
        Thread(target=self._read, name=f"read-{address}", daemon=True).start()

    def latest(self) -> tuple[Reading, Reading]:
        """The newest reading, and the oldest of the window that it can be compared with: the same, at first."""
        now = time.monotonic()
        with self._news:
            newest = self._readings[-1] if self._readings else Reading(self._began_s)
            if now - newest.at_s > SILENT_S:
                newest = Reading(now, error=f"does not answer: nothing has come for {now - newest.at_s:.0f} s")
            comparable = [reading for reading in self._readings if _same_process(reading, newest)]
        return newest, comparable[0] if comparable else newest

    def wait(self, readings: int) -> None:
        """Until there are so many readings, or the address has been silent for too long."""
        with self._news:
            self._news.wait_for(lambda: len(self._readings) >= readings, SILENT_S + EVERY_S)

    def close(self) -> None:
        """Read no more."""
        self._over.set()

    def _read(self) -> None:
        over = False
        while not over:
            reading = read(self.address)
            with self._news:
                self._readings.append(reading)
                self._news.notify_all()
            over = self._over.wait(EVERY_S)


def _same_process(reading: Reading, other: Reading) -> bool:
    return reading.error is other.error is None and reading.total(STARTED) == other.total(STARTED)
