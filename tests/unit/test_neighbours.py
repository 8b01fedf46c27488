"""The neighbour table equals a dictionary of decayed counts."""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrec.engine.arrays.batch import NOTHING, Excluded
from streamrec.engine.models.neighbour_table import RESCALE_HALF_LIVES, SHRINKAGE, DecayClock, NeighbourTable

ITEMS, PLACES, HALF_LIFE_S = 12, 5, 3_600.0
STEPS = np.array([0, 0, 1, 2, 3], np.int32)  # the first two places are of one moment, the last is too far back
FADE = np.array([1.0, 0.5, 0.25])
Weights = dict[tuple[int, int], float]

feedback = st.lists(
    st.tuples(
        st.integers(0, ITEMS - 1),  # item
        st.sampled_from([0, 60_000, 3_600_000, -1_800_000, 200_000_000]),  # ms after the one before
        st.lists(st.integers(NOTHING, ITEMS - 1), min_size=PLACES, max_size=PLACES),
        st.integers(0, PLACES),
        st.sampled_from([1.0, 0.5]),
    ),
    max_size=40,
)
contexts = st.lists(st.integers(NOTHING, ITEMS - 1), min_size=PLACES, max_size=PLACES)


def learned(table: NeighbourTable, drawn: list, size: int, mutual: bool) -> tuple[Weights, list[float], int]:  # type: ignore[type-arg]
    """Teach the table in portions; the same in plain Python, decayed to the last moment, and that moment."""
    ts, rows = 10**12, []
    for item, gap, recent, reach, weight in drawn:
        ts += gap
        rows.append((item, ts, recent, reach, weight))
    for start in range(0, len(rows), size):
        item, times, recent, reach, weight = (list(part) for part in zip(*rows[start : start + size], strict=True))
        table.learn(
            np.array(item, np.int32),
            np.array(times, np.int64),
            np.array(recent, np.int32),
            np.tile(STEPS, (len(item), 1)),
            np.array(reach, np.int32),
            np.array(weight, np.float32),
            FADE,
            mutual,
        )
    now = max((row[1] for row in rows), default=ts)
    weights: Weights = defaultdict(float)
    mass = [0.0] * ITEMS
    for item, at, recent, reach, weight in rows:
        gain = weight * 2.0 ** ((at - now) / 1000 / HALF_LIFE_S)
        mass[item] += gain
        for place in range(min(reach, PLACES - 1)):
            earlier = recent[place]
            if earlier not in (NOTHING, item, *recent[:place]):
                weights[earlier, item] += gain * FADE[STEPS[place]]
                if mutual:
                    weights[item, earlier] += gain * FADE[STEPS[place]]
    return weights, mass, now


def spread(weights: Weights, mass: list[float], context: list[int], reach: int, cosine: bool) -> dict[int, float]:
    reached: dict[int, float] = defaultdict(float)
    for place in range(min(reach, PLACES - 1)):
        source = context[place]
        for (a, b), weight in weights.items():
            if a == source and weight > 0:
                a_mass, b_mass = mass[a] + SHRINKAGE, mass[b] + SHRINKAGE
                reached[b] += FADE[STEPS[place]] * weight / (math.sqrt(a_mass * b_mass) if cosine else a_mass)
    return reached


@pytest.mark.parametrize("mutual", [False, True])
@given(drawn=feedback, size=st.integers(1, 20), context=contexts, reach=st.integers(0, PLACES))
def test_weights_equal_decayed_counts(mutual: bool, drawn: list, size: int, context: list[int], reach: int) -> None:  # type: ignore[type-arg]
    table = NeighbourTable(ITEMS, ITEMS, HALF_LIFE_S)
    weights, mass, now = learned(table, drawn, size, mutual)
    scale = 2.0 ** ((now - (table.clock.origin_ms or now)) / 1000 / HALF_LIFE_S)
    assert table.mass == pytest.approx(np.array(mass) * scale, rel=1e-6, abs=1e-9)
    found = {
        (row, int(neighbour) - 1): float(weight) / scale
        for row in range(ITEMS)
        for neighbour, weight in zip(table.items[row], table.weights[row], strict=True)
        if neighbour
    }
    strong = {pair: weight for pair, weight in weights.items() if weight > 1e-6}
    assert {pair: found.get(pair) for pair in strong} == pytest.approx(strong, rel=1e-4)
    assert set(found) <= set(weights)


@pytest.mark.parametrize("cosine", [False, True])
@given(drawn=feedback, context=contexts, reach=st.integers(0, PLACES))
def test_scores_and_the_strongest_equal_a_plain_spread(
    cosine: bool,
    drawn: list,  # type: ignore[type-arg]
    context: list[int],
    reach: int,
) -> None:
    table = NeighbourTable(ITEMS, ITEMS, HALF_LIFE_S)
    drawn = [(item, max(gap, 0) % 10_000_000, *rest) for item, gap, *rest in drawn]  # nothing decays to next to nothing
    weights, mass, _ = learned(table, drawn, 7, mutual=True)
    expected = spread(weights, mass, context, reach, cosine)
    candidates = np.array([[*range(ITEMS), NOTHING]], np.int32)
    asked = np.array([context], np.int32), STEPS[None], np.array([reach], np.int32)
    scores = table.score(*asked, FADE, cosine, candidates)
    plain = [math.log(expected[item]) if item in expected else -math.inf for item in range(ITEMS)]
    assert scores[0].tolist() == pytest.approx([*plain, -math.inf], abs=1e-3)
    best = table.strongest(*asked, FADE, cosine, 5, Excluded.nothing(1))[0]
    there = best[best != NOTHING]
    assert len(set(there.tolist())) == len(there) == min(5, int((scores > -np.inf).sum()))
    assert scores[0, there] == pytest.approx(np.sort(scores[scores > -np.inf])[::-1][: len(there)], abs=1e-5)


def taught(table: NeighbourTable, pairs: list[tuple[int, int]], ts: int = 10**12) -> NeighbourTable:
    """Each pair is (earlier, later)."""
    for at, (earlier, later) in enumerate(pairs):
        one = np.ones(1)
        table.learn(
            np.array([later], np.int32),
            np.array([ts + at]),
            np.array([[earlier]], np.int32),
            np.array([[0]], np.int32),
            one.astype(np.int32),
            one.astype(np.float32),
            FADE,
            mutual=False,
        )
    return table


def neighbours(table: NeighbourTable, item: int) -> set[int]:
    return set((table.items[item][table.items[item] > 0] - 1).tolist())


def test_a_full_row_keeps_the_regulars_and_not_the_passers_by() -> None:
    table = NeighbourTable(100, 4, HALF_LIFE_S)
    taught(table, [(0, later) for later in (1, 2, 3) for _ in range(20)] + [(0, 50 + n) for n in range(10)])
    assert {1, 2, 3} <= neighbours(table, 0)
    taught(table, [(0, 9)] * 40, ts=10**12 + 1000)
    assert 9 in neighbours(table, 0)


def test_forgetting_an_item_empties_its_row_and_its_places() -> None:
    table = taught(NeighbourTable(ITEMS, 4, HALF_LIFE_S), [(0, 1), (1, 2), (2, 1), (3, 2)])
    table.forget(np.array([1], np.int32))
    assert neighbours(table, 1) == neighbours(table, 0) == neighbours(table, 2) == set()
    assert neighbours(table, 3) == {2}
    assert (table.mass[1], table.weights[0].sum(), table.weights[2].sum()) == (0, 0, 0)


def test_asking_changes_nothing() -> None:
    table = taught(NeighbourTable(ITEMS, 4, HALF_LIFE_S), [(0, 1), (0, 2), (1, 2)])
    before = table.state()
    asked = np.array([[0, 1]], np.int32), np.array([[0, 1]], np.int32), np.array([2], np.int32)
    first = table.strongest(*asked, FADE, True, 3, Excluded.nothing(1)).tolist()
    table.score(*asked, FADE, False, np.array([[0, 1, 2]], np.int32))
    assert table.strongest(*asked, FADE, True, 3, Excluded.nothing(1)).tolist() == first
    assert all((before[name] == table.state()[name]).all() for name in before)


def test_a_clock_halves_after_a_half_life_whatever_was_rescaled() -> None:
    clock, value, ts = DecayClock(10.0), 0.0, 1_000_000
    value += clock.gain(ts)
    for _ in range(200):
        ts += 10_000
        factor = clock.rescale(ts)
        value *= 1.0 if factor is None else factor
        value += clock.gain(ts)
        assert clock.gain(ts) <= 2**RESCALE_HALF_LIVES
    assert value / clock.gain(ts) == pytest.approx(2.0, rel=1e-6)


def test_a_leap_of_a_thousand_years_leaves_numbers_finite() -> None:
    table = taught(NeighbourTable(ITEMS, 4, 1.0), [(0, 1)] * 3, ts=0)
    taught(table, [(0, 2)] * 3, ts=4_102_444_800_000)
    taught(table, [(0, 3)] * 3, ts=0)
    assert np.isfinite(table.weights).all()
    assert np.isfinite(table.mass).all()
    assert table._prior() > 0
    asked = np.array([[0]], np.int32), np.array([[0]], np.int32), np.array([1], np.int32)
    assert not np.isnan(table.score(*asked, FADE, True, np.array([[1, 2, 3]], np.int32))).any()
