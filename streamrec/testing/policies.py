"""What every policy promises, as checks that can be run on any: `check_policy(entry)`.

The same request is put to the policy many times, with seeds of its own; slates must come as often as their propensities
say, for these are what a later estimate of another policy's value divides by.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import numpy as np

from streamrec.config.parts import PolicyEntry, built
from streamrec.engine.arrays.batch import NOTHING, Float64, Int64
from streamrec.engine.arrays.feedback import SlateFeedback
from streamrec.engine.fusion.features import names
from streamrec.engine.policies import Components, Constraints, Policy, PolicyInput, PolicyParts, Posterior
from streamrec.engine.policies.plackett_luce_sampling import SamplingTerms, drawn, propensities
from streamrec.testing.expectations import expect, run_all, same
from streamrec.testing.following import Following, what_is_served_is_part_of_the_state

DRAWS = 100_000
ITEMS, K = 5, 3
MODELS = ("popularity", "covisit", "transitions", "clicks")
WIDTH = len(names(MODELS))
UNCERTAINTY = np.array([1.0, 0.2, 0.5, 3.0, 0.1])
MIXED = Constraints(
    similar=np.array([[max(0.0, 1 - abs(a - b) / 2) for b in range(ITEMS)] for a in range(ITEMS)], np.float32),
    group=np.array([0, 0, 1, 1, NOTHING], np.int32),
    young=np.array([False, True, False, False, True]),
    weight=0.8,
    most_per_group=1,
    young_share=0.4,  # the third place at the latest
)
"""Rules of every kind at once."""


def posterior(seed: int = 7, particles: int = 8) -> Posterior:
    """What a fusion of MODELS might believe."""
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


def accepts(counts: Int64, expected: Float64) -> bool:
    """Pearson's chi-squared at one in a thousand; what is expected fewer than 5 times is counted together."""
    from scipy import stats

    often = expected >= 5
    observed = np.append(counts[often], counts[~often].sum())
    wanted = np.append(expected[often], expected[~often].sum())
    if wanted[-1] < 5:
        observed, wanted = observed[:-1], wanted[:-1]
    if len(wanted) < 2:
        return bool(np.isclose(counts.sum(), expected.sum(), rtol=1e-9))
    return bool(stats.chisquare(observed, wanted * observed.sum() / wanted.sum()).pvalue > 1e-3)


def repeated(once: Components, rows: int) -> Components:
    """The components of one request, as if it had been asked so many times."""
    scores = np.repeat(once.scores, rows, 0)
    return Components(np.repeat(once.weights, rows, 0), scores, once.hard, once.explore, once.scale)


class PolicyBench:
    """A policy over MODELS, untaught each time it is asked for."""

    def __init__(self, entry: PolicyEntry) -> None:
        self.entry = entry

    def policy(self) -> Policy:
        """Made anew, with a tenth of its places for exploration."""
        policy: Policy = built(self.entry, PolicyParts(self.entry.name, MODELS, temperature=0.5, explore=0.1))
        return policy


def slates_come_as_often_as_their_propensities_say(bench: PolicyBench) -> None:
    """Of a hundred thousand slates, and under rules; where propensities are estimated, they are so without bias."""
    policy = bench.policy()
    if policy.estimated_from:
        _expect_unbiased_estimates(policy)
        return
    once = policy.components(asked(1), posterior())  # the same for every seed
    for bound, draws in ((None, DRAWS), (MIXED, DRAWS // 4)):
        choice = drawn(repeated(once, draws), asked(draws).seeds, K, _terms(draws, bound))
        for length in range(1, K + 1):
            slates = np.array(list(permutations(range(ITEMS), length)))
            chances = propensities(repeated(once, len(slates)), slates, _terms(len(slates), bound)).prod(1)
            total = float(chances.sum())  # over every slate there can be
            expect(abs(total - 1.0) < 1e-9, f"the propensities of all slates of {length} add up to {total}, expected 1")
            code = choice.places[:, :length] @ ITEMS ** np.arange(length)
            counts = np.array([(code == slate @ ITEMS ** np.arange(length)).sum() for slate in slates])
            expect(accepts(counts, chances * draws), f"slates of {length} come otherwise than their propensities say")
            logged = choice.propensity[:, :length].prod(1)
            for slate, chance in zip(slates, chances, strict=True):
                mine = logged[code == slate @ ITEMS ** np.arange(length)]
                expect(np.allclose(mine, chance, rtol=1e-9), f"slate {slate} was logged with another propensity")


def _terms(rows: int, bound: Constraints | None) -> SamplingTerms:
    return SamplingTerms(np.tile(UNCERTAINTY, (rows, 1)), [bound] * rows)


def _expect_unbiased_estimates(policy: Policy) -> None:
    from scipy import stats

    rows = 4_000
    question = asked(rows)
    components = policy.components(question, posterior())
    choice = drawn(components, question.seeds, K)
    for item in range(ITEMS):
        chances: Float64 = propensities(components, np.full((rows, 1), item))[:, 0]
        came = choice.places[:, 0] == item
        likely = stats.binomtest(int(came.sum()), rows, float(chances.mean())).pvalue
        expect(likely > 1e-3, f"item {item} comes first otherwise than its estimated propensities say")
        ratios = came / chances
        bias = abs(float(ratios.mean()) - 1.0)
        expect(bias < 5 * ratios.std() / np.sqrt(rows), f"the estimated propensities of item {item} are off by {bias}")


def a_longer_slate_begins_with_the_shorter_one_and_ends_with_the_candidates(bench: PolicyBench) -> None:
    """How many places are asked for changes none of the first ones, and every candidate comes once."""
    question = asked(20, 9)
    components = bench.policy().components(question, posterior())
    short, long = (drawn(components, question.seeds, k) for k in (3, 12))
    expect((short.places == long.places[:, :3]).all(), "a longer slate begins otherwise than the shorter one")
    expect((short.propensity == long.propensity[:, :3]).all(), "the propensities of the first places depend on k")
    expect(
        all(sorted(places[:9]) == list(range(9)) for places in long.places.tolist()),
        "a slate of all candidates lacks one, or holds one twice",
    )
    expect(np.allclose(long.propensity[:, 8], 1.0, rtol=1e-6), "the last candidate left has a propensity other than 1")
    expect((long.places[:, 9:] == NOTHING).all(), "a place past the candidates is filled")
    expect((long.propensity[:, 9:] == 0).all(), "a place past the candidates has a propensity")


def without_candidates_there_is_no_slate_and_empty_places_are_never_drawn(bench: PolicyBench) -> None:
    """Where the utility is -inf there is no item."""
    question = asked(50, 6)
    question.items[0] = NOTHING
    question.utility[0] = -np.inf
    question.utility[1:, 4:] = -np.inf
    choice = drawn(bench.policy().components(question, posterior()), question.seeds, 6)
    expect((choice.places[0] == NOTHING).all(), "without candidates there is a slate")
    expect(
        all(sorted(places[:4]) == [0, 1, 2, 3] for places in choice.places[1:].tolist()),
        "one of four candidates is missing, or an empty place was drawn",
    )
    expect((choice.places[1:, 4:] == NOTHING).all(), "an empty place was drawn")


def what_was_learned_comes_back(bench: PolicyBench) -> None:
    """A restored policy ranks as the one that was saved; feedback with a number in it that is none changes nothing."""
    policy, question = bench.policy(), asked(20)
    chances, reward = np.full(K, 0.2), np.array([0.0, 1.0, 0.0])
    shown = question.features[0, :K]
    policy.learn([SlateFeedback(bench.entry.name, 0, shown, chances, reward, ITEMS, 0)])
    saved = policy.state()
    policy.learn([SlateFeedback(bench.entry.name, 0, shown, chances, reward * np.nan, ITEMS, 0)])
    expect(same(policy.state(), saved), "feedback whose reward is no number changed the state")
    again = bench.policy()
    again.restore(saved)
    expect(same(again.state(), saved), "restored, the state is another one than was saved")
    first, second = (one.components(question, posterior()) for one in (policy, again))
    expect(
        first.scores.tobytes() == second.scores.tobytes() and first.weights.tobytes() == second.weights.tobytes(),
        "a restored policy ranks otherwise than the one it was saved of",
    )


def one_that_serves_ranks_as_the_one_it_follows(bench: PolicyBench) -> None:
    """What `served` gives and `serve` takes leads an untaught policy to the same bits, after each slate."""
    first, second, question = bench.policy(), bench.policy(), asked(20)
    following = Following(lambda: {"policy": first}, lambda: {"policy": second})
    following.begin({"policy": first.state()})
    for context in range(3):
        reward = np.array([0.0, 1.0, 0.0])
        shown = question.features[context, :K]
        first.learn([SlateFeedback(bench.entry.name, context, shown, np.full(K, 0.2), reward, ITEMS, 0)])
        what_is_served_is_part_of_the_state(first, first.state())
        following.catch_up()
        one, other = (policy.components(question, posterior()) for policy in (first, second))
        expect(
            one.scores.tobytes() == other.scores.tobytes() and one.weights.tobytes() == other.weights.tobytes(),
            "a policy that serves ranks otherwise than the one it follows",
        )


POLICY_CHECKS: tuple[Callable[[PolicyBench], None], ...] = (
    slates_come_as_often_as_their_propensities_say,
    a_longer_slate_begins_with_the_shorter_one_and_ends_with_the_candidates,
    without_candidates_there_is_no_slate_and_empty_places_are_never_drawn,
    what_was_learned_comes_back,
    one_that_serves_ranks_as_the_one_it_follows,
)


def check_policy(policy: PolicyEntry | Callable[[PolicyParts], Policy]) -> None:
    """Check that a policy keeps every promise of `streamrec.engine.policies.Policy`.

    Args:
        policy: an entry, listed or not, or what builds the policy of its parts, under the name that they give.

    Raises:
        AssertionError: it does not; the message says which promise, and what was expected.
    """
    bench = PolicyBench(policy if isinstance(policy, PolicyEntry) else PolicyEntry("policy", policy))
    run_all(POLICY_CHECKS, lambda: bench)
