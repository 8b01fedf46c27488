"""Confidence sequences hold at every look, and are not wider than they must be."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate

from streamrec.evaluation.experiments.confidence import (
    TIGHT_AT,
    Asymptotic,
    EmpiricalBernstein,
    Floats,
    MeanInterval,
    MeanIntervals,
    asymptotic_difference,
    boundary,
    difference,
    log_mixture,
)

RUNS, LOOKS = 400, 5_000
REWARDS, CHANCES = np.array([-0.1, 0.0, 0.2, 1.0]), np.array([0.1, 0.7, 0.15, 0.05])
MEAN = float(REWARDS @ CHANCES)


def rewards(seed: int, count: int = LOOKS) -> Floats:
    return np.random.default_rng(seed).choice(REWARDS, count, p=CHANCES)


def missed(path: MeanIntervals, mean: Floats | float, first: int = 1) -> bool:
    """Whether the true mean was outside at any look, from the `first` on."""
    return bool(((path.lower > mean) | (path.upper < mean))[first - 1 :].any())


def fixed(values: Floats) -> MeanIntervals:
    """What is used by mistake: the 95% interval for a sample of fixed size, after each value."""
    count = np.arange(1, len(values) + 1)
    mean = np.cumsum(values) / count
    margin = 1.96 * np.sqrt(np.maximum(np.cumsum(values**2) / count - mean**2, 0) / count)
    return MeanIntervals(mean, mean - margin, mean + margin)


def test_who_looks_after_every_value_is_misled_as_seldom_as_promised_and_by_the_usual_interval_often() -> None:
    runs = [rewards(seed) for seed in range(RUNS)]
    sequence = sum(missed(EmpiricalBernstein().extend(run), MEAN) for run in runs)
    usual = sum(missed(fixed(run), MEAN, first=100) for run in runs)  # after a hundred: the first looks are its worst
    assert sequence <= 0.05 * RUNS
    assert usual > 0.3 * RUNS


def test_the_average_of_means_that_move_is_covered_too() -> None:
    def run(seed: int) -> bool:
        draw = np.random.default_rng(seed)
        chances = 0.5 + 0.4 * np.sin(np.arange(2_000) / 200 + seed)
        values = (draw.random(2_000) < chances).astype(float)
        return missed(EmpiricalBernstein(0, 1).extend(values), np.cumsum(chances) / np.arange(1, 2_001))

    assert sum(run(seed) for seed in range(200)) <= 10


def test_means_that_depend_on_what_came_before_are_covered_too() -> None:
    def run(seed: int) -> bool:
        draw = np.random.default_rng(seed).random(1_000)
        values, chances, ones = np.zeros(1_000), np.zeros(1_000), 0
        for at in range(1_000):  # an urn: who was rewarded will be rewarded
            chances[at] = (1 + ones) / (2 + at)
            values[at] = draw[at] < chances[at]
            ones += int(values[at])
        return missed(EmpiricalBernstein(0, 1).extend(values), np.cumsum(chances) / np.arange(1, 1_001))

    assert sum(run(seed) for seed in range(200)) <= 10


def test_the_asymptotic_sequence_holds_once_there_are_many() -> None:
    late = sum(missed(Asymptotic().extend(rewards(seed)), MEAN, first=500) for seed in range(RUNS))
    assert late <= 0.05 * RUNS


@pytest.mark.parametrize("kind", [EmpiricalBernstein, Asymptotic])
def test_the_width_goes_like_the_root_of_log_n_over_n_and_not_faster(kind: type) -> None:
    path = kind().extend(rewards(1, 200_000))
    width = path.upper - path.lower
    at = np.array([50_000, 100_000, 200_000])
    scaled = width[at - 1] / np.sqrt(np.log(at) / at)
    assert scaled.max() / scaled.min() < 1.1
    assert np.all(np.diff(width[at - 1] * np.sqrt(at)) > 0)  # a fixed-size interval would stay level here


def test_the_width_stays_below_twice_that_of_the_usual_interval() -> None:
    values = rewards(2, 50_000)
    exact, usual = EmpiricalBernstein().extend(values), fixed(values)
    at = [4_999, 49_999]
    ratio = (exact.upper - exact.lower)[at] / (usual.upper - usual.lower)[at]
    assert np.all((ratio > 1.5) & (ratio < 2.0))


@pytest.mark.parametrize(("s", "v"), [(0.0, 0.0), (5.0, 3.0), (-4.0, 20.0), (20.0, 50.0), (60.0, 400.0)])
def test_the_mixture_is_the_integral_that_it_stands_for(s: float, v: float) -> None:
    alpha = 0.025
    spent = 2 * math.log(1 / (2 * alpha))
    r = TIGHT_AT / (spent + math.log1p(spent))

    def density(bet: float) -> float:
        return (1 - bet) ** (r - 1) * math.exp(-r * (1 - bet))

    def wealth(bet: float) -> float:
        return density(bet) * math.exp(bet * s - (-math.log1p(-bet) - bet) * v)

    mass, _ = integrate.quad(density, 0, 1)
    mixed, _ = integrate.quad(wealth, 0, 1, limit=500)
    assert log_mixture(np.array([s]), np.array([v]), alpha)[0] == pytest.approx(math.log(mixed / mass), abs=1e-6)


@given(st.floats(0, 1e7), st.sampled_from([0.2, 0.05, 0.025, 0.001]))
def test_the_boundary_is_where_the_mixture_reaches_its_level(v: float, alpha: float) -> None:
    u = boundary(np.array([v]), alpha)
    assert log_mixture(u, np.array([v]), alpha)[0] >= math.log(1 / alpha)
    assert log_mixture(0.9999 * u, np.array([v]), alpha)[0] < math.log(1 / alpha)


def test_a_boundary_beyond_the_table_is_an_error_and_no_guess() -> None:
    with pytest.raises(ValueError, match="more than the boundary was computed for"):
        boundary(np.array([1e9]), 0.05)


@pytest.mark.parametrize("kind", [EmpiricalBernstein, Asymptotic])
@given(cut=st.integers(0, 300))
def test_values_in_portions_or_at_once_are_the_same(kind: type, cut: int) -> None:
    values = rewards(3, 300)
    whole, parts = kind(), kind()
    path = whole.extend(values)
    joined = [np.concatenate(pair) for pair in zip(parts.extend(values[:cut]), parts.extend(values[cut:]), strict=True)]
    for there, here in zip(path, joined, strict=True):
        np.testing.assert_allclose(here, there, rtol=1e-9, atol=1e-12)
    assert parts.interval() == pytest.approx(whole.interval())
    assert whole.interval() == pytest.approx(tuple(float(part[-1]) for part in path))
    assert parts.deviation == pytest.approx(float(values.std()), rel=0.01)
    assert parts.values == 300


@pytest.mark.parametrize("value", [1.1, -1.1, math.nan, math.inf])
def test_a_value_out_of_bounds_is_refused_and_not_taken(value: float) -> None:
    sequence = EmpiricalBernstein()
    with pytest.raises(ValueError, match="outside"):
        sequence.extend(np.array([0.5, value]))
    assert sequence.values == 0


def test_before_the_first_value_everything_is_possible() -> None:
    mean, lower, upper = EmpiricalBernstein(0, 1).interval()
    assert math.isnan(mean)
    assert (lower, upper) == (0, 1)
    few = Asymptotic()
    few.extend(np.zeros(50))
    assert few.interval() == MeanInterval(0.0, -math.inf, math.inf)


def test_intervals_stay_within_what_is_possible() -> None:
    path = EmpiricalBernstein(-1, 1).extend(np.ones(10))
    assert path.upper.max() == 1
    assert path.lower.min() == -1


def two_arms(seed: int, lift: float, count: int) -> tuple[Floats, Floats]:
    draw = np.random.default_rng(seed)
    return (draw.random(count) < 0.1 + lift).astype(float), (draw.random(count) < 0.1).astype(float)


def exact_difference(new: Floats, old: Floats) -> MeanInterval:
    sequences = EmpiricalBernstein(0, 1, 0.025), EmpiricalBernstein(0, 1, 0.025)
    for sequence, values in zip(sequences, (new, old), strict=True):
        sequence.extend(values)
    return difference(sequences[0].interval(), sequences[1].interval())


def asymptotic(new: Floats, old: Floats) -> MeanInterval:
    sequences = Asymptotic(), Asymptotic()
    for sequence, values in zip(sequences, (new, old), strict=True):
        sequence.extend(values)
    return asymptotic_difference(*sequences, 0.05)


@pytest.mark.parametrize("compare", [exact_difference, asymptotic])
def test_a_planted_lift_is_found_and_two_alike_are_not_told_apart(compare) -> None:  # type: ignore[no-untyped-def]
    found = [compare(*two_arms(seed, 0.05, 5_000)) for seed in range(40)]
    assert sum(interval.lower > 0 for interval in found) >= 36
    looks = [100, 200, 500, 1_000, 2_000, 5_000]
    alike = [two_arms(seed, 0.0, 5_000) for seed in range(200)]
    wrong = [
        any(compare(new[:n], old[:n]).lower > 0 or compare(new[:n], old[:n]).upper < 0 for n in looks)
        for new, old in alike
    ]
    assert sum(wrong) <= 0.05 * len(alike)


def test_the_asymptotic_difference_is_the_narrower_one() -> None:
    new, old = two_arms(7, 0.02, 5_000)
    wide, narrow = exact_difference(new, old), asymptotic(new, old)
    assert wide.mean == pytest.approx(narrow.mean)
    assert 0.4 < (narrow.upper - narrow.lower) / (wide.upper - wide.lower) < 0.8
