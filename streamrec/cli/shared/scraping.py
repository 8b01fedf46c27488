"""What workers and learners answer over HTTP, read again and again: their metrics, and their health in words.

Whoever does not answer, or answers something else, is said to: nobody waits for another. Knows nothing of what the
figures mean.
"""

from __future__ import annotations

import math
import re
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from threading import Condition, Event, Thread

from prometheus_client.parser import text_string_to_metric_families

from streamrec.codec import brief
from streamrec.errors import ConfigError

EVERY_S = 1.0
WINDOW_S = 10.0
"""Over how long rates are taken."""
TIMEOUT_S = 2.0
"""For an address to answer one request, or to send its next bytes."""
SILENT_S = 5.0
"""An address of which nothing new has come for so long does not answer, however slowly it sends."""
MOST_BYTES = 4_000_000
"""Of one answer: ten times what a worker with a thousand partitions says."""
MOST_LINES = 20
"""Of an answer on health."""
ADDRESS_CHARS = 200
"""Shown of what is no address."""
BUILD = "streamrec_build_info"
STARTED = "process_start_time_seconds"
_ADDRESS = re.compile(r"(?:\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):(?P<port>\d{1,5})")

Labels = tuple[tuple[str, str], ...]
Samples = Mapping[str, Mapping[Labels, float]]
"""By the metric's name, then by its labels."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What one address said at one moment."""

    at_s: float
    samples: Samples = field(default_factory=dict)
    ready: bool = False
    health: tuple[str, ...] = ()
    """The lines of /readyz."""
    error: str | None = None
    """Why there is no more than this."""

    def total(self, name: str) -> float:
        """The sum of a metric over all its labels; 0 of one that is not there."""
        return sum(self.samples.get(name, {}).values())

    def by(self, name: str, label: str) -> dict[str, float]:
        """A metric by one label."""
        return {dict(labels).get(label, ""): value for labels, value in self.samples.get(name, {}).items()}


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


def read(address: str) -> Reading:
    """Ask for metrics and health, once."""
    try:
        status, metrics = _get(address, "/metrics")
        samples = _samples(metrics) if status == 200 else {}
        if BUILD not in samples:
            return Reading(time.monotonic(), error="answers, but is no worker or learner")
        status, health = _get(address, "/readyz")
    except (OSError, HTTPException) as error:
        return Reading(time.monotonic(), error=f"does not answer: {_why(error)}")
    return Reading(time.monotonic(), samples, status == 200, tuple(health.splitlines()[:MOST_LINES]))


def _why(error: OSError | HTTPException) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__).lower()


def _get(address: str, path: str) -> tuple[int, str]:
    connection = HTTPConnection(address, timeout=TIMEOUT_S)  # no proxy, and nowhere else
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read(MOST_BYTES).decode(errors="replace")
    finally:
        connection.close()


def _samples(text: str) -> Samples:
    """What is ours of an answer, and when its process started; nothing of what Prometheus could not read either."""
    found: dict[str, dict[Labels, float]] = {}
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                ours = sample.name == STARTED or sample.name.startswith("streamrec_")
                if ours and math.isfinite(sample.value):
                    found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    except (ValueError, LookupError):
        return {}
    return found
