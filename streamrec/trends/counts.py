"""One input partition's counts, in memory: per item, per category and of everything.

Guarantee: counts are those of the partition's events up to `position`, each once, whatever was read again. What is kept
of a subject says up to which offset it stands; events at or below that offset are passed over for this subject alone.
So a table that was written half is no worse than one that was written whole. What is delivered again without a
restoration in between (Faust does that after a rebalance) is passed over for all.

The clock is the newest time of an event in the partition; nothing else moves a window.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec

from streamrec.engine.trending.windows import Parts, Sums, Windows, acceleration, rate_per_hour
from streamrec.events import Trend, WindowTrend

ITEM, CATEGORY, EVERYTHING = "i:", "c:", "a:"
"""How the names of subjects begin; everything has no other name."""
RANKED = 100
"""So many items of a window have a rank."""
LEAVING = 8
"""One in so many subjects leaves when there are too many: leaving one by one would mean a search for each."""


class SubjectState(msgspec.Struct, frozen=True, array_like=True):
    """The table's value of a subject: its counts by part, the last offset included, and the partition's clock then."""

    up_to: int
    clock: int
    parts: dict[int, int]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(SubjectState).decode


class SubjectCounts:
    """One subject's counts by part of a window; events up to offset `up_to` were included by a restoration."""

    __slots__ = ("parts", "up_to")

    def __init__(self, parts: Parts, up_to: int = -1) -> None:
        self.parts = parts
        self.up_to = up_to


@dataclass(frozen=True, slots=True)
class Flush:
    """What is to be written, in this order: trends of items to publish, then states of subjects to store."""

    partition: int
    position: int
    said: Mapping[str, Trend | None]
    """By item_id; None: nothing of it is left in any window."""
    kept: Mapping[str, bytes | None]
    """By subject; None: nothing of it is left to keep."""


class PartitionCounts:
    """Counts the events of one partition, and returns what changed at each flush."""

    def __init__(self, partition: int, windows: Windows, max_subjects: int) -> None:
        self.partition = partition
        self.windows = windows
        self.position = -1
        """The last offset that is counted, restored ones included."""
        self.clock = 0
        self._max_subjects = max_subjects
        self._now = windows.now(0)
        self._taken = -1  # the last offset taken since the restoration
        self._tallies: dict[str, SubjectCounts] = {}
        self._sums: dict[str, Sums] = {}  # as last said
        self._rising: list[dict[str, float]] = [{} for _ in windows.lengths_s]  # item: acceleration, where above 0
        self._ranks: list[dict[str, int]] = [{} for _ in windows.lengths_s]
        self._touched: set[str] = set()
        self._gone: set[str] = set()
        self._flushed = (-1, self._now)  # position and parts

    def __len__(self) -> int:
        return len(self._tallies)

    # Taking events

    def take(self, offset: int, ts: int, item_id: str | None = None, category: str | None = None) -> None:
        """An event of the partition: it moves the clock, and is counted where it wants an item."""
        if not self.passed(offset):
            return
        if ts > self.clock:
            self.clock = ts
            self._now = self.windows.now(ts)
        if item_id is None:
            return
        keys = self.windows.keys(ts, self._now)
        if keys:
            self._add(ITEM + item_id, offset, keys)
            self._add(EVERYTHING, offset, keys)
            if category is not None:
                self._add(CATEGORY + category, offset, keys)

    def passed(self, offset: int) -> bool:
        """Note that the partition was read up to this offset; False when it had been read already."""
        if offset <= self._taken:
            return False
        self._taken = offset
        self.position = max(self.position, offset)
        return True

    def _add(self, subject: str, offset: int, keys: list[int]) -> None:
        tally = self._tallies.get(subject)
        if tally is None:
            if len(self._tallies) >= self._max_subjects:
                self._make_room()
            tally = self._tallies[subject] = SubjectCounts({})
        if offset <= tally.up_to:
            return
        parts = tally.parts
        for key in keys:
            parts[key] = parts.get(key, 0) + 1
        self._touched.add(subject)

    def _make_room(self) -> None:
        """Drop the least active subjects, of equals the longest idle."""

        def activity(subject: str) -> tuple[int, int]:
            parts = self._tallies[subject].parts
            return self.windows.longest(parts), max(parts, default=0)

        others = (subject for subject in self._tallies if subject != EVERYTHING)
        for subject in heapq.nsmallest(max(1, self._max_subjects // LEAVING), others, key=activity):
            self._drop(subject)

    def _drop(self, subject: str) -> None:
        del self._tallies[subject]
        self._touched.discard(subject)
        self._gone.add(subject)

    # Saying what changed

    def flush(self) -> Flush | None:
        """What changed since the last one, None when nothing did. What it names is not named again."""
        if (self.position, self._now) == self._flushed:
            return None
        touched, self._touched = self._touched, set()
        gone, self._gone = self._gone - self._tallies.keys(), set()
        changed = {subject for subject in touched | self._crossing() if self._recount(subject)} | touched
        for subject in gone:
            self._settle(subject, None)
        emptied = {subject for subject in changed if not any(self._sums.get(subject, ()))}
        for subject in emptied:
            self._tallies.pop(subject, None)
            self._sums.pop(subject, None)
        changed |= gone | self._rerank()
        self._flushed = (self.position, self._now)
        kept = {subject: self._kept(subject) for subject in (touched | gone | emptied) - {EVERYTHING}}
        kept[EVERYTHING] = self._kept(EVERYTHING)  # last: it says that all the others are there
        said = {s.removeprefix(ITEM): self.trend(s) for s in changed if s.startswith(ITEM)}
        return Flush(self.partition, self.position, said, kept)

    def _crossing(self) -> set[str]:
        """Subjects that hold something in a window whose newest part is another than at the last flush."""
        moved = [at for at, (new, old) in enumerate(zip(self._now, self._flushed[1], strict=True)) if new != old]
        return {subject for at in moved for subject, sums in self._sums.items() if sums[2 * at] or sums[2 * at + 1]}

    def _recount(self, subject: str) -> bool:
        """Whether a subject's sums are others than before."""
        tally = self._tallies.get(subject)
        sums = None if tally is None else self.windows.sums(tally.parts, self._now)
        if sums == self._sums.get(subject):
            return False
        self._settle(subject, sums)
        return True

    def _settle(self, subject: str, sums: Sums | None) -> None:
        if sums is None:
            self._sums.pop(subject, None)
        else:
            self._sums[subject] = sums
        if not subject.startswith(ITEM):
            return
        for at, rising in enumerate(self._rising):
            faster = 0.0 if sums is None else acceleration(sums[2 * at], sums[2 * at + 1])
            if faster > 0.0:
                rising[subject] = faster
            else:
                rising.pop(subject, None)

    def _rerank(self) -> set[str]:
        """Items whose rank in any window is another than before."""
        moved: set[str] = set()
        for at, rising in enumerate(self._rising):
            first = heapq.nsmallest(RANKED, rising.items(), key=lambda pair: (-pair[1], pair[0]))
            ranks = {subject: rank for rank, (subject, _) in enumerate(first, start=1)}
            moved |= {subject for subject, _ in ranks.items() ^ self._ranks[at].items()}
            self._ranks[at] = ranks
        return moved

    def trend(self, subject: str) -> Trend | None:
        """What the last flush says of a subject; None when no window holds anything of it."""
        sums = self._sums.get(subject)
        if sums is None or not any(sums[::2]):
            return None
        return Trend(
            item_id=subject[len(ITEM) :],
            partition=self.partition,
            ts=self.clock,
            windows=tuple(
                WindowTrend(
                    window_s=length_s,
                    count=sums[2 * at],
                    before=sums[2 * at + 1],
                    rate=rate_per_hour(sums[2 * at], length_s),
                    acceleration=acceleration(sums[2 * at], sums[2 * at + 1]),
                    rank=self._ranks[at].get(subject),
                )
                for at, length_s in enumerate(self.windows.lengths_s)
            ),
        )

    def sums(self, subject: str) -> Sums:
        """Count and before of each window at the last flush."""
        return self._sums.get(subject, (0,) * (2 * len(self._now)))

    def top(self, kind: str, at: int, k: int) -> list[str]:
        """The subjects of a kind that window number `at` held most of at the last flush."""
        held = ((subject, sums[2 * at]) for subject, sums in self._sums.items() if subject.startswith(kind))
        first = heapq.nsmallest(k, held, key=lambda pair: (-pair[1], pair[0]))
        return [subject for subject, count in first if count]

    def rising(self, at: int) -> list[str]:
        """The items that window number `at` ranks, fastest first."""
        return list(self._ranks[at])

    # Keeping

    def _kept(self, subject: str) -> bytes | None:
        tally = self._tallies.get(subject)
        if tally is None and subject != EVERYTHING:
            return None
        return _encode(SubjectState(self.position, self.clock, {} if tally is None else tally.parts))

    def restore(self, kept: Iterable[tuple[str, bytes]]) -> None:
        """Take up where a table stands; only for counts that have taken nothing yet.

        Nothing is said again by that: what a table keeps was said before it was kept.
        """
        for subject, value in kept:
            found = _decode(value)
            self._tallies[subject] = SubjectCounts(dict(found.parts), found.up_to)
            self.clock = max(self.clock, found.clock)
            if subject == EVERYTHING:
                self.position = found.up_to
        self._now = self.windows.now(self.clock)
        for subject in self._tallies:
            self._recount(subject)
        self._rerank()
        self._flushed = (self.position, self._now)
