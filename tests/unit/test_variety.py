"""Beyond accuracy: each figure against its definition, counted out by hand or by brute force."""

from __future__ import annotations

from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrec.engine.arrays.batch import NOTHING
from streamrec.engine.items.item_table import ItemTable
from streamrec.evaluation.backtest.variety import PLACES, Variety, VarietyRecorder, gini, personalisation

slates_of_items = st.lists(st.sets(st.integers(0, 11), min_size=3, max_size=3), min_size=2, max_size=8)


@pytest.mark.parametrize(
    ("counts", "expected"), [([5, 5, 5], 0.0), ([0, 0, 0, 8], 0.75), ([1, 2, 3], 2 / 9), ([], 0.0), ([0, 0], 0.0)]
)
def test_gini_by_hand(counts: list[int], expected: float) -> None:
    assert gini(np.array(counts, np.int64)) == pytest.approx(expected)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=12).filter(any))
def test_gini_is_half_the_relative_mean_difference(counts: list[int]) -> None:
    values = np.array(counts)
    differences = np.abs(values[:, None] - values[None]).mean()
    assert gini(values) == pytest.approx(differences / (2 * values.mean()))


@given(slates_of_items)
def test_personalisation_is_what_pairs_of_slates_do_not_share(slates: list[set[int]]) -> None:
    shown = np.array([sum(item in slate for slate in slates) for item in range(12)])
    overlaps = [len(one & other) / 3 for one, other in permutations(slates, 2)]
    assert personalisation(shown, len(slates)) == pytest.approx(1 - np.mean(overlaps))


class Shop:
    """Six items, the first three of category 'a'."""

    def __init__(self, categories: bool = True) -> None:
        self.items = ItemTable(16)
        for n in range(6):
            index = self.items.intern(f"i{n}", 1_000 + n)
            if categories:
                self.items.categorise(index, "a" if n < 3 else "b")
        self.recorder = VarietyRecorder(self.items)

    def add_slates(self, *slates: list[int]) -> None:
        padded = np.full((len(slates), PLACES), NOTHING, np.int32)
        for row, slate in zip(padded, slates, strict=True):
            row[: len(slate)] = slate
        self.recorder.add_slates(padded, [[self.items.ids[item] for item in slate] for slate in slates])

    def add_targets(self, *items: int) -> None:
        self.recorder.add_targets(np.array(items, np.int32))


def test_nothing_shown_is_not_an_error() -> None:
    assert Shop().recorder.variety(0) == Variety()


def test_coverage_and_gini_are_over_all_known_items() -> None:
    shop = Shop()
    shop.add_slates([0, 1], [0, 2])
    told = shop.recorder.variety(6)
    assert (told.slates, told.shown_items, told.coverage_10) == (2, 3, 0.5)
    assert told.gini_10 == pytest.approx(gini(np.array([0, 0, 0, 1, 1, 2])))
    assert told.personalisation_10 == 0.5


def test_novelty_is_the_surprise_at_the_moment_not_at_the_end() -> None:
    shop = Shop()
    shop.add_targets(0, 0, 0, 1)
    shop.add_slates([0, 1, 2])
    shop.add_targets(*[2] * 1_000)
    # one wanted three times in four, one once, and one never, which counts as once
    assert shop.recorder.variety(6).novelty_10_bits == pytest.approx((np.log2(4 / 3) + 2 + 2) / 3)


def test_diversity_is_the_share_of_pairs_of_different_categories() -> None:
    shop = Shop()
    shop.add_slates([0, 1, 3, 4], [0, 3])
    pairs = [a // 3 != b // 3 for slate in ([0, 1, 3, 4], [0, 3]) for a, b in combinations(slate, 2)]
    assert shop.recorder.variety(6).diversity_10 == pytest.approx(np.mean(pairs))


def test_diversity_without_categories_is_unknown_not_nought() -> None:
    shop = Shop(categories=False)
    shop.add_slates([0, 1, 3])
    assert shop.recorder.variety(6).diversity_10 is None


def test_an_index_given_to_another_item_starts_anew() -> None:
    shop = Shop()
    shop.add_targets(0, 0, 0, 1)
    shop.items.first_ts[0] = 9_000  # what was item 0 is another item now
    shop.add_slates([0])
    assert shop.recorder.variety(6).novelty_10_bits == 2.0
    shop.add_targets(0)
    shop.add_slates([0])
    assert shop.recorder.variety(6).novelty_10_bits == pytest.approx((2 + np.log2(5)) / 2)
