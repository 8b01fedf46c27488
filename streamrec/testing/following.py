"""Whether what a component serves leads another one to answer alike: checks that models and policies share."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from streamrec.engine.arrays.batch import Array
from streamrec.engine.arrays.packing import packed_strings
from streamrec.engine.following.changes import FollowedArrays, ModelChanges
from streamrec.engine.following.messages import UpdateAssembler, encoded
from streamrec.engine.following.served import Served
from streamrec.testing.expectations import expect, same

MESSAGE_BYTES = 20_000
"""Small, so that updates come in many parts."""


class Following:
    """Components that learn, and as many that were never taught and follow them: by a snapshot, then by updates."""

    def __init__(
        self, learning: Callable[[], Mapping[str, Served]], serving: Callable[[], Mapping[str, Served]]
    ) -> None:
        """Both are asked each time, for policies come when they are first asked for."""
        self._learning, self._serving = learning, serving
        self._changes, self.arrays = ModelChanges(), FollowedArrays()
        self._assembler = UpdateAssembler("checked", 0)

    def begin(self, state: Mapping[str, Mapping[str, Array]]) -> None:
        """With a snapshot of this moment."""
        self._changes.begin(self._learning())
        self.arrays.take(state, self._serving())
        self.arrays.serve(self._serving())

    def catch_up(self) -> int:
        """Take over what was learned since; returns the bytes that this took."""
        since, travelled = self._assembler.version, 0
        changes = self._changes.since_last(self._learning())
        for message in encoded(changes, schema="checked", since=since, version=since + 1, max_bytes=MESSAGE_BYTES):
            travelled += len(message)
            complete = self._assembler.take(message)
            if complete is not None:
                changed = self.arrays.apply(complete)
                self.arrays.serve(self._serving(), changed)
        expect(self._assembler.version == since + 1, "an update was not complete with its last message")
        for component, part in self._learning().items():
            served, held = _plain(part), {name: _row(rows) for name, rows in self.arrays.arrays(component).items()}
            expect(
                same(served, held),
                f"what follows {component} holds other arrays than it serves: {_differing(served, held)}; where it has "
                "`touched`, that must name every row that was written to",
            )
        return travelled


def what_is_served_is_part_of_the_state(part: Served, state: Mapping[str, Array]) -> None:
    """By the same names, in the same layout, so that a snapshot holds it."""
    for name, rows in part.served().items():
        if isinstance(rows, list):
            found = packed_strings(name, rows)
        else:
            expect(rows.ndim > 0 and rows.flags.c_contiguous, f"{name} is served in no rows one after the other")
            found = {name: rows}
        for key, array in found.items():
            expect(key in state, f"{key} is served and not in the state, where a follower begins")
            there = state[key]
            alike = (there.dtype, there.shape, there.tobytes()) == (array.dtype, array.shape, array.tobytes())
            expect(alike, f"{key} is served in another layout, or with other values, than the state has")


def _plain(part: Served) -> dict[str, Array]:
    return {name: _row(rows) for name, rows in part.served().items()}


def _row(rows: Array | list[str]) -> Array:
    return np.array([text.encode("utf-8", "surrogatepass") for text in rows]) if isinstance(rows, list) else rows


def _differing(first: Mapping[str, Array], second: Mapping[str, Array]) -> str:
    return ", ".join(name for name in first.keys() | second.keys() if not _alike(first.get(name), second.get(name)))


def _alike(one: Array | None, other: Array | None) -> bool:
    return one is not None and other is not None and one.tobytes() == other.tobytes()
