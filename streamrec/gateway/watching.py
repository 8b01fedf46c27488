"""What the window has in view: the figures of workers and learners, and what it keeps of topics; and both in words.

Knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from streamrec.gateway.keeping import Business, DeadLetters, KnownItems
from streamrec.gateway.last_hour import EVERY_S, FUSED, LastHour, Sample
from streamrec.gateway.metrics import GatewayMetrics
from streamrec.gateway.reading import TopicFeed
from streamrec.worker.scraping import Reading, read

Shown = dict[str, Any]
EARLY_TRIALS = 500
"""Wanted items ranked; before that, hit rates say nothing."""
WAITS_S = 5.0
"""Work that waits for so long, at the rate of now, is worth a look; so are models as far behind."""
STALE_S = 60.0
CHART_POINTS = 240


@dataclass
class WindowView:
    """What the window shows. `addresses` are those of `/metrics`."""

    addresses: Sequence[str]
    catalogue: KnownItems
    letters: DeadLetters
    metrics: GatewayMetrics
    business: Business = field(default_factory=Business)
    history: LastHour = field(default_factory=LastHour)
    feeds: Sequence[TopicFeed[Any]] = ()
    viewers: int = 0
    rounds: int = 0
    _turn: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def sample(self) -> None:
        """Ask everybody every few seconds, for ever; and tell whoever waits for the next round."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(max(1, min(8, len(self.addresses))), "streamrec-scrape") as threads:
            while True:
                began = time.monotonic()
                asked = [loop.run_in_executor(threads, read, address) for address in self.addresses]
                answers = await asyncio.gather(*asked)
                self.history.take(time.time(), dict(zip(self.addresses, answers, strict=True)))
                self.rounds += 1
                async with self._turn:
                    self._turn.notify_all()
                await asyncio.sleep(max(0.5, EVERY_S - (time.monotonic() - began)))

    async def next_round(self, seen: int, limit_s: float) -> int:
        """Wait for a round after the one `seen`, for so long at most; its number."""
        try:
            async with asyncio.timeout(limit_s), self._turn:
                await self._turn.wait_for(lambda: self.rounds > seen)
        except TimeoutError:
            pass
        return self.rounds

    # In words

    def now(self) -> Shown:
        """Is it alive? With figures, and what normal is."""
        history = self.history
        last = history.samples[-1] if history.samples else None
        state, bold = self._state(last)
        wait_s = last.lag / last.events_s if last and last.lag and last.events_s else 0.0
        degraded = {one.labels["reason"]: one.value for one in _samples(self.metrics.degraded) if one.value}
        targets = [_row(address, reading) for address, reading in history.readings.items()]
        return {
            "state": state,
            "bold": bold,
            "last": last,
            "events": history.total("streamrec_events_total"),
            "slates": history.total("streamrec_slates_total"),
            "empty": history.total("streamrec_empty_slates_total"),
            "refused": history.total("streamrec_refused_requests_total"),
            "wait_s": wait_s,
            "version": max((one.total("streamrec_model_version") for one in history.readings.values()), default=0.0),
            "behind": history.total("streamrec_models_behind_events"),
            "targets": targets,
            "http": sum(one.value for one in _samples(self.metrics.requests)),
            "degraded": degraded,
            "letters": self.letters.total,
            "kinds": len(self.letters.kinds),
            "addresses": self.addresses,
            "charts": self._charts(),
        }

    def learning(self) -> Shown:
        """Does it learn? The fused list beside each model and the best popularity, before they learned."""
        history = self.history
        trials = history.total("streamrec_trials_total")
        hits = history.by("streamrec_hits_total", "list")
        late, out = history.hit_rates(), history.by("streamrec_quarantined", "model")
        drifts = history.by("streamrec_drift_total", "model")
        lists: list[Shown] = [
            {
                "name": name,
                "late": late.get(name, 0.0),
                "share": hits.get(name, 0.0) / trials if trials else 0.0,
                "out": bool(out.get(name)),
                "drifts": drifts.get(name, 0.0),
            }
            for name in {*late, *hits}
        ]
        lists.sort(key=lambda one: (one["name"] != FUSED, -one["share"], one["name"]))
        popular = next((one for one in lists if one["name"].startswith("popularity")), None)
        health = {
            "drift alarms": sum(drifts.values()),
            "models rolled back": history.total("streamrec_rollbacks_total"),
            "updates refused, not finite": history.total("streamrec_refused_updates_total"),
            "examples held back by rate limits": history.total("streamrec_held_back_examples_total"),
        }
        return {
            "trials": trials,
            "early": trials < EARLY_TRIALS,
            "lists": lists,
            "fused": next((one for one in lists if one["name"] == FUSED), None),
            "popular": popular,
            "out": sorted(name for name, is_out in out.items() if is_out),
            "health": health,
            "chart": self._hit_chart(popular["name"] if popular else None),
            "addresses": self.addresses,
        }

    def _state(self, last: Sample | None) -> tuple[str, str]:
        unread = [feed.failure for feed in self.feeds if feed.failure is not None]
        if unread:
            return "look", f"A topic cannot be read any more: {unread[0]}."
        if not self.addresses:
            return "unknown", "Nobody is asked how it goes."
        if last is None:
            return "unknown", "The first figures come within seconds."
        if (age_s := time.time() - last.at_s) > STALE_S:
            return "look", f"The newest figures are {age_s:,.0f} s old: start this gateway anew."
        readings = self.history.readings
        away = [address for address, one in readings.items() if one.error is not None]
        unready = [address for address, one in readings.items() if one.error is None and not one.ready]
        if away:
            return "look", f"{len(away)} of {len(readings)} processes do not answer: {', '.join(away[:3])}."
        if unready:
            return "look", f"{len(unready)} of {len(readings)} processes are not ready: {', '.join(unready[:3])}."
        if self.history.total("streamrec_learner_away"):
            return "look", "No learner is heard of: slates go on, by models that stand still."
        if last.lag and (not last.events_s or last.lag / last.events_s > WAITS_S):
            return "look", f"{last.lag:,.0f} events wait to be read."
        return "ready", "Everything is read and answered."

    def _charts(self) -> list[Shown]:
        return [
            self._chart(
                "Events and slates a second", "a second", events=lambda s: s.events_s, slates=lambda s: s.slates_s
            ),
            self._chart("Events that wait (lag)", "events", waiting=lambda s: s.lag),
            self._chart("Answer time", "ms", **{"half within": lambda s: s.p50_ms, "99% within": lambda s: s.p99_ms}),
        ]

    def _hit_chart(self, popular: str | None) -> Shown:
        lines = {"slates": lambda s: s.hit_rates.get(FUSED) and 100 * s.hit_rates[FUSED]}
        if popular is not None:
            lines[popular] = lambda s: s.hit_rates.get(popular) and 100 * s.hit_rates[popular]
        return self._chart("In the first ten, before it was learned", "%", **lines)

    def _chart(self, title: str, unit: str, **lines: Any) -> Shown:
        """Lines over the last hour, thinned, the newest kept; with what they say in words."""
        samples = list(self.history.samples)
        thinned = samples[:: -max(1, -(-len(samples) // CHART_POINTS))][::-1]
        values = {name: [_short(figure(sample)) for sample in thinned] for name, figure in lines.items()}
        words = [
            f"{name} now {known[-1]:,g} {unit}, between {min(known):,g} and {max(known):,g}"
            for name, all_of_it in values.items()
            if (known := [value for value in all_of_it if value is not None])
        ]
        return {
            "title": title,
            "words": "; ".join(words) or "nothing yet",
            "data": {"unit": unit, "t": [round(sample.at_s) for sample in thinned], "lines": values},
        }


def _row(address: str, reading: Reading) -> Shown:
    kind = "worker"
    if "streamrec_learner_at_work" in reading.samples:
        kind = "learner" if reading.total("streamrec_learner_at_work") else "learner, stands by"
    return {
        "address": address,
        "kind": "-" if reading.error is not None else kind,
        "state": "away" if reading.error is not None else "ready" if reading.ready else "not ready",
        "said": reading.error or "; ".join(reading.health),
        "lag": sorted(reading.by("streamrec_lag", "partition").items(), key=lambda pair: (len(pair[0]), pair[0])),
    }


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def _samples(counter: Any) -> list[Any]:
    return [sample for metric in counter.collect() for sample in metric.samples if sample.name.endswith("_total")]
