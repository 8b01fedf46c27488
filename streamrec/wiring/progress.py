"""A bar for work that a person waits for. Nothing is drawn for programs, or for what is over in a moment."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from itertools import islice
from typing import TypeVar

from streamrec.config.log_lines import only_log_lines

Row = TypeVar("Row")
QUIET_S, REDRAW_S = 1.0, 0.2


def in_portions(rows: Iterator[Row], total: int | None, most: int) -> Iterator[list[Row]]:
    """At most so many at a time; work that takes longer than a moment shows a bar, where a person looks at stderr."""
    if not sys.stderr.isatty() or only_log_lines():
        while portion := list(islice(rows, most)):
            yield portion
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("learning"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    # The stream itself: one that makes text harmless would spoil what a bar is drawn with.
    console = Console(file=getattr(sys.stderr, "rich_proxied_file", sys.stderr))
    bar = Progress(*columns, console=console, auto_refresh=False, transient=True)  # and so without a thread
    task = bar.add_task("learning", total=total)
    due_s = time.monotonic() + QUIET_S
    try:
        while portion := list(islice(rows, most)):
            yield portion
            bar.advance(task, len(portion))
            if time.monotonic() >= due_s:
                bar.start()
                bar.refresh()
                due_s = time.monotonic() + REDRAW_S
    finally:
        if bar.live.is_started:
            bar.stop()
