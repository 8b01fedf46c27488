"""The slates that wait for what comes of them, and when their time is up.

Every slate falls due when the clock of its partition, which is the newest time in its log, has passed the window and a
little more for events that come late. Slates are due by the minute, and each minute keeps a list of its users, so that
no slate is forgotten whose user never comes back.

Due lists and clock are handed over with the partition, so that a new owner closes what is due at the same place of the
log. Knows nothing of stores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import msgspec

from streamrec.engine.ads.accounts import Due
from streamrec.engine.arrays.logged_event import LoggedEvent
from streamrec.engine.attribution.attribution import AttributionRules, Closed, OpenSlate, ServedSlate, closed
from streamrec.engine.partition_tables import NOTHING_LEFT, Changes, ListedPart, ListedTable, Load, Name, WriteBackTable
from streamrec.events import Event, Slate

MINUTE_MS = 60_000
AT_ONCE = 0
"""The minute of slates that make room for newer ones."""
LATEST = "slate"
"""What the store calls the latest slate of a user."""
LOADED_TOGETHER = 512

Charge = Callable[[int, Due], None]
"""Charges an ad for a click in a partition."""

Enough = Callable[[], bool]
"""Whether as much has ended with an event as may travel with it."""
LoadSlates = Callable[[Sequence[Name]], Sequence[bytes | None]]
"""Fetches the stored slates of users that are not in memory."""


@dataclass(frozen=True, slots=True)
class OpenSlateLimits:
    """How many slates may wait."""

    users: int
    """In memory; others lie in the store, those asked for longest ago first."""
    per_user: int
    slates: int


@dataclass(slots=True)
class _PartitionSlates(ListedPart[int, dict[str, None]]):
    """One partition's clock, and the users whose slates fall due in each minute."""

    clock_ms: int = 0
    count: int = 0  # slates that wait
    learned: bool = False  # the models have learned what comes next here already
    looked_at: int = -1  # the minute of the clock at which it was last seen what is due


class _DueSlates(ListedTable[_PartitionSlates]):
    kind = "due"
    listing = "minutes"
    beside = ("clock_ms", "count")

    def _packed(self, entry: dict[str, None]) -> bytes:
        return _ENCODER.encode(list(entry))

    def _unpacked(self, value: bytes) -> dict[str, None]:
        return dict.fromkeys(msgspec.msgpack.decode(value, type=list[str]))


class OpenSlates(WriteBackTable[list[OpenSlate]]):
    """Open slates of the partitions held, by user."""

    kind = "open"

    def __init__(
        self,
        rules: AttributionRules,
        lateness_ms: int,
        room: OpenSlateLimits,
        charge: Charge = lambda partition, due: None,
    ) -> None:
        """`charge` is told what clicks on ads cost."""
        super().__init__(room.users)
        self.rules = rules
        self.room = room
        self.early = 0  # closed before their time to make room
        self.unseen = 0  # closed without anybody having seen them
        self.late = 0  # events that named a slate which is not open
        self._charge = charge
        self._wait_ms = rules.window_ms + lateness_ms
        self._due = _DueSlates(_PartitionSlates)
        self._latest: dict[int, Changes] = {}  # by partition

    # In and out of memory

    @property
    def waiting(self) -> int:
        """Slates that wait, in memory or not."""
        return sum(held.count for held in self._due.partitions.values())

    def key(self, event: Event) -> str | None:
        return event.user_id

    def take_over(self, partition: int, load: Load) -> None:
        self._due.take_over(partition, load)

    def touch(self, name: Name) -> list[OpenSlate]:
        self._due.held(name[0]).listed = False  # the clock has moved on
        return super().touch(name)

    def take_changes(self, partition: int) -> Changes:
        changes = super().take_changes(partition)
        return changes | self._latest.pop(partition, {}) | self._due.take_changes(partition)

    def drop(self, partitions: Iterable[int]) -> None:
        leaving = list(partitions)
        super().drop(leaving)
        self._due.drop(leaving)
        for partition in leaving:
            self._latest.pop(partition, None)

    def _packed(self, name: str, entry: list[OpenSlate]) -> bytes:
        return _ENCODER.encode(entry) if entry else NOTHING_LEFT

    def _unpacked(self, value: bytes | None, ts: int) -> list[OpenSlate]:
        return stored_slates(value) if value else []

    def list_anew(self, partition: int, stored: Iterable[tuple[str, bytes]]) -> None:
        """Say when the stored slates of a partition that was taken over are due, forgetting what was said before.

        Its users may have come from elsewhere. A partition without a clock goes by the earliest of the others': the
        first event that comes sets it.
        """
        held = self._due.held(partition)
        clocks = [other.clock_ms for other in self._due.partitions.values() if other.clock_ms]
        held.clock_ms = held.clock_ms or min(clocks, default=0)
        held.changed.update(dict.fromkeys(held.entries))
        held.entries.clear()
        held.count, held.listed = 0, False
        for user_id, value in stored:
            waiting = stored_slates(value)
            held.count += len(waiting)
            for one in waiting:
                self._list(held, self._minute(one.ts), user_id)
            if len(waiting) > self.room.per_user:
                self._list(held, AT_ONCE, user_id)

    # What happens

    def shown(self, partition: int, slate: Slate, served: ServedSlate) -> None:
        """A slate was published and waits from now on."""
        self._latest.setdefault(partition, {})[LATEST, slate.user_id] = _ENCODER.encode(slate)
        self._entries.setdefault((partition, slate.user_id), [])
        waiting = self.touch((partition, slate.user_id))
        if not slate.items:
            return
        waiting.append(OpenSlate.of(slate, served))
        held = self._due.held(partition)
        held.count += 1
        self._list(held, self._minute(slate.ts), slate.user_id)
        if len(waiting) > self.room.per_user:
            self._list(held, AT_ONCE, slate.user_id)

    def credit(self, logged: LoggedEvent) -> bool:
        """Count the event for the slate it concerns, the newest of several; False when there is none."""
        event = logged.event
        if event.item_id is None:
            return False
        for waiting in reversed(self._entries.get((logged.partition, event.user_id), ())):
            if waiting.concerned(event, self.rules):
                due = waiting.charge(event)
                if due is not None:
                    self._charge(logged.partition, due)
                credited = waiting.credit(event, self.rules)
                if credited or due is not None:
                    self.touch((logged.partition, event.user_id))
                return credited
        self.late += event.rec_id is not None
        return False

    def tick(self, partition: int, now_ms: int, learned: bool) -> None:
        """The log has come to this time. `learned`: the models know already what comes of it."""
        held = self._due.held(partition)
        held.clock_ms = max(held.clock_ms, now_ms)
        held.learned = learned

    def close(self, load: LoadSlates) -> Iterator[tuple[Closed, bool]]:
        """Everything whose time is up, in the order of minutes, and whether the models have learned it already."""
        partitions = self._due.partitions
        for number in sorted(partitions):
            held = partitions[number]
            for minute in sorted(minute for minute in held.entries if (minute + 1) * MINUTE_MS <= held.clock_ms):
                yield from self._close_minute(number, held, minute, load)
        while self.waiting > self.room.slates:
            number = min(partitions, key=lambda number: min(partitions[number].entries, default=1 << 60))
            held = partitions[number]
            before = held.count
            yield from self._close_minute(number, held, min(held.entries), load)
            self.early += before - held.count

    def ended(self, partition: int, load: LoadSlates, enough: Enough) -> Iterator[Closed]:
        """Everything of one partition whose time is up now, at this very event, whatever comes together with it.

        Where there are too many, the oldest have no more time: a partition has its even share of the slates that wait.
        `enough` is asked before each user: what is left then ends with the next event.
        """
        held = self._due.held(partition)
        minute = held.clock_ms // MINUTE_MS
        most = self.room.slates // max(1, len(self._due.partitions))
        if minute == held.looked_at and AT_ONCE not in held.entries and held.count <= most:
            return
        held.looked_at = minute
        for due in sorted(due for due in held.entries if due < minute):
            for came, _ in self._close_minute(partition, held, due, load, enough):
                yield came
        before = held.count
        while held.count > most and not enough():
            for came, _ in self._close_minute(partition, held, min(held.entries), load, enough):
                yield came
        self.early += before - held.count
        if enough():
            held.looked_at = -1

    def _close_minute(
        self,
        number: int,
        held: _PartitionSlates,
        minute: int,
        load: LoadSlates,
        enough: Enough = lambda: False,
    ) -> Iterator[tuple[Closed, bool]]:
        names = list(held.entries.pop(minute))
        held.changed[minute] = None
        held.listed = False
        for start in range(0, len(names), LOADED_TOGETHER):
            users = [(number, name) for name in names[start : start + LOADED_TOGETHER]]
            lacking = [user for user in users if user not in self._entries]
            if lacking:
                for user, value in zip(lacking, load(lacking), strict=True):
                    self._entries[user] = self._unpacked(value, held.clock_ms)
            for at, user in enumerate(users, start):
                if enough():
                    held.entries[minute] = dict.fromkeys(names[at:])
                    self._make_room(0)
                    return
                for waiting in self._leaving(user, minute):
                    held.count -= 1
                    came = closed(waiting, self.rules)
                    self.unseen += came.slate_feedback is None
                    yield came, held.learned
            self._make_room(0)

    def _leaving(self, user: Name, minute: int) -> list[OpenSlate]:
        """The slates of a user that close with this minute; the others stay."""
        waiting = self._entries[user]
        if minute == AT_ONCE:
            surplus = max(len(waiting) - self.room.per_user, 0)
            self.early += surplus
            leaving = waiting[:surplus]
        else:
            leaving = [one for one in waiting if self._minute(one.ts) <= minute]
        if leaving:
            gone = {one.rec_id for one in leaving}
            self._entries[user] = [one for one in waiting if one.rec_id not in gone]
            self.touch(user)
        return leaving

    def _minute(self, shown_ts: int) -> int:
        return max((shown_ts + self._wait_ms) // MINUTE_MS, AT_ONCE + 1)

    def _list(self, held: _PartitionSlates, minute: int, user_id: str) -> None:
        held.entries.setdefault(minute, {})[user_id] = None
        held.changed[minute] = None
        held.listed = False


def stored_slates(value: bytes) -> list[OpenSlate]:
    """A user's open slates as they were stored."""
    return _OPEN.decode(value)


def merged_slates(one: bytes, other: bytes) -> bytes:
    """Two stored lists of one user's open slates as one, the oldest first."""
    return _ENCODER.encode(sorted([*stored_slates(one), *stored_slates(other)], key=lambda slate: slate.ts))


_ENCODER = msgspec.msgpack.Encoder()
_OPEN = msgspec.msgpack.Decoder(list[OpenSlate])
