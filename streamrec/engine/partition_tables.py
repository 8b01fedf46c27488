"""What a partition remembers: tables that are loaded, changed, saved by the checkpoint and dropped with the partition.

There are two ways. A write-back table loads an entry when it is met and lets it go when room is needed, the longest
idle first; what was asked for last, or changed and is not saved yet, never makes room. A listed table is loaded whole
when its partition is taken over: a directory, stored beside the entries, names them.

Knows nothing of stores: a table says what it lacks, takes stored bytes, and hands over the bytes of what changed.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, ClassVar, Generic, TypeVar

import msgspec

from streamrec.events import Event

DIRECTORY = ""
"""The name that a listed table's directory is stored under, among its entries."""
NOTHING_LEFT = b""
"""Hands over that a value is no more."""

Name = tuple[int, str]
"""Partition, and what an entry is called in it: a user's id, an item's."""
Load = Callable[[str, Sequence[str]], Sequence[bytes | None]]
"""Fetches one partition's stored values of a kind, by name."""
Changes = dict[tuple[str, str], bytes]
"""Stored form by kind and name; NOTHING_LEFT where there is nothing any more."""


class PartitionTable(ABC):
    """What checkpoints and steps ask of every table. Unless a table says otherwise, all that it has is in memory."""

    kind: ClassVar[str]
    """What the store calls its entries."""
    capacity = sys.maxsize
    """So many entries can be asked for together."""

    @property
    @abstractmethod
    def changed(self) -> int:
        """Entries that changed since they were last handed over."""

    def take_over(self, partition: int, load: Load) -> None:  # noqa: B027
        """Become the owner of a partition."""

    def key(self, event: Event) -> str | None:
        """The name of the entry that must be in memory before this event is handled; None for none."""
        return None

    def missing(self, names: Iterable[Name]) -> list[Name]:
        """Those that are not in memory, each once, in order. All that were asked for stay until the next time."""
        return []

    def crowded(self, wanted: int) -> bool:
        """True when room for so many could only be made by losing changes: hand them over first."""
        return False

    def admit(self, names: Sequence[Name], values: Sequence[bytes | None], ts: int) -> None:  # noqa: B027
        """Take those that `missing` named, with what the store kept of them; it is `ts` in the log, ms."""

    @abstractmethod
    def take_changes(self, partition: int) -> Changes:
        """What changed in a partition since the last time."""

    @abstractmethod
    def drop(self, partitions: Iterable[int]) -> None:
        """Forget partitions that belong to another worker now, changed or not."""


Entry = TypeVar("Entry")


class WriteBackTable(PartitionTable, Generic[Entry]):
    """At most `capacity` entries in memory; the others lie in the store."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._entries: OrderedDict[Name, Entry] = OrderedDict()  # those asked for longest ago first
        self._changed: dict[int, dict[str, None]] = {}  # by partition
        self._wanted: dict[Name, None] = {}  # asked for last: these must not make room for one another

    def __len__(self) -> int:
        return len(self._entries)

    @abstractmethod
    def _unpacked(self, value: bytes | None, ts: int) -> Entry:
        """An entry as it was stored, or a new one."""

    @abstractmethod
    def _packed(self, name: str, entry: Entry) -> bytes:
        """The inverse of `_unpacked`."""

    @property
    def changed(self) -> int:
        return sum(map(len, self._changed.values()))

    def missing(self, names: Iterable[Name]) -> list[Name]:
        self._wanted = dict.fromkeys(names)
        lacking = []
        for name in self._wanted:
            if name in self._entries:
                self._entries.move_to_end(name)
            else:
                lacking.append(name)
        return lacking

    def crowded(self, wanted: int) -> bool:
        return self.changed + wanted > self.capacity

    def admit(self, names: Sequence[Name], values: Sequence[bytes | None], ts: int) -> None:
        self._make_room(len(names))
        for name, value in zip(names, values, strict=True):
            self._entries[name] = self._unpacked(value, ts)

    def touch(self, name: Name) -> Entry:
        """An entry in memory that is about to change."""
        self._changed.setdefault(name[0], {})[name[1]] = None
        return self._entries[name]

    def take_changes(self, partition: int) -> Changes:
        changed = self._changed.pop(partition, {})
        return {(self.kind, name): self._packed(name, self._entries[partition, name]) for name in changed}

    def drop(self, partitions: Iterable[int]) -> None:
        leaving = set(partitions)
        self._release([name for name in self._entries if name[0] in leaving])
        for partition in leaving:
            self._changed.pop(partition, None)

    def _make_room(self, newcomers: int) -> None:
        short = len(self._entries) + newcomers - self.capacity
        if short > 0:
            idle = (
                name
                for name in self._entries
                if name not in self._wanted and name[1] not in self._changed.get(name[0], {})
            )
            self._release(list(islice(idle, max(short, self.capacity // 64))))

    def _release(self, names: Sequence[Name]) -> list[Entry]:
        """Let go of entries that are not to be saved."""
        return [self._entries.pop(name) for name in names]


Key = TypeVar("Key")


@dataclass(slots=True)
class ListedPart(Generic[Key, Entry]):
    """One partition's entries. A subclass adds what its directory says beside their keys."""

    entries: dict[Key, Entry] = field(default_factory=dict)
    changed: dict[Key, None] = field(default_factory=dict)
    listed: bool = True  # the stored directory says what there is


Part = TypeVar("Part", bound=ListedPart[Any, Any])


class ListedTable(PartitionTable, Generic[Part]):
    """Everything of the partitions held is in memory."""

    listing: ClassVar[str]
    """What the directory calls its list of keys."""
    beside: ClassVar[Sequence[str]]
    """The fields of a partition that stand in its directory."""

    def __init__(self, new: Callable[[], Part]) -> None:
        self.partitions: dict[int, Part] = {}
        self._new = new

    @abstractmethod
    def _unpacked(self, value: bytes) -> Any:
        """An entry as it was stored."""

    @abstractmethod
    def _packed(self, entry: Any) -> bytes:
        """The inverse of `_unpacked`."""

    @property
    def changed(self) -> int:
        return sum(len(held.changed) for held in self.partitions.values())

    def take_over(self, partition: int, load: Load) -> None:
        [directory] = load(self.kind, [DIRECTORY])
        known: dict[str, Any] = msgspec.msgpack.decode(directory) if directory else {}
        held = self.partitions[partition] = self._new()
        for name in self.beside:
            setattr(held, name, known.get(name, getattr(held, name)))
        keys = known.get(self.listing, ())
        for key, value in zip(keys, load(self.kind, [str(key) for key in keys]), strict=True):
            if value:
                held.entries[key] = self._unpacked(value)

    def take_changes(self, partition: int) -> Changes:
        held = self.held(partition)
        entries = held.entries
        changes = {
            (self.kind, str(key)): self._packed(entries[key]) if key in entries else NOTHING_LEFT
            for key in held.changed
        }
        if not held.listed:
            beside = {name: getattr(held, name) for name in self.beside}
            changes[self.kind, DIRECTORY] = msgspec.msgpack.encode({**beside, self.listing: list(entries)})
        held.changed.clear()
        held.listed = True
        return changes

    def drop(self, partitions: Iterable[int]) -> None:
        for partition in partitions:
            self.partitions.pop(partition, None)

    def held(self, partition: int) -> Part:
        """What is known of a partition: nothing, if it was not taken over."""
        if partition not in self.partitions:
            self.partitions[partition] = self._new()
        return self.partitions[partition]
