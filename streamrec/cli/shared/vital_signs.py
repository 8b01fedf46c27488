"""How workers and learners do, from two readings of each: rates, lag, latency, models, and what could not be used.

Knows nothing of how it is read or drawn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from streamrec.worker.scraping import Reading, quantile


class Count(msgspec.Struct, frozen=True):
    """Of one reason."""

    total: int  # since the processes started
    new: int  # within the window


class WorkerSigns(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="worker"):
    """One worker."""

    address: str
    ready: bool
    health: Sequence[str]
    events_per_s: float | None  # None until there are two readings to compare
    slates_per_s: float | None
    p50_s: float | None  # None where no slate came within the window
    p99_s: float | None
    lag: Mapping[str, int]  # by partition
    paused: bool
    model_version: int  # 0 where it learns by itself
    behind_events: int
    behind_s: float
    learner_away: bool


class LearnerSigns(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="learner"):
    """One learner."""

    address: str
    ready: bool
    health: Sequence[str]
    at_work: bool
    examples_per_s: float | None
    examples_lag: int
    hit_rate: Mapping[str, float]  # by list, of late
    quarantined: Sequence[str]


class Missing(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="missing"):
    """An address at which there is neither."""

    address: str
    error: str


class VitalSigns(msgspec.Struct, frozen=True, kw_only=True):
    """All of them together; sums of what answers."""

    ts: int  # ms since 1970
    window_s: float  # over which rates are taken: that of the longest
    events_per_s: float | None
    slates_per_s: float | None
    p50_s: float | None
    p99_s: float | None
    lag: Mapping[str, int]
    dead_letters: Mapping[str, Count]
    refused_requests: Mapping[str, Count]
    processes: Sequence[WorkerSigns | LearnerSigns | Missing]


Pair = tuple[Reading, Reading]
"""The newest reading, and an older one of the same process, or the same where there is none."""


def signs(read: Mapping[str, Pair], now_ms: int) -> VitalSigns:
    """From readings by address."""
    pairs = [pair for pair in read.values() if pair[0].error is None]
    workers = [pair for pair in pairs if _is_worker(pair[0])]
    lag: dict[str, int] = {}
    for newest, _ in workers:
        for partition, records in _lag(newest).items():  # between owners two may name one
            lag[partition] = max(records, lag.get(partition, 0))
    p50_s, p99_s = _latency(workers)
    return VitalSigns(
        ts=now_ms,
        window_s=max((newest.at_s - oldest.at_s for newest, oldest in pairs), default=0.0),
        events_per_s=_added(_rate(pair, "streamrec_events_total") for pair in workers),
        slates_per_s=_added(_rate(pair, "streamrec_slates_total") for pair in workers),
        p50_s=p50_s,
        p99_s=p99_s,
        lag=dict(sorted(lag.items(), key=lambda held: (len(held[0]), held[0]))),
        dead_letters=_counts(workers, "streamrec_dead_letters_total"),
        refused_requests=_counts(workers, "streamrec_refused_requests_total"),
        processes=[_of_one(address, pair) for address, pair in read.items()],
    )


def _is_worker(reading: Reading) -> bool:
    return "streamrec_paused" in reading.samples


def _of_one(address: str, pair: Pair) -> WorkerSigns | LearnerSigns | Missing:
    newest, _ = pair
    if newest.error is not None:
        return Missing(address=address, error=newest.error)
    if not _is_worker(newest):
        return LearnerSigns(
            address=address,
            ready=newest.ready,
            health=newest.health,
            at_work=bool(newest.total("streamrec_learner_at_work")),
            examples_per_s=_rate(pair, "streamrec_examples_learned_total"),
            examples_lag=int(newest.total("streamrec_examples_lag")),
            hit_rate=newest.by("streamrec_hit_rate", "list"),
            quarantined=[model for model, out in newest.by("streamrec_quarantined", "model").items() if out],
        )
    p50_s, p99_s = _latency([pair])
    return WorkerSigns(
        address=address,
        ready=newest.ready,
        health=newest.health,
        events_per_s=_rate(pair, "streamrec_events_total"),
        slates_per_s=_rate(pair, "streamrec_slates_total"),
        p50_s=p50_s,
        p99_s=p99_s,
        lag=_lag(newest),
        paused=bool(newest.total("streamrec_paused")),
        model_version=int(newest.total("streamrec_model_version")),
        behind_events=int(newest.total("streamrec_models_behind_events")),
        behind_s=newest.total("streamrec_models_behind_seconds"),
        learner_away=bool(newest.total("streamrec_learner_away")),
    )


def _lag(reading: Reading) -> dict[str, int]:
    return {partition: int(records) for partition, records in reading.by("streamrec_lag", "partition").items()}


def _rate(pair: Pair, name: str) -> float | None:
    newest, oldest = pair
    seconds = newest.at_s - oldest.at_s
    return (newest.total(name) - oldest.total(name)) / seconds if seconds > 0 else None


def _added(rates: Iterable[float | None]) -> float | None:
    known = [rate for rate in rates if rate is not None]
    return sum(known) if known else None


def _latency(pairs: Sequence[Pair]) -> tuple[float | None, float | None]:
    buckets: Counter[float] = Counter()
    for newest, oldest in pairs:
        before = oldest.latencies()
        for bound, count in newest.latencies().items():
            buckets[bound] += count - before.get(bound, 0.0)  # type: ignore[assignment]
    return quantile(0.5, buckets), quantile(0.99, buckets)


def _counts(pairs: Sequence[Pair], name: str) -> dict[str, Count]:
    """By reason, the most frequent first."""
    totals: Counter[str] = Counter()
    new: Counter[str] = Counter()
    for newest, oldest in pairs:
        before = oldest.by(name, "reason")
        for reason, count in newest.by(name, "reason").items():
            totals[reason] += int(count)
            new[reason] += int(count - before.get(reason, 0.0))
    return {reason: Count(total, new[reason]) for reason, total in totals.most_common()}
