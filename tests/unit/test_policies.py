"""Policies: the promises of each, and what is particular to one, or to several that are asked at once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamrec.config.parts import PolicyEntry, policies
from streamrec.config.settings import Settings
from streamrec.engine.arrays.feedback import SlateFeedback
from streamrec.engine.policies import Components, Constraints, Policy, Posterior
from streamrec.engine.policies.deterministic import ModelAlone
from streamrec.engine.policies.exp3 import Exp3
from streamrec.engine.policies.plackett_luce_sampling import SamplingTerms, drawn, interleaved, propensities
from streamrec.engine.policies.registry import PolicyRegistry
from streamrec.engine.rollout.plan import Decision
from streamrec.engine.rollout.revisions import Mode
from streamrec.testing import POLICY_CHECKS, PolicyBench
from streamrec.testing.policies import (
    DRAWS,
    ITEMS,
    MIXED,
    MODELS,
    UNCERTAINTY,
    WIDTH,
    K,
    accepts,
    asked,
    posterior,
    repeated,
)
from streamrec.wiring import build_policy

SETTINGS = Settings.model_validate({"learning": {"models": MODELS}, "fusion": {"explore": 0.1, "temperature": 0.5}})
ALONE = PolicyEntry("model-covisit", lambda parts: ModelAlone(parts.name, parts.models.index("covisit"), 0))


@pytest.mark.parametrize("entry", [*policies().values(), ALONE], ids=lambda entry: entry.name)
@pytest.mark.parametrize("check", POLICY_CHECKS, ids=lambda check: check.__name__)
def test_a_policy_keeps_its_promises(check: Callable[[PolicyBench], None], entry: PolicyEntry) -> None:
    check(PolicyBench(entry))


def policy(name: str) -> Policy:
    return build_policy(SETTINGS, name)


def test_all_but_thompson_know_their_propensities_exactly() -> None:
    assert {name: policy(name).estimated_from for name in (*policies(), "model:covisit")} == {
        **dict.fromkeys((*policies(), "model:covisit"), 0),
        "thompson": 64,
    }


def test_thompson_ranks_by_the_posterior() -> None:
    rows, one = 4_000, policy("thompson")
    question = asked(rows)
    choice = drawn(one.components(question, posterior()), question.seeds, K)
    # It ranks by the posterior: weights drawn by a plain generator give the same shares of first places.
    belief = posterior()
    weights = np.random.default_rng(1).multivariate_normal(belief.mean, np.linalg.inv(belief.precision), 200_000)
    scores = weights @ question.features[0].astype(np.float64).T / 0.5
    plain = np.exp(scores - np.logaddexp.reduce(scores, 1)[:, None]).mean(0)
    expected = 0.9 * plain + 0.1 / ITEMS
    assert accepts(np.bincount(choice.places[:, 0], minlength=ITEMS), expected * rows)


def test_weights_by_thompsons_estimated_propensities_are_right_on_average() -> None:
    rows, items, one = 8_000, 12, policy("thompson")
    question = asked(rows, items)
    choice = drawn(one.components(question, posterior()), question.seeds, 1)
    weights = 1 / choice.propensity[:, 0]  # each item's share times 1/p is 1, so together they are as many as the items
    assert weights.mean() == pytest.approx(items, abs=4 * weights.std() / np.sqrt(rows))
    assert weights.std() / np.sqrt(rows) < 0.3


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
