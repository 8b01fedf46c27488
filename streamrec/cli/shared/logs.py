"""The part of a log that `replay` and `backtest` are asked to read, opened and checked with a word about what it holds.

Knows nothing of where the events go.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from streamrec.replay.logs import Log, LogSummary, open_log
from streamrec.replay.selection import EVERYTHING, Selection


@dataclass(frozen=True, slots=True)
class LogPart:
    """Which rows of which file, and how its columns and types are called."""

    path: Path
    mapping: Mapping[str, str] = field(default_factory=dict)
    types: Mapping[str, str] = field(default_factory=dict)
    skip_unknown_types: bool = False
    rows: tuple[int | None, int | None] = (None, None)
    selection: Selection = EVERYTHING

    def open(self) -> Log:
        """The log, unread.

        Raises:
            TableError, LogError: as `open_log`.
        """
        return open_log(
            self.path,
            mapping=self.mapping,
            types=self.types,
            skip_unknown_types=self.skip_unknown_types,
            rows=self.rows,
            selection=self.selection,
        )

    def digest(self, *destination: str) -> str:
        """The same for the same part of the same unchanged file sent to the same place."""
        stat = self.path.stat()
        what = [str(self.path.resolve()), stat.st_size, stat.st_mtime_ns, dict(self.mapping), dict(self.types)]
        what += [self.skip_unknown_types, self.rows, asdict(self.selection), *destination]
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


def checked(log: Log, console: Console) -> LogSummary:
    """Read the log once, before anything is done with it, and say what it holds.

    Raises:
        TableError, LogError: as `Log.check`; nothing has been sent or learned by then.
    """
    with console.status(f"checking {log.table.path.name}"):
        summary = log.check()
    counts = ", ".join(f"{count:,} {kind.value}" for kind, count in sorted(summary.events.items()))
    span = f" from {_day(summary.first_ts)} to {_day(summary.last_ts)}" if summary.first_ts is not None else ""
    console.print(f"{log.table.path.name}: {summary.rows:,} rows{span}: {counts or 'no events'}", highlight=False)
    left_out = [f"{count:,} of type {value!r}" for value, count in sorted(summary.left_out.items())]
    left_out += [f"{count:,} {why}" for why, count in summary.deselected.items()]
    if left_out:
        console.print(f"left out: {', '.join(left_out)}", highlight=False)
    for hint in summary.hints:
        console.print(f"note: {hint}", highlight=False)
    return summary


def _day(ts: int | None) -> str:
    return "?" if ts is None else f"{datetime.fromtimestamp(ts / 1000, UTC):%Y-%m-%d %H:%M}"
