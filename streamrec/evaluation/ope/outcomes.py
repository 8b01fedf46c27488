"""Outcomes as rounds: columns that grow record by record, and the log as each target sees it.

Memory is bounded by the limit on rows: ids are kept as 64-bit digests, everything else as numbers. With eleven models
and one target that is 280 bytes a row, and 1 kB while it is evaluated. Knows nothing of topics.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from streamrec.errors import ConfigError
from streamrec.evaluation.ope.evaluation import Logged
from streamrec.evaluation.ope.reward_model import Features
from streamrec.evaluation.ope.rounds import Bool, Float64, Int64, Rounds
from streamrec.evaluation.ope.support import Origin
from streamrec.events import Outcome

LOGGED = "logged"
"""The target that is the logging policy itself."""
MOST_PLACES = 32
"""Positions further down share the last one's effect in the reward model."""
MOST_ITEMS = 200
"""With more items than these the reward model knows them by their scores alone."""
MOST_MODELS = 64


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which outcomes count. Times are in ms and mean when the slate was shown; None asks for nothing."""

    since: int | None = None
    until: int | None = None
    policy: str | None = None
    scenario: str | None = None
    arm: str | None = None

    def accepts(self, outcome: Outcome) -> bool:
        """Whether this one counts."""
        shown = outcome.shown_ts or outcome.ts
        return (
            (self.since is None or shown >= self.since)
            and (self.until is None or shown < self.until)
            and self.policy in (None, outcome.policy)
            and self.scenario in (None, outcome.scenario)
            and self.arm in (None, outcome.arm)
        )


@dataclass(slots=True)
class _Described:
    """What is known of one item per row: who, with what score, and what each model says."""

    item: array[int] = field(default_factory=lambda: array("q"))
    score: array[float] = field(default_factory=lambda: array("d"))
    scores: dict[str, array[float]] = field(default_factory=dict)

    def append(self, item_id: str | None, score: float, scores: dict[str, float]) -> None:
        row = len(self.item)
        self.item.append(0 if item_id is None else digest(item_id))
        self.score.append(score)
        for name in scores:
            if name not in self.scores and len(self.scores) < MOST_MODELS:
                self.scores[name] = array("d", [np.nan]) * row
        for name, column in self.scores.items():
            column.append(scores.get(name, np.nan))


@dataclass(slots=True)
class _Target:
    """One target's columns, NaN and no item where an outcome does not name it."""

    propensity: array[float]
    proposal: _Described


class Outcomes:
    """Takes outcomes in any order; hands over the log as a target sees it.

    An outcome that comes again, as after a crash, counts once; one without a propensity in (0, 1] is left out and
    counted. `full` once `limit` rows are held.
    """

    def __init__(self, wanted: Wanted, limit: int, *, by_user: bool = False) -> None:
        """With `by_user`, the slates of one user are drawn anew together."""
        self.wanted = wanted
        self.limit = limit
        self.by_user = by_user
        self.unusable = 0
        self.read = 0
        self.first_ts: int | None = None
        self.last_ts: int | None = None
        self.estimated_from = 0
        self.policies: dict[str, None] = {}
        self._ids = {name: array("q") for name in ("outcome", "slate", "user", "position", "ts")}
        self._reward, self._propensity = array("d"), array("d")
        self._shown = _Described()
        self._targets: dict[str, _Target] = {}

    def __len__(self) -> int:
        return len(self._reward)

    @property
    def full(self) -> bool:
        """Whether there is no room for more."""
        return len(self) >= self.limit

    @property
    def targets(self) -> tuple[str, ...]:
        """Every policy that outcomes say something of, the logging policy first."""
        return (LOGGED, *sorted(self._targets))

    def add(self, outcome: Outcome) -> None:
        """Take one, if it counts and there is room."""
        self.read += 1
        if self.full or not self.wanted.accepts(outcome):
            return
        if not 0.0 < outcome.propensity <= 1.0 + 1e-9:
            self.unusable += 1
            return
        row, shown = len(self), outcome.shown_ts or outcome.ts
        named = (outcome.outcome_id, outcome.rec_id, outcome.user_id)
        for column, name in zip(("outcome", "slate", "user"), named, strict=True):
            self._ids[column].append(digest(name))
        self._ids["position"].append(outcome.position)
        self._ids["ts"].append(shown)
        self._reward.append(outcome.reward)
        self._propensity.append(min(outcome.propensity, 1.0))
        self._shown.append(outcome.item_id, outcome.score, outcome.scores)
        self._take_alternatives(outcome, row)
        self.policies.setdefault(outcome.policy or "unnamed")
        self.estimated_from = max(self.estimated_from, outcome.estimated_from)
        self.first_ts = shown if self.first_ts is None else min(self.first_ts, shown)
        self.last_ts = shown if self.last_ts is None else max(self.last_ts, shown)

    def logged(self, target: str) -> Logged:
        """The slates that say what the target would have done.

        Raises:
            ConfigError: no outcome names the target, or none counted at all.
        """
        if target not in self.targets or len(self) == 0:
            held = "none of them counts" if len(self) == 0 else f"they name {', '.join(self.targets)}"
            if target in self.policies:
                held += f"; it made slates itself, and {LOGGED!r} has their value"
            raise ConfigError(f"{self.read:,} outcomes were read and cannot value {target!r}: {held}")
        order, slate = self._slates(target)
        position = np.array(self._ids["position"], np.int64)[order]
        proposal = self._shown if target == LOGGED else self._targets[target].proposal
        propensity = np.array(self._propensity)[order]
        other = propensity if target == LOGGED else np.array(self._targets[target].propensity)[order]
        cluster = None
        if self.by_user:
            users = np.array(self._ids["user"], np.int64)[order][np.unique(slate, return_index=True)[1]]
            cluster = np.unique(users, return_inverse=True)[1]
        rounds = Rounds(slate, np.array(self._reward)[order], propensity, np.clip(other, 0.0, 1.0), cluster)
        shown, drawn = self._columns(self._shown, order), self._columns(proposal, order)
        complete = bool((drawn[0] != 0).all())
        described, proposed = _features(shown, drawn, position)
        dropped = len(np.unique(np.array(self._ids["slate"], np.int64))) - rounds.slates
        origin = Origin(
            name="outcomes",
            policies=tuple(self.policies),
            never_shown=float((~np.isin(drawn[0], shown[0])).mean()) if complete else None,
            estimated_from=self.estimated_from,
            gaps=int((np.bincount(slate, position > rounds.step + 1) > 0).sum()),
            notes=self._notes(target, dropped),
        )
        return Logged(target, rounds, origin, described, proposed if complete else None)

    def _take_alternatives(self, outcome: Outcome, row: int) -> None:
        for name in outcome.alternatives:
            if name not in self._targets:
                empty = _Described()
                for _ in range(row):
                    empty.append(None, 0.0, {})
                self._targets[name] = _Target(array("d", [np.nan]) * row, empty)
        for name, target in self._targets.items():
            said = outcome.alternatives.get(name)
            proposal = None if said is None else said.proposal
            target.propensity.append(np.nan if said is None else said.propensity)
            if proposal is None:
                target.proposal.append(None, 0.0, {})
            else:
                target.proposal.append(proposal.item_id, proposal.score, proposal.scores)

    def _slates(self, target: str) -> tuple[Int64, Int64]:
        """The rows that count, by time, slate and position, and the slate of each; slates that lack a word are out."""
        ids = {name: np.array(column, np.int64) for name, column in self._ids.items()}
        _, rows = np.unique(ids["outcome"], return_index=True)
        if target != LOGGED:
            told = np.isfinite(np.array(self._targets[target].propensity))
            lacking = np.unique(ids["slate"][~told])
            rows = rows[~np.isin(ids["slate"][rows], lacking)]
            if len(rows) == 0:
                raise ConfigError(f"no slate says at every place what {target!r} would have done")
        order = rows[np.lexsort((ids["position"][rows], ids["slate"][rows], ids["ts"][rows]))]
        slate = ids["slate"][order]
        return order, np.concatenate([[0], np.cumsum(slate[1:] != slate[:-1])])

    def _columns(self, described: _Described, order: Int64) -> tuple[Int64, Float64]:
        """Item digests, and numbers with a column per model that anybody named, (rows,) and (rows, numbers)."""
        names = list(self._shown.scores)
        nothing = np.full(len(self), np.nan)
        columns = [np.array(described.score), *(np.array(described.scores.get(n, nothing)) for n in names)]
        return np.array(described.item, np.int64)[order], np.column_stack(columns)[order]

    def _notes(self, target: str, dropped: int) -> tuple[str, ...]:
        found = []
        if len(self.policies) > 1:
            found.append(
                f"the log is of {len(self.policies)} policies: {', '.join(self.policies)} (choose by --policy)"
            )
        if dropped and target != LOGGED:
            found.append(f"{dropped:,} slates do not say what {target!r} would have done and are left out")
        if self.unusable:
            found.append(f"{self.unusable:,} outcomes without a propensity above 0 are left out")
        if self.full:
            found.append(f"reading stopped at the limit of {self.limit:,} rows: the slates read last may lack places")
        return tuple(found)


def digest(name: str) -> int:
    """64 bits that stand for a name; two of ten million names are the same with a chance of 1 in 370,000."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little", signed=True)


def _features(shown: tuple[Int64, Float64], drawn: tuple[Int64, Float64], position: Int64) -> tuple[Features, Features]:
    """Both as the reward model sees them: numbers on the scale of what was shown, item where they are few, position."""
    centre = np.array([_over(column, np.nanmean) for column in shown[1].T])
    scale = np.array([_over(column, np.nanstd) or 1.0 for column in shown[1].T])
    varies: Bool = np.array([_over(column, np.nanstd) > 1e-9 for column in shown[1].T], np.bool_)
    items = np.unique(shown[0])
    known = len(items) <= MOST_ITEMS
    place = np.minimum(position - 1, MOST_PLACES - 1)
    sizes = (len(items) if known else 0, int(place.max()) + 1)

    def described(item: Int64, numbers: Float64) -> Features:
        dense = np.nan_to_num((numbers - centre) / scale)[:, varies]
        code = np.minimum(np.searchsorted(items, item), len(items) - 1)
        code = np.where((items[code] == item) & known, code, -1)
        return Features(dense, np.column_stack([code, place]), sizes)

    return described(*shown), described(*drawn)


def _over(column: Float64, measure: object) -> float:
    """A measure of the numbers of a column, 0 where it has none."""
    assert callable(measure)
    return float(measure(column)) if np.isfinite(column).any() else 0.0


def targets_of(outcomes: Outcomes, asked: Sequence[str]) -> tuple[str, ...]:
    """The targets to value: those asked for, else all but the logging policy, else that alone."""
    return tuple(asked) or outcomes.targets[1:] or outcomes.targets
