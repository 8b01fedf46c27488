"""How a day's budget is split: over partitions, and over the hours.

A budget B buys n = floor(B / bid) clicks a day. They are numbered 0 to n - 1 and given to the P input partitions in
turns, so that workers need not ask each other and together never spend more. The m-th click is due when the
share F(t) of a day's traffic that has passed by the time of day t reaches m / n. With m the next click of a partition,

    lead = m / n - F(t)                        how far spending is ahead of the plan, in budgets
    multiplier = 1 / (1 + GAIN max(lead, 0))   of the bid; the ad rests while lead > AHEAD, or when m >= n

The multiplier is that of adaptive pacing (Balseiro and Gur: Learning in repeated auctions with budgets, Management
Science 2019), where a dual price moves by a step times what was spent less what was planned: here the sum of its steps,
so that it follows from the account alone and needs no state of its own. Resting is the throttling of Agarwal et al.
(Budget pacing for targeted online advertisements at LinkedIn, KDD 2014), whose plan is the traffic's own profile too.
Knows nothing of accounts, slates or the wall clock.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from streamrec.engine.ads.accounts import DAY_MS
from streamrec.engine.arrays.batch import Array, Bool, Float64, Int64
from streamrec.engine.following.served import Arrays, ChangedRows, Rows

AHEAD = 0.02
"""Of a day's budget: so far ahead of the plan an ad may be shown. In a planted world (`tests/unit/test_ads.py`) 0.05
brought up to 2% more and spent up to 59% of budgets of 20 clicks by noon, 0 brought up to 3% less."""
GAIN = 50.0
"""The bid counts half where an ad is about to rest."""
HOURS = 24
HOUR_MS = DAY_MS // HOURS
LEAST_SEEN = 100
"""Slates of a day that say something of how traffic is spread over it."""
KEPT = 0.8
"""Of what earlier days said of the hours, by each day: three days count half."""


def allotted(bids: Int64, budgets: Int64, spent: Int64, turns: Int64, partitions: int) -> tuple[Int64, Int64]:
    """The next click of a partition for each ad, and how many the budget buys, (ads,) each.

    Args:
        bids: of one click.
        budgets: of one day.
        spent: in this partition today.
        turns: which of the partitions this one is for each ad, below `partitions`.
        partitions: that share the clicks.
    """
    had = -(-spent // bids)  # a click that was begun is had
    return had * partitions + turns, budgets // bids


def limits(bids: Int64, budgets: Int64, turns: Int64, partitions: int) -> Int64:
    """What a partition may spend on each ad in a day: the clicks it is given, (ads,). Arguments as of `allotted`."""
    bought = budgets // bids
    return (bought - turns + partitions - 1) // partitions * bids


def resting(lead: Float64, clicks: Int64, bought: Int64) -> Bool:
    """Which ads must not be shown now: nothing is left, or too much was spent so early."""
    out: Bool = (clicks >= bought) | (lead > AHEAD)
    return out


def multiplier(lead: Float64) -> Float64:
    """What the bid counts, in (0, 1]."""
    out: Float64 = 1.0 / (1.0 + GAIN * np.maximum(lead, 0.0))
    return out


class Hours:
    """The share of a day's traffic that has passed by each time of day, learned from whole days; even at first."""

    def __init__(self) -> None:
        self._profile: Float64 = np.full(HOURS, 1 / HOURS)  # sums of the shares of days, earlier ones fading
        self._today: Int64 = np.zeros(HOURS, np.int64)
        self._day = 0
        self._whole = False  # the day was counted from its beginning

    def note(self, ts: int) -> None:
        """A slate with ads was made, ts in ms."""
        day = ts // DAY_MS
        if day > self._day:
            if self._whole and self._today.sum() >= LEAST_SEEN:
                self._profile = KEPT * self._profile + self._today / self._today.sum()
            self._whole = self._day > 0
            self._today[:] = 0
            self._day = day
        if day == self._day:
            self._today[ts % DAY_MS // HOUR_MS] += 1

    def passed(self, ts: int) -> float:
        """F: in [0, 1), by the time of day of `ts`, ms."""
        hour, within = divmod(ts % DAY_MS, HOUR_MS)
        before = float(self._profile[:hour].sum()) + float(self._profile[hour]) * within / HOUR_MS
        return before / float(self._profile.sum())

    def served(self) -> dict[str, Rows]:
        """The profile."""
        return {"profile": self._profile}

    def serve(self, arrays: Arrays, changed: ChangedRows | None = None) -> None:
        """By another one's profile."""
        self._profile = arrays["profile"]

    def state(self) -> dict[str, Array]:
        """What a snapshot holds."""
        return {
            "profile": self._profile.copy(),
            "today": self._today.copy(),
            "day": np.array([self._day, self._whole], np.int64),
        }

    def restore(self, arrays: Mapping[str, Array]) -> None:
        """The inverse of `state`."""
        self._profile, self._today = np.array(arrays["profile"]), np.array(arrays["today"])
        self._day, self._whole = int(arrays["day"][0]), bool(arrays["day"][1])
