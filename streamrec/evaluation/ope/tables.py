"""Reads a file of logged actions (parquet, csv or jsonl) as rounds, and the target policies to evaluate on it.

A target that depends on item and position alone comes as a whole distribution, so that direct and doubly robust
estimates sum over every action; a target given by a column of the log has no such sum. Knows nothing of topics.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from streamrec.errors import TableError
from streamrec.evaluation.ope.action_rows import RowOptions, read_rows
from streamrec.evaluation.ope.evaluation import TargetLog
from streamrec.evaluation.ope.reward_model import Actions, Features
from streamrec.evaluation.ope.rounds import Float64, Int64, Rounds
from streamrec.evaluation.ope.support import LogOrigin
from streamrec.replay.columns import number
from streamrec.replay.tables import Table, open_table

LOGGED, UNIFORM, COLUMN = "logged", "uniform", "column"
"""Targets with a name of their own; any other is the path of a table of probabilities."""
TARGET_FIELDS = ("item", "probability", "position")
REQUIRED = ("reward", "propensity", "item")
FIELDS = (*REQUIRED, "position", "slate", "user", "target")
MAX_CATEGORIES = 64
SUM_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class TableOptions:
    """How a file is read."""

    mapping: Mapping[str, str] = field(default_factory=dict)  # field to column
    rows: RowOptions = field(default_factory=RowOptions)
    actions: int | None = None  # that there are to choose from; None: as many as the log shows
    by_user: bool = True  # where a column holds the user
    separator: str | None = None  # of csv files


@dataclass(frozen=True, slots=True)
class ActionLog:
    """The rows read, ordered by slate and position where there are slates, else as in the file."""

    path: Path
    options: TableOptions
    reward: Float64  # (rows,)
    propensity: Float64  # (rows,)
    item: Int64  # (rows,) codes of `items`
    items: tuple[str, ...]
    place: Int64  # (rows,) codes of `places`
    places: tuple[str, ...]
    slate: Int64  # (rows,)
    cluster: Int64 | None  # (slates,)
    target: Float64 | None  # (rows,)
    context: Features  # (rows,) without items and places
    notes: tuple[str, ...]

    def logged(self, target: str) -> TargetLog:
        """The log prepared for a target: `logged`, `uniform`, `column`, or the path of a table of probabilities.

        Raises:
            TableError: the log or the table lacks the target's probabilities.
        """
        if target in (COLUMN, LOGGED):
            other = self.propensity if target == LOGGED else self.target
            if other is None:
                raise TableError(f"{self.path.name}: no column holds the target's probability (--map target=COLUMN)")
            features = self._features(len(self.items))
            drawn = features if target == LOGGED else None
            return TargetLog(target, self._rounds(other), self._origin(None), features, drawn)
        items, probability = self._uniform() if target == UNIFORM else self._table(Path(target))
        shown = np.zeros(probability.shape, np.bool_)
        shown[self.place, self.item] = True
        share = np.bincount(self.place, minlength=len(self.places)) / max(len(self.place), 1)
        never_shown = float((np.where(shown, 0.0, probability).sum(axis=1) * share).sum())
        rounds = self._rounds(probability[self.place, self.item])
        features = self._features(len(items))
        name = target if target == UNIFORM else Path(target).name
        return TargetLog(name, rounds, self._origin(never_shown), features, Actions(probability, self.place))

    def _rounds(self, target: Float64) -> Rounds:
        return Rounds(self.slate, self.reward, self.propensity, target, self.cluster)

    def _origin(self, never_shown: float | None) -> LogOrigin:
        return LogOrigin(self.path.name, never_shown=never_shown, notes=self.notes)

    def _features(self, items: int) -> Features:
        codes = np.column_stack([self.item, self.place, self.context.codes])
        return Features(self.context.dense, codes, (items, len(self.places), *self.context.sizes))

    def _uniform(self) -> tuple[tuple[str, ...], Float64]:
        """The uniform distribution over all actions; those that the log never shows come last."""
        count = len(self.items) if self.options.actions is None else self.options.actions
        if count < len(self.items):
            raise TableError(f"{self.path.name}: shows {len(self.items)} items, more than --actions {count}")
        items = (*self.items, *(f"not shown {n}" for n in range(count - len(self.items))))
        return items, np.full((len(self.places), count), 1.0 / count)

    def _table(self, path: Path) -> tuple[tuple[str, ...], Float64]:
        """Probabilities read from a table of item, probability and, if they depend on it, position."""
        table = open_table(path, self.options.separator)
        missing = [name for name in ("item", "probability") if name not in table.columns]
        if missing:
            raise TableError(
                f"{path}: expected the columns item and probability, and position if need be; lacks {missing}"
            )
        columns: dict[str, str] = {name: name for name in TARGET_FIELDS if name in table.columns}
        found = read_rows(table, columns, RowOptions())
        named, probability = found.frame["item"].to_list(), found.frame["probability"].to_numpy()
        items = (*self.items, *sorted(set(named) - set(self.items)))
        code = {name: n for n, name in enumerate(items)}
        at = np.array([code[name] for name in named])
        places = {name: n for n, name in enumerate(self.places)}
        place = np.zeros(len(at), np.int64)
        if "position" in columns:
            numeric = all(_is_number(name) for name in self.places)
            place = np.array([places.get(name, -1) for name in _place_names(found.frame, numeric)])
            place, at, probability = place[place >= 0], at[place >= 0], probability[place >= 0]
        pairs = Counter(zip(place.tolist(), at.tolist(), strict=True))
        if twice := [items[item] for (_, item), times in pairs.items() if times > 1]:
            raise TableError(f"{path}: item {twice[0]!r} is there twice, expected it once at each position")
        out = np.zeros((len(self.places), len(items)))
        if "position" in columns:
            out[place, at] = probability
        else:
            out[:, at] = probability
        sums = out.sum(axis=1)
        if (out < 0).any() or (np.abs(sums - 1.0) > SUM_TOLERANCE).any():
            sums_by_position = ", ".join(
                f"{name or 'all'}: {total:.4g}" for name, total in zip(self.places, sums, strict=True)
            )
            raise TableError(f"{path}: probabilities at each position must sum to 1; they sum to {sums_by_position}")
        return items, out / sums[:, None]


def read_actions(path: Path, options: TableOptions) -> ActionLog:
    """Read a log whole, at most `options.rows.limit` of the rows that match.

    Raises:
        TableError: the file, a column or a value is not what it should be; the message says which.
    """
    table = open_table(path, options.separator)
    columns = _field_columns(table, options)
    found = read_rows(table, columns, options.rows)
    frame = found.frame
    if frame.is_empty():
        raise TableError(
            f"{path.name}: no row counts; it has {table.row_count:,} rows and --where {dict(options.rows.where)}"
        )
    place, places = _places(frame)
    slate = np.arange(len(frame))
    if "slate" in columns:
        # By their first rows: one order, whatever the format of the file.
        _, firsts, names = np.unique(frame["slate"].to_numpy(), return_index=True, return_inverse=True)
        slate = np.argsort(np.argsort(firsts))[names]
        order = np.lexsort((place, slate))
        frame, place, slate = frame[order], place[order], slate[order]
    item, items = _codes(frame["item"])
    cluster, notes = None, list(found.notes)
    if "user" in columns:
        user = _codes(frame["user"])[0]
        firsts = np.unique(slate, return_index=True)[1]
        cluster = np.unique(user[firsts], return_inverse=True)[1]
        if mixed := len(np.unique(slate[user != user[firsts][slate]])):
            notes.append(f"{mixed:,} slates are of several users: are names of slates used twice?")
    elif options.by_user:
        notes.append("no column holds 'user' (--map user=COLUMN): intervals are too narrow if users come again")
    target = frame["target"].to_numpy() if "target" in columns else None
    reward, propensity = frame["reward"].to_numpy(), frame["propensity"].to_numpy()
    context = _context(frame, options.rows.features)
    return ActionLog(
        path, options, reward, propensity, item, items, place, places, slate, cluster, target, context, tuple(notes)
    )


def _field_columns(table: Table, options: TableOptions) -> dict[str, str]:
    """Field to column: what the mapping says, and every field that has a column of its own name."""
    columns = {name: name for name in FIELDS if name in table.columns} | dict(options.mapping)
    problems = [f"{name!r} is no field; fields are {', '.join(FIELDS)}" for name in columns if name not in FIELDS]
    problems += [f"no column holds {name!r} (--map {name}=COLUMN)" for name in REQUIRED if name not in columns]
    named = [*columns.values(), *options.rows.where, *options.rows.features]
    problems += [f"there is no column {column!r}" for column in named if column not in table.columns]
    if problems:
        raise TableError(
            f"{table.path.name}: cannot be evaluated:\n  "
            + "\n  ".join(problems)
            + f"\n  its columns are {', '.join(table.columns)}"
        )
    return columns if options.by_user else {name: column for name, column in columns.items() if name != "user"}


def _places(frame: pl.DataFrame) -> tuple[Int64, tuple[str, ...]]:
    """Positions in order: as numbers if all of them are; one for all rows where there is no such column."""
    if "position" not in frame.columns:
        return np.zeros(len(frame), np.int64), ("",)
    if not frame["position_number"].null_count():
        numbers, codes = np.unique(frame["position_number"].to_numpy(), return_inverse=True)
        return codes.astype(np.int64), tuple(f"{number:.15g}" for number in numbers)
    return _codes(frame["position"])


def _place_names(frame: pl.DataFrame, numeric: bool) -> list[str]:
    """The positions of a target's table as those of the log are called."""
    texts, numbers = frame["position"].to_list(), frame["position_number"].to_list()
    return [
        f"{number:.15g}" if numeric and number is not None else text
        for text, number in zip(texts, numbers, strict=True)
    ]


def _is_number(name: str) -> bool:
    return not number(pl.Series([name])).bad.any()


def _codes(names: pl.Series) -> tuple[Int64, tuple[str, ...]]:
    """A code per row and the names of the codes, in the order of their text."""
    found, codes = np.unique(np.array(names.to_list()), return_inverse=True)
    return codes.astype(np.int64), tuple(found.tolist())


def _context(frame: pl.DataFrame, features: Sequence[str]) -> Features:
    """Features of the context: numbers are standardised; of texts the most frequent categories are kept.

    A feature is one of numbers if all its values are, whatever the format of the file.
    """
    dense, codes, sizes = [], [], []
    for n in range(len(features)):
        texts, numbers = frame[f"feature {n}"], frame[f"feature {n} number"]
        if not (texts.is_not_null() & numbers.is_null()).any():
            given = numbers.drop_nulls().to_numpy()
            middle, spread = (given.mean(), given.std() or 1.0) if len(given) else (0.0, 1.0)
            dense.append((numbers.fill_null(middle).to_numpy() - middle) / spread)
        else:
            counts = texts.drop_nulls().value_counts().sort(["count", texts.name], descending=[True, False])
            kept = counts[texts.name].head(MAX_CATEGORIES).to_list()
            code = {value: at for at, value in enumerate(kept)}
            codes.append(np.array([code.get(value, -1) for value in texts], np.int64))
            sizes.append(len(kept))
    rows = len(frame)
    return Features(
        np.column_stack(dense) if dense else np.empty((rows, 0)),
        np.column_stack(codes) if codes else np.empty((rows, 0), np.int64),
        tuple(sizes),
    )
