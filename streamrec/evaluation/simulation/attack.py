"""Bots that want one item to be shown to everybody, or a few that just hammer: what each of them sends, and when.

    hammer    a click a minute, on three items of its own in turn
    flood     a click on the target every few seconds
    views     looks around like a person, hours on end, but every other item is the target
    ring      as little as a person does: now and then a visit of a few popular items, and the target last
    clicker   asks for slates and buys the target wherever it stands; where it does not, claims that it did, and claims
              the slates of others too

All of them want the same target, an item of middling appeal. Bots act by the calendar alone, and what they send does
not move a draw of the shoppers, so equal worlds with and without them have the same people.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from streamrec.evaluation.simulation.draws import Int64, Purpose, uniforms
from streamrec.evaluation.simulation.world import AttackKind, World
from streamrec.events import Event, EventType

SOON_MS = 1_000
"""From a slate to what a bot makes of it: no sooner than people."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Visits at even steps, and in each so many events, `apart_s` from one to the next."""

    every_s: float
    events: int = 1
    apart_s: float = 0.0


PACES = {
    AttackKind.HAMMER: Pace(60),
    AttackKind.FLOOD: Pace(5),
    AttackKind.VIEWS: Pace(20),
    AttackKind.RING: Pace(2_400, events=4, apart_s=15),
    AttackKind.CLICKER: Pace(120),
}


def bot_lines(world: World) -> tuple[Int64, Int64, Int64]:
    """When which bot does its which step, all (lines,)."""
    crowd, pace = world.settings.crowd, PACES[world.settings.crowd.attack]
    visits = np.arange(world.attack_ms, world.end_ms, int(pace.every_s * 1000))
    ts = (visits[:, None] + int(pace.apart_s * 1000) * np.arange(pace.events)).ravel()
    bots, steps = np.arange(crowd.bots)[:, None], np.arange(len(ts))
    shape = (crowd.bots, len(ts))
    columns = np.broadcast_to(ts + 137 * bots, shape), np.broadcast_to(bots, shape), np.broadcast_to(steps, shape)
    when, who, which = (column.ravel().astype(np.int64) for column in columns)
    return when, who, which


def bot_event(world: World, bot: int, step: int, ts: int) -> Event:
    """What a bot does at one of its steps."""
    kind = world.settings.crowd.attack
    if kind is AttackKind.CLICKER:
        k = world.settings.traffic.k
        return Event(type=EventType.REQUEST, user_id=f"bot-{bot}", ts=ts, event_id=f"bot-{bot}-{step}", k=k)
    if kind is AttackKind.HAMMER:
        return _touch(world, EventType.CLICK, bot, int(world.fan_of[bot, step % world.fan_of.shape[1]]), step, ts)
    if kind is AttackKind.FLOOD:
        return _touch(world, EventType.CLICK, bot, world.target, step, ts)
    together = PACES[kind].events if kind is AttackKind.RING else 2
    last = step % together == together - 1
    item = world.target if last else _ordinary(world, bot, step, ts)
    return _touch(world, EventType.VIEW, bot, item, step, ts)


def bot_answer(
    world: World, bot: int, step: int, rec_ids: Sequence[str], item_ids: Sequence[str], ts: int
) -> list[Event]:
    """What a slate clicker makes of a slate that came at `ts`.

    Args:
        world: whose target it is.
        bot: which bot.
        step: of the bot's request.
        rec_ids: its own slate's, and others' that it knows of.
        item_ids: of its own slate, from the top.
        ts: ms.
    """
    target = world.item_ids[world.target]
    place = item_ids.index(target) + 1 if target in item_ids else 1
    events = []
    for slate, rec_id in enumerate(rec_ids):
        for act, kind in enumerate((EventType.IMPRESSION, EventType.CLICK, EventType.PURCHASE)):
            at = ts + SOON_MS + 1_000 * act + 100 * slate
            event = _touch(world, kind, bot, world.target, step, at, f"{slate}-{kind.value}", rec_id, place)
            events.append(event)
    return sorted(events, key=lambda event: event.ts)


def _ordinary(world: World, bot: int, step: int, ts: int) -> int:
    """An item that is on sale and that many like (a Gumbel draw of the softmax of twice its appeal)."""
    keys = uniforms(world.settings.seed, Purpose.BOT, 1, bot, step, np.arange(len(world.item_ids)))
    liking = np.where(world.released_ms <= ts, 2.0 * world.appeal, -np.inf)
    return int(np.argmax(liking - np.log(-np.log(keys))))


def _touch(
    world: World,
    kind: EventType,
    bot: int,
    item: int,
    step: int,
    ts: int,
    name: str = "",
    rec_id: str | None = None,
    position: int | None = None,
) -> Event:
    return Event(
        type=kind,
        user_id=f"bot-{bot}",
        ts=ts,
        item_id=world.item_ids[item],
        event_id=f"bot-{bot}-{step}-{name}" if name else f"bot-{bot}-{step}",
        rec_id=rec_id,
        position=position,
        context={"category": world.categories[item]},
    )
