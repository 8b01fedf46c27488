"""The part of a log that `replay` and `backtest` are asked to read, opened and checked with a word about what it holds.

Knows nothing of where the events go.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from rich.console import Console

from streamrec.config.settings import Settings
from streamrec.errors import LogError
from streamrec.replay.logs import Log, LogSummary, RowLimits, open_log
from streamrec.replay.selection import EVERYTHING, Selection
from streamrec.replay.time_units import TimeUnit
from streamrec.wiring import build_validation_limits


@dataclass(frozen=True, slots=True)
class LogPart:
    """Which rows of which file, how its columns and types are called, and how many rows may be refused."""

    path: Path
    mapping: Mapping[str, str] = field(default_factory=dict)
    types: Mapping[str, str] = field(default_factory=dict)
    skip_unknown_types: bool = False
    rows: tuple[int | None, int | None] = (None, None)
    selection: Selection = EVERYTHING
    unit: TimeUnit = TimeUnit.MS
    max_refused: float = 0.0
    separator: str | None = None

    def open(self, settings: Settings, *, sent: bool = False) -> Log:
        """The log, unread. Its rows are held to what workers of these settings take: `sent` now, or learned here.

        Raises:
            TableError, LogError: as `open_log`.
        """
        limits = build_validation_limits(settings)
        if not sent:
            limits = replace(limits, max_behind_s=None)  # the past may be learned, however long ago it is
        now_ms = time.time_ns() // 1_000_000  # what is dated later than this cannot have happened
        return open_log(
            self.path,
            mapping=self.mapping,
            types=self.types,
            skip_unknown_types=self.skip_unknown_types,
            rows=self.rows,
            selection=self.selection,
            unit=self.unit,
            row_limits=RowLimits(limits, now_ms, self.max_refused),
            separator=self.separator,
        )

    def digest(self, *destination: str) -> str:
        """The same for the same part of the same unchanged file sent to the same place."""
        stat = self.path.stat()
        what = [str(self.path.resolve()), stat.st_size, stat.st_mtime_ns, dict(self.mapping), dict(self.types)]
        what += [self.skip_unknown_types, self.rows, asdict(self.selection), self.unit, *destination]
        if self.separator is not None:
            what.append(self.separator)
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


def checked(log: Log, console: Console) -> LogSummary:
    """Read the log once, before anything is done with it, and say what it holds.

    Raises:
        TableError, LogError: as `Log.check`, or no row is an event; nothing has been sent or learned by then.
    """
    with console.status("checking the log"):
        summary = log.check()
    say = partial(console.print, highlight=False, markup=False, soft_wrap=True)
    counts = ", ".join(f"{count:,} {kind.value}" for kind, count in sorted(summary.events.items()))
    span = f" from {_day(summary.first_ts)} to {_day(summary.last_ts)}" if summary.first_ts is not None else ""
    say(f"{log.table.path.name}: {summary.rows:,} rows{span}: {counts or 'no events'}")
    left_out = [f"{count:,} of type {value!r}" for value, count in sorted(summary.left_out.items())]
    left_out += [f"{count:,} {why}" for why, count in summary.deselected.items()]
    if left_out:
        say(f"left out: {', '.join(left_out)}")
    for reason, refusal in summary.refusals.by_reason.items():
        first = refusal.first[0]
        say(f"refused {refusal.rows:,} rows ({reason}), the first is row {first.row}: {first.detail}")
    for hint in summary.hints:
        say(f"note: {hint}")
    if not summary.events:
        raise LogError(f"{log.table.path.name}: there is no event in the {summary.rows:,} rows that were read")
    return summary


def _day(ts: int | None) -> str:
    return "?" if ts is None else f"{datetime.fromtimestamp(ts / 1000, UTC):%Y-%m-%d %H:%M}"
