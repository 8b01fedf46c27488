"""Trends counted in this process, where no service does it: in a backtest, a warm-up, a simulation.

Counts what is learned, in log order, and says at learning cuts what a service on one partition would say: every
`emit_every_s` of the log's time, what each window holds as of the newest event. Windows and parts are those of
`windows.py`, kept as one ring of arrays per window, so that a cut costs a look at the arrays of the parts that
came to their end, and a sum for each item that moved.

What differs from a service: events that are held back or collapsed before they are learned are not counted, all
partitions are counted as one, and an item that is forgotten begins at 0.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from streamrec.engine.arrays.batch import Array, Bool, Int32, Int64, MicroBatch
from streamrec.engine.arrays.compiled import compiled
from streamrec.engine.arrays.labels import WANTED
from streamrec.engine.following.served import Arrays, ChangedRows, Rows
from streamrec.engine.trending.table import TrendTable
from streamrec.engine.trending.windows import PARTS, Windows

RING = 2 * PARTS
"""Parts that matter: the window's, and those of the window before it."""


class LocalTrendCounts:
    """Counts of at most as many items as the table has, 4 bytes for each part of each."""

    def __init__(self, table: TrendTable, emit_every_s: float) -> None:
        self.table = table
        self._windows = Windows(table.lengths_s)
        self._emit_every_ms = round(emit_every_s * 1000)
        widths, capacity = len(table.lengths_s), len(table.said)
        self._part_ms = np.array(self._windows.part_ms, np.int64)
        self._ring: Int32 = np.zeros((widths, RING, capacity), np.int32)  # part p of a window is in row p % RING
        self._filled: Bool = np.zeros((widths, RING), np.bool_)  # rows with anything in them
        self._sums: Int64 = np.zeros((widths, 2, capacity), np.int64)  # count and before as of the clock
        self._moved: Bool = np.zeros(capacity, np.bool_)  # items whose sums are others than those said
        self._now: Int64 = np.zeros(widths, np.int64)  # each window's newest part
        self._clock = 0
        self._rows = 0

    def learn(self, batch: MicroBatch) -> None:
        """Count what was wanted, and say what stands when it is time."""
        examples = batch.examples
        wanted = np.flatnonzero(examples.label[: batch.learned] == WANTED)
        if len(wanted) == 0:
            return
        items, ts = examples.item[wanted], examples.ts[wanted]
        self._rows = max(self._rows, int(items.max()) + 1)
        if int(ts.max()) > self._clock:
            self._clock = int(ts.max())
            now = np.array(self._windows.now(self._clock), np.int64)
            _advance(self._ring, self._filled, self._sums, self._moved, self._rows, self._now, now)
            self._now = now
        _count(self._ring, self._filled, self._sums, self._moved, self._part_ms, self._now, items, ts)
        if self._clock - self.table.clock >= self._emit_every_ms:
            moved = np.flatnonzero(self._moved[: self._rows])
            self.table.said[moved] = self._sums[:, :, moved].transpose(2, 0, 1)
            self.table.say(self._rows, self._clock, self._moved)
            self._moved[moved] = False

    def forget(self, items: Int32) -> None:
        """These indices will name other items soon."""
        self._ring[:, :, items] = 0
        self._sums[:, :, items] = 0
        self.table.forget(items)

    # Snapshots

    def served(self) -> dict[str, Rows]:
        return self.table.served()

    def serve(self, arrays: Arrays, changed: ChangedRows | None = None) -> None:
        self.table.serve(arrays, changed)

    def state(self) -> dict[str, Array]:
        """The parts, and what was last said of them."""
        parts = self._ring[:, :, : self._rows]
        at = np.flatnonzero(parts)
        return {
            "clock": np.array([self._clock], np.int64),
            "rows": np.array([self._rows], np.int64),
            "parts.at": at.astype(np.int64),
            "parts.count": parts.ravel()[at],
            **{name: np.array(rows) for name, rows in self.served().items()},
        }

    def restore(self, arrays: Mapping[str, Array]) -> None:
        """The inverse of `state`; where a snapshot knows of no counts, counting begins."""
        self._ring[:, :, : self._rows] = 0
        self._sums[:, :, : self._rows] = 0
        self.table.said[: self.table.rows] = 0
        self.table.say(0, 0)
        self._filled[:], self._moved[:], self._now[:], self._clock, self._rows = False, False, 0, 0, 0
        if "clock" not in arrays:
            return
        self._clock, self._rows = int(arrays["clock"][0]), int(arrays["rows"][0])
        parts = np.zeros((*self._filled.shape, self._rows), np.int32)
        parts.ravel()[arrays["parts.at"]] = arrays["parts.count"]
        self._ring[:, :, : self._rows] = parts
        self._filled[:] = parts.any(axis=2)
        self._now[:] = self._windows.now(self._clock)
        ages = (self._now[:, None] - np.arange(RING)) % RING  # (windows, RING) of each row
        self._sums[:, 0, : self._rows] = (parts * (ages < PARTS)[:, :, None]).sum(1)
        self._sums[:, 1, : self._rows] = (parts * (ages >= PARTS)[:, :, None]).sum(1)
        self._moved[: self._rows] = True
        self.table.said[: len(arrays["said"])] = arrays["said"]
        self.table.say(len(arrays["said"]), int(arrays["said_at"][0]))


@compiled
def _advance(ring, filled, sums, moved, rows, old, now):  # type: ignore[no-untyped-def]
    for at in range(len(now)):
        if now[at] - old[at] >= RING:
            for row in range(RING):
                if filled[at, row]:
                    for item in range(rows):
                        moved[item] |= ring[at, row, item] > 0
                        ring[at, row, item] = 0
                    filled[at, row] = False
            sums[at, :, :rows] = 0
            continue
        for part in range(old[at] + 1, now[at] + 1):
            leaving = (part + PARTS) % RING  # the part that is one window's length old
            if filled[at, leaving]:
                for item in range(rows):
                    count = ring[at, leaving, item]
                    if count > 0:
                        sums[at, 0, item] -= count
                        sums[at, 1, item] += count
                        moved[item] = True
            gone = part % RING  # two lengths old; its row is the new part's
            if filled[at, gone]:
                for item in range(rows):
                    count = ring[at, gone, item]
                    if count > 0:
                        sums[at, 1, item] -= count
                        ring[at, gone, item] = 0
                        moved[item] = True
                filled[at, gone] = False


@compiled
def _count(ring, filled, sums, moved, part_ms, now, items, ts):  # type: ignore[no-untyped-def]
    for event in range(len(items)):
        for at in range(len(now)):
            part = ts[event] // part_ms[at]
            age = now[at] - part
            if age < RING:
                ring[at, part % RING, items[event]] += 1
                filled[at, part % RING] = True
                sums[at, 0 if age < PARTS else 1, items[event]] += 1
                moved[items[event]] = True
