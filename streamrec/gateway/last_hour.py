"""The last hour in figures: what workers and learners count, sampled every few seconds and kept in a ring.

Counters begin anew with their process, so rates are taken by process. Knows nothing of HTTP.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

from streamrec.worker.scraping import Reading, quantile

EVERY_S = 5.0
KEPT = 720
"""An hour of samples."""
_LATENCY_SAMPLES = 60
"""Latencies are those of the last 5 minutes."""
FUSED = "fused"


class Sample(NamedTuple):
    """The figures of one moment; None where nothing can be said."""

    at_s: float
    events_s: float | None
    slates_s: float | None
    lag: float | None
    p50_ms: float | None
    p99_ms: float | None
    behind_s: float | None
    hit_rates: Mapping[str, float]


class LastHour:
    """The samples of the last hour, and what was said last."""

    def __init__(self) -> None:
        self.samples: deque[Sample] = deque(maxlen=KEPT)
        self.readings: Mapping[str, Reading] = {}  # by address
        self._latencies: deque[Mapping[str, Mapping[float, float]]] = deque(maxlen=_LATENCY_SAMPLES)

    def take(self, at_s: float, readings: Mapping[str, Reading]) -> None:
        """What was said at a moment (seconds since 1970), by address."""
        self._latencies.append({address: reading.latencies() for address, reading in readings.items()})
        passed_s = at_s - self.samples[-1].at_s if self.samples else 0.0
        p50, p99 = self._quantiles(0.5), self._quantiles(0.99)
        before, self.readings = self.readings, readings
        answered = [reading for reading in readings.values() if reading.error is None]
        self.samples.append(
            Sample(
                at_s,
                _rate("streamrec_events_total", before, readings, passed_s),
                _rate("streamrec_slates_total", before, readings, passed_s),
                self.total("streamrec_lag") if answered else None,
                p50,
                p99,
                max((reading.total("streamrec_models_behind_seconds") for reading in answered), default=None),
                self.hit_rates(),
            )
        )

    def total(self, name: str) -> float:
        """The sum of a metric over all processes."""
        return sum(reading.total(name) for reading in self.readings.values())

    def by(self, name: str, label: str) -> dict[str, float]:
        """The sums of a metric by one of its labels."""
        sums: defaultdict[str, float] = defaultdict(float)
        for reading in self.readings.values():
            for of, value in reading.by(name, label).items():
                sums[of] += value
        return dict(sums)

    def hit_rates(self) -> dict[str, float]:
        """Share of wanted items of late in the first ten, by list; processes weigh by what they ranked."""
        rates: defaultdict[str, float] = defaultdict(float)
        ranked = self.total("streamrec_trials_total")
        for reading in self.readings.values():
            weight = reading.total("streamrec_trials_total") / ranked if ranked else 0.0
            for name, value in reading.by("streamrec_hit_rate", "list").items():
                rates[name] += value * weight
        return dict(rates)

    def _quantiles(self, share: float) -> float | None:
        """A latency of the last minutes (ms), interpolated within its bucket; None without requests."""
        counts: defaultdict[float, float] = defaultdict(float)
        for before, after in pairwise(self._latencies):
            for address, buckets in after.items():
                was = before.get(address, {})
                began_anew = any(count < was.get(bound, 0.0) for bound, count in buckets.items())
                for bound, count in buckets.items():
                    counts[bound] += count - (0.0 if began_anew else was.get(bound, count))
        found_s = quantile(share, counts)
        return None if found_s is None else 1000 * found_s


def _rate(name: str, before: Mapping[str, Reading], after: Mapping[str, Reading], passed_s: float) -> float | None:
    """How much a counter grew a second, over the processes that were asked twice."""
    both = [
        (before[address], now)
        for address, now in after.items()
        if address in before and before[address].error is None and now.error is None
    ]
    if not both or passed_s <= 0:
        return None
    grown = [now.total(name) - then.total(name) for then, now in both]
    return sum(more if more >= 0 else now.total(name) for more, (_, now) in zip(grown, both, strict=True)) / passed_s
