"""What is stored, added up: the same before and after values were moved between partitions.

Knows nothing of where a value belongs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from streamrec.engine.ads.accounts import unpacked
from streamrec.engine.attribution.open_slates import stored_slates
from streamrec.engine.partition_tables import DIRECTORY
from streamrec.state import Kind, Store

CHUNK = 1_000
"""Keys that are looked at together."""

Thing = TypeVar("Thing")


class Counted(msgspec.Struct, frozen=True):
    """A user or an item, as far as it is counted."""

    counts: dict[str, int]


class Totals(msgspec.Struct, frozen=True):
    """Over all partitions."""

    users: int = 0
    user_events: int = 0
    item_events: int = 0
    slates: int = 0
    """Latest ones, of users."""
    open_slates: int = 0
    spent: int = 0
    """On ads, in millionths."""

    def __str__(self) -> str:
        return ", ".join(f"{getattr(self, name):,} {name.replace('_', ' ')}" for name in self.__struct_fields__)


def totals(store: Store, *, merged: Callable[[str], Kind | None] = lambda name: None) -> Totals:
    """Everything in the store; a value under way counts as what `merged` says that its name stands for.

    Takes 16 bytes of memory a key: a store may name one twice.
    """
    found: dict[Kind, list[npt.NDArray[np.int64]]] = defaultdict(list)
    for chunk in chunks(store.scan()):
        kinds = {key: merged(key.name) if key.kind is Kind.MOVED else key.kind for key in chunk}
        rows = defaultdict(list)
        for key, value in zip(chunk, store.load(chunk), strict=True):
            kind = kinds[key]
            if value is not None and kind is not None and key.name != DIRECTORY:
                rows[kind].append((hash(key), 0 if key.kind is Kind.MOVED else _amount(kind, value)))
        for kind, some in rows.items():
            found[kind].append(np.array(some, np.int64))
    (users, user_events), (_, item_events) = _added(found[Kind.USER]), _added(found[Kind.ITEM])
    (slates, _), (_, open_slates), (_, spent) = (_added(found[kind]) for kind in (Kind.SLATE, Kind.OPEN, Kind.ACCOUNT))
    return Totals(users, user_events, item_events, slates, open_slates, spent)


def chunks(things: Iterable[Thing]) -> Iterator[list[Thing]]:
    """CHUNK at a time, each once in its chunk."""
    left = iter(things)
    while some := list(islice(left, CHUNK)):
        yield list(dict.fromkeys(some))


def _amount(kind: Kind, value: bytes) -> int:
    if kind in (Kind.USER, Kind.ITEM):
        return sum(_COUNTED.decode(value).counts.values())
    if kind is Kind.OPEN:
        return len(stored_slates(value))
    if kind is Kind.ACCOUNT:
        return sum(map(sum, unpacked(value).values()))
    return 0


def _added(rows: list[npt.NDArray[np.int64]]) -> tuple[int, int]:
    """How many values, and their amounts together; each value once."""
    if not rows:
        return 0, 0
    together: Any = np.concatenate(rows)  # (values, 2)
    _, first = np.unique(together[:, 0], return_index=True)
    return len(first), int(together[first, 1].sum())


_COUNTED = msgspec.msgpack.Decoder(Counted)
