"""Ranking metrics against cases worked by hand and against an independent implementation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import ranx.metrics as ranx
from hypothesis import given, settings
from hypothesis import strategies as st

from streamrec.engine.learning.ranking_metrics import (
    coverage,
    discounted_gains,
    hits,
    ranking_metrics,
    reciprocal_ranks,
    rolling_mean,
)

rank_lists = st.lists(st.integers(0, 20), min_size=1, max_size=40)


def everything(ranks: list[int]) -> np.ndarray:
    return np.ones(len(ranks), bool)


def test_a_case_worked_by_hand() -> None:
    ranks = np.array([1, 2, 10, 11, 20, 0])
    metrics = ranking_metrics(ranks, everything([1] * 6))
    assert metrics.targets == 6
    assert metrics.recall_10 == pytest.approx(3 / 6)
    assert metrics.recall_20 == pytest.approx(5 / 6)
    assert metrics.mrr_20 == pytest.approx((1 + 1 / 2 + 1 / 10 + 1 / 11 + 1 / 20) / 6)
    assert metrics.ndcg_10 == pytest.approx((1 + 1 / math.log2(3) + 1 / math.log2(11)) / 6)


def test_the_warm_up_is_left_out() -> None:
    metrics = ranking_metrics(np.array([1, 1, 0, 3]), np.array([False, False, True, True]))
    assert (metrics.targets, metrics.recall_10, metrics.mrr_20) == (2, 0.5, pytest.approx(1 / 6))


def test_nothing_scored_is_zero_and_not_an_error() -> None:
    metrics = ranking_metrics(np.array([1, 2]), np.array([False, False]))
    assert metrics.as_dict() == {"targets": 0, "recall_10": 0, "recall_20": 0, "mrr_20": 0, "ndcg_10": 0}


@pytest.mark.parametrize("ranks", [[-1, 2], [1, 21]])
def test_a_rank_outside_the_slate_is_refused(ranks: list[int]) -> None:
    with pytest.raises(ValueError, match="expected 0"):
        ranking_metrics(np.array(ranks), everything(ranks))


def test_marks_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="expected one for each"):
        ranking_metrics(np.array([1, 2]), np.array([True]))


@settings(max_examples=40)
@given(rank_lists)
def test_they_agree_with_ranx(ranks: list[int]) -> None:
    wanted = np.array([[[999.0, 1.0]]] * len(ranks))  # (targets, 1, 2): item, relevance
    slates = np.array([[[place, 100.0 - place] for place in range(20)] for _ in ranks])  # (targets, 20, 2): item, score
    for slate, rank in zip(slates, ranks, strict=True):
        if rank:
            slate[rank - 1, 0] = 999.0
    theirs = [
        ranx.recall(wanted, slates, 10).mean(),
        ranx.recall(wanted, slates, 20).mean(),
        ranx.reciprocal_rank(wanted, slates, 20).mean(),
        ranx.ndcg(wanted, slates, 10).mean(),
    ]
    ours = ranking_metrics(np.array(ranks), everything(ranks))
    assert [ours.recall_10, ours.recall_20, ours.mrr_20, ours.ndcg_10] == pytest.approx(theirs)


@given(rank_lists)
def test_a_better_place_never_lowers_a_metric(ranks: list[int]) -> None:
    before = np.array(ranks)
    after = np.where(before > 1, before - 1, before)
    for values in (hits, reciprocal_ranks, discounted_gains):
        for k in (10, 20):
            assert (values(after, k) >= values(before, k)).all()
            assert ((values(before, k) >= 0) & (values(before, k) <= 1)).all()


def test_coverage_is_a_share_of_what_is_known() -> None:
    assert coverage(15, 60) == 0.25
    assert coverage(0, 0) == 0.0


@given(st.lists(st.floats(0, 1), max_size=60), st.integers(1, 20), st.integers(1, 30))
def test_rolling_means_are_means_of_windows(values: list[float], window: int, points: int) -> None:
    ends, means = rolling_mean(np.array(values), window, points)
    assert len(ends) == len(means) <= points
    if len(values) < window:
        assert len(ends) == 0
    else:
        assert ends[-1] == len(values) - 1 or points == 1
        assert means == pytest.approx([np.mean(values[end - window + 1 : end + 1]) for end in ends])
