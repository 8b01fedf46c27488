"""Steps that harm are refused, taken back or shortened, and a model at a careless learning rate learns all the same."""

from __future__ import annotations

import math

import numpy as np
import pytest

from streamrec.engine.models.guards import FIRST_STEPS, RECOVERY, SHORTEST, SPIKE, StepGuard


def settled(loss: float = 2.0) -> StepGuard:
    """A guard that has seen the start of a calm run."""
    guard = StepGuard()
    for _ in range(FIRST_STEPS):
        assert guard.allow(loss) == 1.0
    return guard


def test_a_calm_model_is_left_alone() -> None:
    guard = settled()
    losses = 2.0 + np.random.default_rng(0).normal(0, 0.4, 2_000)
    assert [guard.allow(loss) for loss in losses] == [1.0] * 2_000
    assert (guard.refused, guard.taken_back, guard.wary) == (0, 0, False)


@pytest.mark.parametrize("bad", [(math.nan, 1.0), (math.inf, 1.0), (1.0, math.nan), (1.0, math.inf)])
def test_what_is_no_number_is_refused(bad: tuple[float, float]) -> None:
    for guard in (StepGuard(), settled()):
        assert guard.allow(*bad) == 0.0
        assert guard.refused == 1
        assert guard.allow(2.0) == 1.0


def test_a_spike_is_refused_and_does_not_count_as_usual() -> None:
    guard = settled()
    assert guard.allow(2.0 * SPIKE * 1.01) == 0.0
    assert guard.allow(2.0 * SPIKE * 0.99) == 1.0
    assert guard.factor == 1.0


def test_a_world_that_changes_is_no_spike() -> None:
    """A model that had come down from 6 to 1 is back at 6 when all is new: it must learn, not be held."""
    guard = StepGuard()
    for loss in [*np.linspace(6.0, 1.0, 300), *[6.0] * 100]:
        assert guard.allow(loss) == 1.0


def test_several_refusals_in_a_row_shorten_the_steps_and_calm_ones_lengthen_them_again() -> None:
    guard = settled()
    assert [guard.allow(100.0) for _ in range(3)] == [0.0] * 3
    assert guard.factor == 0.5
    assert guard.wary
    for _ in range(int(RECOVERY)):
        guard.allow(2.0)
    assert guard.factor == pytest.approx(1.0)
    guard.allow(2.0)
    assert guard.factor == 1.0


def test_refusals_far_apart_shorten_nothing() -> None:
    guard = settled()
    for _ in range(20):
        assert guard.allow(100.0) == 0.0
        for _ in range(200):
            assert guard.allow(2.0) == 1.0


def test_a_step_that_made_its_own_batch_worse_does_not_stand() -> None:
    guard = settled()
    assert guard.stands(2.0, 1.5)
    assert guard.stands(2.0, 2.01)
    assert not guard.stands(2.0, 2.5)
    assert guard.factor == 0.5
    assert not guard.stands(2.0, math.nan)
    assert (guard.factor, guard.taken_back) == (0.25, 2)


def test_steps_never_become_nothing() -> None:
    guard = StepGuard()
    for _ in range(100):
        guard.stands(1.0, 2.0)
    assert guard.factor == SHORTEST
    assert guard.allow(1.0) > 0.0


def test_a_restored_guard_goes_on_as_the_first_one_would() -> None:
    first, second = StepGuard(), StepGuard()
    losses = np.abs(np.random.default_rng(3).standard_cauchy(400)) + 1.0
    for loss in losses[:200]:
        if first.allow(loss) and first.wary:
            first.stands(1.0, loss)
    second.restore(first.state())
    for loss in losses[200:]:
        assert first.allow(loss) == second.allow(loss)
        assert first.stands(1.0, loss) == second.stands(1.0, loss)
    assert {name: values.tobytes() for name, values in first.state().items()} == {
        name: values.tobytes() for name, values in second.state().items()
    }
    assert first.refused > 5


class Factors:
    """A plain matrix factorisation, by softmax over all items and gradient descent."""

    def __init__(self, users: int, items: int, learning_rate: float, guard: StepGuard | None) -> None:
        rng = np.random.default_rng(1)
        self.users, self.items = rng.normal(0, 0.3, (users, 6)), rng.normal(0, 0.3, (items, 6))
        self.learning_rate, self.guard = learning_rate, guard

    def scores(self, users: np.ndarray) -> np.ndarray:
        return self.users[users] @ self.items.T  # (batch, items)

    def loss(self, users: np.ndarray, wanted: np.ndarray) -> tuple[float, np.ndarray]:
        scores = self.scores(users)
        scores -= scores.max(1, keepdims=True)
        logs = scores - np.log(np.exp(scores).sum(1, keepdims=True))
        return -float(logs[np.arange(len(users)), wanted].mean()), np.exp(logs)

    def learn(self, users: np.ndarray, wanted: np.ndarray) -> None:
        before, errors = self.loss(users, wanted)
        errors[np.arange(len(users)), wanted] -= 1.0  # (batch, items)
        factor = 1.0 if self.guard is None else self.guard.allow(before)
        if factor == 0.0:
            return
        undo = self.users.copy(), self.items.copy()
        step = factor * self.learning_rate / len(users)
        of_users, of_items = errors @ self.items, errors.T @ self.users[users]
        np.add.at(self.users, users, -step * of_users)
        self.items -= step * of_items
        if self.guard is not None and self.guard.wary and not self.guard.stands(before, self.loss(users, wanted)[0]):
            self.users, self.items = undo


def hit_rate(learning_rate: float, guard: StepGuard | None) -> float:
    """Share of wanted items among the first five, before they are learned; each user wants five of forty items."""
    rng = np.random.default_rng(2)
    model, hits = Factors(40, 40, learning_rate, guard), []
    with np.errstate(all="ignore"):
        for _ in range(600):
            users = rng.integers(0, 40, 32)
            wanted = users % 8 + 8 * rng.integers(0, 5, 32)
            scores = model.scores(users)
            own = scores[np.arange(32), wanted]
            hits.append(float(((scores > own[:, None]).sum(1) < 5)[np.isfinite(own)].sum() / 32))
            model.learn(users, wanted)
    return float(np.mean(hits[300:]))


def test_at_a_hundred_times_the_step_a_guarded_model_learns_and_another_collapses() -> None:
    normal, careless = hit_rate(4.0, None), hit_rate(400.0, None)
    guarded = hit_rate(400.0, StepGuard())
    print(f"normal {normal:.3f}, at a hundred times the step {careless:.3f}, with a guard {guarded:.3f}")
    assert normal > 0.9
    assert careless < 0.3
    assert guarded > 0.8 * normal


def test_at_the_normal_step_the_guard_changes_nothing() -> None:
    assert hit_rate(4.0, StepGuard()) == hit_rate(4.0, None)
