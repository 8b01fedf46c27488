"""The rows of a log that are no events: counted by reason, the first ones told in words.

Knows nothing of columns or files.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import ceil

from streamrec.errors import LogError
from streamrec.events import EventType

MAX_REASONS = 20
"""Reasons told apart: a wrong column has another problem in every row."""
MAX_ALIKE = 3
"""Rows told in words for each."""
OTHERWISE = "other problems"
UNKNOWN_TYPE = "unknown type"


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a row. `reason` is a word or two, the same for all rows with which the same is wrong."""

    row: int
    reason: str
    detail: str


@dataclass(slots=True)
class Refusal:
    """Rows refused for one reason: how many, and the first of them, with what is wrong with each."""

    rows: int = 0
    first: list[Problem] = field(default_factory=list)

    def add(self, problem: Problem) -> None:
        """One more; it is told in words if what it says was not said yet."""
        self.rows += 1
        if len(self.first) < MAX_ALIKE and all(problem.detail != said.detail for said in self.first):
            self.first.append(problem)

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {"rows": self.rows, "first_row": self.first[0].row, "detail": self.first[0].detail}


@dataclass(slots=True)
class Refusals:
    """All rows refused so far. A row with two problems counts for both reasons, and once in `rows`."""

    rows: int = 0
    by_reason: dict[str, Refusal] = field(default_factory=dict)

    def add(self, problems: Iterable[Problem]) -> None:
        """Refuse the rows that these are of; problems of one row come together."""
        problems = sorted(problems, key=lambda problem: problem.row)
        self.rows += len({problem.row for problem in problems})
        for problem in problems:
            known = problem.reason in self.by_reason or len(self.by_reason) < MAX_REASONS
            self.by_reason.setdefault(problem.reason if known else OTHERWISE, Refusal()).add(problem)

    def hold_to(self, name: str, rows: int, share: float) -> None:
        """See that no more than a share of the rows of a log was refused.

        Raises:
            LogError: how many were, the first of them with what is wrong, and what to do.
        """
        if not self.rows or self.rows <= share * rows:
            return
        lines = []
        for reason, refusal in self.by_reason.items():
            lines += [f"row {problem.row}: {problem.detail}" for problem in refusal.first]
            more = refusal.rows - len(refusal.first)
            lines += [f"... and {more:,} more: {reason}"] if more else []
        if any(reason.startswith(UNKNOWN_TYPE) for reason in self.by_reason):
            lines.append(
                "translate a type (--map-type 'VALUE=TYPE'), leave its rows out (--map-type 'VALUE=') or leave out "
                f"all such rows (--skip-unknown-types); event types are {', '.join(EventType)}"
            )
        if self.rows < rows:
            share = ceil(1000 * self.rows / rows) / 1000
            lines.append(f"correct these rows, or leave them out: --max-refused {share:g} lets that many go")
        raise LogError(f"{name}: {self.rows:,} of {rows:,} rows cannot be used:\n  " + "\n  ".join(lines))

    def as_dict(self) -> dict[str, object]:
        """By reason, the most frequent first, for JSON."""
        ordered = sorted(self.by_reason.items(), key=lambda pair: -pair[1].rows)
        return {reason: refusal.as_dict() for reason, refusal in ordered}
