"""Simulated attacks: bots that push one item to be recommended, or only send many events. What they send, and when.

    hammer    a click a minute, on three items of its own in turn
    flood     a click on the target every few seconds
    views     browses for hours like a person, but every other item is the target
    ring      as few events as a person: now and then a visit of a few popular items, and the target last
    clicker   requests slates and buys the target wherever it is shown; where it is not, it claims to have bought it
              there, and on other users' slates too

All of them push the same target, an item of middling appeal. Bots act by the calendar alone, and what they send changes
no random draw of the shoppers, so equal worlds with and without bots have the same shoppers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from streamrec.evaluation.simulation.draws import Int64, Purpose, uniforms
from streamrec.evaluation.simulation.world import AttackKind, World
from streamrec.events import Event, EventType

RESPONSE_DELAY_MS = 1_000
"""From a slate to a bot's response: no sooner than shoppers respond."""


@dataclass(frozen=True, slots=True)
class VisitPattern:
    """Visits at equal intervals, each of so many events, `spacing_s` from one to the next."""

    interval_s: float
    events: int = 1
    spacing_s: float = 0.0


VISIT_PATTERNS = {
    AttackKind.HAMMER: VisitPattern(60),
    AttackKind.FLOOD: VisitPattern(5),
    AttackKind.VIEWS: VisitPattern(20),
    AttackKind.RING: VisitPattern(2_400, events=4, spacing_s=15),
    AttackKind.CLICKER: VisitPattern(120),
}


def bot_entries(world: World) -> tuple[Int64, Int64, Int64]:
    """Times in ms, bots and their steps, (entries,) each."""
    crowd, pattern = world.settings.crowd, VISIT_PATTERNS[world.settings.crowd.attack]
    visits = np.arange(world.attack_ms, world.end_ms, int(pattern.interval_s * 1000))
    ts = (visits[:, None] + int(pattern.spacing_s * 1000) * np.arange(pattern.events)).ravel()
    bots, steps = np.arange(crowd.bots)[:, None], np.arange(len(ts))
    shape = (crowd.bots, len(ts))
    columns = np.broadcast_to(ts + 137 * bots, shape), np.broadcast_to(bots, shape), np.broadcast_to(steps, shape)
    when, who, which = (column.ravel().astype(np.int64) for column in columns)
    return when, who, which


def bot_event(world: World, bot: int, step: int, ts: int) -> Event:
    """The event that a bot sends at one of its steps."""
    kind = world.settings.crowd.attack
    if kind is AttackKind.CLICKER:
        k = world.settings.traffic.k
        return Event(type=EventType.REQUEST, user_id=f"bot-{bot}", ts=ts, event_id=f"bot-{bot}-{step}", k=k)
    if kind is AttackKind.HAMMER:
        return _touch(world, EventType.CLICK, bot, int(world.fan_of[bot, step % world.fan_of.shape[1]]), step, ts)
    if kind is AttackKind.FLOOD:
        return _touch(world, EventType.CLICK, bot, world.target, step, ts)
    together = VISIT_PATTERNS[kind].events if kind is AttackKind.RING else 2
    last = step % together == together - 1
    item = world.target if last else _ordinary(world, bot, step, ts)
    return _touch(world, EventType.VIEW, bot, item, step, ts)


def bot_response(
    world: World, bot: int, step: int, rec_ids: Sequence[str], item_ids: Sequence[str], ts: int
) -> list[Event]:
    """The events with which a clicker bot responds to a slate that came at `ts`.

    Args:
        world: has the target.
        bot: the bot's number.
        step: the bot's step at which it asked.
        rec_ids: of its own slate, and of others' slates that it knows.
        item_ids: of its own slate, from the top.
        ts: ms.
    """
    target = world.item_ids[world.target]
    place = item_ids.index(target) + 1 if target in item_ids else 1
    events = []
    for slate, rec_id in enumerate(rec_ids):
        for act, kind in enumerate((EventType.IMPRESSION, EventType.CLICK, EventType.PURCHASE)):
            at = ts + RESPONSE_DELAY_MS + 1_000 * act + 100 * slate
            event = _touch(world, kind, bot, world.target, step, at, f"{slate}-{kind.value}", rec_id, place)
            events.append(event)
    return sorted(events, key=lambda event: event.ts)


def _ordinary(world: World, bot: int, step: int, ts: int) -> int:
    """A popular item that is on sale, drawn from the softmax of twice the appeal (Gumbel-max)."""
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
