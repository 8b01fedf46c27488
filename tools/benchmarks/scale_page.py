"""The page of `tools/bench scale`: what was measured, and how many cores a shop would need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path

from tools.benchmarks.scale import BACKLOG, EVENTS_PER_S, REQUESTS_PER_S, Cost, Latency

BUSY = 0.6
"""Share of a core that is planned for: the rest is for peaks, snapshots and neighbours."""
SHOPS = (100, 1_000, 10_000, 100_000)
"""Events per second."""


def page(facts: str, costs: Sequence[Cost], recalls: Mapping[str, float], latencies: Sequence[Latency]) -> str:
    """In Markdown; `recalls` are those of a backtest, by log."""
    per_event, per_example = max(cost.worker_us for cost in costs), max(cost.learner_us for cost in costs)
    alone = {cost.log: cost.recall for cost in costs if cost.workers == 1}
    return Path(__file__).with_suffix(".md").read_text(encoding="utf-8").format(
        facts=facts,
        costs="\n".join(_cost(cost, alone, recalls) for cost in costs),
        requests=REQUESTS_PER_S,
        events=EVENTS_PER_S,
        backlog=BACKLOG,
        latencies="\n".join(map(_latency, latencies)),
        busy=BUSY,
        most=1e6 / per_example,
        shops="\n".join(
            _row(f"{shop:,}", ceil(shop * per_event / 1e6 / BUSY), _learner(shop * per_example / 1e6)) for shop in SHOPS
        ),
    )  # fmt: skip


def _cost(cost: Cost, alone: Mapping[str, float], recalls: Mapping[str, float]) -> str:
    return _row(
        cost.log,
        cost.workers,
        f"{cost.worker_us:,.0f} us",
        f"{cost.learner_us:,.0f} us",
        f"{cost.update_bytes / cost.learned_s / 1e6:.2f} MB/s",
        f"{max(cost.workers_mb):,.0f} MB",
        f"{cost.learner_mb:,.0f} MB",
        f"{cost.recall:.4f}",
        *(f"{cost.recall / of[cost.log] - 1:+.1%}" if cost.log in of else "" for of in (alone, recalls)),
    )


def _latency(latency: Latency) -> str:
    percentiles = [f"{ms:.0f} ms" for ms in latency.percentiles_ms()]
    return _row(
        latency.log, latency.what, *percentiles, f"{latency.behind():,.0f} events", f"{latency.not_learned:,} examples"
    )


def _learner(busy: float) -> str:
    return f"1 core, {busy:.0%} busy" if busy <= BUSY else f"more than one can do: {busy:.1f} cores' work"


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"
