"""How somebody looks at a slate and answers it, and what is browsed without one.

Looking starts at the top and goes on with constant patience. What was looked at may be clicked, carted and, minutes
later, bought; the answer's draws belong to the shopper's step and the item, so an item is answered alike wherever a
policy puts it, as long as it is looked at.
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
"""Nobody answers a slate sooner: what is sent until then cannot depend on it."""
LOOK_MS = 700
"""From one place to the next."""
CLICK_MS, VIEW_MS, CART_MS, SKIP_MS = 300, 900, 20_000, 500


@dataclass(frozen=True, slots=True)
class Moment:
    """One line of the calendar: whose step it is, when, and what the session is about. Bots are numbered apart."""

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
        """Of the event that the calendar itself asks for; answers add to it."""
        return f"bot-{self.shopper}-{self.step}" if self.bot else f"{self.shopper}-{self.step}"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a slate: events in time order, and its worth."""

    events: Sequence[Event]
    looked: int  # places looked at
    expected: float  # reward of the slate, on average over looks and answers
    best: float  # the same of the best slate there is
    realised: float  # reward that this shopper gave


class Shoppers:
    """Everybody in a world, and what they have bought."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._bought: defaultdict[int, list[int]] = defaultdict(list)

    def value(self, moment: Moment) -> Float64:
        """Expected reward now of each item looked at, (items,); -inf for what is not on sale."""
        return self.world.value(self._pull(moment))

    def request(self, moment: Moment) -> Event:
        """What asks for a slate."""
        return Event(
            type=EventType.REQUEST,
            user_id=moment.user_id,
            ts=moment.ts,
            event_id=moment.event_id,
            session_id=moment.session_id,
            k=self.world.settings.traffic.k,
        )

    def browse(self, moment: Moment) -> Event:
        """One item looked up without being recommended, drawn by its pull (a Gumbel draw of the softmax)."""
        world = self.world
        keys = uniforms(
            world.settings.seed, Purpose.BROWSE, moment.shopper, moment.step, np.arange(len(world.item_ids))
        )
        item = int(np.argmax(self._pull(moment) - np.log(-np.log(keys))))
        return self._event(EventType.VIEW, moment, item, moment.ts, moment.event_id)

    def answer(self, moment: Moment, rec_id: str, item_ids: Sequence[str], since_ms: int) -> Answer:
        """Look at a slate that was there at `since_ms`; items that the shop does not sell are looked through."""
        world = self.world
        seed, manners, rewards = world.settings.seed, world.settings.manners, world.settings.rewards
        pull = self._pull(moment)
        value = world.value(pull)
        best = world.expected(value, world.best(value))
        index = world.index
        slate = np.array([index.get(item_id, -1) for item_id in item_ids[: len(world.looked_at)]], np.int64)
        if len(slate) == 0:
            return Answer((), 0, 0.0, best, 0.0)
        sold = slate >= 0
        worth = np.where(sold & np.isfinite(value[slate]), value[slate], 0.0)
        expected = float(world.looked_at[: len(slate)] @ worth)
        look = float(uniforms(seed, Purpose.LOOK, moment.shopper, moment.step)[0])
        looked = int((look < world.looked_at[: len(slate)]).sum())
        draws = uniforms(seed, Purpose.ANSWER, moment.shopper, moment.step, slate[:looked, None], np.arange(5))
        clicked = sold[:looked] & (draws[:, 0] < expit(pull[slate[:looked]]))
        skipped = sold[:looked] & ~clicked & (draws[:, 1] < manners.skip)
        carted = clicked & (draws[:, 1] < world.cart[slate[:looked]])
        bought = carted & (draws[:, 2] < world.purchase[slate[:looked]])
        reward = np.select(
            [bought, carted, clicked, skipped], [rewards.purchase, rewards.cart, rewards.click, rewards.skip], 0.0
        )
        self._bought[moment.shopper] += slate[:looked][bought].tolist()
        events = self._told(moment, rec_id, slate, looked, since_ms, draws, (clicked, carted, bought, skipped))
        return Answer(events, looked, expected, best, float(reward.sum()))

    def _told(
        self,
        moment: Moment,
        rec_id: str,
        slate: Int64,
        looked: int,
        since_ms: int,
        draws: Float64,
        answers: tuple[np.ndarray[tuple[int], np.dtype[np.bool_]], ...],
    ) -> list[Event]:
        """The events that reach the log, in time order: none from a session that has fallen silent."""
        if moment.silent:
            return []
        manners = self.world.settings.manners
        clicked, carted, bought, skipped = (answer.tolist() for answer in answers)
        waits_s = manners.delay_s - manners.mean_delay_s * np.log(draws[:, 3])
        waits_ms = (1000 * np.minimum(waits_s, manners.latest_s)).astype(np.int64).tolist()
        hesitations_ms = (CART_MS * (0.5 + draws[:, 4])).astype(np.int64).tolist()
        events = []

        def tell(kind: EventType, place: int, ts: int) -> None:
            item = int(slate[place])
            name = f"{moment.event_id}-{place + 1}-{kind.value}"
            events.append(self._event(kind, moment, item, ts, name, rec_id, place + 1))

        for place in range(looked):
            if slate[place] < 0:
                continue
            at = since_ms + FIRST_LOOK_MS + place * LOOK_MS
            if manners.impressions:
                tell(EventType.IMPRESSION, place, at)
            if clicked[place]:
                tell(EventType.CLICK, place, at + CLICK_MS)
                tell(EventType.VIEW, place, at + VIEW_MS)
            if carted[place]:
                tell(EventType.ADD_TO_CART, place, at + CLICK_MS + hesitations_ms[place])
            if bought[place]:
                tell(EventType.PURCHASE, place, at + CLICK_MS + waits_ms[place])
            if skipped[place]:
                tell(EventType.SKIP, place, at + SKIP_MS)
        return sorted(events, key=lambda event: event.ts)

    def _event(
        self,
        kind: EventType,
        moment: Moment,
        item: int,
        ts: int,
        event_id: str,
        rec_id: str | None = None,
        position: int | None = None,
    ) -> Event:
        return Event(
            type=kind,
            user_id=moment.user_id,
            ts=ts,
            item_id=self.world.item_ids[item],
            event_id=event_id,
            session_id=moment.session_id,
            rec_id=rec_id,
            position=position,
            context={"category": self.world.categories[item]},
        )

    def _pull(self, moment: Moment) -> Float64:
        return self.world.pull(moment.shopper, moment.intent, moment.ts, self._bought[moment.shopper])
