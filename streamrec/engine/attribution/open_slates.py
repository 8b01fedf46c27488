"""The slates that wait for what comes of them, and when their time is up.

Every slate falls due when the clock of its partition, which is the newest time in its log, has passed the window and a
little more for events that come late. Slates are due by the minute, and each minute keeps a list of its users, so that
nobody is forgotten who never comes back.

Works like the user table: it says of whom it lacks the slates, takes stored bytes, and hands over what changed. Due
lists and clock are handed over with the partition, so that a new owner closes what is due at the same place of the log.
Knows nothing of stores.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from streamrec.engine.ads.accounts import Due
from streamrec.engine.arrays.logged_event import LoggedEvent
from streamrec.engine.attribution.attribution import AttributionRules, Closed, OpenSlate, ServedSlate, closed
from streamrec.events import Slate

MINUTE_MS = 60_000
AT_ONCE = 0
"""The minute of slates that make room for newer ones."""
DIRECTORY = ""
"""The name of a partition's clock and list of minutes, among its minutes."""
NOTHING_LEFT = b""
"""Hands over that a value is no more."""
LOADED_TOGETHER = 512

Charge = Callable[[int, Due], None]
"""Charges an ad for a click in a partition."""

User = tuple[int, str]
Load = Callable[[Sequence[User]], Sequence[bytes | None]]
"""Fetches the stored slates of users that are not in memory."""


@dataclass(frozen=True, slots=True)
class OpenSlateLimits:
    """How many slates may wait."""

    users: int
    """In memory; others lie in the store, those asked for longest ago first."""
    per_user: int
    slates: int


@dataclass(slots=True)
class _PartitionSlates:
    """One partition's clock, and the users whose slates fall due in each minute."""

    clock_ms: int = 0
    count: int = 0  # slates that wait
    minutes: dict[int, dict[str, None]] = field(default_factory=dict)
    changed: set[int] = field(default_factory=set)
    learned: bool = False  # the models have learned what comes next here already


@dataclass(frozen=True, slots=True)
class SlateChanges:
    """What is new in a partition, by name; NOTHING_LEFT where there is nothing any more."""

    open: Mapping[str, bytes]
    latest: Mapping[str, bytes]
    due: Mapping[str, bytes]


class OpenSlates:
    """Open slates of the partitions held."""

    def __init__(
        self,
        rules: AttributionRules,
        lateness_ms: int,
        room: OpenSlateLimits,
        charge: Charge = lambda partition, due: None,
    ) -> None:
        """`charge` is told what clicks on ads cost."""
        self.rules = rules
        self.room = room
        self.early = 0  # closed before their time to make room
        self.unseen = 0  # closed without anybody having seen them
        self.late = 0  # events that named a slate which is not open
        self._charge = charge
        self._wait_ms = rules.window_ms + lateness_ms
        self._slates: OrderedDict[User, list[OpenSlate]] = OrderedDict()
        self._changed: dict[User, None] = {}
        self._latest: dict[User, bytes] = {}
        self._partitions: dict[int, _PartitionSlates] = {}
        self._wanted: set[User] = set()  # asked for last: these do not make room for others

    # In and out of memory

    @property
    def changed(self) -> int:
        """Users whose slates changed since they were last handed over."""
        return len(self._changed)

    @property
    def waiting(self) -> int:
        """Slates that wait, in memory or not."""
        return sum(partition.count for partition in self._partitions.values())

    def missing(self, users: Iterable[User]) -> list[User]:
        """Those whose slates are not in memory, each once, in order. All asked for stay until the next time."""
        wanted = dict.fromkeys(users)
        self._wanted = set(wanted)
        for user in wanted:
            if user in self._slates:
                self._slates.move_to_end(user)
        return [user for user in wanted if user not in self._slates]

    def admit(self, users: Sequence[User], values: Sequence[bytes | None]) -> None:
        """Take stored slates, as `take_changes` gave them; None for a user without any."""
        for user, value in zip(users, values, strict=True):
            self._slates[user] = _OPEN.decode(value) if value else []
        self._make_room()

    def crowded(self, wanted: int) -> bool:
        """True when room for so many could only be made by losing slates not yet stored: hand them over first."""
        return len(self._changed) + wanted > self.room.users

    def take_over(self, partition: int, directory: bytes | None) -> list[str]:
        """Become the owner of a partition; returns the names of its minutes, for `fill`."""
        known: dict[str, Any] = msgspec.msgpack.decode(directory) if directory else {}
        self._partitions[partition] = _PartitionSlates(known.get("clock_ms", 0), known.get("count", 0))
        return [str(minute) for minute in known.get("minutes", ())]

    def fill(self, partition: int, names: Sequence[str], values: Sequence[bytes | None]) -> None:
        """Take the stored users of each minute."""
        for name, value in zip(names, values, strict=True):
            users = msgspec.msgpack.decode(value, type=list[str]) if value else []
            self._partitions[partition].minutes[int(name)] = dict.fromkeys(users)

    def take_changes(self, partition: int) -> SlateChanges:
        """What is new in a partition since the last time."""
        users = [user for user in self._changed if user[0] == partition]
        for user in users:
            del self._changed[user]
        fresh = [user for user in self._latest if user[0] == partition]
        held = self._partitions.get(partition, _PartitionSlates())
        due = {str(minute): self._encoded_minute(held, minute) for minute in sorted(held.changed)}
        held.changed.clear()
        if users or due:
            directory = {"clock_ms": held.clock_ms, "count": held.count, "minutes": list(held.minutes)}
            due[DIRECTORY] = _ENCODER.encode(directory)
        return SlateChanges(
            open={
                user[1]: _ENCODER.encode(self._slates[user]) if self._slates[user] else NOTHING_LEFT for user in users
            },
            latest={user[1]: self._latest.pop(user) for user in fresh},
            due=due,
        )

    def drop(self, partitions: Sequence[int]) -> None:
        """Forget partitions that belong to somebody else now."""
        leaving = set(partitions)
        for user in [user for user in self._slates if user[0] in leaving]:
            del self._slates[user]
            self._changed.pop(user, None)
        for user in [user for user in self._latest if user[0] in leaving]:
            del self._latest[user]
        for partition in leaving:
            self._partitions.pop(partition, None)

    # What happens

    def shown(self, partition: int, slate: Slate, served: ServedSlate) -> None:
        """A slate was published and waits from now on."""
        user = partition, slate.user_id
        self._latest[user] = _ENCODER.encode(slate)
        self._changed[user] = None
        if not slate.items:
            return
        waiting = self._slates.setdefault(user, [])
        waiting.append(OpenSlate.of(slate, served))
        held = self._held(partition)
        held.count += 1
        self._list(held, self._minute(slate.ts), slate.user_id)
        if len(waiting) > self.room.per_user:
            self._list(held, AT_ONCE, slate.user_id)

    def credit(self, logged: LoggedEvent) -> bool:
        """Count the event for the slate it concerns, the newest of several; False when there is none."""
        event = logged.event
        if event.item_id is None:
            return False
        for waiting in reversed(self._slates.get((logged.partition, event.user_id), ())):
            if waiting.concerned(event, self.rules):
                due = waiting.charge(event)
                if due is not None:
                    self._charge(logged.partition, due)
                credited = waiting.credit(event, self.rules)
                if credited or due is not None:
                    self._changed[logged.partition, event.user_id] = None
                return credited
        self.late += event.rec_id is not None
        return False

    def tick(self, partition: int, now_ms: int, learned: bool) -> None:
        """The log has come to this time. `learned`: the models know already what comes of it."""
        held = self._held(partition)
        held.clock_ms = max(held.clock_ms, now_ms)
        held.learned = learned

    def close(self, load: Load) -> Iterator[tuple[Closed, bool]]:
        """Everything whose time is up, in the order of minutes, and whether the models have learned it already."""
        for number in sorted(self._partitions):
            held = self._partitions[number]
            for minute in sorted(minute for minute in held.minutes if (minute + 1) * MINUTE_MS <= held.clock_ms):
                yield from self._close_minute(number, held, minute, load)
        while self.waiting > self.room.slates:
            number = min(self._partitions, key=lambda number: min(self._partitions[number].minutes, default=1 << 60))
            held = self._partitions[number]
            before = held.count
            yield from self._close_minute(number, held, min(held.minutes), load)
            self.early += before - held.count

    def _close_minute(
        self, number: int, held: _PartitionSlates, minute: int, load: Load
    ) -> Iterator[tuple[Closed, bool]]:
        names = list(held.minutes.pop(minute))
        held.changed.add(minute)
        for start in range(0, len(names), LOADED_TOGETHER):
            users = [(number, name) for name in names[start : start + LOADED_TOGETHER]]
            lacking = [user for user in users if user not in self._slates]
            if lacking:
                for user, value in zip(lacking, load(lacking), strict=True):
                    self._slates[user] = _OPEN.decode(value) if value else []
            for user in users:
                for waiting in self._leaving(user, minute):
                    held.count -= 1
                    came = closed(waiting, self.rules)
                    self.unseen += came.slate_feedback is None
                    yield came, held.learned
            self._make_room()

    def _leaving(self, user: User, minute: int) -> list[OpenSlate]:
        """The slates of a user that close with this minute; the others stay."""
        waiting = self._slates[user]
        if minute == AT_ONCE:
            surplus = max(len(waiting) - self.room.per_user, 0)
            self.early += surplus
            leaving = waiting[:surplus]
        else:
            leaving = [one for one in waiting if self._minute(one.ts) <= minute]
        if leaving:
            gone = {one.rec_id for one in leaving}
            self._slates[user] = [one for one in waiting if one.rec_id not in gone]
            self._changed[user] = None
        return leaving

    def _minute(self, shown_ts: int) -> int:
        return max((shown_ts + self._wait_ms) // MINUTE_MS, AT_ONCE + 1)

    def _held(self, partition: int) -> _PartitionSlates:
        return self._partitions.setdefault(partition, _PartitionSlates())

    def _list(self, held: _PartitionSlates, minute: int, user_id: str) -> None:
        held.minutes.setdefault(minute, {})[user_id] = None
        held.changed.add(minute)

    def _encoded_minute(self, held: _PartitionSlates, minute: int) -> bytes:
        users = held.minutes.get(minute)
        return _ENCODER.encode(list(users)) if users else NOTHING_LEFT

    def _make_room(self) -> None:
        """Those asked for longest ago leave memory, but never what is not stored yet."""
        surplus = len(self._slates) - self.room.users
        if surplus <= 0:
            return
        idle = [user for user in self._slates if user not in self._changed and user not in self._wanted]
        for user in idle[: max(surplus, self.room.users // 64)]:
            del self._slates[user]


_ENCODER = msgspec.msgpack.Encoder()
_OPEN = msgspec.msgpack.Decoder(list[OpenSlate])
