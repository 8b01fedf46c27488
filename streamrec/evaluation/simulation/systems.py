"""Recommenders of a simulation: the real worker in this process, and two references.

The oracle knows the true rewards, so no policy can do better in expectation. The shuffle draws uniformly from the items
on sale.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from streamrec.codec import MSGPACK, MSGPACK_HEADERS, encode_event
from streamrec.config.settings import Settings
from streamrec.evaluation.simulation.draws import Int64, Purpose, uniforms
from streamrec.evaluation.simulation.loop import ShownItem, ShownSlate
from streamrec.evaluation.simulation.shopper import CalendarEntry, Shoppers
from streamrec.events import Event
from streamrec.state.memory import MemoryStore
from streamrec.transport import Record
from streamrec.transport.local import LocalSink, LocalSource
from streamrec.wiring import build_worker
from streamrec.worker.loop import Worker

WITHOUT_TIMER_S = 1e9


class WorkerSystem:
    """The worker as it runs live, on a log, a sink and a store in memory; nothing outlives the process."""

    def __init__(self, settings: Settings, prepare: Callable[[Worker], None] | None = None) -> None:
        """`prepare` may change the worker before its first event: another policy in its place, an observer."""
        # No checkpoints by the clock: results must not depend on how fast this machine is.
        never = settings.checkpoints.model_copy(update={"interval_s": WITHOUT_TIMER_S})
        settings = settings.model_copy(update={"checkpoints": never})
        self.topics = settings.topics
        self.source = LocalSource(settings.topics.events, [], growing=True)
        self.sink = LocalSink(self._published, keep=1)
        self.worker = build_worker(settings, self.source, self.sink, MemoryStore(), None)
        if prepare is not None:
            prepare(self.worker)
        self.source.subscribe(self.worker)
        self._decoder = msgspec.json.Decoder(ShownSlate)
        self._slates: list[ShownSlate] = []
        self._offset = 0

    def handle(
        self, events: Sequence[Event], asked: Sequence[CalendarEntry], shoppers: Shoppers
    ) -> Sequence[ShownSlate]:
        self._slates = []
        self.source.append(self._record(event) for event in events)
        while records := self.source.poll(len(events), 0.0):
            self.worker.step(records)
        return self._slates

    def close(self) -> None:
        self.source.end()
        self.worker.checkpoint()
        self.source.close()

    def _record(self, event: Event) -> Record:
        value = encode_event(event, MSGPACK)
        record = Record(self.source.topic, 0, self._offset, event.user_id.encode(), value, MSGPACK_HEADERS, event.ts)
        self._offset += 1
        return record

    def _published(self, record: Record) -> None:
        if record.topic == self.topics.recommendations:
            self._slates.append(self._decoder.decode(record.value or b""))


class Oracle:
    """Shows the best slate there is."""

    def handle(
        self, events: Sequence[Event], asked: Sequence[CalendarEntry], shoppers: Shoppers
    ) -> Sequence[ShownSlate]:
        return [_shown(shoppers, entry, shoppers.world.best(shoppers.value(entry))) for entry in asked]

    def close(self) -> None:
        pass


class Shuffle:
    """Shows items drawn uniformly from those on sale."""

    def handle(
        self, events: Sequence[Event], asked: Sequence[CalendarEntry], shoppers: Shoppers
    ) -> Sequence[ShownSlate]:
        world = shoppers.world
        slates = []
        for entry in asked:
            items = np.flatnonzero(world.released_ms <= entry.ts)
            keys = uniforms(world.settings.seed, Purpose.SHUFFLE, entry.shopper, entry.step, items)
            slates.append(_shown(shoppers, entry, items[np.argsort(keys)[: world.settings.traffic.k]]))
        return slates

    def close(self) -> None:
        pass


def _shown(shoppers: Shoppers, entry: CalendarEntry, items: Int64) -> ShownSlate:
    ids = shoppers.world.item_ids
    return ShownSlate(f"slate-{entry.event_id}", entry.event_id, tuple(ShownItem(ids[item]) for item in items.tolist()))
