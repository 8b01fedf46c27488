"""The part of a log that `replay` and `backtest` are asked to read, opened and checked with a word about what it holds.

Knows nothing of where the events go.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from streamrec.replay.logs import Log, LogSummary, open_log


@dataclass(frozen=True, slots=True)
class LogPart:
    """Which rows of which file, and how its columns and types are called."""

    path: Path
    mapping: Mapping[str, str] = field(default_factory=dict)
    types: Mapping[str, str] = field(default_factory=dict)
    skip_unknown_types: bool = False
    rows: tuple[int | None, int | None] = (None, None)

    def open(self, start: int | None = None) -> Log:
        """The log, from row `start` on where one is given.

        Raises:
            TableError, LogError: as `open_log`.
        """
        return open_log(
            self.path,
            mapping=self.mapping,
            types=self.types,
            skip_unknown_types=self.skip_unknown_types,
            rows=self.rows if start is None else (start, self.rows[1]),
        )

    def digest(self, *destination: str) -> str:
        """The same for the same part of the same unchanged file sent to the same place."""
        stat = self.path.stat()
        what = [str(self.path.resolve()), stat.st_size, stat.st_mtime_ns, dict(self.mapping), dict(self.types)]
        what += [self.skip_unknown_types, self.rows, *destination]
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
    if summary.left_out:
        named = ", ".join(f"{count:,} of type {value!r}" for value, count in sorted(summary.left_out.items()))
        console.print(f"left out: {named}", highlight=False)
    for hint in summary.hints:
        console.print(f"note: {hint}", highlight=False)
    return summary


def _day(ts: int | None) -> str:
    return "?" if ts is None else f"{datetime.fromtimestamp(ts / 1000, UTC):%Y-%m-%d %H:%M}"
