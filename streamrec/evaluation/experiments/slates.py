"""Joins outcomes of single items into slates, each with its reward and the policy or arm that it counts for.

An outcome counts once, however often it was published. A slate's reward is the sum of its items' rewards, clipped to
[-bound, bound], so that no single slate dominates. Memory: some hundred bytes per slate.

Knows nothing of topics: a partition is a number, and its outcomes come in the order in which slates become final.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from streamrec.engine.arrays.logged_event import name_hash
from streamrec.engine.rollout.revisions import Mode
from streamrec.events import Outcome


@dataclass(slots=True)
class ProposedSlate:
    """The slate that an apprentice would have shown instead."""

    first_matches: bool | None = None  # both begin with the same item; None while that position's outcome is missing
    items: set[str] = field(default_factory=set)


@dataclass(slots=True)
class SettledSlate:
    """One slate and the rewards of its items."""

    user_id: str
    ts: int  # when it was shown, ms
    partition: int
    mode: str
    policy: str
    arm: str | None
    gain: float = 0.0  # of all items together
    teams: dict[str, float] = field(default_factory=dict)  # of the items that each policy picked
    items: set[str] = field(default_factory=set)  # apprentices' slates alone
    proposed: dict[str, ProposedSlate] = field(default_factory=dict)  # by policy; likewise


class SettledSlates:
    """Collects outcomes, in any order, into slates."""

    def __init__(self, bound: float = 1.0) -> None:
        """A slate's reward is clipped to [-bound, bound]."""
        self.bound = bound
        self.outcomes = 0
        self.duplicates = 0
        self.newest: dict[int, int] = {}  # per partition, when the latest settled slate was shown
        self._slates: dict[str, SettledSlate] = {}
        self._known: set[int] = set()

    def add(self, outcome: Outcome, partition: int = 0) -> bool:
        """Take an outcome; False for one that was taken before, which is counted as a duplicate and left out."""
        known = name_hash(outcome.outcome_id)
        if known in self._known:
            self.duplicates += 1
            return False
        self._known.add(known)
        self.outcomes += 1
        ts = outcome.shown_ts or outcome.ts
        self.newest[partition] = max(ts, self.newest.get(partition, 0))
        slate = self._slates.get(outcome.rec_id)
        if slate is None:
            slate = SettledSlate(outcome.user_id, ts, partition, outcome.mode, outcome.policy, outcome.arm)
            self._slates[outcome.rec_id] = slate
        slate.gain += outcome.reward
        if outcome.team is not None:
            slate.teams[outcome.team] = slate.teams.get(outcome.team, 0.0) + outcome.reward
        if outcome.mode == Mode.APPRENTICE:
            _compare(slate, outcome)
        return True

    def reward(self, slate: SettledSlate) -> float:
        """The reward of a slate, in [-bound, bound]."""
        return min(max(slate.gain, -self.bound), self.bound)

    def slates(self) -> list[SettledSlate]:
        """Every slate, in the order in which they were shown."""
        return sorted(self._slates.values(), key=lambda slate: slate.ts)


def _compare(slate: SettledSlate, outcome: Outcome) -> None:
    slate.items.add(outcome.item_id)
    for policy, other in outcome.alternatives.items():
        if other.proposal is None:
            continue
        proposed = slate.proposed.setdefault(policy, ProposedSlate())
        proposed.items.add(other.proposal.item_id)
        if outcome.position == 1:
            proposed.first_matches = other.proposal.item_id == outcome.item_id
