"""Reads a file of logged actions (parquet, csv or jsonl) as rounds, and the target policies to evaluate on it.

A target that depends on item and position alone comes as a whole distribution, so that direct and doubly robust
estimates sum over every action; a target given by a column of the log has no such sum. Knows nothing of topics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from streamrec.errors import TableError
from streamrec.evaluation.ope.evaluation import TargetLog
from streamrec.evaluation.ope.reward_model import Actions, Features
from streamrec.evaluation.ope.rounds import Float64, Int64, Rounds
from streamrec.evaluation.ope.support import LogOrigin
from streamrec.replay.columns import ParsedColumn, number, text
from streamrec.replay.tables import Table, open_table

LOGGED, UNIFORM, COLUMN = "logged", "uniform", "column"
"""Targets with a name of their own; any other is the path of a table of probabilities."""
REQUIRED = ("reward", "propensity", "item")
FIELDS = (*REQUIRED, "position", "slate", "user", "target")
MAX_CATEGORIES = 64
SUM_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class TableOptions:
    """Which rows and columns of a file to read."""

    mapping: Mapping[str, str] = field(default_factory=dict)  # field to column
    where: Mapping[str, str] = field(default_factory=dict)  # column to the one value that counts
    features: Sequence[str] = ()  # columns that the reward model may see
    actions: int | None = None  # that there are to choose from; None: as many as the log shows
    limit: int = 2_000_000
    by_user: bool = False


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
        table = open_table(path)
        missing = [name for name in ("item", "probability") if name not in table.columns]
        if missing:
            raise TableError(
                f"{path}: expected the columns item and probability, and position if need be; lacks {missing}"
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
            sums_by_position = ", ".join(
                f"{name or 'all'}: {total:.4g}" for name, total in zip(self.places, sums, strict=True)
            )
            raise TableError(f"{path}: probabilities at each position must sum to 1; they sum to {sums_by_position}")
        return items, out / sums[:, None]


def read_actions(path: Path, options: TableOptions) -> ActionLog:
    """Read a log whole, at most `options.limit` of the rows that match.

    Raises:
        TableError: the file, a column or a value is not what it should be; the message says which.
    """
    table = open_table(path)
    columns = _field_columns(table, options)
    frame, cut = _selected_rows(table, sorted({*columns.values(), *options.where, *options.features}), options)
    if len(frame) == 0:
        raise TableError(
            f"{path.name}: no row counts; it has {table.row_count:,} rows and --where {dict(options.where)}"
        )
    if "slate" in columns:
        by = [columns["slate"], *([columns["position"]] if "position" in columns else [])]
        frame = frame.sort(by, maintain_order=True)
    reward = _numbers(path, columns["reward"], frame[columns["reward"]])
    propensity = _numbers(path, columns["propensity"], frame[columns["propensity"]])
    _check_probabilities(path, columns["propensity"], propensity, positive=True)
    target = None
    if "target" in columns:
        target = _numbers(path, columns["target"], frame[columns["target"]])
        _check_probabilities(path, columns["target"], target, positive=False)
    item, items = _codes(path, frame, columns.get("item"))
    place, places = _codes(path, frame, columns.get("position"))
    slate = np.arange(len(frame))
    if "slate" in columns:
        name = _codes(path, frame, columns["slate"])[0]
        slate = np.concatenate([[0], np.cumsum(name[1:] != name[:-1])])
    cluster = None
    if options.by_user:
        user = _codes(path, frame, columns.get("user"))[0][np.unique(slate, return_index=True)[1]]
        cluster = np.unique(user, return_inverse=True)[1]
    notes = (f"reading stopped at the limit of {options.limit:,} rows",) if cut else ()
    context = _context(frame, options.features)
    return ActionLog(
        path, options, reward, propensity, item, items, place, places, slate, cluster, target, context, notes
    )


def _field_columns(table: Table, options: TableOptions) -> dict[str, str]:
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


def _selected_rows(table: Table, columns: Sequence[str], options: TableOptions) -> tuple[pl.DataFrame, bool]:
    """The rows that match `where`, and whether there were more than the limit."""
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


def _codes(path: Path, frame: pl.DataFrame, column: str | None) -> tuple[Int64, tuple[str, ...]]:
    """A code per row and the names of the codes; one code for all without a column."""
    if column is None:
        return np.zeros(len(frame), np.int64), ("",)
    names, codes = np.unique(np.array(_texts(path, column, frame[column])), return_inverse=True)
    return codes.astype(np.int64), tuple(names.tolist())


def _context(frame: pl.DataFrame, features: Sequence[str]) -> Features:
    """Features of the context: numbers are standardised; of texts the most frequent categories are kept."""
    dense, codes, sizes = [], [], []
    for name in features:
        series = frame[name]
        if series.dtype.is_numeric():
            values = series.cast(pl.Float64).to_numpy().astype(np.float64)
            spread = float(np.nanstd(values)) or 1.0
            dense.append(np.nan_to_num((values - float(np.nanmean(values))) / spread))
        else:
            kept = series.cast(pl.String).value_counts(sort=True)[name].drop_nulls().head(MAX_CATEGORIES).to_list()
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
    return np.asarray(_complete(path, column, number(series), "a number").to_numpy(), np.float64)


def _texts(path: Path, column: str, series: pl.Series) -> list[str]:
    return list(_complete(path, column, text(series, 1, 1024), "text"))


def _complete(path: Path, column: str, converted: ParsedColumn, expected: str) -> pl.Series:
    """The values of a column that has to be complete; raises TableError where one is missing."""
    if converted.values.null_count():
        row = int(converted.values.is_null().arg_max() or 0)
        raise TableError(
            f"{path.name}: column {column!r} has no {expected.removeprefix('a ')} in row {row} of those that count"
        )
    return converted.values


def _check_probabilities(path: Path, column: str, values: Float64, *, positive: bool) -> None:
    bad = (values > 1.0 + 1e-9) | (values < 0.0) | (positive & (values == 0.0))
    if bad.any():
        low = "above 0" if positive else "from 0"
        raise TableError(
            f"{path.name}: column {column!r} is {values[bad][0]:g} in one of {int(bad.sum())} bad rows, "
            f"expected probabilities {low} to 1"
        )
