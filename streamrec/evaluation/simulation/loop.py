"""The closed loop: the calendar and the answers of shoppers in one order of time, through a system that recommends.

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

from streamrec.evaluation.simulation.attack import bot_answer, bot_event
from streamrec.evaluation.simulation.calendar import Calendar, Doing, calendar
from streamrec.evaluation.simulation.draws import Float64, Int64
from streamrec.evaluation.simulation.shopper import FIRST_LOOK_MS, Answer, Moment, Shoppers
from streamrec.evaluation.simulation.world import World
from streamrec.events import Event, EventType

GROUP = 512
"""Events in a group, at most."""


class Place(msgspec.Struct, frozen=True):
    """What a shopper sees of a place of a slate."""

    item_id: str


class Shown(msgspec.Struct, frozen=True):
    """What a shopper sees of a slate, and which request it answers."""

    rec_id: str
    request_id: str | None
    items: tuple[Place, ...]

    @property
    def item_ids(self) -> list[str]:
        """From the top."""
        return [place.item_id for place in self.items]


class System(Protocol):
    """Whatever recommends: a worker in this process, a deployment, or somebody who knows the truth."""

    def handle(self, events: Sequence[Event], asked: Sequence[Moment], shoppers: Shoppers) -> Sequence[Shown]:
        """Take events in log order; the slates for the requests among them, which are those of the moments `asked`.

        Only systems that stand outside the contest may look at `shoppers`.
        """

    def close(self) -> None:
        """Nothing more will come."""


@dataclass(frozen=True, slots=True)
class Episode:
    """What came of every request of the shoppers', all arrays (requests,), in time order."""

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
        """What each slate missed of the best one's expected reward."""
        return self.best - self.expected


@dataclass(slots=True)
class Takings:
    """Collects an episode while it happens."""

    rows: list[tuple[int, int, float, float, float, int, bool, int]] = field(default_factory=list)
    events: int = 0

    def take(self, moment: Moment, answer: Answer, answered: bool, target: int = 0) -> None:
        """Note what came of one request, and where the item that bots push stood."""
        told = answer.expected, answer.best, answer.realised, answer.looked
        self.rows.append((moment.ts, moment.shopper, *told, answered, target))

    def episode(self) -> Episode:
        """Everything noted, in time order."""
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


class Agenda:
    """What happens next: lines of the calendar, and answers that are on their way."""

    def __init__(self, shoppers: Shoppers, lines: Calendar) -> None:
        self._shoppers = shoppers
        self._lines = lines
        self._next = 0
        self._on_their_way: list[tuple[int, str, Event]] = []

    def add(self, events: Sequence[Event]) -> None:
        """Answers that will be sent at their time."""
        for event in events:
            heapq.heappush(self._on_their_way, (event.ts, event.event_id or "", event))

    def group(self, most: int) -> tuple[list[Event], list[Moment]]:
        """The next events in time order, and the moments of the requests among them; none when all is over."""
        events: list[Event] = []
        asked: list[Moment] = []
        horizon = np.iinfo(np.int64).max
        while len(events) < most:
            line_ts = int(self._lines.ts[self._next]) if self._next < len(self._lines) else None
            answer_ts = self._on_their_way[0][0] if self._on_their_way else None
            if answer_ts is not None and (line_ts is None or answer_ts <= line_ts):
                if answer_ts >= horizon:
                    break
                events.append(heapq.heappop(self._on_their_way)[2])
            elif line_ts is not None:
                if line_ts >= horizon:
                    break
                event, moment = self._line()
                if event is not None:
                    events.append(event)
                if moment is not None:
                    asked.append(moment)
                    horizon = min(horizon, moment.ts + FIRST_LOOK_MS)
            else:
                break
        return events, asked

    def _line(self) -> tuple[Event | None, Moment | None]:
        """The calendar's next line as an event, and as a moment when it is a request."""
        lines, at = self._lines, self._next
        self._next += 1
        ts, shopper, session, step, intent = (
            int(column[at]) for column in (lines.ts, lines.shopper, lines.session, lines.step, lines.intent)
        )
        if lines.doing[at] == Doing.BOT:
            event = bot_event(self._shoppers.world, shopper, step, ts)
            asks = event.type is EventType.REQUEST
            return event, Moment(ts, shopper, session, step, intent, False, bot=True) if asks else None
        moment = Moment(ts, shopper, session, step, intent, bool(lines.silent[at]))
        if lines.doing[at] == Doing.REQUEST:
            return self._shoppers.request(moment), moment
        return (None if moment.silent else self._shoppers.browse(moment)), None


def simulate(
    world: World,
    system: System,
    *,
    group: int = GROUP,
    on_events: Callable[[Sequence[Event]], None] | None = None,
    on_answer: Callable[[Takings], None] | None = None,
) -> Episode:
    """Let everybody in the world shop with this system, from the calendar's first line to the last late purchase.

    Args:
        world: who comes, and what they like.
        system: who recommends; closed at the end, also by an error.
        group: events handed over at once, at most.
        on_events: sees every group before it is handed over.
        on_answer: sees what was noted so far after every group with requests.
    """
    takings = Takings()
    try:
        for _ in steps(world, system, takings, group, on_events):
            if on_answer is not None:
                on_answer(takings)
    finally:
        system.close()
    return takings.episode()


def steps(
    world: World,
    system: System,
    takings: Takings,
    group: int = GROUP,
    on_events: Callable[[Sequence[Event]], None] | None = None,
) -> Iterator[Sequence[Moment]]:
    """The loop, one group at a time; yields the requests of each group that had some, once they are answered."""
    shoppers = Shoppers(world)
    agenda = Agenda(shoppers, calendar(world))
    target, latest = world.item_ids[world.target], ""  # latest: the slate shown last to a shopper
    while True:
        events, asked = agenda.group(group)
        if not events:
            return
        if on_events is not None:
            on_events(events)
        takings.events += len(events)
        slates = {shown.request_id: shown for shown in system.handle(events, asked, shoppers)}
        for moment in asked:
            shown = slates.get(moment.event_id)
            rec_id, item_ids = ("", []) if shown is None else (shown.rec_id, shown.item_ids)
            if moment.bot:
                known = [name for name in (rec_id, latest) if name]
                agenda.add(bot_answer(world, moment.shopper, moment.step, known, item_ids, moment.ts))
                continue
            latest = rec_id
            answer = shoppers.answer(moment, rec_id, item_ids, moment.ts)
            takings.take(moment, answer, shown is not None, item_ids.index(target) + 1 if target in item_ids else 0)
            agenda.add(answer.events)
        if asked:
            yield asked
