"""Updates as messages: what changed in the models between two offsets of `examples`, cut to a size that topics take.

    since     the update is good for a follower that stands here or later
    version   where it stands afterwards; offsets are in `examples`
    part      of `parts`, from 1; an update counts when all of it has come, in order

What is decoded is not trusted: types, sizes and places are checked before numpy sees them, and nothing is allocated
beyond what a message carries.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any

import msgspec
import numpy as np

from streamrec.engine.arrays.batch import Int64
from streamrec.engine.following.changes import STRINGS, ArrayChange, places_of, width_of
from streamrec.errors import UpdateGap, UpdateRefused

UPDATE_LAYOUT = 1
"""Version of the messages."""
MESSAGE_BYTES = 900_000
"""Of one message at most, so that it fits where a topic takes a megabyte."""
DTYPES = frozenset(
    np.dtype(kind).str for kind in ("?", "i1", "u1", "f2", "i2", "u2", "f4", "i4", "u4", "f8", "i8", "u8")
)
"""Of arrays that travel, little-endian."""
WIDEST_ROW = 2**24
"""Elements of one row."""
_PLACE = np.dtype("<u4")
_HEADER, _OVERHEAD = 192, 64
"""Bytes of a message beside its schema and pieces, and of a piece beside names, places and values; rounded up."""

Offset = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
Size = Annotated[int, msgspec.Meta(ge=0, le=2**31)]


class ChangePiece(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """New values of some places of one array, or of a run of them."""

    component: Name
    name: Name
    dtype: Annotated[str, msgspec.Meta(max_length=8)]
    shape: Annotated[tuple[Size, ...], msgspec.Meta(min_length=1, max_length=4)]
    first: Size
    """Where a run begins; 0 with `places`."""
    places: bytes | None
    """Four bytes each, little-endian; None: a run."""
    values: bytes | list[bytes]
    """Of arrays end to end; of strings one each, as UTF-8."""


class ModelUpdate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One message."""

    layout: int = UPDATE_LAYOUT
    schema: Annotated[str, msgspec.Meta(max_length=2**16)]
    """Of the models, as snapshots say it."""
    since: Offset
    version: Offset
    part: Annotated[int, msgspec.Meta(ge=1)]
    parts: Annotated[int, msgspec.Meta(ge=1)]
    changes: list[ChangePiece]


class _Layout(msgspec.Struct):
    """What tells one version of messages from another."""

    layout: int


def encoded(
    changes: Iterable[ArrayChange], *, schema: str, since: int, version: int, max_bytes: int = MESSAGE_BYTES
) -> Iterator[bytes]:
    """The messages of one update, in order; one also where nothing changed, for the version did.

    None is larger than `max_bytes`, unless a single place is.
    """
    room = max_bytes - _HEADER - 4 * len(schema)
    pages: list[list[ChangePiece]] = [[]]
    left = room
    for change in changes:
        start, cost = 0, _costs(change)
        fixed = _OVERHEAD + 4 * (len(change.component) + len(change.name))
        while start < change.count or (start == 0 and change.count == 0):
            fitting = int(np.searchsorted(cost, cost[start] + left - fixed, side="right")) - 1 - start
            if fitting < min(1, change.count) and pages[-1]:
                pages.append([])
                left = room
                continue
            stop = min(start + max(fitting, 1), change.count)
            pages[-1].append(_piece(change, start, stop))
            left -= fixed + int(cost[stop] - cost[start])
            if change.count == 0:
                break
            start = stop
    for part, pieces in enumerate(pages, 1):
        yield _ENCODER.encode(
            ModelUpdate(schema=schema, since=since, version=version, part=part, parts=len(pages), changes=pieces)
        )


def _costs(change: ArrayChange) -> Int64:
    """Bytes of the places before each, (places + 1,)."""
    index = 0 if isinstance(change.places, slice) else _PLACE.itemsize
    if isinstance(change.values, list):
        each = np.array([4 * len(text) + index + 5 for text in change.values], np.int64)
    else:
        each = np.full(change.count, change.values.shape[1] + index, np.int64)
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(each)])


def _piece(change: ArrayChange, start: int, stop: int) -> ChangePiece:
    first, places = 0, None
    if isinstance(change.places, slice):
        first = change.places.start + start
    else:
        places = change.places[start:stop].astype(_PLACE).tobytes()
    some = change.values[start:stop]
    values = [text.encode("utf-8", "surrogatepass") for text in some] if isinstance(some, list) else some.tobytes()
    return ChangePiece(change.component, change.name, change.dtype, change.shape, first, places, values)


def decoded(message: bytes) -> tuple[ModelUpdate, list[ArrayChange]]:
    """A message, checked, and the changes in it.

    Raises:
        UpdateRefused: it is no message of this version, or contradicts itself.
    """
    try:
        if (layout := msgspec.msgpack.decode(message, type=_Layout).layout) != UPDATE_LAYOUT:
            raise UpdateRefused(
                f"an update of layout {layout}, expected {UPDATE_LAYOUT}: the learner is of another version"
            )
        update = _DECODER.decode(message)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UpdateRefused(f"no update of the models: {error}") from error
    if not (update.part <= update.parts and update.since <= update.version):
        raise UpdateRefused(
            f"an update says part {update.part} of {update.parts}, from {update.since} to {update.version}"
        )
    return update, [_change(piece) for piece in update.changes]


def _change(piece: ChangePiece) -> ArrayChange:
    of = f"{piece.component}.{piece.name}"
    row = int(np.prod([float(size) for size in piece.shape[1:]]))
    if not 0 < row <= WIDEST_ROW:
        raise UpdateRefused(f"{of} has rows of {row:,} elements, expected 1 to {WIDEST_ROW:,}")
    values: Any
    if piece.dtype == STRINGS:
        if not isinstance(piece.values, list) or len(piece.shape) != 1:
            raise UpdateRefused(f"{of} is a list of strings, expected one of each")
        try:
            values = [text.decode("utf-8", "surrogatepass") for text in piece.values]
        except UnicodeDecodeError as error:
            raise UpdateRefused(f"{of} holds a string that is none: {error}") from error
    elif piece.dtype not in DTYPES:
        raise UpdateRefused(f"{of} has the type {piece.dtype!r}, expected one of {', '.join(sorted(DTYPES))}")
    else:
        width = width_of(piece.shape) * np.dtype(piece.dtype).itemsize
        if not isinstance(piece.values, bytes) or len(piece.values) % width:
            raise UpdateRefused(f"{of} holds values that are no whole places of {width} bytes")
        values = np.frombuffer(piece.values, np.uint8).reshape(-1, width)
        if np.dtype(piece.dtype).kind == "b" and values.max(initial=0) > 1:
            raise UpdateRefused(f"{of} holds something that is neither true nor false")
    places = _places(piece, of, len(values))
    return ArrayChange(piece.component, piece.name, piece.dtype, piece.shape, places, values)


def _places(piece: ChangePiece, of: str, count: int) -> Int64 | slice:
    size = places_of(piece.shape)
    if piece.places is None:
        if piece.first + count > size:
            raise UpdateRefused(f"{of} has {size} places, and values up to {piece.first + count}")
        return slice(piece.first, piece.first + count)
    if piece.first or len(piece.places) != count * _PLACE.itemsize:
        raise UpdateRefused(f"{of} has {count} values, and {len(piece.places)} bytes of places")
    places = np.frombuffer(piece.places, _PLACE).astype(np.int64)
    if places.max(initial=-1) >= size or (np.diff(places) <= 0).any():
        raise UpdateRefused(f"{of} has {size} places, and names some beyond them, or out of order")
    return places


class UpdateAssembler:
    """Puts the parts of updates together, for a follower of models of one `schema` that stands at `version`."""

    def __init__(self, schema: str, version: int) -> None:
        self.schema = schema
        self.version = version
        self._begun: tuple[int, int, int] | None = None  # since, version and parts of what is incomplete
        self._changes: list[ArrayChange] = []
        self._parts = 0

    def take(self, message: bytes) -> list[ArrayChange] | None:
        """The changes of an update that is complete with this message; `version` is then that of the update.

        None: some of it is yet to come, or it says nothing new.

        Raises:
            UpdateRefused: as `decoded`, or the update is of other models.
            UpdateGap: what lies between `version` and the update did not come.
        """
        update, changes = decoded(message)
        if update.schema != self.schema:
            raise UpdateRefused(f"an update of models {update.schema!r}, expected {self.schema!r}")
        if update.version <= self.version:
            return None
        if update.since > self.version:
            self._begun = None
            raise UpdateGap(
                f"the models stand at example {self.version}, and the update follows on {update.since}: "
                "read a newer snapshot"
            )
        key = update.since, update.version, update.parts
        if update.part == 1:
            self._begun, self._changes, self._parts = key, [], 0
        if key != self._begun or update.part > self._parts + 1:  # its beginning is missing: the next one shows the gap
            self._begun = None
            return None
        if update.part <= self._parts:
            return None
        self._parts += 1
        self._changes += changes
        if self._parts < update.parts:
            return None
        complete, self._changes, self._begun = self._changes, [], None
        self.version = update.version
        return complete


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(ModelUpdate)
