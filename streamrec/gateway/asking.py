"""Requests and their answers: published, awaited until a deadline, and answered by something else where that passes.

Each request has one answer, whoever waits for it and however often it is sent. Knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

import msgspec

from streamrec.codec import MSGPACK, MSGPACK_HEADERS, encode
from streamrec.engine.scenarios.scenario import scenario_of, seeds_of
from streamrec.errors import TransportUnavailable
from streamrec.events import Event, Slate, SlateItem
from streamrec.gateway.messages import LONGEST_DEADLINE_MS, Degraded
from streamrec.gateway.publishing import ConfirmedPublisher, Outgoing
from streamrec.gateway.slates import KeptSlate, RecentSlates

MOST_ASKED = 10_000
"""Requests that are remembered until their slates come, or for the longest deadline there is."""
AWAY_S = 5.0
"""Requests have been late for so long, and no slate came: there is nobody who answers."""
POPULAR = "popular"

Counted = Callable[[Degraded], None]


class Answer(msgspec.Struct, frozen=True):
    """What a request gets: a slate, or another one in its place and why."""

    slate: KeptSlate
    degraded: Degraded | None = None

    def json(self, candidates: Sequence[str] = ()) -> bytes:
        """As `Recommendation`; or as `Ranking` of these."""
        ranked = frozenset(self.slate.items)
        said = {
            "degraded": self.degraded,
            "unranked": [item_id for item_id in dict.fromkeys(candidates) if item_id not in ranked],
        }
        more = msgspec.json.encode({name: value for name, value in said.items() if value})
        return self.slate.json if more == b"{}" else self.slate.json[:-1] + b"," + more[1:]


class Asking:
    """Asks through `publisher`, and hears of slates."""

    def __init__(self, topic: str, publisher: ConfirmedPublisher, k: int, count: Counted) -> None:
        """`topic` takes the requests; `k` is how many items there are when a request does not say."""
        self.slates = RecentSlates()
        self._topic = topic
        self._publisher = publisher
        self._k = k
        self._count = count
        self._asked: dict[tuple[str, str], asyncio.Future[KeptSlate]] = {}
        self._late_since: float | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def hear(self, slates: Sequence[KeptSlate]) -> None:
        """Take slates that were published."""
        self._late_since = None
        for slate in slates:
            self.slates.take(slate)
            asked = self._asked.pop((slate.user_id, slate.request_id or ""), None)
            if asked is not None and not asked.done():
                asked.set_result(slate)

    async def ask(self, request: Event, deadline_s: float) -> Answer:
        """The slate for a request with an `event_id`; after `deadline_s` something else in its place.

        Raises:
            TransportUnavailable: so many wait that nothing more is asked.
        """
        key = request.user_id, request.event_id or ""
        known = self.slates.answer_to(*key)
        if known is not None:
            return Answer(known)
        asked = self._asked.get(key) or self._begin(key, request)
        try:
            return Answer(await asyncio.wait_for(asyncio.shield(asked), deadline_s))
        except TransportUnavailable:
            return self._instead(request, Degraded.KAFKA_AWAY)
        except TimeoutError:
            now = time.monotonic()
            if self._late_since is None:
                self._late_since = now
            if self._publisher.away:
                return self._instead(request, Degraded.KAFKA_AWAY)
            silent = now - self._late_since > AWAY_S
            return self._instead(request, Degraded.WORKER_AWAY if silent else Degraded.LATE)

    def _begin(self, key: tuple[str, str], request: Event) -> asyncio.Future[KeptSlate]:
        if len(self._asked) >= MOST_ASKED:
            raise TransportUnavailable(f"{MOST_ASKED} requests wait for their slates already; ask more slowly")
        loop = asyncio.get_running_loop()
        asked = self._asked[key] = loop.create_future()
        asked.add_done_callback(lambda done: done.cancelled() or done.exception())  # heard, also when nobody waits
        task = loop.create_task(self._send(key, request, asked))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        loop.call_later(LONGEST_DEADLINE_MS / 1000, self._give_up, key, asked)
        return asked

    async def _send(self, key: tuple[str, str], request: Event, asked: asyncio.Future[KeptSlate]) -> None:
        value = encode(request, MSGPACK)
        try:
            await self._publisher.publish([Outgoing(self._topic, request.user_id.encode(), value, MSGPACK_HEADERS)])
        except TransportUnavailable as error:
            self._give_up(key, asked)
            if not asked.done():
                asked.set_exception(error)

    def _give_up(self, key: tuple[str, str], asked: asyncio.Future[KeptSlate]) -> None:
        if self._asked.get(key) is asked:
            del self._asked[key]

    def _instead(self, request: Event, why: Degraded) -> Answer:
        """The user's latest slate where it may stand for this one, else what is popular; of candidates, in that order.

        Both come of the same scenario, and so of its rules. Neither is held to filters or to a text: a request with one
        gets nothing rather than what it ruled out.
        """
        self._count(why)
        bound = request.filters is not None or bool(request.query)
        k = request.k or self._k
        if not bound and not seeds_of(request) and request.candidates is None:
            latest = self.slates.latest(request.user_id, scenario_of(request))
            if latest is not None:
                return Answer(latest.first(request.k or len(latest.items)), why)
        popular = [] if bound else self.slates.popular(scenario_of(request), k, request.candidates)
        total = max(1, sum(times for _, times in popular))
        places = tuple(
            SlateItem(item_id=item_id, position=at, score=times / total, propensity=1.0, shares={})
            for at, (item_id, times) in enumerate(popular, 1)
        )
        slate = Slate(
            rec_id="",
            user_id=request.user_id,
            ts=request.ts,
            items=places,
            policy=POPULAR,
            version="",
            candidates=len(places),
            scenario=scenario_of(request),
            request_id=request.event_id,
        )
        return Answer(KeptSlate.of(slate), why)
