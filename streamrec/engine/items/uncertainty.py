"""How little is known of an item: what exploration is for.

n_i counts the evidence on item i: how often it was wanted or refused, put on a slate, or seen where the site
itself put it. Old news counts less, with a half-life, by the log's clock; so an item that was not shown for weeks is
uncertain again. Then

    uncertainty_i = 1 / sqrt(1 + n_i)

If events come at a rate with a Gamma(1, .) prior, then after n of them the posterior is Gamma(1 + n, .), and its
standard deviation over its mean is exactly that (Gelman et al.: Bayesian data analysis, 2013, section 2.6). The
deviation of a Beta posterior shrinks alike, and so do the bonuses that count-based exploration pays (Strehl, Littman:
An analysis of model-based interval estimation for Markov decision processes, JCSS 2008).

A new item has uncertainty 1, one that was shown or wanted a thousand times of late has .03. What is noted counts from
the next learning cut on. Knows nothing of how uncertainty is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from streamrec.engine.arrays.batch import NOTHING, Array, Float64, Int32, Int64, MicroBatch
from streamrec.engine.arrays.compiled import compiled
from streamrec.engine.arrays.labels import REFUSED, WANTED
from streamrec.engine.following.served import Arrays, ChangedRows, Rows

HALF_LIFE_S = 7 * 24 * 3600.0
HALF_LIFE_MS = HALF_LIFE_S * 1000.0


class Uncertainty:
    """Of items with an index below `capacity`; 16 bytes each."""

    def __init__(self, capacity: int) -> None:
        self._told = np.zeros(capacity, np.float64)  # n_i as of
        self._as_of = np.zeros(capacity, np.int64)  # ms
        self._rows = 0  # nothing is known of items from this index on
        self._shown: list[tuple[int, int]] = []  # item and time, since the last learning cut

    def of(self, items: Int32, ts: Int64) -> Float64:
        """The uncertainty of each candidate, in (0, 1], (rows, candidates); 1 where there is none.

        Args:
            items: (rows, candidates), NOTHING where there are fewer.
            ts: (rows,) when they are asked for, ms.
        """
        out = np.ones(items.shape)
        _uncertainty(self._told, self._as_of, items, ts, out)
        return out

    def note_shown(self, items: Iterable[int], ts: int) -> None:
        """These were shown at that time, ms."""
        self._shown.extend((item, ts) for item in items if item != NOTHING)

    def learn(self, batch: MicroBatch) -> None:
        """The cut: what was shown counts, and what was wanted or refused."""
        shown, examples = self._noted(), batch.examples
        judged = np.flatnonzero(np.isin(examples.label[: batch.learned], (REFUSED, WANTED)))
        items = np.concatenate([shown[:, 0], examples.item[judged]])
        self._rows = max(self._rows, int(items.max(initial=NOTHING)) + 1)
        _tell(self._told, self._as_of, items, np.concatenate([shown[:, 1], examples.ts[judged]]))
        self._shown.clear()

    def forget(self, items: Int32) -> None:
        """These indices will name other items soon."""
        self._told[items] = 0.0
        self._as_of[items] = 0
        gone = set(items.tolist())
        self._shown = [(item, ts) for item, ts in self._shown if item not in gone]

    def served(self) -> dict[str, Rows]:
        """By item index."""
        return {"told": self._told[: self._rows], "as_of": self._as_of[: self._rows]}

    def serve(self, arrays: Arrays, changed: ChangedRows | None = None) -> None:
        """What another one was told; it hears of what is shown here by itself."""
        self._told, self._as_of = arrays["told"], arrays["as_of"]
        self._shown.clear()

    def state(self) -> dict[str, Array]:
        """What a snapshot holds."""
        return {name: np.array(rows) for name, rows in self.served().items()} | {"shown": self._noted()}

    def restore(self, arrays: Mapping[str, Array]) -> None:
        """The inverse of `state`."""
        self._told[:], self._as_of[:] = 0.0, 0
        self._rows = len(arrays["told"])
        self._told[: self._rows] = arrays["told"]
        self._as_of[: self._rows] = arrays["as_of"]
        self._shown = [(item, ts) for item, ts in arrays["shown"].tolist()]

    def _noted(self) -> Int64:
        """Items and times since the cut, (shown, 2), in an order that does not depend on how the log came in."""
        return np.array(sorted(self._shown), np.int64).reshape(-1, 2)


@compiled
def _tell(told, as_of, items, ts):  # type: ignore[no-untyped-def]
    """One more of each, in log order; what comes late counts as old."""
    for at in range(len(items)):
        item = items[at]
        elapsed_ms = ts[at] - as_of[item]
        if elapsed_ms >= 0:
            told[item] = told[item] * 0.5 ** (elapsed_ms / HALF_LIFE_MS) + 1.0
            as_of[item] = ts[at]
        else:
            told[item] += 0.5 ** (-elapsed_ms / HALF_LIFE_MS)


@compiled
def _uncertainty(told, as_of, items, ts, out):  # type: ignore[no-untyped-def]
    for row in range(len(items)):
        for c in range(items.shape[1]):
            item = items[row, c]
            if item != NOTHING and item < len(told):
                elapsed_ms = max(ts[row] - as_of[item], 0)
                out[row, c] = 1.0 / np.sqrt(1.0 + told[item] * 0.5 ** (elapsed_ms / HALF_LIFE_MS))
