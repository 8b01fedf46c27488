"""The other end of `http.py`: what a worker or a learner answers, its metrics and its health in words.

Whoever does not answer, or answers something else, is said to. Knows nothing of what the figures mean.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException

from prometheus_client.parser import text_string_to_metric_families

TIMEOUT_S = 2.0
"""For an address to answer one request, or to send its next bytes."""
MOST_BYTES = 4_000_000
"""Of one answer: ten times what a worker with a thousand partitions says."""
MOST_LINES = 20
"""Of an answer on health."""
BUILD = "streamrec_build_info"
STARTED = "process_start_time_seconds"
LATENCY = "streamrec_slate_latency_seconds_bucket"

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
        """The sums of a metric by one of its labels."""
        sums: dict[str, float] = {}
        for labels, value in self.samples.get(name, {}).items():
            of = dict(labels).get(label, "")
            sums[of] = sums.get(of, 0.0) + value
        return sums

    def latencies(self) -> dict[float, float]:
        """Slates by how long they took: cumulative counts by upper bound (s)."""
        return {float(bound): count for bound, count in self.by(LATENCY, "le").items() if bound}


def read(address: str) -> Reading:
    """Ask HOST:PORT for metrics and health, once."""
    try:
        status, metrics = _get(address, "/metrics")
        samples = _samples(metrics) if status == 200 else {}
        if BUILD not in samples:
            return Reading(time.monotonic(), error="answers, but is no worker or learner")
        status, health = _get(address, "/readyz")
    except (OSError, HTTPException, OverflowError) as error:  # the last of a port that is none
        return Reading(time.monotonic(), error=f"does not answer: {_why(error)}")
    return Reading(time.monotonic(), samples, status == 200, tuple(health.splitlines()[:MOST_LINES]))


def quantile(share: float, buckets: Mapping[float, float]) -> float | None:
    """A quantile of what fell into `buckets`, cumulative counts by upper bound; None of nothing.

    Linear within a bucket, and the highest finite bound beyond it, as Prometheus's histogram_quantile.
    """
    bounds = sorted(buckets)
    if not bounds or buckets[bounds[-1]] <= 0:
        return None
    rank, low, below = share * buckets[bounds[-1]], 0.0, 0.0
    for bound in bounds:
        if buckets[bound] >= rank and buckets[bound] > below:
            return low if math.isinf(bound) else low + (bound - low) * (rank - below) / (buckets[bound] - below)
        low, below = bound, buckets[bound]
    return None


def _why(error: Exception) -> str:
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
    except (ValueError, LookupError, ArithmeticError):
        return {}
    return found
