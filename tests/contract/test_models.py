"""Every model that is listed, here or by another package, keeps every promise; and what some promise beyond these."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest

from streamrec.config.parts import models
from streamrec.engine.arrays.batch import NOTHING
from streamrec.engine.arrays.feedback import SlateFeedback
from streamrec.engine.learning.quarantine import unsound
from streamrec.engine.models import Model
from streamrec.engine.models.clicks import ClickModel
from streamrec.engine.models.factors import Factorisation
from streamrec.engine.models.guards import StepGuard
from streamrec.engine.models.sequence import SequenceModel, Training
from streamrec.testing import MODEL_CHECKS, ModelBench, Visits
from streamrec.testing.models import popularities, scores
from streamrec.testing.patterns import crazes, fashions, hits, pattern_of, successors, tastes
from streamrec.testing.visits import CAPACITY

bench_of = cache(lambda name: ModelBench(models()[name]))


@pytest.mark.parametrize("name", models())
@pytest.mark.parametrize("check", MODEL_CHECKS, ids=lambda check: check.__name__)
def test_a_listed_model_keeps_its_promises(check: Callable[[ModelBench], None], name: str) -> None:
    check(bench_of(name))


def test_every_model_has_a_pattern_to_find() -> None:
    assert all(pattern_of(entry) for entry in models().values())


def untaught(name: str, visits: Visits) -> Model:
    return bench_of(name).untaught(visits.table)


# What a forgotten item leaves


def forgotten(name: str) -> tuple[Model, np.ndarray, np.ndarray, np.ndarray]:
    """A model that has forgotten some items; those, and the scores before and after."""
    bench, gone = bench_of(name), np.array([7, 8, 20], np.int32)
    model, queries = bench.learned(bench.batches), bench.questions()
    known = scores(model, queries)
    model.forget(gone)
    queries.items[np.isin(queries.items, gone)] = NOTHING
    queries.seed += 10_000
    return model, gone, known, scores(model, queries)


def test_a_row_of_the_factorisation_begins_anew_when_the_next_item_takes_it() -> None:
    _, gone, _, left = forgotten("factors")
    assert (left[:, gone] == 0).all()


def test_a_row_of_the_sequence_model_begins_anew_at_once() -> None:
    model, gone, known, left = forgotten("sequence")
    assert (known[:, gone] != left[:, gone]).all()
    arrays = model.state()
    assert (arrays["rows.bias"][gone] == 0).all()
    assert np.abs(arrays["rows.vectors"][gone]).max() <= 0.1


# Popularity and trends beside one another


def found(names: list[str], planted: Callable[[Visits], list], warm: int) -> dict[str, float]:  # type: ignore[type-arg]
    visits = Visits()
    batches = planted(visits)
    return {name: hits(untaught(name, visits), visits, batches, warm) for name in names}


POPULAR = [entry.name for entry in popularities()]


def test_the_shorter_its_half_life_the_sooner_popularity_follows_the_fashion() -> None:
    shares = found(POPULAR, fashions, 12)
    assert shares["popularity_minutes"] > 0.8
    assert shares["popularity_minutes"] > shares["popularity"] >= shares["popularity_days"]


def test_trends_follow_a_craze_sooner_than_any_popularity() -> None:
    shares = found([*POPULAR, "trends"], crazes, 80)
    print(shares)
    assert shares["trends"] > 0.5
    assert shares["trends"] > 1.4 * max(shares[name] for name in POPULAR)


# Careless learning rates


class Trusting(StepGuard):
    """Lets everything pass."""

    wary = False

    def allow(self, loss: float, norm: float = 0.0) -> float:
        return 1.0


def careless(name: str, guard: StepGuard) -> Model:
    """A model at a hundred times its learning rate."""
    if name == "factors":
        return Factorisation(name, CAPACITY, learning_rate=8.0, guard=guard)
    return SequenceModel(name, CAPACITY, training=Training(learning_rate=0.3, row_learning_rate=30.0), guard=guard)


@pytest.mark.parametrize("name", ["factors", "sequence"])
def test_at_a_hundred_times_the_step_a_guarded_model_does_not_collapse(name: str) -> None:
    shares = []
    for guard in (None, StepGuard(), Trusting()):
        visits = Visits()
        batches = [batch for _ in range(2) for batch in successors(visits)]
        model = untaught(name, visits) if guard is None else careless(name, guard)
        shares.append(hits(model, visits, batches, 100))
    print(f"{name}: {shares[0]:.3f}, careless and guarded {shares[1]:.3f}, careless {shares[2]:.3f}")
    assert shares[1] > 0.5 * shares[0]
    assert shares[2] < 0.25 * shares[0]


# Bad numbers


def test_a_weight_of_the_click_model_that_is_none_does_not_spread() -> None:
    visits = Visits()
    batches = tastes(visits)
    model = untaught("clicks", visits)
    assert isinstance(model, ClickModel)
    for batch in batches[:10]:
        model.learn(batch)
    hit = np.flatnonzero(model._weights)[::50]
    model._weights[hit] = np.nan
    for feature in hit.tolist():
        model._learned[feature] = np.nan
    for batch in batches[10:20]:
        model.learn(batch)
    assert np.isnan(model._weights).sum() == len(hit)
    assert model.refused > 0
    assert unsound({"clicks": model.state()}, ["clicks"]) == ["clicks"]


def test_what_a_lesson_counts_for_must_be_a_number_for_the_click_model() -> None:
    visits = Visits()
    model = ClickModel("clicks", visits.table, weighted=True)
    queries = visits.questions(range(1))
    traces = {"clicks": model.trace(queries, 0, np.arange(3, dtype=np.int32))}
    for chance in (np.nan, 0.2):
        slate_feedback = SlateFeedback(
            "p", 0, np.zeros((3, 4), np.float32), np.full(3, chance), np.array([0.0, 1.0, 0.0]), 9, 0, traces
        )
        model.learn_outcomes([slate_feedback])
        assert np.isfinite(model._weights).all()
    assert model.refused == 2  # the answered one and the one above it, once
    assert np.count_nonzero(model._weights) > 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", ["loss", "gradient"])
def test_a_loss_or_gradient_that_is_no_number_never_reaches_the_weights(
    place: str, bad: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from torch.nn import functional

    bench = bench_of("sequence")
    batches = bench.batches
    model = bench.learned(batches[:6])
    before = model.state()
    plain = functional.cross_entropy

    def broken(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        loss = plain(logits, targets)
        if place == "loss":
            return loss * bad
        loss.register_hook(lambda gradient: gradient * bad)
        return loss

    monkeypatch.setattr(functional, "cross_entropy", broken)
    for batch in batches[6:9]:
        model.learn(batch)
    monkeypatch.undo()
    after = model.state()
    weights = [name for name in before if name.startswith(("module.", "moments.", "rows."))]
    assert len(weights) > 5
    for name in weights:  # items that came new have rows of their own, at the end
        then, now = np.atleast_1d(before[name]), np.atleast_1d(after[name])
        assert then.tobytes() == now[: len(then)].tobytes()
        assert np.isfinite(after[name]).all()
    assert after["guard.counts"][1] > before["guard.counts"][1]  # refused, and counted
    for batch in batches[9:]:
        model.learn(batch)
    moved = model.state()
    assert any(moved[name].tobytes() != before[name].tobytes() for name in weights)
    assert all(np.isfinite(moved[name]).all() for name in weights)
