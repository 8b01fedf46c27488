"""The network on top of the linear fusion: starts silent, learns what no weighted sum can say, and is kept whole."""

from __future__ import annotations

import numpy as np
import pytest

from streamrec.engine.arrays.batch import Float32, Queries
from streamrec.engine.fusion.residual import PORTION, SHOWN, Residual

FEATURES, CANDIDATES = 3, 20


def slate_feedback(rng: np.random.Generator) -> tuple[Float32, int]:
    """Candidates with two marks each; the wanted one has exactly one of them, which no weighted sum can tell."""
    features = rng.integers(0, 2, (CANDIDATES, FEATURES)).astype(np.float32)
    features[:, 2] = 1.0
    features[:, 1] = features[:, 0]
    place = int(rng.integers(CANDIDATES))
    features[place, 1] = 1.0 - features[place, 0]
    return features, place


def taught(feedback: int, seed: int = 0) -> Residual:
    residual, queries, rng = Residual(FEATURES, seed=seed), Queries.empty(1), np.random.default_rng(3)
    for _ in range(feedback):
        features, place = slate_feedback(rng)
        residual.remember(features, queries, 0, [place])
        residual.learn(np.zeros(FEATURES))
    return residual


def found(residual: Residual, questions: int = 200) -> float:
    """How often the wanted candidate is first."""
    queries, rng = Queries.empty(questions), np.random.default_rng(4)
    asked = [slate_feedback(rng) for _ in range(questions)]
    scores = residual.score(np.stack([features for features, _ in asked]), queries, slice(0, questions))
    return float((scores.argmax(1) == [place for _, place in asked]).mean())


def test_untaught_it_says_nothing() -> None:
    features = np.random.default_rng(0).normal(size=(4, CANDIDATES, FEATURES)).astype(np.float32)
    assert (Residual(FEATURES).score(features, Queries.empty(4), slice(0, 4)) == 0.0).all()


def test_it_learns_what_no_weighted_sum_can_say() -> None:
    assert found(taught(40 * PORTION)) > 0.9
    assert found(taught(0)) < 0.3


def test_a_score_does_not_depend_on_the_company() -> None:
    residual, queries = taught(4 * PORTION), Queries.empty(9)
    features = np.random.default_rng(1).normal(size=(9, CANDIDATES, FEATURES)).astype(np.float32)
    together = residual.score(features, queries, slice(0, 9))
    for row in range(9):
        assert (
            residual.score(features[row : row + 1], queries, slice(row, row + 1)).tobytes() == together[row].tobytes()
        )


@pytest.mark.parametrize("feedback", [PORTION // 2, 3 * PORTION + 5])
def test_restored_it_goes_on_as_if_nothing_had_happened(feedback: int) -> None:
    residual, other, rng = taught(feedback), Residual(FEATURES), np.random.default_rng(7)
    other.restore(residual.state())
    for _ in range(2 * PORTION):
        features, place = slate_feedback(rng)
        for one in (residual, other):
            one.remember(features, Queries.empty(1), 0, [place])
            one.learn(np.zeros(FEATURES))
    first, second = residual.state(), other.state()
    assert first.keys() == second.keys()
    assert all(first[name].tobytes() == second[name].tobytes() for name in first)
    assert found(residual) == found(other)


def test_a_number_that_is_none_never_reaches_the_weights() -> None:
    residual = taught(4 * PORTION)
    before = {name: array for name, array in residual.state().items() if name.startswith("module.")}
    features, place = slate_feedback(np.random.default_rng(0))
    features[:] = np.inf
    for _ in range(3):
        residual.remember(features, Queries.empty(1), 0, [place])
    assert residual.skipped == 3
    assert np.isfinite(residual.state()["inputs"]).all()  # nothing of them is met again in replay
    for _ in range(PORTION):
        residual.remember(np.zeros_like(features), Queries.empty(1), 0, [place])
    with np.errstate(invalid="ignore"):
        residual.learn(np.full(FEATURES, np.inf))
    assert residual.skipped == 4
    assert all(residual.state()[name].tobytes() == array.tobytes() for name, array in before.items())


def test_many_wanted_of_few_candidates_still_meet_others() -> None:
    residual, queries = Residual(FEATURES), Queries.empty(1)
    residual.remember(np.ones((60, FEATURES), np.float32), queries, 0, list(range(50)))
    residual.remember(np.ones((2, FEATURES), np.float32), queries, 0, [0, 1])
    state = residual.state()
    assert state["wanted"].sum(1) == pytest.approx([1.0, 1.0])
    assert (state["wanted"][0] > 0).sum() == SHOWN // 2
    assert state["there"].sum(1).tolist() == [SHOWN, 2]
