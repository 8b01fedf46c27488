"""Who comes when: sessions, the requests in them and what is browsed between, fixed before anything is recommended.

A shopper's sessions follow each other by themselves, never by what was shown. So the calendar is one table in time
order, made at once, and equal in equal worlds whichever policy answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from streamrec.evaluation.simulation.attack import bot_lines
from streamrec.evaluation.simulation.draws import Int64, Purpose, exponentials, uniforms
from streamrec.evaluation.simulation.world import HOUR_MS, World

APART_MS = 45 * 60_000
"""The least time from the start of a shopper's session to the next one's: longer than any session."""
LONGEST = 8
"""Requests in a session, at most."""
PAUSE_MS = (90_000, 210_000)
"""From one request of a session to the next."""
ANSWERED_MS = 60_000
"""After a request nobody browses for so long: the slate is being looked at."""
MOST_BROWSED = 4
FAITHFUL = 0.8
"""Share of sessions that are about a favourite category; the others are about any."""


class Doing(IntEnum):
    """What a line of the calendar is about."""

    BROWSE = 0
    REQUEST = 1
    BOT = 2


@dataclass(frozen=True, slots=True)
class Calendar:
    """Lines in time order, all arrays (lines,). `step` counts a shopper's own lines; `intent` is a category."""

    ts: Int64
    doing: Int64
    shopper: Int64
    session: Int64
    step: Int64
    intent: Int64
    silent: Int64  # 1 where the answers do not arrive any more

    def __len__(self) -> int:
        return len(self.ts)


def calendar(world: World) -> Calendar:
    """All lines up to the last request asked for."""
    reach = 1.5  # of the hours: the log ends by count, not by the clock
    sessions = _sessions(world, reach)
    while sessions[3].sum() < world.settings.traffic.requests:
        reach *= 2  # every draw has its key, so a longer calendar begins with the shorter one
        sessions = _sessions(world, reach)
    lines = np.concatenate([_lines(world, sessions), _bots(world)], axis=1)
    lines = lines[:, np.lexsort((lines[4], lines[2], lines[0]))]
    asked = np.flatnonzero(lines[1] == Doing.REQUEST)
    last = asked[world.settings.traffic.requests - 1] + 1
    return Calendar(*lines[:, :last])


def _sessions(world: World, reach: float) -> Int64:
    """(4, sessions): start in ms, shopper, number among the shopper's, requests."""
    traffic, seed = world.settings.traffic, world.settings.seed
    people = np.arange(world.settings.crowd.shoppers)
    share = world.activity / world.activity.sum()
    wanted = traffic.requests / traffic.per_session * share  # (shoppers,) sessions each within the hours
    gap_ms = np.maximum(traffic.hours * HOUR_MS / np.maximum(wanted, 1e-9) - APART_MS, APART_MS / 9)
    horizon_ms = reach * traffic.hours * HOUR_MS
    most = int(horizon_ms / (APART_MS + gap_ms.min())) + 20
    numbers = np.arange(most)
    gaps = exponentials(seed, Purpose.ARRIVAL, people[:, None], numbers) * gap_ms[:, None]
    gaps[:, 1:] += APART_MS  # the first may come at once
    starts = world.start_ms + np.cumsum(gaps, axis=1)  # (shoppers, most)
    going_on = 1.0 - 1.0 / traffic.per_session
    draws = uniforms(seed, Purpose.SESSION, 0, people[:, None], numbers)
    if going_on > 0:
        counts = 1 + np.floor(np.log(draws) / np.log(going_on))
    else:
        counts = np.ones_like(draws)
    there = starts < world.start_ms + horizon_ms
    shopper, number = np.nonzero(there)
    return np.stack([starts[there], shopper, number, np.minimum(counts[there], LONGEST)]).astype(np.int64)


def _lines(world: World, sessions: Int64) -> Int64:
    """(7, lines) of shoppers, one column per browsing or request, session by session."""
    traffic, seed = world.settings.traffic, world.settings.seed
    starts, shopper, number, requests = sessions
    round_ = np.arange(LONGEST)
    pause = uniforms(seed, Purpose.VISIT, 0, shopper[:, None], number[:, None], round_)
    pauses = PAUSE_MS[0] + pause * (PAUSE_MS[1] - PAUSE_MS[0])
    asked_ms = (starts[:, None] + np.cumsum(pauses, axis=1)).astype(np.int64)  # (sessions, LONGEST)
    going_on = traffic.browsed / (1.0 + traffic.browsed)
    draws = uniforms(seed, Purpose.VISIT, 1, shopper[:, None], number[:, None], round_)
    browsed = np.minimum(np.floor(np.log(draws) / np.log(max(going_on, 1e-9))), MOST_BROWSED)  # before each request
    place = np.arange(MOST_BROWSED)
    free_ms = pauses - ANSWERED_MS
    since = asked_ms - free_ms
    apart = free_ms / (browsed + 1.0)
    browse_ms = since[:, :, None] + apart[:, :, None] * (place + 1)  # (sessions, LONGEST, MOST_BROWSED)
    intent = _intents(world, shopper, number, starts)
    lost = uniforms(seed, Purpose.SESSION, 1, shopper, number) < traffic.lost
    silent = lost[:, None] & (round_ >= requests[:, None] // 2)  # (sessions, LONGEST)
    happening = round_ < requests[:, None]
    browsing = happening[:, :, None] & (place < browsed[:, :, None])
    width = MOST_BROWSED + 1
    ts = np.concatenate([browse_ms, asked_ms[:, :, None]], axis=2).astype(np.int64)
    there = np.concatenate([browsing, happening[:, :, None]], axis=2)
    shape = ts.shape
    doing = np.broadcast_to(np.where(np.arange(width) == MOST_BROWSED, Doing.REQUEST, Doing.BROWSE), shape)
    step = (number[:, None, None] * LONGEST + round_[:, None]) * width + np.arange(width)
    columns = [
        ts,
        doing,
        np.broadcast_to(shopper[:, None, None], shape),
        np.broadcast_to(number[:, None, None], shape),
        step,
        np.broadcast_to(intent[:, None, None], shape),
        np.broadcast_to(silent[:, :, None], shape),
    ]
    return np.stack([column[there].astype(np.int64) for column in columns])


def _intents(world: World, shopper: Int64, number: Int64, starts: Int64) -> Int64:
    """What each session is about: (sessions,) categories."""
    seed = world.settings.seed
    late = starts >= (world.drift_ms if world.drift_ms is not None else np.iinfo(np.int64).max)
    favourites = np.where(late[:, None], world.later_favourites[shopper], world.favourites[shopper])
    which = (uniforms(seed, Purpose.SESSION, 2, shopper, number) * favourites.shape[1]).astype(np.int64)
    usual = favourites[np.arange(len(shopper)), which]
    other = (uniforms(seed, Purpose.SESSION, 3, shopper, number) * world.settings.assortment.categories).astype(
        np.int64
    )
    return np.where(uniforms(seed, Purpose.SESSION, 4, shopper, number) < FAITHFUL, usual, other)


def _bots(world: World) -> Int64:
    """(7, lines) of bots, who have neither sessions nor intents."""
    ts, bot, step = bot_lines(world)
    nothing = np.zeros_like(ts)
    return np.stack([ts, nothing + Doing.BOT, bot, nothing, step, nothing, nothing])
