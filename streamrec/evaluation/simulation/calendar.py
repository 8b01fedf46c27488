"""The calendar of a simulation: sessions, the requests in them and the browsing between, before any recommendation.

When shoppers come does not depend on what they are shown. So the calendar is one table in time order, made at once, and
equal in equal worlds whichever policy answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from streamrec.evaluation.simulation.attack import bot_entries
from streamrec.evaluation.simulation.draws import Int64, Purpose, exponentials, uniforms
from streamrec.evaluation.simulation.world import HOUR_MS, World

MIN_SESSION_GAP_MS = 45 * 60_000
"""Least time between the starts of two sessions of a shopper: longer than any session lasts."""
MAX_REQUESTS = 8
"""Requests in a session, at most."""
PAUSE_MS = (90_000, 210_000)
"""From one request of a session to the next."""
ANSWERED_MS = 60_000
"""A shopper does not browse for so long after a request: the slate is being looked at."""
MAX_BROWSED = 4
FAVOURITE_SHARE = 0.8
"""Share of sessions whose intent is one of the shopper's favourite categories; of the others it is any category."""


class EntryKind(IntEnum):
    """What happens at an entry of the calendar."""

    BROWSE = 0
    REQUEST = 1
    BOT = 2


@dataclass(frozen=True, slots=True)
class Calendar:
    """Entries in time order, all arrays (entries,). `step` numbers a shopper's own entries; `intent` is a category."""

    ts: Int64
    kind: Int64
    shopper: Int64
    session: Int64
    step: Int64
    intent: Int64
    silent: Int64  # 1 where the shopper's responses are lost from here on

    def __len__(self) -> int:
        return len(self.ts)


def calendar(world: World) -> Calendar:
    """All entries up to the last request that the world's settings ask for."""
    time_factor = 1.5  # of the hours: the log ends by count, not by the clock
    sessions = _sessions(world, time_factor)
    while sessions[3].sum() < world.settings.traffic.requests:
        time_factor *= 2  # every draw has its key, so a longer calendar begins with the shorter one
        sessions = _sessions(world, time_factor)
    entries = np.concatenate([_entries(world, sessions), _bots(world)], axis=1)
    entries = entries[:, np.lexsort((entries[4], entries[2], entries[0]))]
    asked = np.flatnonzero(entries[1] == EntryKind.REQUEST)
    last = asked[world.settings.traffic.requests - 1] + 1
    return Calendar(*entries[:, :last])


def _sessions(world: World, time_factor: float) -> Int64:
    """(4, sessions): start in ms, shopper, number among the shopper's, requests."""
    traffic, seed = world.settings.traffic, world.settings.seed
    shoppers = np.arange(world.settings.crowd.shoppers)
    share = world.activity / world.activity.sum()
    wanted = traffic.requests / traffic.per_session * share  # (shoppers,) sessions each within the hours
    gap_ms = np.maximum(traffic.hours * HOUR_MS / np.maximum(wanted, 1e-9) - MIN_SESSION_GAP_MS, MIN_SESSION_GAP_MS / 9)
    horizon_ms = time_factor * traffic.hours * HOUR_MS
    most = int(horizon_ms / (MIN_SESSION_GAP_MS + gap_ms.min())) + 20
    numbers = np.arange(most)
    gaps = exponentials(seed, Purpose.ARRIVAL, shoppers[:, None], numbers) * gap_ms[:, None]
    gaps[:, 1:] += MIN_SESSION_GAP_MS  # the first may come at once
    starts = world.start_ms + np.cumsum(gaps, axis=1)  # (shoppers, most)
    continues = 1.0 - 1.0 / traffic.per_session
    draws = uniforms(seed, Purpose.SESSION, 0, shoppers[:, None], numbers)
    if continues > 0:
        counts = 1 + np.floor(np.log(draws) / np.log(continues))
    else:
        counts = np.ones_like(draws)
    present = starts < world.start_ms + horizon_ms
    shopper, number = np.nonzero(present)
    return np.stack([starts[present], shopper, number, np.minimum(counts[present], MAX_REQUESTS)]).astype(np.int64)


def _entries(world: World, sessions: Int64) -> Int64:
    """(7, entries) of shoppers, one column per browsing or request, session by session."""
    traffic, seed = world.settings.traffic, world.settings.seed
    starts, shopper, number, requests = sessions
    round_ = np.arange(MAX_REQUESTS)
    pause = uniforms(seed, Purpose.VISIT, 0, shopper[:, None], number[:, None], round_)
    pauses = PAUSE_MS[0] + pause * (PAUSE_MS[1] - PAUSE_MS[0])
    asked_ms = (starts[:, None] + np.cumsum(pauses, axis=1)).astype(np.int64)  # (sessions, LONGEST)
    continues = traffic.browsed / (1.0 + traffic.browsed)
    draws = uniforms(seed, Purpose.VISIT, 1, shopper[:, None], number[:, None], round_)
    browsed = np.minimum(np.floor(np.log(draws) / np.log(max(continues, 1e-9))), MAX_BROWSED)  # before each request
    place = np.arange(MAX_BROWSED)
    free_ms = pauses - ANSWERED_MS
    since = asked_ms - free_ms
    apart = free_ms / (browsed + 1.0)
    browse_ms = since[:, :, None] + apart[:, :, None] * (place + 1)  # (sessions, LONGEST, MOST_BROWSED)
    intent = _intents(world, shopper, number, starts)
    lost = uniforms(seed, Purpose.SESSION, 1, shopper, number) < traffic.lost
    silent = lost[:, None] & (round_ >= requests[:, None] // 2)  # (sessions, LONGEST)
    happening = round_ < requests[:, None]
    browsing = happening[:, :, None] & (place < browsed[:, :, None])
    width = MAX_BROWSED + 1
    ts = np.concatenate([browse_ms, asked_ms[:, :, None]], axis=2).astype(np.int64)
    present = np.concatenate([browsing, happening[:, :, None]], axis=2)
    shape = ts.shape
    kind = np.broadcast_to(np.where(np.arange(width) == MAX_BROWSED, EntryKind.REQUEST, EntryKind.BROWSE), shape)
    step = (number[:, None, None] * MAX_REQUESTS + round_[:, None]) * width + np.arange(width)
    columns = [
        ts,
        kind,
        np.broadcast_to(shopper[:, None, None], shape),
        np.broadcast_to(number[:, None, None], shape),
        step,
        np.broadcast_to(intent[:, None, None], shape),
        np.broadcast_to(silent[:, :, None], shape),
    ]
    return np.stack([column[present].astype(np.int64) for column in columns])


def _intents(world: World, shopper: Int64, number: Int64, starts: Int64) -> Int64:
    """The intent of each session: categories, (sessions,)."""
    seed = world.settings.seed
    late = starts >= (world.drift_ms if world.drift_ms is not None else np.iinfo(np.int64).max)
    favourites = np.where(late[:, None], world.later_favourites[shopper], world.favourites[shopper])
    which = (uniforms(seed, Purpose.SESSION, 2, shopper, number) * favourites.shape[1]).astype(np.int64)
    usual = favourites[np.arange(len(shopper)), which]
    other = (uniforms(seed, Purpose.SESSION, 3, shopper, number) * world.settings.assortment.categories).astype(
        np.int64
    )
    return np.where(uniforms(seed, Purpose.SESSION, 4, shopper, number) < FAVOURITE_SHARE, usual, other)


def _bots(world: World) -> Int64:
    """(7, entries) of bots, which have neither sessions nor intents."""
    ts, bot, step = bot_entries(world)
    nothing = np.zeros_like(ts)
    return np.stack([ts, nothing + EntryKind.BOT, bot, nothing, step, nothing, nothing])
