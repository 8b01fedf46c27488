"""Selects rows of a log and assigns them to users: by item pattern, once per session, anonymous users by session.

Rows are selected in the log's order, in bounded memory. Knows nothing of files.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

REMEMBERED = 200_000
"""Rows that a later one may repeat, in some 25 MB: more than the sessions that run at the same time have."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What to select. By default every row, each belonging to the user it names."""

    only_items: str | None = None
    """A regular expression: rows in whose item id it is not found are left out. Rows without an item stay."""
    anonymous: str | None = None
    """The user id of anonymous rows: each of its sessions becomes a user of its own, 'USER:SESSION'."""
    once_per_session: bool = False
    """Of the rows of one type, user, session and item the first counts. Rows without session or item all count."""

    def problem(self) -> str | None:
        """Why the item pattern is invalid, None when it is valid."""
        try:
            pl.Series([""]).str.contains(self.only_items or "")
        except pl.exceptions.ComputeError as error:
            said = [line for line in str(error).splitlines() if line.startswith("error: ")]
            return said[0].removeprefix("error: ") if said else str(error)
        return None

    def needs_sessions(self) -> str | None:
        """The option that makes no sense without session ids, None when none is set."""
        if self.anonymous is not None:
            return "--anonymous"
        return "--once-per-session" if self.once_per_session else None


EVERYTHING = Selection()


class Selector:
    """Applies a selection to the rows of one log, which come in order. Series are text, null where there is none."""

    def __init__(self, selection: Selection) -> None:
        self.selection = selection
        self._recent = RecentKeys()

    def fits(self, items: pl.Series) -> NDArray[np.bool_]:
        """Whether each row's item is one of those asked for, (rows,)."""
        if self.selection.only_items is None:
            return np.ones(len(items), bool)
        return items.str.contains(self.selection.only_items).fill_null(True).to_numpy()

    def owners(self, users: pl.Series, sessions: pl.Series) -> pl.Series:
        """Each row's user: for anonymous rows, their session."""
        if self.selection.anonymous is None:
            return users
        nobody = (users == self.selection.anonymous) & sessions.is_not_null()
        return pl.select(
            pl.when(nobody).then(pl.concat_str(users, sessions, separator=":")).otherwise(users)
        ).to_series()

    def first_time(
        self, types: Sequence[str], owners: pl.Series, sessions: pl.Series, items: pl.Series
    ) -> NDArray[np.bool_]:
        """False for rows that repeat an earlier row of their session, (rows,); remembers the rows it is given."""
        if not self.selection.once_per_session:
            return np.ones(len(types), bool)
        parts = (pl.Series(types, dtype=pl.String), owners, sessions, items)
        keys = pl.select(pl.concat_str(*parts, separator="\x1f").hash()).to_series()
        comparable = (sessions.is_not_null() & items.is_not_null()).to_list()
        return np.array([not at or self._recent.add(key) for key, at in zip(keys, comparable, strict=True)], bool)


class RecentKeys:
    """The newest REMEMBERED keys, by their hash."""

    def __init__(self) -> None:
        self._keys: OrderedDict[int, None] = OrderedDict()

    def add(self, key: Hashable) -> bool:
        """Whether the key is new."""
        key = hash(key)
        new = key not in self._keys
        self._keys[key] = None
        self._keys.move_to_end(key)
        if len(self._keys) > REMEMBERED:
            self._keys.popitem(last=False)
        return new
