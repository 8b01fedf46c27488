"""The policies in use: which makes each slate, and what the others would have made of it.

Knows nothing of which one is to answer (`rollout`), nor of how a policy works.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from streamrec.engine.arrays.batch import NOTHING, Array, Float64, Int64, Uint64
from streamrec.engine.arrays.compiled import mixed
from streamrec.engine.arrays.feedback import CountsRefusals, SlateFeedback
from streamrec.engine.arrays.fitting import fitting
from streamrec.engine.arrays.logged_event import name_hash
from streamrec.engine.policies import Policy, PolicyInput, Posterior
from streamrec.engine.policies.plackett_luce_sampling import SEED_BITS, SamplingTerms, drawn, interleaved, propensities
from streamrec.engine.rollout.plan import Decision


@dataclass(frozen=True, slots=True)
class CounterfactualChoice:
    """What a policy that was not asked would have done."""

    propensity: Float64  # (k,) of the places that were shown, each given the shown ones before
    proposal: Int64  # (k,) places among the candidates of its own draw, NOTHING past its end


@dataclass(frozen=True, slots=True)
class ChosenSlate:
    """One slate as it was chosen."""

    decision: Decision
    estimated_from: int
    explore: float  # share of places that are reserved for exploration
    places: Int64  # (k,) among the candidates, NOTHING past the end
    propensity: Float64  # (k,)
    teams: tuple[str | None, ...]  # (k,) the policy that picked each place, where two did
    beside: Mapping[str, CounterfactualChoice]


class PolicyRegistry:
    """Makes policies when they are first asked, and keeps them."""

    def __init__(self, make: Callable[[str], Policy]) -> None:
        self._make = make
        self._policies: dict[str, Policy] = {}

    def policy(self, name: str) -> Policy:
        """The policy of that name."""
        if name not in self._policies:
            self._policies[name] = self._make(name)
        return self._policies[name]

    def renewed(self, name: str) -> Policy:
        """The policy of that name, untaught; what it had learned is gone."""
        self._policies[name] = self.untaught(name)
        return self._policies[name]

    def untaught(self, name: str) -> Policy:
        """Another policy of that name, which is not in use."""
        return self._make(name)

    def refused(self) -> dict[str, int]:
        """How much feedback each has refused because a number in it was not finite; only of policies that learn."""
        return {name: policy.refused for name, policy in self._policies.items() if isinstance(policy, CountsRefusals)}

    def choose(
        self, asked: PolicyInput, posterior: Posterior, decisions: Sequence[Decision], k: int
    ) -> list[ChosenSlate]:
        """A slate of at most `k` for each row, made as its decision says."""
        chosen: list[ChosenSlate | None] = [None] * len(decisions)
        for makers, rows in _grouped([decision.interleaved or (decision.publish,) for decision in decisions]).items():
            some = _rows(asked, rows)
            parts = [self.policy(name).components(some, posterior) for name in makers]
            explore = max(part.explore for part in parts)
            estimated_from = max(self.policy(name).estimated_from for name in makers)
            if len(parts) == 2:
                choice, teams = interleaved(parts[0], parts[1], some.seeds, k, _terms(some))
                named = [tuple(None if team == NOTHING else makers[team] for team in row) for row in teams.tolist()]
            else:
                choice, named = drawn(parts[0], some.seeds, k, _terms(some)), [(None,) * k] * len(rows)
            for at, row in enumerate(rows.tolist()):
                places, chances = choice.places[at], choice.propensity[at]
                chosen[row] = ChosenSlate(decisions[row], estimated_from, explore, places, chances, named[at], {})
        return self._with_others(asked, posterior, [one for one in chosen if one is not None], k)

    def _with_others(
        self, asked: PolicyInput, posterior: Posterior, chosen: list[ChosenSlate], k: int
    ) -> list[ChosenSlate]:
        beside: list[dict[str, CounterfactualChoice]] = [{} for _ in chosen]
        for name in dict.fromkeys(name for one in chosen for name in one.decision.beside):
            rows = np.array([row for row, one in enumerate(chosen) if name in one.decision.beside], np.int64)
            some = _rows(asked, rows)
            components = self.policy(name).components(some, posterior)
            chances = propensities(components, np.stack([chosen[row].places for row in rows.tolist()]), _terms(some))
            own = drawn(components, _seeds_of(name, some.seeds), k, _terms(some))
            for at, row in enumerate(rows.tolist()):
                beside[row][name] = CounterfactualChoice(chances[at], own.places[at])
        return [replace(one, beside=others) for one, others in zip(chosen, beside, strict=True)]

    def favourites(self, name: str, asked: PolicyInput, posterior: Posterior) -> Int64:
        """The place that the policy of that name puts first, NOTHING without candidates, (rows,)."""
        components = self.policy(name).components(asked, posterior)
        places: Int64 = drawn(components, asked.seeds, 1, _terms(asked)).places[:, 0]
        return places

    def learn(self, feedback: Sequence[SlateFeedback]) -> None:
        """Every policy takes the feedback on slates."""
        for policy in self._policies.values():
            policy.learn(feedback)

    def made(self) -> Mapping[str, Policy]:
        """Those that were asked for so far, by name."""
        return self._policies

    def state(self) -> dict[str, dict[str, Array]]:
        """What those that learn have learned, by name."""
        states = {name: policy.state() for name, policy in self._policies.items()}
        return {name: state for name, state in states.items() if state}

    def restore(self, states: Mapping[str, Mapping[str, Array]]) -> None:
        """The inverse of `state`.

        Raises:
            StateError: the arrays of one of them are not its own; what is said names it.
        """
        for name, state in states.items():
            policy = self.policy(name)
            with fitting(f"policy {name!r}", state, policy.state()):
                policy.restore(state)


def _grouped(keys: Sequence[tuple[str, ...]]) -> dict[tuple[str, ...], Int64]:
    rows: dict[tuple[str, ...], list[int]] = {}
    for row, key in enumerate(keys):
        rows.setdefault(key, []).append(row)
    return {key: np.array(found, np.int64) for key, found in rows.items()}


def _rows(asked: PolicyInput, rows: Int64) -> PolicyInput:
    """Some of the rows."""
    parts = {part.name: getattr(asked, part.name) for part in fields(asked)}
    some = {name: part[rows] for name, part in parts.items() if name not in ("scores", "constraints")}
    constraints = tuple(asked.constraints[row] for row in rows.tolist())
    return PolicyInput(**some, scores=asked.scores[:, rows], constraints=constraints)


def _terms(asked: PolicyInput) -> SamplingTerms:
    return SamplingTerms(asked.uncertainty, asked.constraints)


def _seeds_of(name: str, seeds: Uint64) -> Uint64:
    """Seeds of a policy's own draws, apart from those of the slate that was published."""
    own = name_hash(name) & SEED_BITS
    return np.array([int(mixed(own, int(seed) & SEED_BITS)) & SEED_BITS for seed in seeds.tolist()], np.uint64)
