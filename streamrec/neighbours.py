"""A sparse item-item matrix that forgets: for each item, the strongest few items that go with it.

The ground under co-visitation and transitions. Each row keeps at most `slots` neighbours; a newcomer takes the place
of the weakest. Weights decay by half-lives of the log's own time: instead of shrinking what is there, what comes is
added larger, and everything is rescaled before the numbers grow too large.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from streamrec.compiled import compiled
from streamrec.features.batch import NOTHING, Array, Float32, Float64, Int32, Int64

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
        self._scratch = np.zeros(capacity, np.float64)
        self._stamp = np.zeros(capacity, np.int64)
        self._stamps = 0

    def learn(
        self, item: Int32, ts: Int64, recent: Int32, reach: Int32, weight: Float32, fade: Float64, mutual: bool
    ) -> None:
        """Join each item with the first `reach` of the items before it, the nearest counting most (`fade` by place).

        Args:
            item: (examples,); recent: (examples, places) newest first; reach: (examples,); weight: (examples,).
            mutual: the earlier item becomes a neighbour of the later one too, not only the other way round.
        """
        if len(item) == 0:
            return
        factor = self.clock.rescale(int(ts.max()))
        if factor is not None:
            self.weights[: self.rows] *= np.float32(factor)
            self.mass[: self.rows] *= factor
            self._latest_gain *= factor
        self._latest_gain = max(self._latest_gain, self.clock.gain(int(ts.max())))  # late events do not turn it back
        gain = weight * np.exp2((ts - np.float64(self.clock.origin_ms or 0.0)) / self.clock.half_life_ms)
        self.rows = max(self.rows, int(item.max()) + 1, int(recent.max(initial=NOTHING)) + 1)
        _learn(item, recent, reach, gain, fade, mutual, self.items, self.weights, self.mass)

    def score(self, context: Int32, reach: Int32, fade: Float64, cosine: bool, candidates: Int32) -> Float32:
        """Log of the weight that spreads from each context to its candidates, (rows, candidates), -inf for none."""
        out = np.full(candidates.shape, -np.inf, np.float32)
        first = self._take_stamps(len(context))
        _score(
            context,
            reach,
            fade,
            cosine,
            self._prior(),
            self.items,
            self.weights,
            self.mass,
            self._scratch,
            self._stamp,
            first,
            candidates,
            out,
        )
        return out

    def strongest(self, context: Int32, reach: Int32, fade: Float64, cosine: bool, k: int) -> Int32:
        """The `k` items that most weight spreads to, best first, (rows, k)."""
        out = np.full((len(context), k), NOTHING, np.int32)
        first = self._take_stamps(len(context))
        _strongest(
            context,
            reach,
            fade,
            cosine,
            self._prior(),
            self.items,
            self.weights,
            self.mass,
            self._scratch,
            self._stamp,
            first,
            out,
        )
        return out

    def forget(self, items: Int32) -> None:
        """Empty these rows, and these items' places in the rows of others."""
        used = self.items[: self.rows]
        gone = np.isin(used - 1, items) & (used > 0)
        used[gone] = 0
        self.weights[: self.rows][gone] = 0.0
        self.items[items] = 0
        self.weights[items] = 0.0
        self.mass[items] = 0.0

    def state(self) -> dict[str, Array]:
        rows = self.rows
        return {
            "items": self.items[:rows].copy(),
            "weights": self.weights[:rows].copy(),
            "mass": self.mass[:rows].copy(),
            "clock": np.concatenate([self.clock.state(), [self._latest_gain]]),
        }

    def restore(self, arrays: Mapping[str, Array]) -> None:
        self.rows = len(arrays["mass"])
        self.items[: self.rows] = arrays["items"]
        self.weights[: self.rows] = arrays["weights"]
        self.mass[: self.rows] = arrays["mass"]
        self.clock.restore(arrays["clock"])
        self._latest_gain = float(arrays["clock"][1])

    def _prior(self) -> float:
        return SHRINKAGE * self._latest_gain

    def _take_stamps(self, count: int) -> int:
        self._stamps += count
        return self._stamps - count + 1


@compiled
def _add(row, neighbour, gain, items, weights):  # type: ignore[no-untyped-def]
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
def _learn(item, recent, reach, gain, fade, mutual, items, weights, mass):  # type: ignore[no-untyped-def]
    for e in range(len(item)):
        later = item[e]
        mass[later] += gain[e]
        for place in range(min(reach[e], len(fade), recent.shape[1])):
            earlier = recent[e, place]
            if earlier == NOTHING or earlier == later:  # noqa: SIM109 (numba knows no mixed tuples)
                continue
            _add(earlier, later, gain[e] * fade[place], items, weights)
            if mutual:
                _add(later, earlier, gain[e] * fade[place], items, weights)


@compiled
def _spread(context, reach, fade, cosine, prior, items, weights, mass, scratch, stamp, mark):  # type: ignore[no-untyped-def]
    """Leaves in scratch[n], where stamp[n] == mark, the weight that reached item n."""
    for place in range(min(reach, len(fade), len(context))):
        source = context[place]
        if source == NOTHING:
            continue
        for slot in range(items.shape[1]):
            n = items[source, slot] - 1
            if n < 0:
                continue
            share = fade[place] * weights[source, slot]
            if cosine:
                share /= np.sqrt((mass[source] + prior) * (mass[n] + prior))
            else:
                share /= mass[source] + prior
            if stamp[n] != mark:
                stamp[n] = mark
                scratch[n] = 0.0
            scratch[n] += share


@compiled
def _score(  # type: ignore[no-untyped-def]
    context, reach, fade, cosine, prior, items, weights, mass, scratch, stamp, first, candidates, out
):  # fmt: skip
    for q in range(len(context)):
        _spread(context[q], reach[q], fade, cosine, prior, items, weights, mass, scratch, stamp, first + q)
        for c in range(candidates.shape[1]):
            n = candidates[q, c]
            if n != NOTHING and stamp[n] == first + q and scratch[n] > 0.0:
                out[q, c] = np.log(scratch[n])


@compiled
def _strongest(  # type: ignore[no-untyped-def]
    context, reach, fade, cosine, prior, items, weights, mass, scratch, stamp, first, out
):  # fmt: skip
    k = out.shape[1]
    best = np.empty(k, np.float64)
    for q in range(len(context)):
        _spread(context[q], reach[q], fade, cosine, prior, items, weights, mass, scratch, stamp, first + q)
        found = 0
        for place in range(min(reach[q], len(fade), context.shape[1])):
            source = context[q, place]
            if source == NOTHING:
                continue
            for slot in range(items.shape[1]):
                n = items[source, slot] - 1
                if n < 0 or stamp[n] != first + q:
                    continue
                stamp[n] = -(first + q)  # looked at: each item enters the list once
                value = scratch[n]
                if found == k and value <= best[k - 1]:
                    continue
                at = min(found, k - 1)
                while at > 0 and best[at - 1] < value:
                    best[at] = best[at - 1]
                    out[q, at] = out[q, at - 1]
                    at -= 1
                best[at] = value
                out[q, at] = n
                found = min(found + 1, k)
