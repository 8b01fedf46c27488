"""Weights find what is true, and no bad number gets in."""

from __future__ import annotations

import numpy as np
import pytest

from streamrec.engine.arrays.batch import CANDIDATES, MicroBatch
from streamrec.engine.fusion.fusion import Fusion
from streamrec.engine.policies.plackett_luce import PlackettLuce
from streamrec.engine.policies.plackett_luce_sampling import drawn

MODELS = ("good", "noise")


# Learning


def slate_feedback(
    fusion: Fusion, rng: np.random.Generator, weight: float, queries: int = 32, items: int = 20
) -> MicroBatch:
    """A batch whose wanted items are drawn by the first model's share alone, times `weight`."""
    batch = MicroBatch.empty(queries, queries, len(MODELS), fusion.width)
    batch.asked = batch.learned = queries
    batch.candidates.items[:, :items] = np.arange(items)
    batch.candidates.scores[:, :, :items] = rng.normal(0, 1.5, (len(MODELS), queries, items))
    moments = np.zeros(items, np.int64)
    fusion.describe(batch.queries, slice(0, queries), batch.candidates, moments, moments)
    share = batch.candidates.features[:, :items, 0].astype(np.float64)
    batch.examples.query[:] = np.arange(queries)
    batch.examples.label[:] = 1
    batch.examples.item[:] = np.argmax(weight * share + rng.gumbel(size=share.shape), axis=1)
    return batch


def test_learning_recovers_a_planted_weight() -> None:
    fusion, rng, planted = Fusion(MODELS, forgetting=1.0), np.random.default_rng(1), 6.0
    for _ in range(250):
        fusion.learn(slate_feedback(fusion, rng, planted))
    # The share says what rank and presence say too, so what counts is the score they make together.
    batch = slate_feedback(fusion, rng, planted)
    features = batch.candidates.features[:, :20].astype(np.float64)
    truth = planted * features[:, :, 0]
    found = features @ fusion.mean
    truth, found = truth - truth.mean(1, keepdims=True), found - found.mean(1, keepdims=True)
    assert float((found * truth).sum() / (truth * truth).sum()) == pytest.approx(1.0, abs=0.1)
    assert np.corrcoef(found.ravel(), truth.ravel())[0, 1] > 0.97
    assert fusion.mean[0] > 4 * abs(fusion.mean[1])
    assert fusion.skipped == 0


def test_certainty_grows_with_what_was_learned_and_fades_when_forgetting() -> None:
    rng = np.random.default_rng(1)
    spreads = {}
    for forgetting, feedback in ((1.0, 5), (1.0, 100), (0.95, 100)):
        fusion = Fusion(MODELS, forgetting=forgetting, particles=64)
        for _ in range(feedback):
            fusion.learn(slate_feedback(fusion, rng, 6.0))
        spreads[forgetting, feedback] = float(np.linalg.inv(fusion.precision).trace())
        assert fusion.particles.std(0).mean() == pytest.approx(
            np.sqrt(np.linalg.inv(fusion.precision).diagonal()).mean(), rel=0.25
        )
    assert spreads[1.0, 100] < spreads[1.0, 5]
    assert spreads[1.0, 100] < spreads[0.95, 100]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_bad_number_in_the_features_never_reaches_the_weights(bad: float) -> None:
    fusion, rng = Fusion(MODELS), np.random.default_rng(2)
    fusion.learn(slate_feedback(fusion, rng, 6.0))
    before = fusion.state()
    batch = slate_feedback(fusion, rng, 6.0)
    batch.candidates.features[3, 4, 1] = bad
    with np.errstate(all="ignore"):
        fusion.learn(batch)
    after = fusion.state()
    assert all((before[name] == after[name]).all() for name in ("mean", "precision", "particles"))
    assert fusion.skipped == 1
    fusion.learn(slate_feedback(fusion, rng, 6.0))
    assert fusion.version == 2
    assert np.isfinite(fusion.mean).all()


def test_a_model_that_says_nothing_or_nonsense_leaves_slates_whole() -> None:
    fusion = Fusion(MODELS)
    batch = slate_feedback(fusion, np.random.default_rng(3), 6.0, queries=4)
    batch.candidates.scores[1] = -np.inf
    moments = np.zeros(20, np.int64)
    fusion.describe(batch.queries, slice(0, 4), batch.candidates, moments, moments)
    assert np.isfinite(batch.candidates.features[:, :20]).all()
    assert (batch.candidates.features[:, :20, 1] == 0).all()
    even = np.ones((4, CANDIDATES))
    question = fusion.asked(batch.queries, np.arange(4), batch.candidates, 0 * even, even, [None] * 4)
    choice = drawn(PlackettLuce("plackett-luce", 0.25, 0.0).components(question, fusion.posterior), question.seeds, 20)
    assert (np.sort(choice.places, axis=1) == np.arange(20)).all()


@pytest.mark.parametrize("form", ["linear", "mlp"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_with_weights_that_are_no_numbers_untaught_ones_stand_in(bad: float, form: str) -> None:
    fusion, rng = Fusion(MODELS, form=form), np.random.default_rng(2)
    for _ in range(4):
        fusion.learn(slate_feedback(fusion, rng, 6.0))
    batch, moments = slate_feedback(fusion, rng, 6.0, queries=4), np.zeros(20, np.int64)
    whole = fusion.state()

    def utility(of: Fusion) -> tuple[bool, np.ndarray]:
        sound = of.describe(batch.queries, slice(0, 4), batch.candidates, moments, moments)
        return sound, batch.candidates.utility[:, :20].copy()

    untaught = utility(Fusion(MODELS, form=form))
    assert untaught[0]
    fusion.mean[1] = bad
    with np.errstate(invalid="ignore"):
        sound, found = utility(fusion)
    assert not sound
    assert (found == untaught[1]).all()
    assert np.isfinite(fusion.posterior.particles).all()
    refused = fusion.refused
    with np.errstate(all="ignore"):
        fusion.learn(batch)
    assert fusion.refused > refused
    fusion.restore(whole)
    assert utility(fusion)[0]
    fusion.precision[0, 0] = bad
    assert np.isfinite(fusion.posterior.precision).all()


def test_a_precision_that_is_none_stops_nobody() -> None:
    fusion, rng = Fusion(MODELS), np.random.default_rng(2)
    fusion.precision = -fusion.precision  # no positive number anywhere: it has no root
    mean = fusion.mean.copy()
    fusion.learn(slate_feedback(fusion, rng, 6.0))
    assert fusion.refused == 1
    assert (fusion.mean == mean).all()


def test_a_network_whose_weights_are_no_numbers_is_left_out() -> None:
    fusion, rng = Fusion(MODELS, form="mlp"), np.random.default_rng(2)
    batch, moments = slate_feedback(fusion, rng, 6.0, queries=4), np.zeros(20, np.int64)
    assert fusion.residual is not None
    fusion.residual.served()["module.last.weight"][0, 0] = float("nan")
    assert not fusion.describe(batch.queries, slice(0, 4), batch.candidates, moments, moments)
    assert np.isfinite(batch.candidates.features).all()
    assert np.isfinite(batch.candidates.utility[:, :20]).all()


def test_learning_only_reads_the_batch_and_lessons_without_targets_teach_nothing() -> None:
    fusion = Fusion(MODELS)
    batch = slate_feedback(fusion, np.random.default_rng(4), 6.0)
    before = batch.state()
    fusion.learn(batch)
    assert all((before[name] == value).all() for name, value in batch.state().items())
    mean = fusion.mean.copy()
    batch.examples.item[:] = 999  # not among the candidates
    fusion.learn(batch)
    batch.examples.label[:] = 0
    fusion.learn(batch)
    assert (fusion.mean == mean).all()
    assert fusion.version == 1


def test_a_restored_fusion_goes_on_as_the_first_one_would() -> None:
    first = Fusion(MODELS)
    rng = np.random.default_rng(6)
    for _ in range(3):
        first.learn(slate_feedback(first, rng, 6.0))
    second = Fusion(MODELS)
    second.restore(first.state())
    batch = slate_feedback(first, rng, 6.0)
    first.learn(batch)
    second.learn(batch)
    assert all((value == second.state()[name]).all() for name, value in first.state().items())


def test_shares_add_up_to_the_score_beside_the_average_candidate() -> None:
    fusion = Fusion(MODELS)
    fusion.mean = np.random.default_rng(8).normal(size=fusion.width)
    features = np.random.default_rng(9).normal(size=(12, fusion.width)).astype(np.float32)
    scores = features @ fusion.mean
    assert fusion.shares(features, np.arange(len(features))).sum(1) == pytest.approx(scores - scores.mean(), abs=1e-4)
