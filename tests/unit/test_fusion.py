"""Propensities are what they say, weights find what is true, and no bad number gets in."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from streamrec.features.batch import CANDIDATES, NOTHING, Candidates, MicroBatch, Queries
from streamrec.fusion import Fusion, ranked, ranks

MODELS = ("good", "noise")
DRAWS = 40_000


def frozen(particles: int, spread: float = 1.0, temperature: float = 1.0) -> Fusion:
    """A fusion of two models whose posterior has been set by hand."""
    fusion = Fusion(MODELS, temperature=temperature, particles=particles)
    fusion.particles = np.random.default_rng(7).normal(0, spread, (particles, fusion.width))
    return fusion


def scored(fusion: Fusion, queries: int, items: int, spread: float = 1.0) -> Candidates:
    """The same `items` candidates, with the same features, for each query."""
    candidates = Candidates.empty(queries, len(MODELS), fusion.width)
    candidates.items[:, :items] = np.arange(items)
    candidates.features[:, :items] = np.random.default_rng(3).normal(0, spread, (items, fusion.width))
    candidates.utility[:, :items] = candidates.features[:, :items] @ fusion.mean.astype(np.float32)
    return candidates


def asked(count: int) -> Queries:
    queries = Queries.empty(count)
    queries.seed[:] = np.random.default_rng(5).integers(0, 2**62, count)
    return queries


@pytest.mark.parametrize("particles", [1, 3])
def test_slates_are_drawn_as_often_as_their_propensities_say(particles: int) -> None:
    fusion, items = frozen(particles, 0.5), 5
    choice = fusion.choose(asked(DRAWS), np.arange(DRAWS), scored(fusion, DRAWS, items), 3)
    slates, first, counts = np.unique(choice.places, axis=0, return_index=True, return_counts=True)
    logged = {tuple(slate): choice.propensity[row] for slate, row in zip(slates.tolist(), first, strict=True)}
    for length in (1, 2, 3):
        expected: dict[tuple[int, ...], float] = {}
        drawn: dict[tuple[int, ...], int] = {}
        for slate, count in zip(slates.tolist(), counts.tolist(), strict=True):
            prefix = tuple(slate[:length])
            expected[prefix] = float(np.prod(logged[tuple(slate)][:length]))
            drawn[prefix] = drawn.get(prefix, 0) + count
        possible = list(permutations(range(items), length))
        rare = 1 - sum(expected.values())  # what was never drawn
        assert 0 <= rare + 1e-9 < 0.01
        often = [prefix for prefix in possible if expected.get(prefix, 0) * DRAWS >= 10]
        observed = np.array([drawn[prefix] for prefix in often] + [DRAWS - sum(drawn[prefix] for prefix in often)])
        wanted = np.array([expected[prefix] for prefix in often])
        wanted = np.append(wanted, max(1 - wanted.sum(), 1e-9)) * DRAWS
        if wanted[-1] < 5:  # too few for the test
            observed, wanted = observed[:-1], wanted[:-1] * observed[:-1].sum() / wanted[:-1].sum()
        assert stats.chisquare(observed, wanted).pvalue > 1e-3


def test_equal_prefixes_have_equal_propensities_whatever_the_seed() -> None:
    fusion = frozen(4, 0.5)
    choice = fusion.choose(asked(2_000), np.arange(2_000), scored(fusion, 2_000, 4), 3)
    for length in (1, 2, 3):
        by_prefix: dict[tuple[int, ...], set[float]] = {}
        for places, chance in zip(choice.places.tolist(), choice.propensity, strict=True):
            by_prefix.setdefault(tuple(places[:length]), set()).add(round(float(chance[length - 1]), 9))
        assert all(len(chances) == 1 for chances in by_prefix.values())


def plackett_luce(scores: np.ndarray, places: list[int]) -> list[float]:
    """The propensities of a slate, summed over equally likely score vectors, (particles, candidates), in longhand."""
    belief, chances = np.full(len(scores), -np.log(len(scores))), []
    for at, place in enumerate(places):
        left = [c for c in range(scores.shape[1]) if c not in places[:at]]
        logs = np.array([row[place] - np.logaddexp.reduce(row[left]) for row in scores])
        joint = belief + logs
        total = np.logaddexp.reduce(joint)
        chances.append(float(np.exp(total)))
        belief = joint - total
    return chances


@settings(deadline=None, max_examples=60)
@given(
    steps=st.lists(st.sampled_from([0.0, 0.5, 5.0, 11.5, 13.0, 200.0, 900.0]), min_size=5, max_size=5),
    seed=st.integers(0, 2**62 - 1),
    particles=st.integers(1, 3),
)
def test_propensities_are_exact_however_far_scores_lie_apart(steps: list[float], seed: int, particles: int) -> None:
    fusion = frozen(particles)
    fusion.particles[:] = 0.0
    fusion.particles[:, 0] = 1.0 + 0.25 * np.arange(particles)
    candidates = scored(fusion, 1, 6)
    candidates.features[:] = 0.0
    candidates.features[0, :6, 0] = -np.cumsum([0.0, *steps])
    queries = Queries.empty(1)
    queries.seed[0] = seed
    choice = fusion.choose(queries, np.array([0]), candidates, 6)
    scores = (candidates.features[0, :6] @ fusion.particles.T.astype(np.float32)).T.astype(np.float64)
    exact = plackett_luce(scores, choice.places[0].tolist())
    assert choice.propensity[0].tolist() == pytest.approx(exact, rel=1e-4, abs=1e-12)


def test_the_last_of_all_candidates_is_certain() -> None:
    fusion = frozen(3)
    choice = fusion.choose(asked(50), np.arange(50), scored(fusion, 50, 4), 6)
    assert choice.propensity[:, 3] == pytest.approx(np.ones(50))
    assert (choice.places[:, 4:] == NOTHING).all()
    assert (choice.propensity[:, 4:] == 0).all()
    assert all(sorted(places[:4]) == [0, 1, 2, 3] for places in choice.places.tolist())


def test_a_longer_slate_begins_with_the_shorter_one() -> None:
    fusion = frozen(3)
    candidates = scored(fusion, 20, 9)
    short, long = (fusion.choose(asked(20), np.arange(20), candidates, k) for k in (3, 9))
    assert (short.places == long.places[:, :3]).all()
    assert (short.propensity == long.propensity[:, :3]).all()


def test_greedy_takes_the_best_and_is_sure_of_it() -> None:
    fusion = Fusion(MODELS, policy="greedy")
    candidates = scored(fusion, 3, 6)
    choice = fusion.choose(asked(3), np.arange(3), candidates, 8)
    best = np.argsort(-candidates.utility[0, :6], kind="stable").tolist()
    assert choice.places.tolist() == [[*best, NOTHING, NOTHING]] * 3
    assert choice.propensity.tolist() == [[1.0] * 6 + [0.0] * 2] * 3


def test_without_candidates_there_is_no_slate() -> None:
    for fusion in (frozen(2), Fusion(MODELS, policy="greedy")):
        choice = fusion.choose(asked(2), np.arange(2), scored(fusion, 2, 0), 4)
        assert (choice.places == NOTHING).all()
        assert (choice.propensity == 0).all()


# Learning


def lesson(fusion: Fusion, rng: np.random.Generator, weight: float, queries: int = 32, items: int = 20) -> MicroBatch:
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
        fusion.learn(lesson(fusion, rng, planted))
    # The share says what rank and presence say too, so what counts is the score they make together.
    batch = lesson(fusion, rng, planted)
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
    for forgetting, lessons in ((1.0, 5), (1.0, 100), (0.95, 100)):
        fusion = Fusion(MODELS, forgetting=forgetting, particles=64)
        for _ in range(lessons):
            fusion.learn(lesson(fusion, rng, 6.0))
        spreads[forgetting, lessons] = float(np.linalg.inv(fusion.precision).trace())
        assert fusion.particles.std(0).mean() == pytest.approx(
            np.sqrt(np.linalg.inv(fusion.precision).diagonal()).mean(), rel=0.25
        )
    assert spreads[1.0, 100] < spreads[1.0, 5]
    assert spreads[1.0, 100] < spreads[0.95, 100]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_bad_number_in_the_features_never_reaches_the_weights(bad: float) -> None:
    fusion, rng = Fusion(MODELS), np.random.default_rng(2)
    fusion.learn(lesson(fusion, rng, 6.0))
    before = fusion.state()
    batch = lesson(fusion, rng, 6.0)
    batch.candidates.features[3, 4, 1] = bad
    with np.errstate(all="ignore"):
        fusion.learn(batch)
    after = fusion.state()
    assert all((before[name] == after[name]).all() for name in ("mean", "precision", "particles"))
    assert fusion.skipped == 1
    fusion.learn(lesson(fusion, rng, 6.0))
    assert fusion.version == 2
    assert np.isfinite(fusion.mean).all()


def test_a_model_that_says_nothing_or_nonsense_leaves_slates_whole() -> None:
    fusion = Fusion(MODELS)
    batch = lesson(fusion, np.random.default_rng(3), 6.0, queries=4)
    batch.candidates.scores[1] = -np.inf
    moments = np.zeros(20, np.int64)
    fusion.describe(batch.queries, slice(0, 4), batch.candidates, moments, moments)
    assert np.isfinite(batch.candidates.features[:, :20]).all()
    assert (batch.candidates.features[:, :20, 1] == 0).all()
    choice = fusion.choose(asked(4), np.arange(4), batch.candidates, 20)
    assert (np.sort(choice.places, axis=1) == np.arange(20)).all()


def test_learning_only_reads_the_batch_and_lessons_without_targets_teach_nothing() -> None:
    fusion = Fusion(MODELS)
    batch = lesson(fusion, np.random.default_rng(4), 6.0)
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
        first.learn(lesson(first, rng, 6.0))
    second = Fusion(MODELS)
    second.restore(first.state())
    batch = lesson(first, rng, 6.0)
    first.learn(batch)
    second.learn(batch)
    assert all((value == second.state()[name]).all() for name, value in first.state().items())


def test_shares_add_up_to_the_score_beside_the_average_candidate() -> None:
    fusion = frozen(2)
    fusion.mean = np.random.default_rng(8).normal(size=fusion.width)
    features = np.random.default_rng(9).normal(size=(12, fusion.width)).astype(np.float32)
    scores = features @ fusion.mean
    assert fusion.shares(features, np.arange(len(features))).sum(1) == pytest.approx(scores - scores.mean(), abs=1e-4)


# Ranks

values = st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 2.0])


@settings(deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.lists(st.tuples(values, values), min_size=30, max_size=30), st.integers(0, 31)), max_size=4
    )
)
def test_ranks_equal_a_plain_sort(rows: list) -> None:  # type: ignore[type-arg]
    items = np.full((len(rows), CANDIDATES), NOTHING, np.int32)
    items[:, :30] = np.arange(30)
    scores = np.full((1, len(rows), CANDIDATES), -np.inf, np.float32)
    fill = np.full((len(rows), CANDIDATES), -np.inf, np.float32)
    for row, (drawn, _) in enumerate(rows):
        scores[0, row, :30], fill[row, :30] = zip(*drawn, strict=True)
    targets = np.array([target for _, target in rows], np.int32)
    found = ranks(scores, fill, items, targets)
    for row, (drawn, target) in enumerate(rows):
        order = sorted(range(30), key=lambda c: (-drawn[c][0], -drawn[c][1], c))
        place = order.index(target) + 1 if target < 30 else 0
        assert found[0, row] == (place if place <= 20 else 0)


@given(utilities=st.lists(values, min_size=1, max_size=12), k=st.integers(1, 15))
def test_ranked_equals_a_plain_sort(utilities: list[float], k: int) -> None:
    order = [c for c in sorted(range(len(utilities)), key=lambda c: -utilities[c]) if utilities[c] > -np.inf]
    places = ranked(np.array([utilities]), k)[0]
    assert places[places != NOTHING].tolist() == order[:k]
