"""The simulation over real topics: shoppers' events go to `user-events`, slates come from `recommendations`.

Log time follows the wall clock by a factor, or advances as fast as slates come. The simulation waits for the slates of
a group of events before it goes on; a request whose slate is late goes unanswered, and after several groups in a row
without any slate the simulation ends with an error.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence

import msgspec

from streamrec.client import EventProducer, RecommendationConsumer
from streamrec.config.settings import Settings
from streamrec.errors import TransportError
from streamrec.evaluation.simulation.loop import ShownItem, ShownSlate
from streamrec.evaluation.simulation.shopper import CalendarEntry, Shoppers
from streamrec.events import Event

PATIENCE_S = 10.0
FIRST_PATIENCE_S = 60.0
"""Until the first slate has come: a worker that has just started compiles its loops."""
MAX_UNANSWERED = 10
"""After so many groups in a row without any slate, the simulation gives up: no worker seems to run."""
POLL_S = 0.5
"""Longest uninterrupted wait, in seconds, so that Ctrl-C is noticed."""


class KafkaSystem:
    """A deployment that reads and writes the configured topics.

    Guarantee: every event is stored by the broker before its group's slates are waited for. The ids of events begin
    with a word of this run: shoppers of an earlier run had the same ones, and a worker leaves out what comes twice.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        speed: float | None = None,
        patience_s: float = PATIENCE_S,
        first_patience_s: float = FIRST_PATIENCE_S,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Log time runs `speed` times as fast as `clock` (seconds), or unbound; `patience_s` is in wall time.

        Raises:
            TransportError: no broker answers, or a topic is missing.
        """
        brokers, topics = str(settings.kafka["bootstrap.servers"]), settings.topics
        self.late = 0  # slates for requests that were given up, or of other clients
        self._slates = RecommendationConsumer(brokers, topic=topics.recommendations, settings=settings.kafka)
        self._events = EventProducer(brokers, topic=topics.events, settings=settings.kafka)
        self._slates.poll(POLL_S)  # from now on: whatever the topic held before is not for us
        self._run = f"{secrets.token_hex(4)}-"
        self._speed = speed
        self._patience_s = patience_s
        self._first_patience_s = first_patience_s
        self._unanswered = 0  # groups in a row
        self._clock = clock
        self._sleep = sleep
        self._began: tuple[int, float] | None = None  # log ms and wall s of the first event

    def handle(
        self, events: Sequence[Event], asked: Sequence[CalendarEntry], shoppers: Shoppers
    ) -> Sequence[ShownSlate]:
        for event in events:
            self._wait_for(event.ts)
            self._events.send(msgspec.structs.replace(event, event_id=f"{self._run}{event.event_id}"))
        self._events.flush()
        slates = self._slates_for({entry.event_id for entry in asked}) if asked else []
        self._unanswered = 0 if slates or not asked else self._unanswered + 1
        if self._unanswered >= MAX_UNANSWERED:
            raise TransportError(
                f"no slate came for {self._unanswered} groups of requests in a row, {self._patience_s:.0f} s each; see "
                "whether a worker runs on these topics: `streamrec worker` with the same configuration"
            )
        return slates

    def close(self) -> None:
        self._events.close()
        self._slates.close()

    def _wait_for(self, ts: int) -> None:
        """Sleep until an event of this log time is due."""
        if self._speed is None:
            return
        first_ts, began = self._began or (ts, self._clock())
        self._began = first_ts, began
        due = began + (ts - first_ts) / 1000 / self._speed
        while (left_s := due - self._clock()) > 0:
            self._sleep(min(left_s, POLL_S))

    def _slates_for(self, request_ids: set[str]) -> list[ShownSlate]:
        """The slates for these requests, as many as come in time."""
        slates: list[ShownSlate] = []
        deadline = self._clock() + self._first_patience_s
        while request_ids and (left_s := deadline - self._clock()) > 0:
            slate = self._slates.poll(min(left_s, POLL_S))
            if slate is None:
                continue
            request_id = (slate.request_id or "").removeprefix(self._run)
            if slate.request_id == f"{self._run}{request_id}" and request_id in request_ids:
                request_ids.discard(request_id)
                places = tuple(ShownItem(place.item_id) for place in slate.items)
                slates.append(ShownSlate(slate.rec_id, request_id, places, slate.refused))
            else:
                self.late += 1
        self._first_patience_s = self._patience_s
        return slates
