"""How shoppers examine a slate and respond to it, and what they browse without one.

Examination starts at the top and continues with a constant probability. An examined item may be clicked, put in the
cart and, minutes later, bought. The random draws belong to the shopper's step and the item, so the response to an item
is the same at whatever position a policy puts it, as long as it is examined.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from streamrec.evaluation.simulation.draws import Float64, Int64, Purpose, uniforms
from streamrec.evaluation.simulation.world import World
from streamrec.events import Event, EventType

FIRST_LOOK_MS = 1_000
"""The earliest response to a slate: what is sent before cannot depend on it."""
LOOK_MS = 700
"""From one place to the next."""
CLICK_MS, VIEW_MS, CART_MS, SKIP_MS = 300, 900, 20_000, 500


@dataclass(frozen=True, slots=True)
class CalendarEntry:
    """One entry of the calendar: shopper or bot (numbered apart), time in ms, session and its intent (a category)."""

    ts: int
    shopper: int
    session: int
    step: int
    intent: int
    silent: bool
    bot: bool = False

    @property
    def user_id(self) -> str:
        """The shopper's name in the log."""
        return f"bot-{self.shopper}" if self.bot else f"shopper-{self.shopper}"

    @property
    def session_id(self) -> str:
        """The session's name in the log."""
        return f"{self.shopper}-{self.session}"

    @property
    def event_id(self) -> str:
        """Id of the entry's own event; ids of responses begin with it."""
        return f"bot-{self.shopper}-{self.step}" if self.bot else f"{self.shopper}-{self.step}"


@dataclass(frozen=True, slots=True)
class ShopperResponse:
    """The response to a slate: events in time order, and the rewards."""

    events: Sequence[Event]
    looked: int  # places looked at
    expected: float  # reward of the slate, on average over looks and answers
    best: float  # the same of the best slate there is
    realised: float  # reward that this shopper gave


class Shoppers:
    """The shoppers of a world, and what each has bought."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._bought: defaultdict[int, list[int]] = defaultdict(list)

    def value(self, entry: CalendarEntry) -> Float64:
        """Expected reward now of each item looked at, (items,); -inf for what is not on sale."""
        return self.world.value(self._pull(entry))

    def request(self, entry: CalendarEntry) -> Event:
        """The request event of an entry."""
        return Event(
            type=EventType.REQUEST,
            user_id=entry.user_id,
            ts=entry.ts,
            event_id=entry.event_id,
            session_id=entry.session_id,
            k=self.world.settings.traffic.k,
        )

    def browse(self, entry: CalendarEntry) -> Event:
        """A view of one item without a recommendation, drawn from the softmax of the pulls (Gumbel-max)."""
        world = self.world
        keys = uniforms(world.settings.seed, Purpose.BROWSE, entry.shopper, entry.step, np.arange(len(world.item_ids)))
        item = int(np.argmax(self._pull(entry) - np.log(-np.log(keys))))
        return self._event(EventType.VIEW, entry, item, entry.ts, entry.event_id)

    def answer(self, entry: CalendarEntry, rec_id: str, item_ids: Sequence[str], since_ms: int) -> ShopperResponse:
        """Examine a slate that came at `since_ms`, and respond; items unknown to the world earn nothing."""
        world = self.world
        seed, manners, rewards = world.settings.seed, world.settings.manners, world.settings.rewards
        pull = self._pull(entry)
        value = world.value(pull)
        best = world.expected(value, world.best(value))
        index = world.index
        slate = np.array([index.get(item_id, -1) for item_id in item_ids[: len(world.examination)]], np.int64)
        if len(slate) == 0:
            return ShopperResponse((), 0, 0.0, best, 0.0)
        sold = slate >= 0
        worth = np.where(sold & np.isfinite(value[slate]), value[slate], 0.0)
        expected = float(world.examination[: len(slate)] @ worth)
        look = float(uniforms(seed, Purpose.LOOK, entry.shopper, entry.step)[0])
        looked = int((look < world.examination[: len(slate)]).sum())
        draws = uniforms(seed, Purpose.ANSWER, entry.shopper, entry.step, slate[:looked, None], np.arange(5))
        clicked = sold[:looked] & (draws[:, 0] < expit(pull[slate[:looked]]))
        skipped = sold[:looked] & ~clicked & (draws[:, 1] < manners.skip)
        carted = clicked & (draws[:, 1] < world.cart[slate[:looked]])
        bought = carted & (draws[:, 2] < world.purchase[slate[:looked]])
        reward = np.select(
            [bought, carted, clicked, skipped], [rewards.purchase, rewards.cart, rewards.click, rewards.skip], 0.0
        )
        self._bought[entry.shopper] += slate[:looked][bought].tolist()
        events = self._events(entry, rec_id, slate, looked, since_ms, draws, (clicked, carted, bought, skipped))
        return ShopperResponse(events, looked, expected, best, float(reward.sum()))

    def _events(
        self,
        entry: CalendarEntry,
        rec_id: str,
        slate: Int64,
        looked: int,
        since_ms: int,
        draws: Float64,
        answers: tuple[np.ndarray[tuple[int], np.dtype[np.bool_]], ...],
    ) -> list[Event]:
        """The events of a response that reach the log, in time order: none from a silent session."""
        if entry.silent:
            return []
        manners = self.world.settings.manners
        clicked, carted, bought, skipped = (answer.tolist() for answer in answers)
        waits_s = manners.delay_s - manners.mean_delay_s * np.log(draws[:, 3])
        waits_ms = (1000 * np.minimum(waits_s, manners.latest_s)).astype(np.int64).tolist()
        hesitations_ms = (CART_MS * (0.5 + draws[:, 4])).astype(np.int64).tolist()
        events = []

        def add(kind: EventType, place: int, ts: int) -> None:
            item = int(slate[place])
            name = f"{entry.event_id}-{place + 1}-{kind.value}"
            events.append(self._event(kind, entry, item, ts, name, rec_id, place + 1))

        for place in range(looked):
            if slate[place] < 0:
                continue
            at = since_ms + FIRST_LOOK_MS + place * LOOK_MS
            if manners.impressions:
                add(EventType.IMPRESSION, place, at)
            if clicked[place]:
                add(EventType.CLICK, place, at + CLICK_MS)
                add(EventType.VIEW, place, at + VIEW_MS)
            if carted[place]:
                add(EventType.ADD_TO_CART, place, at + CLICK_MS + hesitations_ms[place])
            if bought[place]:
                add(EventType.PURCHASE, place, at + CLICK_MS + waits_ms[place])
            if skipped[place]:
                add(EventType.SKIP, place, at + SKIP_MS)
        return sorted(events, key=lambda event: event.ts)

    def _event(
        self,
        kind: EventType,
        entry: CalendarEntry,
        item: int,
        ts: int,
        event_id: str,
        rec_id: str | None = None,
        position: int | None = None,
    ) -> Event:
        return Event(
            type=kind,
            user_id=entry.user_id,
            ts=ts,
            item_id=self.world.item_ids[item],
            event_id=event_id,
            session_id=entry.session_id,
            rec_id=rec_id,
            position=position,
            context={"category": self.world.categories[item]},
        )

    def _pull(self, entry: CalendarEntry) -> Float64:
        return self.world.pull(entry.shopper, entry.intent, entry.ts, self._bought[entry.shopper])
