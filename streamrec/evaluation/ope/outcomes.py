"""Reads outcomes into columns, record by record, and hands over the log of each target policy.

Memory is bounded by the limit on rows: ids are kept as 64-bit digests, everything else as numbers. With eleven models
and one target that is 280 bytes a row, and 1 kB while it is evaluated. Knows nothing of topics.
"""

from __future__ import annotations

import hashlib
from array import array
from dataclasses import dataclass, field

import numpy as np

from streamrec.errors import ConfigError, did_you_mean
from streamrec.evaluation.ope.evaluation import TargetLog
from streamrec.evaluation.ope.reward_model import Features
from streamrec.evaluation.ope.rounds import Bool, Float64, Int64, Rounds
from streamrec.evaluation.ope.support import LogOrigin
from streamrec.events import Outcome

LOGGED = "logged"
"""The target that is the logging policy itself."""
MAX_POSITIONS = 32
"""Positions further down share the last one's effect in the reward model."""
MAX_ITEMS = 200
"""With more items than these the reward model knows them by their scores alone."""
MAX_MODELS = 64


@dataclass(frozen=True, slots=True)
class OutcomeFilter:
    """Which outcomes are read. Times are in ms, and are those at which slates were shown; None does not filter."""

    since: int | None = None
    until: int | None = None
    policy: str | None = None
    scenario: str | None = None
    arm: str | None = None

    def accepts(self, outcome: Outcome) -> bool:
        """Whether the outcome passes the filter."""
        shown = outcome.shown_ts or outcome.ts
        return (
            (self.since is None or shown >= self.since)
            and (self.until is None or shown < self.until)
            and self.policy in (None, outcome.policy)
            and self.scenario in (None, outcome.scenario)
            and self.arm in (None, outcome.arm)
        )


@dataclass(slots=True)
class _ItemColumns:
    """One item per row: digest of its id, score, and each model's score."""

    item: array[int] = field(default_factory=lambda: array("q"))
    score: array[float] = field(default_factory=lambda: array("d"))
    scores: dict[str, array[float]] = field(default_factory=dict)

    def append(self, item_id: str | None, score: float, scores: dict[str, float]) -> None:
        row = len(self.item)
        self.item.append(0 if item_id is None else digest(item_id))
        self.score.append(score)
        for name in scores:
            if name not in self.scores and len(self.scores) < MAX_MODELS:
                self.scores[name] = array("d", [np.nan]) * row
        for name, column in self.scores.items():
            column.append(scores.get(name, np.nan))


@dataclass(slots=True)
class _TargetColumns:
    """Columns of one target policy; NaN and no item where an outcome does not name the policy."""

    propensity: array[float]
    proposal: _ItemColumns


class OutcomeLog:
    """Collects outcomes in any order; hands over the log prepared for a target policy.

    An outcome that comes again, as after a crash, counts once; one without a propensity in (0, 1] is left out and
    counted. `full` once `limit` rows are held.
    """

    def __init__(self, outcome_filter: OutcomeFilter, limit: int, *, by_user: bool = True) -> None:
        """Without `by_user`, the slates of one user count as independent."""
        self.outcome_filter = outcome_filter
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
        self._shown = _ItemColumns()
        self._targets: dict[str, _TargetColumns] = {}

    def __len__(self) -> int:
        return len(self._reward)

    @property
    def full(self) -> bool:
        """Whether there is no room for more."""
        return len(self) >= self.limit

    @property
    def targets(self) -> tuple[str, ...]:
        """Every policy that can be evaluated, the logging policy first."""
        return (LOGGED, *sorted(self._targets))

    def add(self, outcome: Outcome) -> None:
        """Add an outcome if it passes the filter and there is room."""
        self.read += 1
        if self.full or not self.outcome_filter.accepts(outcome):
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

    def logged(self, target: str) -> TargetLog:
        """The slates whose outcomes have the target's propensities, as rounds with features.

        Raises:
            ConfigError: no outcome names the target, or none was read at all.
        """
        if target not in self.targets or len(self) == 0:
            held = "none of them counts" if len(self) == 0 else f"they name {', '.join(self.targets)}"
            if target in self.policies:
                held += f"; it made slates itself, and {LOGGED!r} has their value"
            near = did_you_mean(target, self.targets)
            raise ConfigError(f"{self.read:,} outcomes were read and cannot value {target!r}: {held}{near}")
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
        columns, proposed = _features(shown, drawn, position)
        dropped = len(np.unique(np.array(self._ids["slate"], np.int64))) - rounds.slates
        origin = LogOrigin(
            name="outcomes",
            policies=tuple(self.policies),
            never_shown=float((~np.isin(drawn[0], shown[0])).mean()) if complete else None,
            estimated_from=self.estimated_from,
            gaps=int((np.bincount(slate, position > rounds.step + 1) > 0).sum()),
            notes=self._notes(target, dropped),
        )
        return TargetLog(target, rounds, origin, columns, proposed if complete else None)

    def _take_alternatives(self, outcome: Outcome, row: int) -> None:
        for name in outcome.alternatives:
            if name not in self._targets:
                empty = _ItemColumns()
                for _ in range(row):
                    empty.append(None, 0.0, {})
                self._targets[name] = _TargetColumns(array("d", [np.nan]) * row, empty)
        for name, target in self._targets.items():
            alternative = outcome.alternatives.get(name)
            proposal = None if alternative is None else alternative.proposal
            target.propensity.append(np.nan if alternative is None else alternative.propensity)
            if proposal is None:
                target.proposal.append(None, 0.0, {})
            else:
                target.proposal.append(proposal.item_id, proposal.score, proposal.scores)

    def _slates(self, target: str) -> tuple[Int64, Int64]:
        """Rows by time, slate and position, and the slate of each; repeats and incomplete slates are left out."""
        ids = {name: np.array(column, np.int64) for name, column in self._ids.items()}
        _, rows = np.unique(ids["outcome"], return_index=True)
        if target != LOGGED:
            known = np.isfinite(np.array(self._targets[target].propensity))
            lacking = np.unique(ids["slate"][~known])
            rows = rows[~np.isin(ids["slate"][rows], lacking)]
            if len(rows) == 0:
                raise ConfigError(f"no slate says at every place what {target!r} would have done")
        order = rows[np.lexsort((ids["position"][rows], ids["slate"][rows], ids["ts"][rows]))]
        slate = ids["slate"][order]
        return order, np.concatenate([[0], np.cumsum(slate[1:] != slate[:-1])])

    def _columns(self, columns: _ItemColumns, order: Int64) -> tuple[Int64, Float64]:
        """Item digests, (rows,), and scores with a column per model, (rows, numbers)."""
        names = list(self._shown.scores)
        nothing = np.full(len(self), np.nan)
        numbers = [np.array(columns.score), *(np.array(columns.scores.get(n, nothing)) for n in names)]
        return np.array(columns.item, np.int64)[order], np.column_stack(numbers)[order]

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
    """A 64-bit hash of a name; among ten million names any two collide with a probability of 1 in 370,000."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little", signed=True)


def _features(shown: tuple[Int64, Float64], drawn: tuple[Int64, Float64], position: Int64) -> tuple[Features, Features]:
    """Features of shown and proposed items: standardised scores, the item if there are few items, and the position."""
    centre = np.array([_over(column, np.nanmean) for column in shown[1].T])
    scale = np.array([_over(column, np.nanstd) or 1.0 for column in shown[1].T])
    varies: Bool = np.array([_over(column, np.nanstd) > 1e-9 for column in shown[1].T], np.bool_)
    items = np.unique(shown[0])
    known = len(items) <= MAX_ITEMS
    place = np.minimum(position - 1, MAX_POSITIONS - 1)
    sizes = (len(items) if known else 0, int(place.max()) + 1)

    def columns(item: Int64, numbers: Float64) -> Features:
        dense = np.nan_to_num((numbers - centre) / scale)[:, varies]
        code = np.minimum(np.searchsorted(items, item), len(items) - 1)
        code = np.where((items[code] == item) & known, code, -1)
        return Features(dense, np.column_stack([code, place]), sizes)

    return columns(*shown), columns(*drawn)


def _over(column: Float64, measure: object) -> float:
    """A measure of the numbers of a column, 0 where it has none."""
    assert callable(measure)
    return float(measure(column)) if np.isfinite(column).any() else 0.0
