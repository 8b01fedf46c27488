"""Which rows changed since the last time, and arrays that take such changes over.

What is compared and sent is a place: a row where that is short, else LINE elements of it, for of a long row usually a
few elements change (a neighbour among 256). Bits are compared, not numbers: -0.0 is another one than 0.0, and what is
no number is the same as itself.

A change says what an array looks like now (dtype, shape) and the values of some places, so that to take one over twice
is the same as once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streamrec.engine.arrays.batch import Array, Int64
from streamrec.engine.arrays.compiled import compiled
from streamrec.engine.arrays.packing import unpacked_strings
from streamrec.engine.following.served import ChangedRows, Rows, Served
from streamrec.errors import StateError, UpdateRefused

LINE = 16
"""Elements of a long row that travel together."""
WHOLE_SHARE = 0.5
"""Where more than this share of the places changed, all are sent."""
STRINGS = "str"
"""In place of a dtype: the rows are strings."""
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class ArrayChange:
    """The new values of some places of one array."""

    component: str
    name: str
    dtype: str
    shape: tuple[int, ...]  # of the whole array, as it is now
    places: Int64 | slice  # in units of `width` elements
    values: Bytes | list[str]  # (places, bytes of one), or (places,)

    @property
    def width(self) -> int:
        """Elements of one place."""
        return width_of(self.shape)

    @property
    def count(self) -> int:
        """How many places."""
        return len(self.values)


def width_of(shape: Sequence[int]) -> int:
    """How many elements of an array of this shape travel together."""
    row = int(np.prod(shape[1:], dtype=np.int64))
    return LINE if row > LINE and row % LINE == 0 else row


def lines_of(array: Array) -> Bytes:
    """The bytes of an array by place, (places, bytes of one); a view."""
    width = max(width_of(array.shape), 1) * array.dtype.itemsize
    return array.reshape(-1).view(np.uint8).reshape(-1, width)


class RoomyArray:
    """Rows with room to grow: the array is a view of the first of them."""

    def __init__(self, first: Rows) -> None:
        """Takes the rows over, without a copy."""
        self._room = first
        self.rows: Rows = first

    def take(self, change: ArrayChange) -> None:
        """Take new values over."""
        if isinstance(change.values, list):
            self._take_strings(change.shape[0], change.places, change.values)
            return
        dtype = np.dtype(change.dtype)
        if isinstance(self._room, list) or self._room.dtype != dtype or self._room.shape[1:] != change.shape[1:]:
            self._room = np.zeros(change.shape, dtype)
        if len(self._room) < change.shape[0]:
            grown = np.zeros((max(change.shape[0], 2 * len(self._room)), *change.shape[1:]), dtype)
            grown[: len(self._room)] = self._room
            self._room = grown
        self.rows = self._room[: change.shape[0]]
        lines_of(self.rows)[change.places] = change.values

    def _take_strings(self, size: int, places: Int64 | slice, values: list[str]) -> None:
        if not isinstance(self._room, list):
            self._room = []
        del self._room[size:]
        self._room += [""] * (size - len(self._room))
        if isinstance(places, slice):
            self._room[places] = values
        else:
            for place, value in zip(places.tolist(), values, strict=True):
                self._room[place] = value
        self.rows = self._room


class ModelChanges:
    """Compares what components serve with what they served the last time; holds a copy of that."""

    def __init__(self) -> None:
        self._published: dict[tuple[str, str], RoomyArray] = {}
        self._moments: dict[str, int] = {}

    def begin(self, parts: Mapping[str, Served]) -> None:
        """Whoever follows holds what these serve now: from a snapshot of this moment."""
        for _ in self.since_last(parts):
            pass

    def since_last(self, parts: Mapping[str, Served]) -> Iterator[ArrayChange]:
        """What changed in the arrays of these components; all of it, where they are met for the first time.

        What is yielded is a copy, and counts as published at once; whoever asks must go on to the end.
        """
        for component, part in parts.items():
            touched: ChangedRows = {}
            if hasattr(part, "touched"):
                self._moments[component], touched = part.touched(self._moments.get(component, 0))
            for name, rows in part.served().items():
                held = self._published.get((component, name))
                change = _difference(component, name, None if held is None else held.rows, rows, touched.get(name))
                if change is None:
                    continue
                if held is None:
                    held = self._published[component, name] = RoomyArray([] if isinstance(rows, list) else rows[:0])
                held.take(change)
                yield change


def _difference(component: str, name: str, old: Rows | None, new: Rows, touched: Int64 | None) -> ArrayChange | None:
    """What makes the new of the old one, None where they are the same; `touched` rows alone may differ."""
    if isinstance(new, list):
        before = old if isinstance(old, list) else []
        changed = _changed_strings(before, new, touched)
        if len(changed) == 0 and len(before) == len(new) and isinstance(old, list):
            return None
        return ArrayChange(component, name, STRINGS, (len(new),), changed, [new[place] for place in changed.tolist()])
    assert new.ndim > 0, f"{component}.{name} has no rows, expected an array with a first axis"
    assert new.flags.c_contiguous, f"{component}.{name} is not C-contiguous"
    lines = lines_of(new)
    places: Int64 | slice = slice(0, len(lines))
    if isinstance(old, np.ndarray) and old.dtype == new.dtype and old.shape[1:] == new.shape[1:]:
        known = lines_of(old)
        if touched is None:
            both = min(len(known), len(lines))
            places = np.flatnonzero(_differ_all(_words(known[:both]), _words(lines[:both])))
        else:
            by_row = len(lines) // max(len(new), 1)
            rows = touched[touched < min(len(old), len(new))]
            some = (rows[:, None] * by_row + np.arange(by_row)).ravel()
            places = some[_differ_at(_words(known), _words(lines), some)]
        places = np.concatenate([places, np.arange(len(known), len(lines))])
        if len(places) == 0 and old.shape == new.shape:
            return None
        if len(places) > WHOLE_SHARE * len(lines):
            places = slice(0, len(lines))
    return ArrayChange(component, name, new.dtype.str, new.shape, places, lines[places].copy())


def _changed_strings(old: list[str], new: list[str], touched: Int64 | None) -> Int64:
    both = min(len(old), len(new))
    if touched is not None:
        some = touched[touched < both].tolist()
    else:
        some = [] if old == new else range(both)
    return np.array([*(at for at in some if old[at] != new[at]), *range(both, len(new))], np.int64)


def _words(lines: Bytes) -> Array:
    """The same by the widest words that fit, so that a comparison looks at eight bytes at once."""
    for word in (np.uint64, np.uint32, np.uint16):
        if lines.shape[1] % np.dtype(word).itemsize == 0:
            return lines.view(word)
    return lines


@compiled
def _differ_all(old, new):  # type: ignore[no-untyped-def]
    out = np.zeros(len(old), np.bool_)
    for place in range(len(old)):
        other = old[place, 0] ^ new[place, 0]
        for at in range(1, old.shape[1]):
            other |= old[place, at] ^ new[place, at]
        out[place] = other != 0
    return out


@compiled
def _differ_at(old, new, places):  # type: ignore[no-untyped-def]
    out = np.zeros(len(places), np.bool_)
    for at in range(len(places)):
        other = old[places[at], 0] ^ new[places[at], 0]
        for word in range(1, old.shape[1]):
            other |= old[places[at], word] ^ new[places[at], word]
        out[at] = other != 0
    return out


class FollowedArrays:
    """A follower's own copy of what the learner serves."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, str], RoomyArray] = {}

    def take(self, state: Mapping[str, Mapping[str, Array]], parts: Mapping[str, Served]) -> None:
        """Begin with a snapshot's arrays, which are kept, those that these components serve; what was held is gone.

        Raises:
            StateError: the snapshot lacks one.
        """
        self._held = {
            (component, name): RoomyArray(_in_state(state, component, name, isinstance(rows, list)))
            for component, part in parts.items()
            for name, rows in part.served().items()
        }

    def apply(self, changes: Iterable[ArrayChange]) -> dict[str, dict[str, Int64]]:
        """Take changes over, in place; returns the rows that they are of, by component and name.

        Raises:
            UpdateRefused: they do not fit what is held; then nothing was taken over.
        """
        changes = list(changes)
        self._check(changes)
        changed: dict[str, dict[str, list[Int64]]] = {}
        for change in changes:
            self._held.setdefault((change.component, change.name), RoomyArray([])).take(change)
            changed.setdefault(change.component, {}).setdefault(change.name, []).append(_rows_of(change))
        return {
            component: {name: _distinct(np.concatenate(rows)) for name, rows in arrays.items()}
            for component, arrays in changed.items()
        }

    def arrays(self, component: str) -> dict[str, Rows]:
        """What a component is to `serve` now."""
        return {name: held.rows for (of, name), held in self._held.items() if of == component}

    def serve(self, parts: Mapping[str, Served], changed: Mapping[str, ChangedRows] | None = None) -> None:
        """Have these components answer by what is held: all of them, or those that changed."""
        for component, part in parts.items():
            if changed is None or component in changed:
                part.serve(self.arrays(component), None if changed is None else changed[component])

    def _check(self, changes: Sequence[ArrayChange]) -> None:
        """That every new place comes with its values: no message makes an array larger than what it carries."""
        covered: dict[tuple[str, str], int] = {}
        shapes: dict[tuple[str, str], tuple[str, tuple[int, ...]]] = {}
        for change in changes:
            key = change.component, change.name
            if shapes.setdefault(key, (change.dtype, change.shape)) != (change.dtype, change.shape):
                raise UpdateRefused(f"{change.component}.{change.name} has two shapes in one update")
            covered[key] = covered.get(key, 0) + change.count
        for key, (dtype, shape) in shapes.items():
            grown = places_of(shape) - self._places(key, dtype, shape)
            if covered[key] < grown:
                raise UpdateRefused(f"{'.'.join(key)} grows by {grown} places, and the update has {covered[key]}")

    def _places(self, key: tuple[str, str], dtype: str, shape: tuple[int, ...]) -> int:
        held = self._held.get(key)
        if held is None or dtype_of(held.rows) != dtype:
            return 0
        if isinstance(held.rows, list):
            return len(held.rows)
        return places_of(held.rows.shape) if held.rows.shape[1:] == shape[1:] else 0


def dtype_of(rows: Rows) -> str:
    """As `ArrayChange.dtype` says it."""
    return STRINGS if isinstance(rows, list) else rows.dtype.str


def places_of(shape: Sequence[int]) -> int:
    """How many places an array of this shape has."""
    return int(np.prod(shape, dtype=np.int64)) // max(width_of(shape), 1)


def _rows_of(change: ArrayChange) -> Int64:
    """The rows that the places are of."""
    by_row = places_of((1, *change.shape[1:]))
    if isinstance(change.places, slice):
        return np.arange(change.places.start // by_row, -(-change.places.stop // by_row))
    return change.places // by_row


def _distinct(rows: Int64) -> Int64:
    """Each row once, in order; places come in order already, but for an update that says something twice."""
    steps = np.diff(rows, prepend=rows[:1] - 1)
    return np.unique(rows) if (steps < 0).any() else rows[steps > 0]


def _in_state(state: Mapping[str, Mapping[str, Array]], component: str, name: str, strings: bool) -> Rows:
    try:
        if strings:
            return unpacked_strings(name, state[component])
        # Compiled loops want numbers where the processor expects them, and the follower writes into them.
        return np.require(state[component][name], requirements=["C", "A", "W"])
    except KeyError:
        raise StateError(
            f"the snapshot has no {component}.{name}: it is of another version; let the learner write another one"
        ) from None
