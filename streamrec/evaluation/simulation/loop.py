"""The closed loop: events of the calendar and of shoppers' responses, in time order, through a recommender.

Events go to the system in groups, for speed. A group ends before the first event that a slate asked for in it could
have caused, so the log is the same whatever the size of the groups; only how fast it is made differs.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from streamrec.errors import RequestRefused
from streamrec.evaluation.simulation.attack import bot_event, bot_response
from streamrec.evaluation.simulation.calendar import Calendar, EntryKind, calendar
from streamrec.evaluation.simulation.draws import Float64, Int64
from streamrec.evaluation.simulation.shopper import FIRST_LOOK_MS, CalendarEntry, ShopperResponse, Shoppers
from streamrec.evaluation.simulation.world import World
from streamrec.events import Event, EventType, RequestRefusal

GROUP = 512
"""Events in a group, at most."""


class ShownItem(msgspec.Struct, frozen=True):
    """What a shopper sees of one item of a slate."""

    item_id: str


class ShownSlate(msgspec.Struct, frozen=True):
    """What a shopper sees of a slate, and which request it answers."""

    rec_id: str
    request_id: str | None
    items: tuple[ShownItem, ...]
    refused: RequestRefusal | None = None

    @property
    def item_ids(self) -> list[str]:
        """From the top."""
        return [place.item_id for place in self.items]


class System(Protocol):
    """A recommender in the simulation: a worker in this process, a deployment, or a reference such as the oracle."""

    def handle(
        self, events: Sequence[Event], asked: Sequence[CalendarEntry], shoppers: Shoppers
    ) -> Sequence[ShownSlate]:
        """Handle events in log order; returns slates for the requests among them, whose calendar entries are `asked`.

        Only references (the oracle, the shuffle) may look at `shoppers`.
        """

    def close(self) -> None:
        """No more events will come."""


@dataclass(frozen=True, slots=True)
class Episode:
    """The slate and rewards of every request of a shopper, all arrays (requests,), in time order."""

    ts: Int64
    shopper: Int64
    expected: Float64  # reward of the slate, on average over looks and answers
    best: Float64  # the same of the best slate there was
    realised: Float64  # reward that the shopper gave
    looked: Int64  # places looked at
    answered: NDArray[np.bool_]  # False where no slate came
    target: Int64  # the place of the item that bots push, 0 where it was not shown
    events: int = 0  # that the system was given

    @property
    def regret(self) -> Float64:
        """Expected reward of the best slate minus that of the slate shown, (requests,)."""
        return self.best - self.expected


@dataclass(slots=True)
class EpisodeRecorder:
    """Collects an episode while it happens."""

    rows: list[tuple[int, int, float, float, float, int, bool, int]] = field(default_factory=list)
    events: int = 0

    def take(self, entry: CalendarEntry, answer: ShopperResponse, answered: bool, target: int = 0) -> None:
        """Record the response to one request, and the position of the item that bots push, 0 for none."""
        told = answer.expected, answer.best, answer.realised, answer.looked
        self.rows.append((entry.ts, entry.shopper, *told, answered, target))

    def episode(self) -> Episode:
        """What was recorded, in time order."""
        rows = sorted(self.rows)
        columns = [np.array(column) for column in zip(*rows, strict=True)] if rows else [np.zeros(0)] * 8
        ts, shopper, expected, best, realised, looked, answered, target = columns
        return Episode(
            ts.astype(np.int64),
            shopper.astype(np.int64),
            expected.astype(np.float64),
            best.astype(np.float64),
            realised.astype(np.float64),
            looked.astype(np.int64),
            answered.astype(bool),
            target.astype(np.int64),
            self.events,
        )


class EventQueue:
    """Merges the calendar's entries and the shoppers' pending responses in time order."""

    def __init__(self, shoppers: Shoppers, entries: Calendar) -> None:
        self._shoppers = shoppers
        self._entries = entries
        self._next = 0
        self._responses: list[tuple[int, str, Event]] = []

    def add(self, events: Sequence[Event]) -> None:
        """Add responses, to be sent at their own times."""
        for event in events:
            heapq.heappush(self._responses, (event.ts, event.event_id or "", event))

    def group(self, most: int) -> tuple[list[Event], list[CalendarEntry]]:
        """At most `most` next events, in time order, and the calendar entries of the requests among them."""
        events: list[Event] = []
        asked: list[CalendarEntry] = []
        horizon = np.iinfo(np.int64).max
        while len(events) < most:
            line_ts = int(self._entries.ts[self._next]) if self._next < len(self._entries) else None
            answer_ts = self._responses[0][0] if self._responses else None
            if answer_ts is not None and (line_ts is None or answer_ts <= line_ts):
                if answer_ts >= horizon:
                    break
                events.append(heapq.heappop(self._responses)[2])
            elif line_ts is not None:
                if line_ts >= horizon:
                    break
                event, entry = self._next_entry()
                if event is not None:
                    events.append(event)
                if entry is not None:
                    asked.append(entry)
                    horizon = min(horizon, entry.ts + FIRST_LOOK_MS)
            else:
                break
        return events, asked

    def _next_entry(self) -> tuple[Event | None, CalendarEntry | None]:
        """The calendar's next entry as an event, None where it is silent, and the entry itself when it is a request."""
        entries, at = self._entries, self._next
        self._next += 1
        ts, shopper, session, step, intent = (
            int(column[at]) for column in (entries.ts, entries.shopper, entries.session, entries.step, entries.intent)
        )
        if entries.kind[at] == EntryKind.BOT:
            event = bot_event(self._shoppers.world, shopper, step, ts)
            asks = event.type is EventType.REQUEST
            return event, CalendarEntry(ts, shopper, session, step, intent, False, bot=True) if asks else None
        entry = CalendarEntry(ts, shopper, session, step, intent, bool(entries.silent[at]))
        if entries.kind[at] == EntryKind.REQUEST:
            return self._shoppers.request(entry), entry
        return (None if entry.silent else self._shoppers.browse(entry)), None


def simulate(
    world: World,
    system: System,
    *,
    group: int = GROUP,
    on_events: Callable[[Sequence[Event]], None] | None = None,
    on_answer: Callable[[EpisodeRecorder], None] | None = None,
) -> Episode:
    """Run the whole simulation, from the calendar's first entry to the last late purchase.

    Args:
        world: shoppers, items and tastes.
        system: the recommender; closed at the end, also after an error.
        group: events handed over at once, at most.
        on_events: called with every group before it is handed over.
        on_answer: called with what was recorded so far, after every group with requests.
    """
    recorder = EpisodeRecorder()
    try:
        for _ in steps(world, system, recorder, group, on_events):
            if on_answer is not None:
                on_answer(recorder)
    finally:
        system.close()
    return recorder.episode()


def steps(
    world: World,
    system: System,
    recorder: EpisodeRecorder,
    group: int = GROUP,
    on_events: Callable[[Sequence[Event]], None] | None = None,
) -> Iterator[Sequence[CalendarEntry]]:
    """The loop, one group at a time; yields the requests of each group that had some, once they are answered.

    Raises:
        RequestRefused: the system could not use a request.
    """
    shoppers = Shoppers(world)
    queue = EventQueue(shoppers, calendar(world))
    target, latest = world.item_ids[world.target], ""  # latest: the slate shown last to a shopper
    while True:
        events, asked = queue.group(group)
        if not events:
            return
        if on_events is not None:
            on_events(events)
        recorder.events += len(events)
        slates = {shown.request_id: shown for shown in system.handle(events, asked, shoppers)}
        for entry in asked:
            shown = slates.get(entry.event_id)
            if shown is not None and (why := shown.refused) is not None:
                raise RequestRefused(why.reason, why.detail, why.field)
            rec_id, item_ids = ("", []) if shown is None else (shown.rec_id, shown.item_ids)
            if entry.bot:
                known = [name for name in (rec_id, latest) if name]
                queue.add(bot_response(world, entry.shopper, entry.step, known, item_ids, entry.ts))
                continue
            latest = rec_id
            answer = shoppers.answer(entry, rec_id, item_ids, entry.ts)
            recorder.take(entry, answer, shown is not None, item_ids.index(target) + 1 if target in item_ids else 0)
            queue.add(answer.events)
        if asked:
            yield asked
