"""Ads: items with a bid and a budget, ranked by what showing them is expected to bring.

    value = P(click) * bid * multiplier        P by `click_chance`, the multiplier by `pacing`

An ad that was clicked costs its bid as of the slate that showed it (pay per click, first price), once per slate, until
the budget of the slate's day is spent. What was spent is kept by input partition and day (`accounts`) and held against
that partition's part of the budget (`pacing`), so that nothing here waits for another worker. Knows nothing of stores,
topics or the wall clock.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from streamrec.engine.ads import pacing
from streamrec.engine.ads.accounts import DAY_MS, AdAccounts, Due
from streamrec.engine.arrays.batch import Array, Float64, Int32, Int64
from streamrec.engine.arrays.feedback import ShownAds
from streamrec.engine.following.served import Arrays, ChangedRows, Rows
from streamrec.engine.items.bids import MILLION, Bids
from streamrec.engine.items.item_table import ItemTable

if TYPE_CHECKING:
    from streamrec.engine.ads.click_probability import ClickProbability
    from streamrec.engine.arrays.feedback import SlateFeedback

ADS = "ads"
"""What a snapshot has of ads."""
HOURS, CHANCE = "hours.", "chance."


@dataclass(frozen=True, slots=True)
class _AdStanding:
    """Where the ads stand in one partition on one day."""

    key: tuple[int, int, int]  # revision of the bids, version of the accounts, day
    clicks: Int64  # (ads,) the next one
    bought: Int64  # (ads,) by the day's budget
    limits: Int64  # (ads,) what this partition may spend, millionths


class Ads:
    """The ads among the items, by index; `paced` spreads spending over the day, else only the budget holds."""

    def __init__(
        self, items: ItemTable, bids: Bids, chance: ClickProbability, partitions: int, *, paced: bool = True
    ) -> None:
        """`partitions` of the input: each may spend its part of a budget."""
        self.accounts = AdAccounts()
        self.hours = pacing.Hours()
        self.chance = chance
        self._items = items
        self._bids = bids
        self._partitions = partitions
        self._paced = paced
        self._standings: dict[int, _AdStanding] = {}  # by partition
        self._taught: tuple[tuple[int, int], Float64] = (-1, -1), np.empty(0)

    # What is asked

    @property
    def revision(self) -> tuple[int, int]:
        """Another one whenever bids, or what is known of chances, changed."""
        return self._bids.revision, self.chance.version

    def known(self) -> Int32:
        """The items that are ads, in the order of their index."""
        return self._bids.ads()

    def barred(self, ts: int, partition: int) -> Int32:
        """The ads that must not be shown to this partition's users now: spent, or far ahead of their plan."""
        standing = self._standing(partition, ts // DAY_MS)
        return self.known()[pacing.resting(self._lead(standing, ts), standing.clicks, standing.bought)]

    def log_value(self, items: Int32, utilities: Float64, ts: int, partition: int) -> Float64:
        """The logarithm of what showing each item at the first place is expected to bring.

        Args:
            items: indices, of any shape.
            utilities: the fusion's, of the same shape, before anything was added to them.
            ts: of the request, ms.
            partition: whose user asks.

        Returns:
            Of the same shape, in the site's currency; -inf for what is no ad, must not be shown, or has no utility.
        """
        ads, standing = self.known(), self._standing(partition, ts // DAY_MS)
        out = np.full(items.shape, -np.inf)
        if not len(ads):
            return out
        lead = self._lead(standing, ts)
        log_bid = np.log(self._bids.bid[ads] / MILLION * pacing.multiplier(lead))  # (ads,)
        log_bid[pacing.resting(lead, standing.clicks, standing.bought)] = -np.inf
        at = np.minimum(np.searchsorted(ads, items), len(ads) - 1)
        found = (ads[at] == items) & np.isfinite(utilities)
        at = at[found]
        out[found] = log_bid[at] + self.chance.log_chance(utilities[found].astype(np.float64), self._peculiar()[at])
        return out

    def best(self, k: int) -> Int32:
        """The ads that bring most when a user likes them as much as is usual, best first, at most `k`."""
        ads, peculiar = self.known(), self._peculiar()
        usual = np.full(len(ads), self.chance.usual or 0.0)
        value = np.log(np.maximum(self._bids.bid[ads], 1)) + self.chance.log_chance(usual, peculiar)
        return ads[np.argsort(-value, kind="stable")[:k]]

    def spent(self, item_id: str, day: int, partition: int) -> float:
        """Everything that was charged for an ad in a partition on a day (since 1970), in the site's currency."""
        return self.accounts.spent(partition, item_id, day) / MILLION

    # What happens

    def shown(self, items: Int32, utilities: Float64, ts: int, partition: int) -> ShownAds:
        """What to keep of a slate of these items, from the top; arguments as of `log_value`, (items,) each."""
        ads, standing = self.known(), self._standing(partition, ts // DAY_MS)
        bids, limits = np.zeros(len(items), np.int64), np.zeros(len(items), np.int64)
        found = np.isin(items, ads)
        bids[found] = self._bids.bid[items[found]]
        limits[found] = standing.limits[np.searchsorted(ads, items[found])]
        return ShownAds(bids, limits, utilities.astype(np.float64), np.zeros(len(items), np.bool_))

    def charge(self, partition: int, due: Due) -> None:
        """A click costs something. Counts for ranking from the next learning cut on."""
        self.accounts.charge(partition, due)

    def learn(self, feedback: Sequence[SlateFeedback]) -> None:
        """The cut: what was charged counts, and what came of slates with ads is learned."""
        self.accounts.settle()
        for slate_feedback in feedback:
            if slate_feedback.ads is None:
                continue
            self.hours.note(slate_feedback.ts)
            seen = np.flatnonzero(slate_feedback.ads.bids)
            names = [slate_feedback.items[place] for place in seen.tolist()]
            clicked = slate_feedback.ads.clicked[seen].tolist()
            self.chance.learn(names, (seen + 1).tolist(), slate_feedback.ads.utilities[seen], clicked)

    def served(self) -> dict[str, Rows]:
        """The profile of the day and the chances: accounts are each worker's own."""
        return {
            **{HOURS + name: rows for name, rows in self.hours.served().items()},
            **{CHANCE + name: rows for name, rows in self.chance.served().items()},
        }

    def serve(self, arrays: Arrays, changed: ChangedRows | None = None) -> None:
        """By another one's."""
        self.hours.serve(_part(arrays, HOURS))
        self.chance.serve(_part(arrays, CHANCE), None if changed is None else _part(changed, CHANCE))
        self._taught = (-1, -1), np.empty(0)

    def state(self) -> dict[str, Array]:
        """What a snapshot holds: accounts are not in it, they live in the store."""
        return {
            **{HOURS + name: array for name, array in self.hours.state().items()},
            **{CHANCE + name: array for name, array in self.chance.state().items()},
        }

    def restore(self, arrays: Mapping[str, Array]) -> None:
        """The inverse of `state`."""
        self.hours.restore(_part(arrays, HOURS))
        self.chance.restore(_part(arrays, CHANCE))
        self._taught = (-1, -1), np.empty(0)

    def _lead(self, standing: _AdStanding, ts: int) -> Float64:
        """How far each ad is ahead of its plan, in budgets, (ads,)."""
        if not self._paced:
            return np.zeros(len(standing.clicks))
        lead: Float64 = standing.clicks / standing.bought - self.hours.passed(ts)
        return lead

    def _standing(self, partition: int, day: int) -> _AdStanding:
        key = self._bids.revision, self.accounts.version(partition), day
        standing = self._standings.get(partition)
        if standing is None or standing.key != key:
            ads = self.known()
            names = [self._items.ids[ad] for ad in ads.tolist()]
            spent = np.array(self.accounts.settled(partition, names, day), np.int64)
            # From ad to ad and from day to day another partition is the first.
            firsts = np.array([zlib.crc32(name.encode("utf-8", "surrogatepass")) for name in names], np.int64)
            turns = (firsts + day + partition) % self._partitions
            bids, budgets = self._bids.bid[ads], self._bids.budget[ads]
            standing = self._standings[partition] = _AdStanding(
                key,
                *pacing.allotted(bids, budgets, spent, turns, self._partitions),
                pacing.limits(bids, budgets, turns, self._partitions),
            )
        return standing

    def _peculiar(self) -> Float64:
        """What is known of each ad alone, (ads,)."""
        if self._taught[0] != self.revision:
            self._taught = self.revision, self.chance.peculiar([self._items.ids[ad] for ad in self.known().tolist()])
        return self._taught[1]


def _part(arrays: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Those of one part, by their own names."""
    return {name.removeprefix(prefix): rows for name, rows in arrays.items() if name.startswith(prefix)}
