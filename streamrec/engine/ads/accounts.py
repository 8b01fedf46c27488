"""What was spent on each ad, by input partition and day of the log (UTC).

Exact: every amount is charged once, in whole millionths, and saved with the watermark of its partition, so that a crash
neither loses nor repeats any. Never more than the limit: what a click would cost beyond it is not charged. Works like
the user table: takes stored bytes, and hands over what changed.

What is charged counts for ranking from the next learning cut on, as everything that is learned: how a log is cut into
polls must not change a slate. So an entry holds two sums, and both are saved. Knows nothing of stores, bids or slates.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

DAY_MS = 86_400_000
DAYS_KEPT = 3
"""Days of a partition: the newest and those before it."""
MAX_ACCOUNTS = 16_384
"""Ads with an account in one partition."""
DIRECTORY = ""
"""The name of a partition's list of ads, among its ads."""
NOTHING_LEFT = b""
"""Hands over that a value is no more."""


class Due(NamedTuple):
    """What a click on an ad costs, amounts in millionths."""

    ad: str
    ts: int  # of the slate that showed it, ms: the day whose budget pays
    bid: int
    limit: int  # of that day in this partition, as of the slate


Sums = list[int]
"""What counts for ranking, and what was charged since the last learning cut; millionths."""


@dataclass(slots=True)
class _PartitionAccounts:
    """One partition's accounts: item id, then day."""

    newest: int = 0
    ads: dict[str, dict[int, Sums]] = field(default_factory=dict)
    pending: dict[str, None] = field(default_factory=dict)
    changed: dict[str, None] = field(default_factory=dict)
    listed: bool = True  # the stored list names the ads there are
    version: int = 0  # of what counts for ranking


class AdAccounts:
    """Of the partitions held."""

    def __init__(self) -> None:
        self.refused = 0  # clicks that were not charged because too many ads had an account
        self.beyond = 0  # millionths that were not charged because they lay beyond a limit
        self._partitions: dict[int, _PartitionAccounts] = {}

    def charge(self, partition: int, due: Due) -> None:
        """An ad was clicked. What is later than DAYS_KEPT days counts for the oldest that is kept."""
        held = self._held(partition)
        if due.ad not in held.ads and len(held.ads) >= MAX_ACCOUNTS:
            self.refused += 1
            return
        day = due.ts // DAY_MS
        if day > held.newest:
            self._turn(held, day)
        sums = self._account(held, due.ad).setdefault(max(day, held.newest - DAYS_KEPT + 1), [0, 0])
        cost = min(due.bid, max(due.limit - sum(sums), 0))
        self.beyond += due.bid - cost
        sums[1] += cost
        held.pending[due.ad] = held.changed[due.ad] = None

    def settle(self) -> None:
        """The cut: what was charged counts."""
        for held in self._partitions.values():
            if not held.pending:
                continue
            for item_id in held.pending:
                for sums in held.ads[item_id].values():
                    sums[0], sums[1] = sums[0] + sums[1], 0
            held.changed.update(held.pending)
            held.pending.clear()
            held.version += 1

    def settled(self, partition: int, item_ids: Iterable[str], day: int) -> list[int]:
        """What counts as spent on each ad in a partition on a day, millionths."""
        ads = self._held(partition).ads
        return [ads[item_id].get(day, (0, 0))[0] if item_id in ads else 0 for item_id in item_ids]

    def spent(self, partition: int, item_id: str, day: int) -> int:
        """Everything that was charged, millionths."""
        return sum(self._held(partition).ads.get(item_id, {}).get(day, ()))

    def version(self, partition: int) -> int:
        """Another number whenever what counts in a partition changed."""
        return self._held(partition).version

    # In and out of memory

    @property
    def changed(self) -> int:
        """Accounts that changed since they were last handed over."""
        return sum(len(held.changed) for held in self._partitions.values())

    def take_over(self, partition: int, directory: bytes | None) -> list[str]:
        """Become the owner of a partition; returns the names of its ads, for `fill`."""
        known: dict[str, Any] = msgspec.msgpack.decode(directory) if directory else {}
        before = self._partitions.get(partition, _PartitionAccounts())
        self._partitions[partition] = _PartitionAccounts(known.get("newest", 0), version=before.version + 1)
        return list(known.get("ads", ()))

    def fill(self, partition: int, names: Sequence[str], values: Sequence[bytes | None]) -> None:
        """Take the stored accounts of these ads."""
        held = self._held(partition)
        for name, value in zip(names, values, strict=True):
            if value:
                held.ads[name] = unpacked(value)
                if any(sums[1] for sums in held.ads[name].values()):
                    held.pending[name] = None

    def take_changes(self, partition: int) -> dict[str, bytes]:
        """What is new in a partition since the last time, by item id; NOTHING_LEFT where there is nothing any more."""
        held = self._held(partition)
        changes = {name: _ENCODER.encode(held.ads[name]) if name in held.ads else NOTHING_LEFT for name in held.changed}
        if not held.listed:
            changes[DIRECTORY] = _ENCODER.encode({"newest": held.newest, "ads": list(held.ads)})
        held.changed.clear()
        held.listed = True
        return changes

    def drop(self, partitions: Iterable[int]) -> None:
        """Forget partitions that belong to somebody else now."""
        for partition in partitions:
            if partition in self._partitions:
                self._partitions[partition] = _PartitionAccounts(version=self._partitions[partition].version + 1)

    def _held(self, partition: int) -> _PartitionAccounts:
        return self._partitions.setdefault(partition, _PartitionAccounts())

    def _account(self, held: _PartitionAccounts, item_id: str) -> dict[int, Sums]:
        if item_id not in held.ads:
            held.ads[item_id] = {}
            held.listed = False
        return held.ads[item_id]

    def _turn(self, held: _PartitionAccounts, day: int) -> None:
        """A new day: the oldest leave."""
        held.newest = day
        held.listed = False
        for item_id, days in list(held.ads.items()):
            for gone in [one for one in days if one <= day - DAYS_KEPT]:
                del days[gone]
                held.changed[item_id] = None
            if not days:
                del held.ads[item_id]
                held.pending.pop(item_id, None)
        held.version += 1


def unpacked(value: bytes) -> dict[int, Sums]:
    """A stored account: by day since 1970, what counts for ranking and what was charged since the last cut."""
    return _DECODER.decode(value)


def total(account: Mapping[int, Sequence[int]], day: int) -> int:
    """Everything charged on a day, millionths."""
    return sum(account.get(day, ()))


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(dict[int, list[int]])
