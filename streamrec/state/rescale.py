"""Moves users between partitions, so that each is where the events of that user come now.

    seal > count > put aside what is elsewhere > put it into place > list anew what is due > count again > unseal

What belongs to a user moves: the user, the latest slate, the open slates and when they are due. Counts of items stay
where they are, and what was spent on ads is shared out over all partitions, as budgets are. A value goes in two steps:
into its new partition under a name that says where it was, then, in one checkpoint, into its place. So each step may be
taken again, whatever died: a run that is cut short leaves the partitions sealed, and the next one goes on.

Knows nothing of Kafka, nor of how keys are spread: `home` says where a user belongs.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import msgspec

from streamrec.engine.ads.accounts import shared_out
from streamrec.engine.attribution.open_slates import OpenSlates
from streamrec.errors import StateError
from streamrec.state import MOVING, Checkpoint, Key, Kind, PartitionMark, Store
from streamrec.state.merging import merged
from streamrec.state.totals import Totals, chunks, totals

OF_USERS = frozenset({Kind.USER, Kind.SLATE, Kind.OPEN})
BEFORE, SHARED, COUNTED = "before", "shared", "counted"
"""What is recorded beside MOVING: what there was before; that the parts of all accounts are put aside; that what there
was is there still."""
NOWHERE = -1
"""Where a part of all partitions' accounts comes from."""
MERGED = b"merged"
"""Stands in the place of a value under way once it is part of another; removed when all has been counted."""
SEPARATOR = ":"

Home = Callable[[str], int]
"""The partition that a user's events come on."""


@dataclass(frozen=True, slots=True)
class Survey:
    """Where users are: how many on their own partition, and how many on another."""

    at_home: int = 0
    elsewhere: int = 0
    astray: int = 0
    """Of those elsewhere, how many are not where the former number of partitions puts them either."""


def survey(store: Store, home: Home, former_home: Home) -> Survey:
    """Look, and change nothing."""
    count: Counter[str] = Counter()
    for chunk in chunks(store.scan()):
        for key in chunk:
            if key.kind is Kind.USER:
                count["elsewhere" if home(key.name) != key.partition else "at_home"] += 1
                count["astray"] += key.partition not in (home(key.name), former_home(key.name))
    return Survey(**count)


@dataclass(slots=True)
class Rescale:
    """One run. `starts` is where the log of each partition begins, for those that have no position yet.

    `anew` is where all of them go on in another topic, and the name of the models' snapshot that stands for that.
    """

    store: Store
    home: Home
    starts: Mapping[int, int]
    anew: tuple[Mapping[int, int], str | None] | None = None
    marks: dict[int, PartitionMark] = field(default_factory=dict)
    moved: Counter[Kind] = field(default_factory=Counter)
    merged: Counter[Kind] = field(default_factory=Counter)
    """Of those: where there was something of the same name already."""

    def run(self, topic: Mapping[str, str], open_slates: OpenSlates) -> Totals:
        """Move everything that is not in its place, and leave the partitions for workers to begin.

        Args:
            topic: which topic it is, and how many partitions it has now, to be recorded.
            open_slates: of this configuration; nothing in it.

        Raises:
            StateError: a warm-up, or a move to another number of partitions, was cut short; or what was counted
                before is not what is there now: then the partitions stay sealed.
            StaleEpoch: somebody else does the same.
        """
        known = self._begin(topic["partitions"])
        self._put_aside()
        self._put_into_place()
        self._list_anew(open_slates)
        if SHARED not in known and known.get("partitions") != topic["partitions"]:
            self._put_parts_aside()
            known[SHARED] = "yes"
            self.store.record_topic(known)
        self._put_parts_into_place()
        found = self._totals()
        before = msgspec.json.decode(known[BEFORE], type=Totals)
        if COUNTED not in known and found != before:
            self.store.record_topic({name: word for name, word in known.items() if name != BEFORE})
            raise StateError(
                f"there were {before}; now there are {found}. Something was lost, or somebody else wrote: the "
                "partitions stay sealed. Bring a copy of the store back, or run the same command again to go on with "
                "what is there"
            )
        self.store.record_topic({**known, COUNTED: "yes"})
        self._clear_merged()
        for partition in self.marks:
            if self.anew is None:
                self.store.unseal(partition, self._watermark(partition), self._snapshot(partition))
            else:
                positions, snapshot = self.anew
                self.store.unseal(partition, positions.get(partition), snapshot if partition in positions else None)
        self.store.record_topic(topic)
        return found

    def _begin(self, partitions: str) -> dict[str, str]:
        known = self.store.known_topic({})
        marks = self.store.marks()
        if MOVING not in known and any(mark.sealed for mark in marks.values()):
            raise StateError("a warm-up was cut short: finish it with `streamrec warmup` before anything is moved")
        if known.get(MOVING, partitions) != partitions:
            raise StateError(f"a move to {known[MOVING]} partitions was cut short: finish that first")
        known[MOVING] = partitions
        self.store.record_topic(known)
        self.store.seal({*marks, *self.starts}, keep=True)
        self.marks = {partition: self.store.open(partition) for partition in sorted({*marks, *self.starts})}
        if BEFORE not in known:
            known[BEFORE] = msgspec.json.encode(self._totals()).decode()
            self.store.record_topic(known)
        return known

    def _totals(self) -> Totals:
        return totals(self.store, merged=lambda name: _origin(name).kind)

    def _put_aside(self) -> None:
        for chunk in chunks(self.store.scan()):
            movers = [key for key in chunk if key.kind in OF_USERS and self.home(key.name) != key.partition]
            values = zip(movers, self.store.load(movers), strict=True)
            there = {key: value for key, value in values if value is not None}
            self._write({_under_way(key, self.home(key.name)): value for key, value in there.items()})
            self._write(dict.fromkeys(there, b""))
            self.moved.update(key.kind for key in there)

    def _put_into_place(self) -> None:
        for chunk in chunks(key for key in self.store.scan() if key.kind is Kind.MOVED):
            places = {key: place for key in chunk if (place := _place(key)).kind is not Kind.ACCOUNT}
            wanted = list(dict.fromkeys(places.values()))
            there = dict(zip(wanted, self.store.load(wanted), strict=True))
            writes: dict[Key, bytes] = {}
            for key, value in zip(places, self.store.load(list(places)), strict=True):
                if value is None or value == MERGED:
                    continue
                place = places[key]
                occupied = there[place]
                writes[key] = b"" if occupied is None else MERGED
                writes[place] = there[place] = value if occupied is None else merged(place.kind, occupied, value)
            self._write(writes)

    def _list_anew(self, open_slates: OpenSlates) -> None:
        waiting: dict[int, set[str]] = defaultdict(set)
        for key in self.store.scan():
            if key.kind is Kind.OPEN:
                waiting[key.partition].add(key.name)
        for partition in self.marks:
            open_slates.take_over(partition, partial(self._load, partition))
        for partition in self.marks:
            keys = [Key(partition, Kind.OPEN, name) for name in sorted(waiting[partition])]
            open_slates.list_anew(partition, ((key.name, value) for key, value in self._loaded(keys)))
            changes = open_slates.take_changes(partition)
            self._write({Key(partition, Kind(kind), name): value for (kind, name), value in changes.items()})

    def _put_parts_aside(self) -> None:
        accounts: dict[int, dict[str, bytes]] = {partition: {} for partition in self.marks}
        for key, value in self._loaded(key for key in self.store.scan() if key.kind is Kind.ACCOUNT):
            accounts[key.partition][key.name] = value
        parts = shared_out(list(accounts.values()), len(self.starts))
        for partition, part in zip(sorted(self.starts), parts, strict=True):
            self._write(
                {_under_way(Key(NOWHERE, Kind.ACCOUNT, name), partition): value for name, value in part.items()}
            )

    def _put_parts_into_place(self) -> None:
        for chunk in chunks(key for key in self.store.scan() if key.kind in (Kind.MOVED, Kind.ACCOUNT)):
            moved = (key for key in chunk if key.kind is Kind.MOVED)
            parts = dict(self._loaded(key for key in moved if _place(key).kind is Kind.ACCOUNT))
            self._write({_place(key): value for key, value in parts.items()} | dict.fromkeys(parts, b""))
            # Of another topic with fewer partitions: those that it lacks have no part any more.
            self._write({key: b"" for key in chunk if key.kind is Kind.ACCOUNT and key.partition not in self.starts})

    def _clear_merged(self) -> None:
        for chunk in chunks(key for key in self.store.scan() if key.kind is Kind.MOVED):
            self._write(dict.fromkeys(chunk, b""))
            self.merged.update(_origin(key.name).kind for key in chunk)

    def _load(self, partition: int, kind: str, names: Sequence[str]) -> list[bytes | None]:
        return self.store.load([Key(partition, Kind(kind), name) for name in names])

    def _loaded(self, keys: Iterable[Key]) -> Iterable[tuple[Key, bytes]]:
        for chunk in chunks(keys):
            for key, value in zip(chunk, self.store.load(chunk), strict=True):
                if value is not None:
                    yield key, value

    def _write(self, writes: Mapping[Key, bytes]) -> None:
        """Partition by partition, each at once."""
        shares: dict[int, dict[Key, bytes]] = defaultdict(dict)
        for key, value in writes.items():
            shares[key.partition][key] = value
        for partition, share in sorted(shares.items()):
            mark = self.marks[partition]
            self.store.commit(
                Checkpoint(partition, mark.epoch, self._watermark(partition) or 0, self._snapshot(partition), share)
            )

    def _watermark(self, partition: int) -> int | None:
        watermark = self.marks[partition].watermark
        return self.starts.get(partition) if watermark is None else watermark

    def _snapshot(self, partition: int) -> str | None:
        """A partition that is new begins with the models that the others have."""
        named = [mark.snapshot for mark in self.marks.values() if mark.snapshot is not None]
        return self.marks[partition].snapshot or max(named, default=None)


def _under_way(key: Key, home: int) -> Key:
    return Key(home, Kind.MOVED, SEPARATOR.join([str(key.partition), key.kind.value, key.name]))


def _origin(name: str) -> Key:
    partition, kind, name = name.split(SEPARATOR, 2)
    return Key(int(partition), Kind(kind), name)


def _place(key: Key) -> Key:
    """Where a value under way belongs."""
    origin = _origin(key.name)
    return Key(key.partition, origin.kind, origin.name)
