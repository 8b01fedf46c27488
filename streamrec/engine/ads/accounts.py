"""What was spent on each ad, by input partition and day of the log (UTC).

Exact: every amount is charged once, in whole millionths, and saved with the watermark of its partition, so that a crash
neither loses nor repeats any. Never more than the limit: what a click would cost beyond it is not charged.

What is charged counts for ranking from the next learning cut on, as everything that is learned: how a log is cut into
polls must not change a slate. So an entry holds two sums, and both are saved. Knows nothing of stores, bids or slates.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from streamrec.engine.partition_tables import DIRECTORY, ListedPart, ListedTable, Load

DAY_MS = 86_400_000
DAYS_KEPT = 3
"""Days of a partition: the newest and those before it."""
MAX_ACCOUNTS = 16_384
"""Ads with an account in one partition."""


class Due(NamedTuple):
    """What a click on an ad costs, amounts in millionths."""

    ad: str
    ts: int  # of the slate that showed it, ms: the day whose budget pays
    bid: int
    limit: int  # of that day in this partition, as of the slate


Sums = list[int]
"""What counts for ranking, and what was charged since the last learning cut; millionths."""


@dataclass(slots=True)
class _PartitionAccounts(ListedPart[str, dict[int, Sums]]):
    """One partition's accounts: item id, then day."""

    newest: int = 0
    pending: dict[str, None] = field(default_factory=dict)


class AdAccounts(ListedTable[_PartitionAccounts]):
    """Of the partitions held."""

    kind = "account"
    listing = "ads"
    beside = ("newest",)

    def __init__(self) -> None:
        super().__init__(_PartitionAccounts)
        self.refused = 0  # clicks that were not charged because too many ads had an account
        self.beyond = 0  # millionths that were not charged because they lay beyond a limit
        self._versions: Counter[int] = Counter()  # by partition, held or not: of what counts for ranking

    def charge(self, partition: int, due: Due) -> None:
        """An ad was clicked. What is later than DAYS_KEPT days counts for the oldest that is kept."""
        held = self.held(partition)
        if due.ad not in held.entries and len(held.entries) >= MAX_ACCOUNTS:
            self.refused += 1
            return
        day = due.ts // DAY_MS
        if day > held.newest:
            self._turn(held, day)
            self._versions[partition] += 1
        sums = self._account(held, due.ad).setdefault(max(day, held.newest - DAYS_KEPT + 1), [0, 0])
        cost = min(due.bid, max(due.limit - sum(sums), 0))
        self.beyond += due.bid - cost
        sums[1] += cost
        held.pending[due.ad] = held.changed[due.ad] = None

    def settle(self) -> None:
        """The cut: what was charged counts."""
        for partition, held in self.partitions.items():
            if not held.pending:
                continue
            for item_id in held.pending:
                for sums in held.entries[item_id].values():
                    sums[0], sums[1] = sums[0] + sums[1], 0
            held.changed.update(held.pending)
            held.pending.clear()
            self._versions[partition] += 1

    def settled(self, partition: int, item_ids: Iterable[str], day: int) -> list[int]:
        """What counts as spent on each ad in a partition on a day, millionths."""
        ads = self.held(partition).entries
        return [ads[item_id].get(day, (0, 0))[0] if item_id in ads else 0 for item_id in item_ids]

    def spent(self, partition: int, item_id: str, day: int) -> int:
        """Everything that was charged, millionths."""
        return sum(self.held(partition).entries.get(item_id, {}).get(day, ()))

    def version(self, partition: int) -> int:
        """Another number whenever what counts in a partition changed."""
        return self._versions[partition]

    # In and out of memory

    def take_over(self, partition: int, load: Load) -> None:
        super().take_over(partition, load)
        held = self.held(partition)
        held.pending = {name: None for name, days in held.entries.items() if any(sums[1] for sums in days.values())}
        self._versions[partition] += 1

    def drop(self, partitions: Iterable[int]) -> None:
        leaving = list(partitions)
        super().drop(leaving)
        self._versions.update(leaving)

    def _packed(self, entry: dict[int, Sums]) -> bytes:
        return _ENCODER.encode(entry)

    def _unpacked(self, value: bytes) -> dict[int, Sums]:
        return unpacked(value)

    def _account(self, held: _PartitionAccounts, item_id: str) -> dict[int, Sums]:
        if item_id not in held.entries:
            held.entries[item_id] = {}
            held.listed = False
        return held.entries[item_id]

    def _turn(self, held: _PartitionAccounts, day: int) -> None:
        """A new day: the oldest leave."""
        held.newest = day
        held.listed = False
        for item_id, days in list(held.entries.items()):
            for gone in [one for one in days if one <= day - DAYS_KEPT]:
                del days[gone]
                held.changed[item_id] = None
            if not days:
                del held.entries[item_id]
                held.pending.pop(item_id, None)


def shared_out(stored: Sequence[Mapping[str, bytes]], partitions: int) -> list[dict[str, bytes]]:
    """All that was spent, as evenly over so many partitions as whole millionths allow; together it stays what it was.

    Each may spend its part of a budget: what was spent already must count against all of the parts.

    Args:
        stored: by partition, its accounts by name with the directory among them.
        partitions: how many there are now.
    """
    spent: dict[str, dict[int, Sums]] = {}
    newest = 0
    for accounts in stored:
        for ad, value in accounts.items():
            if ad == DIRECTORY:
                newest = max(newest, msgspec.msgpack.decode(value)["newest"])
                continue
            for day, sums in unpacked(value).items():
                together = spent.setdefault(ad, {}).setdefault(day, [0, 0])
                together[0], together[1] = together[0] + sums[0], together[1] + sums[1]
    if not spent:
        return [{} for _ in range(partitions)]
    directory = _ENCODER.encode({"newest": newest, AdAccounts.listing: list(spent)})
    return [
        {DIRECTORY: directory}
        | {
            ad: _ENCODER.encode(
                {day: [(amount + place) // partitions for amount in sums] for day, sums in days.items()}
            )
            for ad, days in spent.items()
        }
        for place in range(partitions)
    ]


def unpacked(value: bytes) -> dict[int, Sums]:
    """A stored account: by day since 1970, what counts for ranking and what was charged since the last cut."""
    return _DECODER.decode(value)


def total(account: Mapping[int, Sequence[int]], day: int) -> int:
    """Everything charged on a day, millionths."""
    return sum(account.get(day, ()))


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(dict[int, list[int]])
