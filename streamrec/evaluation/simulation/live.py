"""The same shoppers over real topics: they ask on `user-events` and read what comes on `recommendations`.

Log time follows the wall by a factor, or goes as fast as slates come. Nobody acts on a slate that has not come, so a
slow system slows the shop down; a request that is not answered in time goes unanswered, and the shop goes on until
nobody has been answered for a while.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence

import msgspec

from streamrec.client import EventProducer, RecommendationConsumer
from streamrec.config.settings import Settings
from streamrec.errors import TransportError
from streamrec.evaluation.simulation.loop import Place, Shown
from streamrec.evaluation.simulation.shopper import Moment, Shoppers
from streamrec.events import Event

PATIENCE_S = 10.0
FIRST_PATIENCE_S = 60.0
"""Until the first slate has come: a worker that has just started compiles its loops."""
MOST_UNANSWERED = 10
"""After so many groups in a row without any slate nobody is believed to recommend."""
BREATH_S = 0.5
"""So often a wait comes up for air and hears an interrupt."""


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
        self.late = 0  # slates that came for requests given up, or for nobody here
        self._slates = RecommendationConsumer(brokers, topic=topics.recommendations, settings=settings.kafka)
        self._events = EventProducer(brokers, topic=topics.events, settings=settings.kafka)
        self._slates.poll(BREATH_S)  # from now on: whatever the topic held before is not for us
        self._run = f"{secrets.token_hex(4)}-"
        self._speed = speed
        self._patience_s = patience_s
        self._first_patience_s = first_patience_s
        self._unanswered = 0  # groups in a row
        self._clock = clock
        self._sleep = sleep
        self._began: tuple[int, float] | None = None  # log ms and wall s of the first event

    def handle(self, events: Sequence[Event], asked: Sequence[Moment], shoppers: Shoppers) -> Sequence[Shown]:
        for event in events:
            self._wait_for(event.ts)
            self._events.send(msgspec.structs.replace(event, event_id=f"{self._run}{event.event_id}"))
        self._events.flush()
        found = self._await({moment.event_id for moment in asked}) if asked else []
        self._unanswered = 0 if found or not asked else self._unanswered + 1
        if self._unanswered >= MOST_UNANSWERED:
            raise TransportError(
                f"no slate came for {self._unanswered} groups of requests in a row, {self._patience_s:.0f} s each; see "
                "whether a worker runs on these topics: `streamrec worker` with the same configuration"
            )
        return found

    def close(self) -> None:
        self._events.close()
        self._slates.close()

    def _wait_for(self, ts: int) -> None:
        """Until an event of this log time is due."""
        if self._speed is None:
            return
        first_ts, began = self._began or (ts, self._clock())
        self._began = first_ts, began
        due = began + (ts - first_ts) / 1000 / self._speed
        while (left_s := due - self._clock()) > 0:
            self._sleep(min(left_s, BREATH_S))

    def _await(self, request_ids: set[str]) -> list[Shown]:
        """The slates for these requests, as many as come in time."""
        found: list[Shown] = []
        deadline = self._clock() + self._first_patience_s
        while request_ids and (left_s := deadline - self._clock()) > 0:
            slate = self._slates.poll(min(left_s, BREATH_S))
            if slate is None:
                continue
            request_id = (slate.request_id or "").removeprefix(self._run)
            if slate.request_id == f"{self._run}{request_id}" and request_id in request_ids:
                request_ids.discard(request_id)
                places = tuple(Place(place.item_id) for place in slate.items)
                found.append(Shown(slate.rec_id, request_id, places))
            else:
                self.late += 1
        self._first_patience_s = self._patience_s
        return found
