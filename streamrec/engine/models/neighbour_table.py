"""A sparse item-item matrix that forgets: for each item, the strongest few items that go with it.

The ground under co-visitation and transitions. Each row keeps at most `slots` neighbours; a newcomer takes the place
of the weakest. Weights decay by half-lives of the log's own time: instead of shrinking what is there, what comes is
added larger, and everything is rescaled before the numbers grow too large.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from streamrec.engine.arrays.batch import NOTHING, Array, Excluded, Float32, Float64, Int32, Int64
from streamrec.engine.arrays.compiled import compiled
from streamrec.engine.following.served import Arrays, ChangedRows, Rows, RowStamps

SHRINKAGE = 5.0
"""Events of the present that every count is shrunk by: without it, items seen once look like perfect matches."""
RESCALE_HALF_LIVES = 40.0
"""2**40 is far from the end of float32, and a rescale so rare costs nothing."""


class DecayClock:
    """Turns a time into the size of what is added at that time."""

    def __init__(self, half_life_s: float) -> None:
        self.half_life_ms = half_life_s * 1000.0
        self.origin_ms: float | None = None

    def gain(self, ts: int) -> float:
        """2 ** (half-lives since the origin)."""
        if self.origin_ms is None:
            self.origin_ms = float(ts)
        return float(2.0 ** ((ts - self.origin_ms) / self.half_life_ms))

    def rescale(self, ts: int) -> float | None:
        """What everything must be multiplied by before adding at `ts`, None when nothing need be done."""
        if self.origin_ms is None:
            self.origin_ms = float(ts)
        half_lives = (ts - self.origin_ms) / self.half_life_ms
        if half_lives < RESCALE_HALF_LIVES:
            return None
        self.origin_ms = float(ts)
        return float(2.0 ** -min(half_lives, 1000.0))

    def gains(self, ts: Int64, weight: Float32) -> Float64:
        """What events of these times and weights add, (events,); nothing, where that would be no number."""
        gains = np.exp2((ts - np.float64(self.origin_ms or 0.0)) / self.half_life_ms) * weight
        finite: Float64 = np.where(np.isfinite(gains), gains, 0.0)
        return finite

    def state(self) -> Array:
        return np.array([np.nan if self.origin_ms is None else self.origin_ms])

    def restore(self, saved: Array) -> None:
        origin = float(saved[0])
        self.origin_ms = None if np.isnan(origin) else origin


class NeighbourTable:
    """Rows of (neighbour, weight), for item indices below `capacity`."""

    def __init__(self, capacity: int, slots: int, half_life_s: float) -> None:
        self.clock = DecayClock(half_life_s)
        self.items = np.zeros(
            (capacity, slots), np.int32
        )  # neighbour + 1, 0 for an empty slot: untouched pages cost nothing
        self.weights = np.zeros((capacity, slots), np.float32)
        self.mass = np.zeros(capacity, np.float64)  # decayed number of times each item was learned
        self.rows = 0
        self._latest_gain = 1.0  # what one event adds as of the latest one learned
        self._stamped = RowStamps(capacity)  # of items and weights
        self._reached = np.zeros(capacity, np.float64)  # scratch: what reached an item, where its stamp says so
        self._stamp = np.zeros(capacity, np.int64)
        self._stamps = 0

    def learn(
        self,
        item: Int32,
        ts: Int64,
        recent: Int32,
        steps: Int32,
        reach: Int32,
        weight: Float32,
        fade: Float64,
        mutual: bool,
    ) -> None:
        """Join each item with the first `reach` of the items before it, the nearest counting most (`fade` by step).

        Args:
            item: (examples,); recent: (examples, places) newest first; reach: (examples,); weight: (examples,).
            steps: (examples, places) how far back each of them is; at len(fade) and beyond they do not count.
            mutual: the earlier item becomes a neighbour of the later one too, not only the other way round.
        """
        if len(item) == 0:
            return
        factor = self.clock.rescale(int(ts.max()))
        if factor is not None:
            self._stamped.touch(slice(0, self.rows))
            self.weights[: self.rows] *= np.float32(factor)
            self.mass[: self.rows] *= factor
            self._latest_gain *= factor
        self._latest_gain = max(self._latest_gain, self.clock.gain(int(ts.max())))  # late events do not turn it back
        gain = self.clock.gains(ts, weight)
        self.rows = max(self.rows, int(item.max()) + 1, int(recent.max(initial=NOTHING)) + 1)
        stamps, moment = self._stamped.stamps, self._stamped.moment
        _learn(item, recent, steps, reach, gain, fade, mutual, self.items, self.weights, self.mass, stamps, moment)

    def score(
        self, context: Int32, steps: Int32, reach: Int32, fade: Float64, cosine: bool, candidates: Int32
    ) -> Float32:
        """Log of the weight that spreads from each context to its candidates, (rows, candidates), -inf for none."""
        out = np.full(candidates.shape, -np.inf, np.float32)
        nothing = np.empty((len(context), 0), np.int32)
        self._spread(context, steps, reach, fade, cosine, candidates, out, nothing, Excluded.nothing(len(context)))
        return out

    def strongest(
        self, context: Int32, steps: Int32, reach: Int32, fade: Float64, cosine: bool, k: int, excluded: Excluded
    ) -> Int32:
        """The `k` items that most weight spreads to and that are not excluded, best first, (rows, k)."""
        best = np.full((len(context), k), NOTHING, np.int32)
        nothing = np.empty((len(context), 0), np.int32)
        self._spread(context, steps, reach, fade, cosine, nothing, nothing.astype(np.float32), best, excluded)
        return best

    def _spread(
        self,
        context: Int32,
        steps: Int32,
        reach: Int32,
        fade: Float64,
        cosine: bool,
        candidates: Int32,
        out: Float32,
        best: Int32,
        excluded: Excluded,
    ) -> None:
        first = self._stamps + 1
        self._stamps += len(context)
        _spread(
            context,
            steps,
            reach,
            fade,
            cosine,
            self._prior(),
            self.items,
            self.weights,
            self.mass,
            self._reached,
            self._stamp,
            first,
            candidates,
            out,
            excluded.items,
            excluded.starts,
            excluded.barred,
            best,
        )

    def _prior(self) -> float:
        return SHRINKAGE * self._latest_gain

    def forget(self, items: Int32) -> None:
        """Empty these rows, and these items' places in the rows of others."""
        used = self.items[: self.rows]
        gone = np.isin(used - 1, items) & (used > 0)
        used[gone] = 0
        self.weights[: self.rows][gone] = 0.0
        self.items[items] = 0
        self.weights[items] = 0.0
        self.mass[items] = 0.0
        self._stamped.touch(np.flatnonzero(gone.any(1)))
        self._stamped.touch(items)

    def served(self) -> dict[str, Rows]:
        """As a model's; so are the others."""
        rows = self.rows
        small = np.concatenate([self.clock.state(), [self._latest_gain]])
        return {"items": self.items[:rows], "weights": self.weights[:rows], "mass": self.mass[:rows], "clock": small}

    def serve(self, arrays: Arrays, changed: ChangedRows | None = None) -> None:
        self.items, self.weights, self.mass = arrays["items"], arrays["weights"], arrays["mass"]
        self.rows = len(self.mass)
        self._latest_gain = float(arrays["clock"][1])

    def touched(self, since: int) -> tuple[int, ChangedRows]:
        moment, rows = self._stamped.since(since)
        return moment, {"items": rows, "weights": rows}

    def state(self) -> dict[str, Array]:
        return {name: np.array(rows) for name, rows in self.served().items()}

    def restore(self, arrays: Mapping[str, Array]) -> None:
        for table in (self.items, self.weights, self.mass):
            table[: self.rows] = 0  # rows that were never in use need no clearing, which would cost their memory
        self._stamped.touch(slice(0, max(self.rows, len(arrays["mass"]))))
        self.rows = len(arrays["mass"])
        self.items[: self.rows] = arrays["items"]
        self.weights[: self.rows] = arrays["weights"]
        self.mass[: self.rows] = arrays["mass"]
        self.clock.restore(arrays["clock"])
        self._latest_gain = float(arrays["clock"][1])


@compiled
def _add(row, neighbour, gain, items, weights, stamps, moment):  # type: ignore[no-untyped-def]
    stamps[row] = moment
    weakest = 0
    for slot in range(items.shape[1]):
        if items[row, slot] == neighbour + 1:
            weights[row, slot] += gain
            return
        if weights[row, slot] < weights[row, weakest]:
            weakest = slot
    if weights[row, weakest] > gain:  # a passer-by wears the weakest down, a regular takes its place
        weights[row, weakest] -= gain
        return
    items[row, weakest] = neighbour + 1
    weights[row, weakest] = gain


@compiled
def _among(item, others):  # type: ignore[no-untyped-def]
    for other in others:  # noqa: SIM110 (numba knows no generators here)
        if other == item:
            return True
    return False


@compiled
def _learn(  # type: ignore[no-untyped-def]
    item, recent, steps, reach, gain, fade, mutual, items, weights, mass, stamps, moment
):  # fmt: skip
    for e in range(len(item)):
        later = item[e]
        mass[later] += gain[e]
        for place in range(min(reach[e], recent.shape[1])):
            earlier, step = recent[e, place], steps[e, place]
            if step >= len(fade):
                break
            if earlier == NOTHING or earlier == later:  # noqa: SIM109 (numba knows no mixed tuples)
                continue
            if _among(earlier, recent[e, :place]):  # a user who goes back and forth is counted once
                continue
            _add(earlier, later, gain[e] * fade[step], items, weights, stamps, moment)
            if mutual:
                _add(later, earlier, gain[e] * fade[step], items, weights, stamps, moment)


@compiled
def _spread(  # type: ignore[no-untyped-def]
    context, steps, reach, fade, cosine, prior, items, weights, mass, reached, stamp, first, candidates, out,
    excluded, starts, barred, best,
):  # fmt: skip
    """Fills `out` (rows, candidates) and `best` (rows, k); either may have no columns."""
    found_items = np.empty(context.shape[1] * items.shape[1], np.int64)
    for q in range(len(context)):
        mark = first + q
        found = 0
        for place in range(min(reach[q], context.shape[1])):
            source, step = context[q, place], steps[q, place]
            if step >= len(fade):
                break
            if source == NOTHING or source >= len(mass):
                continue
            for slot in range(items.shape[1]):
                n = items[source, slot] - 1
                if n < 0:
                    continue
                share = fade[step] * weights[source, slot]
                if cosine:
                    share /= np.sqrt((mass[source] + prior) * (mass[n] + prior))
                else:
                    share /= mass[source] + prior
                if stamp[n] != mark:
                    stamp[n] = mark
                    reached[n] = 0.0
                    found_items[found] = n
                    found += 1
                reached[n] += share
        logs_of(candidates[q], reached, stamp, mark, out[q])
        best_of(found_items[:found], reached, excluded[starts[q] : starts[q + 1]], barred, best[q])


@compiled
def logs_of(items, mass, stamp, mark, out):  # type: ignore[no-untyped-def]
    """Log of each item's mass, where its stamp says that it has one now."""
    for at in range(len(items)):
        n = items[at]
        if n != NOTHING and stamp[n] == mark and mass[n] > 0.0:
            out[at] = np.log(mass[n])


@compiled
def best_of(found, mass, excluded, barred, best):  # type: ignore[no-untyped-def]
    """The items of most mass, best first, by insertion into a short list; among equals those found first.

    What is excluded loses its mass; what is barred, by item index, is passed over.
    """
    if len(best) == 0:
        return
    for n in excluded:
        if n != NOTHING:
            mass[n] = 0.0
    used = 0
    for n in found:
        if mass[n] <= 0.0 or (n < len(barred) and barred[n]):
            continue
        if used == len(best) and mass[n] <= mass[best[used - 1]]:
            continue
        place = min(used, len(best) - 1)
        while place > 0 and mass[best[place - 1]] < mass[n]:
            best[place] = best[place - 1]
            place -= 1
        best[place] = n
        used = min(used + 1, len(best))
