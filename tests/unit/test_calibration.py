"""Calibration: figures against their definitions, and pairs that say what they should."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrec.engine.arrays.batch import MicroBatch
from streamrec.evaluation.backtest.calibration import BINS, DRAWS, CalibrationRecorder, pairs

told = st.tuples(st.floats(-8, 8), st.booleans())


def recorded(log_odds: list[float], wanted: list[bool]) -> CalibrationRecorder:
    recorder = CalibrationRecorder()
    for odds, came_true in zip(log_odds, wanted, strict=True):  # one by one: portions do not matter
        recorder.add(np.array([odds]), np.array([came_true]))
    return recorder


@given(st.lists(told, min_size=2, max_size=60).filter(lambda rows: len({wanted for _, wanted in rows}) == 2))
def test_figures_are_what_their_definitions_say(rows: list[tuple[float, bool]]) -> None:
    odds, wanted = (np.array(column) for column in zip(*rows, strict=True))
    found = recorded(odds.tolist(), wanted.tolist()).calibration()
    assert found is not None
    probability = 1 / (1 + np.exp(-odds))
    tenth = np.minimum((probability * BINS).astype(int), BINS - 1)
    gaps = [abs(probability[tenth == b].sum() - wanted[tenth == b].sum()) for b in range(BINS)]
    assert found.ece == pytest.approx(sum(gaps) / len(rows))
    # the AUC ties what is less than a hundredth apart
    near = (np.floor((odds + 16) * 128)).astype(int)
    above = np.sign(near[wanted][:, None] - near[~wanted][None])
    assert found.auc == pytest.approx((1 + above.mean()) / 2)
    assert found.pairs == sum(b.pairs for b in found.bins) == len(rows)


def test_true_probabilities_are_calibrated_and_boasting_is_not() -> None:
    rng = np.random.default_rng(3)
    odds = rng.normal(0, 1.5, 40_000)
    wanted = rng.random(40_000) < 1 / (1 + np.exp(-odds))
    honest, boasting = CalibrationRecorder(), CalibrationRecorder()
    honest.add(odds, wanted)
    boasting.add(4 * odds, wanted)
    true, loud = honest.calibration(), boasting.calibration()
    assert true is not None
    assert loud is not None
    assert true.ece < 0.01 < 0.1 < loud.ece
    assert true.auc == pytest.approx(loud.auc, abs=0.002)


@pytest.mark.parametrize("wanted", [[], [True, True], [False]])
def test_nothing_to_compare_is_no_calibration(wanted: list[bool]) -> None:
    assert recorded([0.5] * len(wanted), wanted).calibration() is None


def batch_of(candidates: list[list[int]]) -> MicroBatch:
    batch = MicroBatch.empty(len(candidates), 1, 1, 1)
    batch.queries.seed[:] = np.random.default_rng(5).integers(0, 2**62, len(candidates), np.uint64)
    for row, items in enumerate(candidates):
        batch.candidates.items[row, : len(items)] = items
        batch.candidates.scores[0, row, : len(items)] = np.array(items) / 10
    return batch


def asked(batch: MicroBatch, rows: list[int], targets: list[int]) -> tuple[list[float], list[bool]]:
    odds, wanted = pairs(batch, batch.candidates.scores[0], np.array(rows), np.array(targets, np.int32))
    return [round(float(value), 4) for value in odds], wanted.tolist()


def test_each_target_comes_first_with_its_own_score_and_others_follow() -> None:
    odds, wanted = asked(batch_of([list(range(1, 40)), list(range(50, 90))]), [0, 1], [7, 60])
    assert odds[:2] == [0.7, 6.0]
    assert wanted == [True, True] + [False] * (len(odds) - 2)
    assert 2 < len(odds) <= 2 + 2 * DRAWS
    assert all(0.1 <= value <= 3.9 or 5 <= value <= 8.9 for value in odds[2:])


def test_a_target_that_was_no_candidate_is_left_out() -> None:
    assert asked(batch_of([[1, 2, 3]]), [0], [9]) == ([], [])


def test_what_the_rest_of_the_basket_wants_is_not_held_for_unwanted() -> None:
    odds, wanted = asked(batch_of([[1, 2, 3, 4]]), [0] * 4, [1, 2, 3, 4])
    assert (odds, wanted) == ([0.1, 0.2, 0.3, 0.4], [True] * 4)


def test_who_is_drawn_follows_from_the_query_alone() -> None:
    lists = [list(range(n, n + 30)) for n in range(20)]
    alone = [asked(batch_of(lists), [row], [row + 5])[0] for row in range(20)]
    together = asked(batch_of(lists), list(range(20)), [row + 5 for row in range(20)])[0]
    assert sorted(together) == sorted(value for part in alone for value in part)
    drawn = {value for part in alone for value in part[1:]}
    assert len(drawn) > 20  # not always the same places
