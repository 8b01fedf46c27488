"""What a component promises, so that another process can answer by what it learned.

A component is whatever a snapshot knows by name: the items, a model, the fusion, a policy. Of what it holds, serving
needs a part: no optimiser states, replay buffers or guards.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias

import numpy as np

from streamrec.engine.arrays.batch import Array, Int64

Rows: TypeAlias = Array | list[str]
"""An array whose first axis is a place that stays, such as an item index; or strings by such a place."""
Arrays: TypeAlias = Mapping[str, Any]
"""Of one component: `Rows` by name, each of the kind that its `served` gives."""
ChangedRows: TypeAlias = Mapping[str, Int64]
"""Which rows of which arrays of a component changed; what is not named did not."""


class Served(Protocol):
    """What every component does that snapshots know."""

    def served(self) -> dict[str, Rows]:
        """The arrays that answering needs, by the names and in the layout that `state` gives them.

        C-contiguous, and row by a place that stays, so that what is learned changes few rows. Views of what is large,
        so that asking costs nothing; to be read only. A list of strings NAME is in the state as `packed_strings(NAME)`.
        """

    def serve(self, arrays: Arrays, changed: ChangedRows | None = None) -> None:
        """Answer by these arrays from now on: those of `served`, of another one that learns.

        They are taken by reference, whatever their size. The caller goes on changing them in place and calls this
        again each time, with other arrays where they grew; they may have fewer rows than there are items, and what has
        no row is not known. `changed` are the rows that changed since the last call, so that what is derived of them
        can follow at the same cost; None: any of them. What serves must not learn, nor write into them.
        """


class TouchesRows(Protocol):
    """A component that knows which rows it wrote to, where to compare everything would take too long."""

    def touched(self, since: int) -> tuple[int, ChangedRows]:
        """A moment, and the rows of some arrays that may have changed since an earlier one (0: the beginning).

        Arrays that are not named may have changed anywhere.
        """


class RowStamps:
    """When each row of a table was written to last, for `TouchesRows`."""

    def __init__(self, rows: int) -> None:
        self.stamps: Int64 = np.zeros(rows, np.int64)  # may be written to by compiled loops
        self.moment = 1  # of what is written now

    def touch(self, rows: Array | slice) -> None:
        """These rows are written to."""
        self.stamps[rows] = self.moment

    def since(self, moment: int) -> tuple[int, Int64]:
        """The present moment, after which another one begins, and the rows written to after the one given."""
        present = self.moment
        self.moment += 1
        return present, np.flatnonzero(self.stamps > moment)
