"""Writes and reads `slates.parquet`: one row per ranked target, enough for anyone to recompute every metric.

The file depends on the rows alone, not on when or in which batches they came: equal rows, equal bytes.
Knows nothing of models: they are names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from streamrec.engine.learning.ranking_metrics import SLATE_LENGTH
from streamrec.errors import TableError

ROW_GROUP = 16_384
"""Rows buffered before a row group is written: about 15 MB, whatever the length of the log."""
RANK_PREFIX = "rank_"
BASE_FIELDS = (
    pa.field("row", pa.int64(), nullable=False),
    pa.field("ts", pa.int64(), nullable=False),
    pa.field("user_id", pa.string(), nullable=False),
    pa.field("target", pa.string(), nullable=False),
    pa.field("known", pa.bool_(), nullable=False),
    pa.field("scored", pa.bool_(), nullable=False),
    pa.field("items", pa.list_(pa.string()), nullable=False),
    pa.field("scores", pa.list_(pa.float32()), nullable=False),
)


class SlateWriter:
    """Writes slates in row groups as they come; a context manager.

    Guarantee: the file appears under its name only when it is complete; after an error nothing is left of it.
    """

    def __init__(self, path: Path, model_names: Sequence[str]) -> None:
        """Begin a file.

        Args:
            path: where the finished file goes; one that is there is replaced.
            model_names: the models ranked alone, each with a column `rank_<model>`.
        """
        ranks = [pa.field(RANK_PREFIX + name, pa.int16(), nullable=False) for name in model_names]
        self.path = path
        self._schema = pa.schema([*BASE_FIELDS, *ranks])
        self._unfinished = path.with_name(path.name + ".part")
        self._writer = pq.ParquetWriter(self._unfinished, self._schema, compression="zstd", compression_level=3)
        # Plain lists until a row group is full: turning a few rows at a time into arrays costs more than ranking them.
        self._pending: dict[str, list[Any]] = {name: [] for name in self._schema.names}

    def append(
        self,
        *,
        rows: Sequence[int] | NDArray[np.int64],
        ts: Sequence[int] | NDArray[np.int64],
        user_ids: Sequence[str],
        targets: Sequence[str],
        known: Sequence[bool] | NDArray[np.bool_],
        scored: Sequence[bool] | NDArray[np.bool_],
        items: Sequence[Sequence[str]],
        scores: Sequence[Sequence[float] | NDArray[np.float32]],
        ranks: Mapping[str, Sequence[int] | NDArray[np.integer]],
    ) -> None:
        """Add some ranked targets, in log order.

        Args:
            rows: row of the log of each target; `ts` its time in ms; `user_ids` and `targets` who and what.
            ts: see rows.
            user_ids: see rows.
            targets: see rows.
            known: whether the log has shown the target before.
            scored: whether the target is past the warm-up.
            items: the fused slate, best first, at most 20 ids; `scores` one for each of them.
            scores: see items.
            ranks: per model, the target's place in the model's own top 20, 0 = not there.

        Raises:
            ValueError: the columns differ in length, a slate is too long, a rank is out of range or of another model.
        """
        named = {RANK_PREFIX + name: _listed(column) for name, column in ranks.items()}
        base = (rows, ts, user_ids, targets, known, scored, items, scores)
        columns = dict(zip(self._schema.names, map(_listed, base), strict=False)) | named
        _check(columns, self._schema.names)
        for name, pending in self._pending.items():
            pending += columns[name]
        if len(self._pending["row"]) >= ROW_GROUP:
            self._write(complete_only=True)

    def close(self) -> None:
        """Write what is left and give the file its name."""
        self._write(complete_only=False)
        self._writer.close()
        self._unfinished.replace(self.path)

    def __enter__(self) -> SlateWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self._writer.close()
            self._unfinished.unlink(missing_ok=True)

    def _write(self, complete_only: bool) -> None:
        """Write whole row groups, always cut at the same rows; the rest waits or, at the end, follows."""
        pending = len(self._pending["row"])
        rows = pending - pending % ROW_GROUP if complete_only else pending
        for start in range(0, rows, ROW_GROUP):
            part = slice(start, min(start + ROW_GROUP, rows))
            arrays = [pa.array(self._pending[field.name][part], field.type) for field in self._schema]
            self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema), row_group_size=ROW_GROUP)
        for column in self._pending.values():
            del column[:rows]


def _listed(column: Sequence[Any] | NDArray[Any]) -> Sequence[Any]:
    return column.tolist() if isinstance(column, np.ndarray) else column


def _check(columns: Mapping[str, Sequence[Any]], names: Sequence[str]) -> None:
    if set(columns) != set(names):
        models = sorted(name for name in columns if name.startswith(RANK_PREFIX))
        raise ValueError(f"ranks are {models}, expected those named at the start: {names[len(BASE_FIELDS) :]}")
    if len(lengths := {len(column) for column in columns.values()}) > 1:
        raise ValueError(f"columns have {sorted(lengths)} rows, expected as many each")
    for slate, scores in zip(columns["items"], columns["scores"], strict=True):
        if len(slate) != len(scores):
            raise ValueError(
                f"a slate has {len(slate)} items and {len(scores)} scores, expected one score for each item"
            )
        if len(slate) > SLATE_LENGTH:
            raise ValueError(f"a slate has {len(slate)} items, expected at most {SLATE_LENGTH}")
    for name in names[len(BASE_FIELDS) :]:
        low, high = min(columns[name], default=0), max(columns[name], default=0)
        if low < 0 or high > SLATE_LENGTH:
            raise ValueError(f"{name} goes from {low} to {high}, expected 0 (absent) to {SLATE_LENGTH}")


def read_slates(path: Path) -> pa.Table:
    """The whole file as a table, checked for the columns that the metrics need.

    Raises:
        TableError: the file is missing, is no parquet file, or lacks a column.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise TableError(f"{path}: expected the slates of a backtest ({error}); run the backtest again") from error
    missing = [field.name for field in BASE_FIELDS if field.name not in table.column_names]
    if missing:
        raise TableError(f"{path}: columns {missing} are missing, expected the slates of a backtest; run it again")
    return table


def fused_ranks(table: pa.Table) -> NDArray[np.int64]:
    """The target's place in each fused slate, 0 = not there: (rows,), recomputed from `items` and `target`."""
    import pyarrow.compute as pc  # slow to load, and a run writes slates without it

    items = table["items"].combine_chunks()
    targets = table["target"].combine_chunks()
    ranks = np.zeros(table.num_rows, np.int64)
    slates = pc.list_parent_indices(items).to_numpy()
    found = pc.equal(pc.list_flatten(items), targets.take(pa.array(slates))).to_numpy(zero_copy_only=False)
    starts = np.concatenate(([0], np.cumsum(pc.list_value_length(items).to_numpy())))
    at = np.flatnonzero(found)
    ranks[slates[at]] = at - starts[slates[at]] + 1
    return ranks


def model_ranks(table: pa.Table) -> dict[str, NDArray[np.int64]]:
    """Each model's column of ranks, (rows,) by name."""
    names = [name for name in table.column_names if name.startswith(RANK_PREFIX)]
    return {name.removeprefix(RANK_PREFIX): table[name].to_numpy().astype(np.int64) for name in names}
