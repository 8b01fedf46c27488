"""What a user feature is: one class in one file, which reaches models, fusion and store by being listed.

The list is `streamrec.config.user_features`; another package adds to it through an entry point.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from streamrec.engine.arrays.batch import Columns, Examples, Float32, Int32, Queries
from streamrec.engine.arrays.timeline import Timeline
from streamrec.engine.items.catalogue import Catalogue
from streamrec.engine.items.item_table import ItemTable


@dataclass(frozen=True, slots=True)
class UserFeatureParts:
    """What a feature may be built of."""

    items: ItemTable
    """By whose indices users' rows and the steps of a timeline name items and categories."""
    ranked_items: ItemTable
    """By whose indices candidates name them, and the catalogue: the models'. In one process it is the same table; where
    models learn elsewhere, an item has one index here and another there."""
    catalogue: Catalogue
    session_gap_s: float
    """A pause that ends a session."""
    collapse_repeats: bool
    """The same item again and again within a session counts once."""
    requests_at_once: int = 100
    """Of one user, that are answered in one go."""
    requests_per_s: float = 10.0
    """Beyond those, in the log's time."""


class UserFeature(ABC):
    """Says four things, each in the methods named; what is not said is inherited, and is nothing.

    What it remembers of each user: a row of arrays, the attributes named by `arrays` with what a row holds at first; or
    anything else that `clear`, `forget_items` and, where need be, `grow` know of. It must be bounded.

    What an event writes: `fold` walks the steps of a `Timeline` in order; those of kind REMEMBER are events.

    What a query sees of it: at the steps of kind ASK, `fold` fills `queries.columns` in row `ref`, with what was known
    before. `columns` declares them; models read them. They travel to where models learn: they hold plain numbers, and
    never an index of an item or category, which names another one there. `names` and `describe` make inputs of the
    fusion of them, one number for each candidate; the fusion learns their weights. By then the user may have gone on:
    `describe` looks at queries and items alone.

    How it is stored: `pack` and `unpack`, under `keys` of the user's map that are this feature's own. A user who was
    stored without them starts with nothing; what is stored under keys of a feature that is no longer listed is ignored
    and leaves with the user's next change.

    Example, with `build` listed as `UserFeatureEntry("weekday", "acme.weekday:Weekday")`::

        class Weekday(UserFeature):
            arrays = {"last": -1}                     # days since 1970 of the last visit
            keys = ("weekday",)

            def __init__(self, parts: UserFeatureParts) -> None:
                self.last = np.full(0, -1, np.int64)

            def columns(self):
                return {"weekday": (1, np.int64)}

            def fold(self, steps, queries, examples):
                for kind, row, ref, ts in zip(steps.kind, steps.user, steps.ref, steps.ts):
                    if kind == REMEMBER:
                        self.last[row] = ts // DAY_MS
                    else:
                        queries.columns["weekday"][ref] = self.last[row]

            def pack(self, row, item_ids):
                return {"weekday": int(self.last[row])}

            def unpack(self, row, value, indices):
                self.last[row] = value["weekday"]
    """

    arrays: ClassVar[Mapping[str, float]] = {}
    """Attributes with a row for each user, and what a row of them holds when nothing is known."""
    keys: ClassVar[Sequence[str]] = ()
    """Of the user's stored map."""
    names: Sequence[str] = ()
    """What each input of the fusion is, in order."""

    def columns(self) -> Columns:
        """The arrays that queries get for this feature."""
        return {}

    def fold(self, steps: Timeline, queries: Queries, examples: Examples) -> None:  # noqa: B027
        """Users remember the events; queries and examples see what came before each."""

    def describe(self, queries: Queries, rows: slice, items: Int32) -> Float32:
        """The inputs of the fusion, (rows, candidates, names), about the size of one; what is no number counts as 0.

        Args:
            queries: of which these are the ones in `rows`; to be read only.
            rows: see queries.
            items: (rows, candidates), as `ranked_items` names them, NOTHING where there are fewer.
        """
        return np.zeros((*items.shape, len(self.names)), np.float32)

    def grow(self, rows: int) -> None:
        """Make room for rows below `rows`."""
        for name, blank in self.arrays.items():
            array = getattr(self, name)
            more = np.full((rows - len(array), *array.shape[1:]), blank, array.dtype)
            setattr(self, name, np.concatenate([array, more]))

    def clear(self, rows: Int32) -> None:
        """These rows belong to other users from now on."""
        for name, blank in self.arrays.items():
            getattr(self, name)[rows] = blank

    def forget_items(self, items: Int32) -> None:  # noqa: B027
        """These item indices will name other items soon."""

    @abstractmethod
    def pack(self, row: int, item_ids: Sequence[str]) -> Mapping[str, Any]:
        """What the store keeps of a row, in plain values, by item id; only under `keys`."""

    @abstractmethod
    def unpack(self, row: int, value: Mapping[str, Any], indices: Mapping[str, int]) -> None:
        """The inverse of `pack`, into a cleared row.

        Args:
            row: of the user.
            value: what is stored of the user, with one of `keys` in it at least.
            indices: of the items that `stored_items` named; NOTHING for those without one.
        """

    def stored_items(self, value: Mapping[str, Any]) -> Iterable[str | None]:
        """The item ids in what `pack` gave."""
        return ()
