"""A file of logged actions (parquet, csv or jsonl) as rounds, and the targets that it can be asked about.

Knows nothing of topics. A target that depends on item and position alone is given as a whole distribution, so that
direct and doubly robust estimates sum over every action; one that the log names by a column has no such sum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from streamrec.errors import TableError
from streamrec.evaluation.ope.evaluation import Logged
from streamrec.evaluation.ope.reward_model import Actions, Features
from streamrec.evaluation.ope.rounds import Float64, Int64, Rounds
from streamrec.evaluation.ope.support import Origin
from streamrec.replay.columns import Converted, number, text
from streamrec.replay.tables import Table, open_table

LOGGED, UNIFORM, COLUMN = "logged", "uniform", "column"
"""Targets with a name of their own; any other is the path of a table of probabilities."""
REQUIRED = ("reward", "propensity", "item")
FIELDS = (*REQUIRED, "position", "slate", "user", "target")
MOST_CATEGORIES = 64
SUM_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class TableOptions:
    """Which rows and columns of a file make the log."""

    mapping: Mapping[str, str] = field(default_factory=dict)  # field to column
    where: Mapping[str, str] = field(default_factory=dict)  # column to the one value that counts
    features: Sequence[str] = ()  # columns that the reward model may see
    actions: int | None = None  # that there are to choose from; None: as many as the log shows
    limit: int = 2_000_000
    by_user: bool = False


@dataclass(frozen=True, slots=True)
class ActionLog:
    """The rows that count, ordered by slate and position where there are slates, else as in the file."""

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

    def logged(self, target: str) -> Logged:
        """The log as a target sees it: `logged`, `uniform`, `column`, or a table's path.

        Raises:
            TableError: the log or the table does not say what the target does.
        """
        if target in (COLUMN, LOGGED):
            other = self.propensity if target == LOGGED else self.target
            if other is None:
                raise TableError(f"{self.path.name}: no column holds the target's probability (--map target=COLUMN)")
            described = self._described(len(self.items))
            drawn = described if target == LOGGED else None
            return Logged(target, self._rounds(other), self._origin(None), described, drawn)
        items, probability = self._uniform() if target == UNIFORM else self._table(Path(target))
        shown = np.zeros(probability.shape, np.bool_)
        shown[self.place, self.item] = True
        share = np.bincount(self.place, minlength=len(self.places)) / max(len(self.place), 1)
        out_of_sight = float((np.where(shown, 0.0, probability).sum(axis=1) * share).sum())
        rounds = self._rounds(probability[self.place, self.item])
        described = self._described(len(items))
        name = target if target == UNIFORM else Path(target).name
        return Logged(name, rounds, self._origin(out_of_sight), described, Actions(probability, self.place))

    def _rounds(self, target: Float64) -> Rounds:
        return Rounds(self.slate, self.reward, self.propensity, target, self.cluster)

    def _origin(self, never_shown: float | None) -> Origin:
        return Origin(self.path.name, never_shown=never_shown, notes=self.notes)

    def _described(self, items: int) -> Features:
        codes = np.column_stack([self.item, self.place, self.context.codes])
        return Features(self.context.dense, codes, (items, len(self.places), *self.context.sizes))

    def _uniform(self) -> tuple[tuple[str, ...], Float64]:
        """Evenly over all actions; those that the log never shows come after its own."""
        count = len(self.items) if self.options.actions is None else self.options.actions
        if count < len(self.items):
            raise TableError(f"{self.path.name}: shows {len(self.items)} items, more than --actions {count}")
        items = (*self.items, *(f"not shown {n}" for n in range(count - len(self.items))))
        return items, np.full((len(self.places), count), 1.0 / count)

    def _table(self, path: Path) -> tuple[tuple[str, ...], Float64]:
        """A table of item, probability and, where the target minds it, position."""
        table = open_table(path)
        lacking = [name for name in ("item", "probability") if name not in table.columns]
        if lacking:
            raise TableError(
                f"{path}: expected the columns item and probability, and position if need be; lacks {lacking}"
            )
        columns = [name for name in ("item", "probability", "position") if name in table.columns]
        frame = _frame(table, columns)
        item = _texts(path, "item", frame["item"])
        probability = _numbers(path, "probability", frame["probability"])
        items = (*self.items, *sorted(set(item) - set(self.items)))
        code = {name: n for n, name in enumerate(items)}
        at = np.array([code[name] for name in item])
        out = np.zeros((len(self.places), len(items)))
        if "position" in columns:
            places = {name: n for n, name in enumerate(self.places)}
            place = np.array([places.get(name, -1) for name in _texts(path, "position", frame["position"])])
            out[place[place >= 0], at[place >= 0]] = probability[place >= 0]
        else:
            out[:, at] = probability
        sums = out.sum(axis=1)
        if (out < 0).any() or (np.abs(sums - 1.0) > SUM_TOLERANCE).any():
            told = ", ".join(f"{name or 'all'}: {total:.4g}" for name, total in zip(self.places, sums, strict=True))
            raise TableError(f"{path}: probabilities at each position must sum to 1; they sum to {told}")
        return items, out / sums[:, None]


def read_actions(path: Path, options: TableOptions) -> ActionLog:
    """Read a log whole, at most `options.limit` rows that count.

    Raises:
        TableError: the file, a column or a value is not what it should be; the message says which.
    """
    table = open_table(path)
    columns = _mapped(table, options)
    frame, cut = _selected(table, sorted({*columns.values(), *options.where, *options.features}), options)
    if len(frame) == 0:
        raise TableError(
            f"{path.name}: no row counts; it has {table.row_count:,} rows and --where {dict(options.where)}"
        )
    if "slate" in columns:
        by = [columns["slate"], *([columns["position"]] if "position" in columns else [])]
        frame = frame.sort(by, maintain_order=True)
    reward = _numbers(path, columns["reward"], frame[columns["reward"]])
    propensity = _numbers(path, columns["propensity"], frame[columns["propensity"]])
    _probable(path, columns["propensity"], propensity, positive=True)
    target = None
    if "target" in columns:
        target = _numbers(path, columns["target"], frame[columns["target"]])
        _probable(path, columns["target"], target, positive=False)
    item, items = _coded(path, frame, columns.get("item"))
    place, places = _coded(path, frame, columns.get("position"))
    slate = np.arange(len(frame))
    if "slate" in columns:
        name = _coded(path, frame, columns["slate"])[0]
        slate = np.concatenate([[0], np.cumsum(name[1:] != name[:-1])])
    cluster = None
    if options.by_user:
        user = _coded(path, frame, columns.get("user"))[0][np.unique(slate, return_index=True)[1]]
        cluster = np.unique(user, return_inverse=True)[1]
    notes = (f"reading stopped at the limit of {options.limit:,} rows",) if cut else ()
    context = _context(frame, options.features)
    return ActionLog(
        path, options, reward, propensity, item, items, place, places, slate, cluster, target, context, notes
    )


def _mapped(table: Table, options: TableOptions) -> dict[str, str]:
    """Field to column: what the mapping says, and every field that has a column of its own name."""
    columns = {name: name for name in FIELDS if name in table.columns} | dict(options.mapping)
    problems = [f"{name!r} is no field; fields are {', '.join(FIELDS)}" for name in columns if name not in FIELDS]
    problems += [f"no column holds {name!r} (--map {name}=COLUMN)" for name in REQUIRED if name not in columns]
    if options.by_user and "user" not in columns:
        problems.append("no column holds 'user', whose slates are to be drawn together (--map user=COLUMN)")
    named = [*columns.values(), *options.where, *options.features]
    problems += [f"there is no column {column!r}" for column in named if column not in table.columns]
    if problems:
        raise TableError(
            f"{table.path.name}: cannot be evaluated:\n  "
            + "\n  ".join(problems)
            + f"\n  its columns are {', '.join(table.columns)}"
        )
    return columns


def _selected(table: Table, columns: Sequence[str], options: TableOptions) -> tuple[pl.DataFrame, bool]:
    """The rows that count, and whether there were more."""
    frames, rows = [], 0
    for batch in table.batches(columns):
        if batch.broken:
            row, why = batch.broken[0]
            raise TableError(f"{table.path.name}: row {row}: {why}")
        frame = batch.frame
        for column, value in options.where.items():
            frame = frame.filter(text(frame[column], 0, 1024).values.fill_null("") == value)
        frames.append(frame.head(options.limit - rows))
        rows += len(frame)
        if rows > options.limit:
            break
    return (pl.concat(frames) if frames else pl.DataFrame()), rows > options.limit


def _frame(table: Table, columns: Sequence[str]) -> pl.DataFrame:
    return pl.concat([batch.frame for batch in table.batches(columns)])


def _coded(path: Path, frame: pl.DataFrame, column: str | None) -> tuple[Int64, tuple[str, ...]]:
    """A code per row and the names of the codes; one code for all without a column."""
    if column is None:
        return np.zeros(len(frame), np.int64), ("",)
    names, codes = np.unique(np.array(_texts(path, column, frame[column])), return_inverse=True)
    return codes.astype(np.int64), tuple(names.tolist())


def _context(frame: pl.DataFrame, features: Sequence[str]) -> Features:
    """Numbers are brought to one scale; of texts the most frequent categories are kept."""
    dense, codes, sizes = [], [], []
    for name in features:
        series = frame[name]
        if series.dtype.is_numeric():
            values = series.cast(pl.Float64).to_numpy().astype(np.float64)
            spread = float(np.nanstd(values)) or 1.0
            dense.append(np.nan_to_num((values - float(np.nanmean(values))) / spread))
        else:
            kept = series.cast(pl.String).value_counts(sort=True)[name].drop_nulls().head(MOST_CATEGORIES).to_list()
            code = {value: n for n, value in enumerate(kept)}
            codes.append(np.array([code.get(value, -1) for value in series.cast(pl.String)], np.int64))
            sizes.append(len(kept))
    rows = len(frame)
    return Features(
        np.column_stack(dense) if dense else np.empty((rows, 0)),
        np.column_stack(codes) if codes else np.empty((rows, 0), np.int64),
        tuple(sizes),
    )


def _numbers(path: Path, column: str, series: pl.Series) -> Float64:
    return np.asarray(_whole(path, column, number(series), "a number").to_numpy(), np.float64)


def _texts(path: Path, column: str, series: pl.Series) -> list[str]:
    return list(_whole(path, column, text(series, 1, 1024), "text"))


def _whole(path: Path, column: str, converted: Converted, expected: str) -> pl.Series:
    """The values, all of them there."""
    if converted.values.null_count():
        row = int(converted.values.is_null().arg_max() or 0)
        raise TableError(
            f"{path.name}: column {column!r} has no {expected.removeprefix('a ')} in row {row} of those that count"
        )
    return converted.values


def _probable(path: Path, column: str, values: Float64, *, positive: bool) -> None:
    bad = (values > 1.0 + 1e-9) | (values < 0.0) | (positive & (values == 0.0))
    if bad.any():
        low = "above 0" if positive else "from 0"
        raise TableError(
            f"{path.name}: column {column!r} is {values[bad][0]:g} in one of {int(bad.sum())} bad rows, "
            f"expected probabilities {low} to 1"
        )
