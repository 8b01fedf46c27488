"""What every user feature promises, asked of each that is listed; and that the question finds out who breaks it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pytest

from streamrec.config.user_features import UserFeatureEntry, user_features
from streamrec.engine.arrays.batch import NOTHING, Columns, Examples, Float32, Int32, Queries
from streamrec.engine.arrays.timeline import REMEMBER, Timeline
from streamrec.engine.users.user_feature import UserFeature, UserFeatureParts
from streamrec.testing import check_user_feature


@pytest.mark.parametrize("entry", user_features().values(), ids=lambda entry: entry.name)
def test_a_listed_feature_keeps_its_promises(entry: UserFeatureEntry) -> None:
    check_user_feature(entry)


class Visits(UserFeature):
    """How often a user was here."""

    arrays: ClassVar[Mapping[str, float]] = {"visits": 0}
    keys = ("visits",)
    names = ("visits",)

    def __init__(self, parts: UserFeatureParts) -> None:
        self.visits = np.zeros(0, np.int64)

    def columns(self) -> Columns:
        return {"visits": (1, np.float32)}

    def fold(self, steps: Timeline, queries: Queries, examples: Examples) -> None:
        for kind, row, ref in zip(steps.kind, steps.user, steps.ref, strict=True):
            if kind == REMEMBER:
                self.visits[row] += 1
            else:
                queries.columns["visits"][ref] = self.visits[row]  # type: ignore[call-overload]

    def describe(self, queries: Queries, rows: slice, items: Int32) -> Float32:
        visits = np.log1p(queries.columns["visits"][rows].astype(np.float32))
        return np.broadcast_to(visits[:, :, None], (*items.shape, 1)).astype(np.float32)

    def pack(self, row: int, item_ids: Sequence[str]) -> dict[str, Any]:
        return {"visits": int(self.visits[row])}

    def unpack(self, row: int, value: Mapping[str, Any], indices: Mapping[str, int]) -> None:
        self.visits[row] = value["visits"]


class Unsaved(Visits):
    def unpack(self, row: int, value: Mapping[str, Any], indices: Mapping[str, int]) -> None:
        pass


class AskingCounts(Visits):
    def fold(self, steps: Timeline, queries: Queries, examples: Examples) -> None:
        for kind, row, ref in zip(steps.kind, steps.user, steps.ref, strict=True):
            self.visits[row] += 1
            if kind != REMEMBER:
                queries.columns["visits"][ref] = self.visits[row]  # type: ignore[call-overload]


class LooksAhead(Visits):
    def fold(self, steps: Timeline, queries: Queries, examples: Examples) -> None:
        super().fold(steps, queries, examples)
        for kind, row, ref in zip(steps.kind, steps.user, steps.ref, strict=True):
            if kind != REMEMBER:
                queries.columns["visits"][ref] = self.visits[row]  # type: ignore[call-overload]


class SharesAll(Visits):
    arrays: ClassVar[Mapping[str, float]] = {}
    keys = ("everybody",)

    def grow(self, rows: int) -> None:
        self.visits = np.zeros(rows, np.int64)

    def clear(self, rows: Int32) -> None:
        pass

    def pack(self, row: int, item_ids: Sequence[str]) -> dict[str, Any]:
        return {"everybody": int(self.visits.sum())}


class ElsewhereStored(Visits):
    keys = ("visit",)


class Doubled(Visits):
    def describe(self, queries: Queries, rows: slice, items: Int32) -> Float32:
        return super().describe(queries, rows, items).astype(np.float64)  # type: ignore[return-value]


class LooksAtNow(Visits):
    def describe(self, queries: Queries, rows: slice, items: Int32) -> Float32:
        return np.full((*items.shape, 1), self.visits.sum(), np.float32)


class NamesItems(Visits):
    """A column with an index in it, which names another item where models learn."""

    arrays: ClassVar[Mapping[str, float]] = {"visits": NOTHING}

    def __init__(self, parts: UserFeatureParts) -> None:
        super().__init__(parts)
        self.items = parts.items

    def fold(self, steps: Timeline, queries: Queries, examples: Examples) -> None:
        for kind, row, ref, item in zip(steps.kind, steps.user, steps.ref, steps.item, strict=True):
            if kind == REMEMBER:
                self.visits[row] = item
            else:
                queries.columns["visits"][ref] = self.visits[row]  # type: ignore[call-overload]

    def describe(self, queries: Queries, rows: slice, items: Int32) -> Float32:
        return np.zeros((*items.shape, 1), np.float32)

    def pack(self, row: int, item_ids: Sequence[str]) -> dict[str, Any]:
        return {"visits": None if self.visits[row] == NOTHING else item_ids[self.visits[row]]}

    def stored_items(self, value: Mapping[str, Any]) -> Iterable[str | None]:
        return [value["visits"]]

    def unpack(self, row: int, value: Mapping[str, Any], indices: Mapping[str, int]) -> None:
        self.visits[row] = indices.get(value["visits"], NOTHING)


class LooksUpUsersItems(Visits):
    """Candidates looked up in the table by which users name items."""

    def __init__(self, parts: UserFeatureParts) -> None:
        super().__init__(parts)
        self.items = parts.items

    def describe(self, queries: Queries, rows: slice, items: Int32) -> Float32:
        kinds = np.array([kind == "kind 3" for kind in self.items.category_names()])
        return kinds[self.items.category[items]][:, :, None].astype(np.float32)


def test_a_feature_that_keeps_them_passes() -> None:
    check_user_feature(UserFeatureEntry("visits", Visits))


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (Unsaved, "comes back from the store"),
        (AskingCounts, "asking changes"),
        (LooksAhead, "depends on how the log is cut"),
        (SharesAll, "changes what is known of another"),
        (ElsewhereStored, "expected none but keys"),
        (Doubled, "expected float32"),
        (LooksAtNow, "goes on after the query"),
        (NamesItems, "depends on the indices"),
        (LooksUpUsersItems, "look otherwise where models"),
    ],
)
def test_a_feature_that_breaks_one_is_told_which(broken: type[Visits], said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        check_user_feature(UserFeatureEntry("visits", broken))
