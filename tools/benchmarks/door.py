"""Slates and events through the gateway at a steady pace: how long an HTTP client waits for each.

Broker, Redis, learner, worker, gateway and the client share this machine. The pace is kept whatever comes back (an open
loop): a request that is late is counted from when it was due.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import numpy as np

from streamrec.events import Event
from tools.benchmarks.scale import EVENTS_PER_S, REQUESTS_PER_S, Fleet, Part

DEADLINE_MS = 2_000
"""So late that what is measured is the slate, not the deadline."""
WARMING_S = 5.0


@dataclass(slots=True)
class Waits:
    """What came of the calls of one kind."""

    what: str
    ms: list[float] = field(default_factory=list)
    degraded: int = 0
    failed: Counter[str] = field(default_factory=Counter)

    def line(self) -> str:
        """In one line."""
        p50, p90, p99 = np.percentile(self.ms, (50, 90, 99))
        failed = ", ".join(f"{count} {why}" for why, count in self.failed.items()) or "none"
        return (
            f"{self.what:>10}: p50 {p50:.0f} ms, p90 {p90:.0f}, p99 {p99:.0f}, longest {max(self.ms):.0f} "
            f"({len(self.ms):,} calls, {self.degraded} degraded; failed: {failed})"
        )


def measured(running: Fleet, gateway: Part, url: str, sample: Sequence[Event], seconds: float) -> list[str]:
    """Keep the pace for so long, after a while to warm up; a line for each kind of call, and one for processors."""
    asyncio.run(_pace(url, sample, WARMING_S))
    parts = {"worker": running.workers[0], "learner": running.learner, "gateway": gateway}
    before = {name: part.cpu_s() for name, part in parts.items()}
    found = asyncio.run(_pace(url, sample, seconds))
    spent = ", ".join(f"{name} {(part.cpu_s() - before[name]) / seconds:.0%}" for name, part in parts.items())
    load = os.getloadavg()[0]
    shares = f"{'of a core':>10}: {spent}; gateway {gateway.resident_mb():.0f} MB; load of the machine {load:.1f}"
    return [*(waits.line() for waits in found), shares]


async def _pace(url: str, sample: Sequence[Event], seconds: float) -> list[Waits]:
    slates, events = Waits("slates"), Waits("events")
    calls: set[asyncio.Task[None]] = set()

    def start(call: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(call)
        calls.add(task)
        task.add_done_callback(calls.discard)

    async with aiohttp.ClientSession(url) as client:

        async def post(waits: Waits, path: str, body: dict[str, object], due: float) -> None:
            try:
                async with client.post(path, json=body) as answer:
                    content = await answer.read()
            except aiohttp.ClientError as error:
                waits.failed[type(error).__name__] += 1
                return
            waits.ms.append(1e3 * (time.perf_counter() - due))
            if not answer.ok:
                waits.failed[str(answer.status)] += 1
            waits.degraded += b'"degraded"' in content

        began, sent = time.perf_counter(), 0
        while (now := time.perf_counter() - began) < seconds:
            while sent < now * EVENTS_PER_S:
                event, due = sample[sent % len(sample)], began + sent / EVENTS_PER_S
                user = f"{event.user_id}-{sent % 100}"  # nobody asks so often that a worker refuses
                said = {"type": "view", "user_id": user, "item_id": event.item_id}
                start(post(events, "/v1/events", said, due))
                if sent * REQUESTS_PER_S % EVENTS_PER_S < REQUESTS_PER_S:
                    asked = {"user_id": user, "deadline_ms": DEADLINE_MS}
                    start(post(slates, "/v1/recommendations", asked, due))
                sent += 1
            await asyncio.sleep(0.002)
        await asyncio.gather(*calls)
    return [slates, events]
