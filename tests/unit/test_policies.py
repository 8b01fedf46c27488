"""Every policy draws slates as often as its propensities say, and knows the probability of any slate."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from streamrec.config.settings import Settings
from streamrec.engine.arrays.batch import NOTHING
from streamrec.engine.arrays.feedback import SlateFeedback
from streamrec.engine.fusion.features import names
from streamrec.engine.policies import Components, Constraints, Policy, PolicyInput, Posterior
from streamrec.engine.policies.exp3 import Exp3
from streamrec.engine.policies.plackett_luce_sampling import SamplingTerms, drawn, interleaved, propensities
from streamrec.engine.policies.registry import PolicyRegistry
from streamrec.engine.rollout.plan import Decision
from streamrec.engine.rollout.revisions import Mode
from streamrec.wiring import build_policy

DRAWS = 100_000
ITEMS = 5
K = 3
MODELS = ("popularity", "covisit", "transitions", "clicks")
SETTINGS = Settings.model_validate({"learning": {"models": MODELS}, "fusion": {"explore": 0.1, "temperature": 0.5}})
WIDTH = len(names(MODELS))
EXACT = ("plackett-luce", "greedy", "linucb", "exp3", "uniform", "model:covisit")


def policy(name: str) -> Policy:
    return build_policy(SETTINGS, name)


def posterior(seed: int = 7, particles: int = 8) -> Posterior:
    rng = np.random.default_rng(seed)
    spread = rng.normal(size=(WIDTH, WIDTH)) / np.sqrt(WIDTH)
    mean = rng.normal(0, 0.6, WIDTH)
    return Posterior(mean, np.eye(WIDTH) * 3 + spread @ spread.T, rng.normal(mean, 0.5, (particles, WIDTH)), 1)


def asked(rows: int, items: int = ITEMS, seed: int = 3) -> PolicyInput:
    """The same request `rows` times, with a seed of its own each."""
    rng, belief = np.random.default_rng(seed), posterior()
    features = rng.normal(0, 0.7, (items, WIDTH)).astype(np.float32)
    shares = np.log(rng.dirichlet(np.ones(items), len(MODELS)).T)  # (items, models)
    features[:, : len(MODELS)] = np.maximum(shares, -10) / 5.0
    features[:, 2 * len(MODELS) : 3 * len(MODELS)] = 1.0  # present
    utility = (features @ belief.mean.astype(np.float32)).astype(np.float64)
    return PolicyInput(
        seeds=np.random.default_rng(5).integers(0, 2**62, rows).astype(np.uint64),
        items=np.tile(np.arange(items, dtype=np.int32), (rows, 1)),
        features=np.tile(features, (rows, 1, 1)),
        utility=np.tile(utility, (rows, 1)),
        scores=np.tile(rng.normal(size=(len(MODELS), 1, items)).astype(np.float32), (1, rows, 1)),
        context=np.zeros(rows, np.int64),
        boost=np.zeros((rows, items)),
        uncertainty=np.ones((rows, items)),
        constraints=(None,) * rows,
    )


def accepts(counts: np.ndarray, expected: np.ndarray) -> bool:
    """Pearson's chi-squared at one in a thousand; what is expected fewer than 5 times is counted together."""
    often = expected >= 5
    observed = np.append(counts[often], counts[~often].sum())
    wanted = np.append(expected[often], expected[~often].sum())
    if wanted[-1] < 5:
        observed, wanted = observed[:-1], wanted[:-1]
    if len(wanted) < 2:
        return bool(counts.sum() == pytest.approx(expected.sum(), rel=1e-9))
    return bool(stats.chisquare(observed, wanted * observed.sum() / wanted.sum()).pvalue > 1e-3)


def repeated(once: Components, rows: int) -> Components:
    scores = np.repeat(once.scores, rows, 0)
    return Components(np.repeat(once.weights, rows, 0), scores, once.hard, once.explore, once.scale)


UNCERTAINTY = np.array([1.0, 0.2, 0.5, 3.0, 0.1])
MIXED = Constraints(
    similar=np.array([[max(0.0, 1 - abs(a - b) / 2) for b in range(ITEMS)] for a in range(ITEMS)], np.float32),
    group=np.array([0, 0, 1, 1, NOTHING], np.int32),
    young=np.array([False, True, False, False, True]),
    weight=0.8,
    most_per_group=1,
    young_share=0.4,  # the third place at the latest
)


@pytest.mark.parametrize("bound", [None, MIXED], ids=["anything goes", "constrained"])
@pytest.mark.parametrize("name", EXACT)
def test_a_hundred_thousand_slates_come_as_often_as_their_propensities_say(
    name: str, bound: Constraints | None
) -> None:
    one = policy(name)
    assert one.estimated_from == 0
    once = one.components(asked(1), posterior())  # the same for every seed
    draws = DRAWS if bound is None else DRAWS // 4

    def terms(rows: int) -> SamplingTerms:
        return SamplingTerms(np.tile(UNCERTAINTY, (rows, 1)), [bound] * rows)

    choice = drawn(repeated(once, draws), asked(draws).seeds, K, terms(draws))
    for length in range(1, K + 1):
        slates = np.array(list(permutations(range(ITEMS), length)))
        chances = propensities(repeated(once, len(slates)), slates, terms(len(slates))).prod(1)
        assert chances.sum() == pytest.approx(1.0, abs=1e-9)  # every slate there can be
        code = choice.places[:, :length] @ ITEMS ** np.arange(length)
        counts = np.array([(code == slate @ ITEMS ** np.arange(length)).sum() for slate in slates])
        assert accepts(counts, chances * draws), f"slates of {length}"
        logged = choice.propensity[:, :length].prod(1)
        for slate, chance in zip(slates, chances, strict=True):
            mine = logged[code == slate @ ITEMS ** np.arange(length)]
            assert mine == pytest.approx(np.full(len(mine), chance), rel=1e-9)


def test_thompson_says_that_it_estimates_and_its_estimates_are_unbiased() -> None:
    rows, one = 4_000, policy("thompson")
    assert one.estimated_from == 64
    question = asked(rows)
    components = one.components(question, posterior())
    choice = drawn(components, question.seeds, K)
    for item in range(ITEMS):
        chances = propensities(components, np.full((rows, 1), item))[:, 0]
        came = choice.places[:, 0] == item
        assert stats.binomtest(int(came.sum()), rows, float(chances.mean())).pvalue > 1e-3
        assert (came / chances).mean() == pytest.approx(1.0, abs=5 * (came / chances).std() / np.sqrt(rows))
    # It ranks by the posterior: weights drawn by a plain generator give the same shares of first places.
    belief = posterior()
    weights = np.random.default_rng(1).multivariate_normal(belief.mean, np.linalg.inv(belief.precision), 200_000)
    scores = weights @ question.features[0].astype(np.float64).T / 0.5
    plain = np.exp(scores - np.logaddexp.reduce(scores, 1)[:, None]).mean(0)
    expected = 0.9 * plain + 0.1 / ITEMS
    assert accepts(np.bincount(choice.places[:, 0], minlength=ITEMS), expected * rows)


@pytest.mark.parametrize("bound", [None, MIXED], ids=["anything goes", "constrained"])
def test_team_drafts_come_as_often_as_their_propensities_say(bound: Constraints | None) -> None:
    question, belief = asked(DRAWS), posterior()
    first, second = (repeated(policy(name).components(asked(1), belief), DRAWS) for name in ("plackett-luce", "exp3"))
    terms = SamplingTerms(np.tile(UNCERTAINTY, (DRAWS, 1)), [bound] * DRAWS)
    choice, teams = interleaved(first, second, question.seeds, K, terms)
    assert (teams[:, 1] == 1 - teams[:, 0]).all()
    assert abs((teams[:, 0] == 0).mean() - 0.5) < 5 * 0.5 / np.sqrt(DRAWS)
    # Inverse propensities over what came, prefix by prefix: each possible next item has expectation one.
    for length in range(K):
        prefix = choice.places[:, :length] @ ITEMS ** np.arange(length) + ITEMS**K * (
            teams[:, :length] @ 2 ** np.arange(length)
        )
        for group in np.unique(prefix):
            rows = prefix == group
            if rows.sum() < 2_000:
                continue
            for item in range(ITEMS):
                came = (choice.places[rows, length] == item) / choice.propensity[rows, length]
                if came.any():
                    assert came.mean() == pytest.approx(1.0, abs=5 * came.std() / np.sqrt(rows.sum()) + 1e-9)


def longhand(scores: np.ndarray, weights: np.ndarray, hard: bool, explore: float, places: list[int]) -> list[float]:
    """The propensities of a slate in plain Python: scores are (components, candidates)."""
    belief, chances = weights / weights.sum(), []
    for at, place in enumerate(places):
        left = [c for c in range(scores.shape[1]) if c not in places[:at]]
        own = []
        for row in scores:
            if hard:
                own.append(float(max(left, key=lambda c: (row[c], -c)) == place))
            else:
                own.append(float(np.exp(row[place] - np.logaddexp.reduce(row[left]))))
        joint = belief * ((1 - explore) * np.array(own) + explore / len(left))
        chances.append(float(joint.sum()))
        if joint.sum() == 0:
            return chances + [0.0] * (len(places) - at - 1)
        belief = joint / joint.sum()
    return chances


@settings(max_examples=150)
@given(
    steps=st.lists(st.sampled_from([0.0, 0.5, 5.0, 11.5, 13.0, 200.0, 900.0]), min_size=5, max_size=5),
    seed=st.integers(0, 2**62 - 1),
    count=st.integers(1, 3),
    hard=st.booleans(),
    explore=st.sampled_from([0.0, 0.05, 1.0]),
)
def test_propensities_are_exact_however_far_scores_lie_apart(
    steps: list[float], seed: int, count: int, hard: bool, explore: float
) -> None:
    falling = -np.cumsum([0.0, *steps])
    scores = np.stack([falling * (1 + 0.25 * m) * (-1 if m == 2 else 1) for m in range(count)])
    weights = np.arange(1.0, count + 1)
    components = Components(weights[None] / weights.sum(), scores.T[None], hard, explore)
    choice = drawn(components, np.array([seed], np.uint64), 6)
    exact = longhand(scores, weights, hard, explore, choice.places[0].tolist())
    assert choice.propensity[0].tolist() == pytest.approx(exact, rel=1e-4, abs=1e-12)
    other = np.random.default_rng(seed % 2**32).permutation(6)
    found = propensities(components, other[None])[0].tolist()
    assert found == pytest.approx(longhand(scores, weights, hard, explore, other.tolist()), rel=1e-4, abs=1e-12)


@pytest.mark.parametrize("name", [*EXACT, "thompson"])
def test_a_longer_slate_begins_with_the_shorter_one_and_ends_with_the_candidates(name: str) -> None:
    question, belief = asked(20, 9), posterior()
    components = policy(name).components(question, belief)
    short, long = (drawn(components, question.seeds, k) for k in (3, 12))
    assert (short.places == long.places[:, :3]).all()
    assert (short.propensity == long.propensity[:, :3]).all()
    assert all(sorted(places[:9]) == list(range(9)) for places in long.places.tolist())
    assert long.propensity[:, 8] == pytest.approx(np.ones(20))
    assert (long.places[:, 9:] == NOTHING).all()
    assert (long.propensity[:, 9:] == 0).all()


@pytest.mark.parametrize("name", [*EXACT, "thompson"])
def test_without_candidates_there_is_no_slate_and_empty_places_are_never_drawn(name: str) -> None:
    question, belief = asked(50, 6), posterior()
    question.items[0] = NOTHING
    question.utility[0] = -np.inf
    question.utility[1:, 4:] = -np.inf
    choice = drawn(policy(name).components(question, belief), question.seeds, 6)
    assert (choice.places[0] == NOTHING).all()
    assert all(sorted(places[:4]) == [0, 1, 2, 3] for places in choice.places[1:].tolist())
    assert (choice.places[1:, 4:] == NOTHING).all()


def test_greedy_takes_the_best_and_one_model_alone_its_own_best() -> None:
    question, belief = asked(1, 6), posterior()
    greedy = drawn(policy("greedy").components(question, belief), question.seeds, 6)
    assert greedy.places[0].tolist() == np.argsort(-question.utility[0], kind="stable").tolist()
    question.scores[1, 0, :3] = -np.inf  # what covisit does not know follows by popularity
    alone = drawn(policy("model:covisit").components(question, belief), question.seeds, 6)
    known = sorted(range(3, 6), key=lambda c: -question.scores[1, 0, c])
    unknown = sorted(range(3), key=lambda c: -question.scores[0, 0, c])
    assert alone.places[0].tolist() == [*known, *unknown]


def test_upper_confidence_prefers_what_it_is_unsure_of() -> None:
    question, belief = asked(1, 4), posterior()
    question.features[0] = 0.0
    question.features[0, 2, 0] = 0.3
    question.utility[0] = 0.0
    certain = Posterior(belief.mean, np.eye(WIDTH) * 1e9, belief.particles, 1)
    unsure = Posterior(belief.mean, np.diag([0.01] + [1e9] * (WIDTH - 1)), belief.particles, 1)
    plain, optimistic = (policy("linucb").components(question, b).scores[0, :, 0] for b in (certain, unsure))
    assert plain == pytest.approx(np.zeros(4), abs=1e-3)
    assert optimistic.argmax() == 2


def slate_feedback(
    features: np.ndarray, reward: list[float], propensity: float = 0.2, context: int = 0
) -> SlateFeedback:
    chances = np.full(len(reward), propensity)
    return SlateFeedback("exp3", context, features.astype(np.float32), chances, np.array(reward), 20, 0)


def test_exp3_comes_to_listen_to_the_model_that_is_rewarded_and_only_in_that_context() -> None:
    exp3, rng = Exp3("exp3", len(MODELS), 0.0), np.random.default_rng(2)
    for _ in range(400):
        features = np.zeros((3, WIDTH))
        features[:, : len(MODELS)] = np.log(rng.dirichlet(np.ones(3), len(MODELS)).T * 0.9) / 5
        features[:, 2 * len(MODELS) : 3 * len(MODELS)] = 1.0
        best = features[:, 2].argmax()  # what the third model wants
        exp3.learn([slate_feedback(features, [0.2 * (place == best) for place in range(3)], context=1)])
    weights = exp3.weights()
    assert weights.sum(1) == pytest.approx(np.ones(3))
    assert weights[1].argmax() == 2
    assert weights[1, 2] > 0.5
    assert weights[0] == pytest.approx(np.full(len(MODELS), 1 / len(MODELS)))
    again = Exp3("exp3", len(MODELS), 0.0)
    again.restore(exp3.state())
    assert (again.weights() == weights).all()


# Who is asked


def choose(decision: Decision, rows: int = 200) -> tuple[PolicyRegistry, list]:  # type: ignore[type-arg]
    policies = PolicyRegistry(policy)
    return policies, policies.choose(asked(rows), posterior(), [decision] * rows, K)


@pytest.mark.parametrize("part", ["features", "propensity", "reward"])
def test_a_number_that_is_none_never_reaches_exp3(part: str) -> None:
    exp3, shares = Exp3("exp3", len(MODELS), 0.0), asked(1).features[0, :K]
    parts = {"features": shares.copy(), "propensity": np.full(K, 0.5), "reward": np.ones(K)}
    exp3.learn([SlateFeedback("exp3", 0, parts["features"], parts["propensity"], parts["reward"], ITEMS, 0)])
    before = exp3.weights()
    parts[part][1] = np.nan
    exp3.learn([SlateFeedback("exp3", 0, parts["features"], parts["propensity"], parts["reward"], ITEMS, 0)])
    assert (exp3.weights() == before).all()
    assert exp3.refused == 1
    assert PolicyRegistry(lambda name: exp3).refused() == {}  # nobody was asked yet


def test_exp3_goes_on_when_what_it_had_learned_is_no_number_any_more() -> None:
    exp3 = Exp3("exp3", len(MODELS), 0.0)
    exp3._logs[0, 1] = np.nan
    slates = drawn(exp3.components(asked(50), posterior()), asked(50).seeds, K)
    assert (slates.places >= 0).all()
    assert np.isfinite(slates.propensity).all()
    assert (slates.propensity > 0).all()


def test_what_others_would_have_done_is_known_beside_every_slate() -> None:
    beside = ("greedy", "uniform", "plackett-luce")
    _, chosen = choose(Decision("exp3", Mode.ONLINE, beside=beside))
    question = asked(200)
    for name in beside:
        components = policy(name).components(question, posterior())
        shown = np.stack([one.places for one in chosen])
        assert np.stack([one.beside[name].propensity for one in chosen]) == pytest.approx(
            propensities(components, shown)
        )
    best = np.argsort(-question.utility[0], kind="stable")[:K].tolist()
    assert all(one.beside["greedy"].proposal.tolist() == best for one in chosen)
    # A policy's own draw has nothing to do with the slate that was shown.
    firsts = np.array([(one.places[0], one.beside["uniform"].proposal[0]) for one in chosen])
    assert 0.02 < (firsts[:, 0] == firsts[:, 1]).mean() < 0.5


def test_each_row_is_dealt_as_its_own_decision_says() -> None:
    decisions = [
        Decision("greedy", Mode.CANARY, "canary"),
        Decision("uniform", Mode.CANARY, "control", beside=("greedy",)),
        Decision("greedy+uniform", Mode.ONLINE, None, ("greedy", "uniform")),
    ] * 40
    chosen = PolicyRegistry(policy).choose(asked(120), posterior(), decisions, K)
    best = np.argsort(-asked(1).utility[0], kind="stable").tolist()
    for one, decision in zip(chosen, decisions, strict=True):
        assert one.decision is decision
        if decision.publish == "greedy":
            assert one.places.tolist() == best[:K]
        if decision.interleaved:
            assert {one.teams[0], one.teams[1]} == {"greedy", "uniform"}
            picks = [place for place, team in zip(one.places.tolist(), one.teams, strict=True) if team == "greedy"]
            assert picks[0] == best[0] or best[0] in one.places[:1]
        else:
            assert one.teams == (None,) * K
    alone = PolicyRegistry(policy).choose(asked(120), posterior(), [Decision("uniform", Mode.CANARY)] * 120, K)
    assert all((chosen[row].places == alone[row].places).all() for row in range(1, 120, 3))


def test_only_what_learned_is_saved_and_comes_back() -> None:
    policies, _ = choose(Decision("exp3", Mode.ONLINE, beside=("greedy",)))
    features = np.zeros((2, WIDTH))
    features[:, 2 * len(MODELS) : 3 * len(MODELS)] = 1.0
    features[0, 1] = -0.1
    policies.learn([slate_feedback(features, [1.0, 0.0])])
    state = policies.state()
    assert set(state) == {"exp3"}
    again = PolicyRegistry(policy)
    again.restore(state)
    assert (again.state()["exp3"]["logs"] == state["exp3"]["logs"]).all()
    assert state["exp3"]["logs"].any()
