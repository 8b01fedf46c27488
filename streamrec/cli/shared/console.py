"""What is printed: text of anybody's, in which nothing commands a terminal, reorders a line or counts as markup.

Everything that is not Rich's own goes through `HarmlessStream`; what Rich renders, with escape sequences that are
meant, goes past it, and its texts are made harmless before they are rendered.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.status import Status
from rich.table import Table
from rich.text import Text

from streamrec import __version__
from streamrec.codec import harmless
from streamrec.config.log_lines import get_logger, only_log_lines

LOG = get_logger("streamrec")
WIDE = 100
"""Columns that a table of many needs."""
_PASSWORD = re.compile(r"(://)[^\s/@]*@")


class HarmlessStream:
    """A text stream that escapes what `harmless` does. In JSON the escapes are JSON's: it reads as the same values."""

    def __init__(self, stream: TextIO) -> None:
        self.rich_proxied_file = stream
        """By this name Rich asks for the stream behind another."""

    def write(self, text: str) -> int:
        """Write it all; returns its length."""
        self.rich_proxied_file.write(harmless(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rich_proxied_file, name)


def harmless_output() -> None:
    """From now on, standard output and standard error are harmless."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, HarmlessStream):
            setattr(sys, name, HarmlessStream(stream))


class PlainConsole(Console):
    """A console that takes every text as it is: nothing is markup, an emoji's name or to be highlighted.

    On standard error its lines are log lines where JSON was asked for.
    """

    def __init__(self, *, stderr: bool = False, width: int | None = None) -> None:
        stream = sys.stderr if stderr else sys.stdout
        self._logs = stderr and only_log_lines()
        super().__init__(
            file=getattr(stream, "rich_proxied_file", stream),
            force_terminal=False if self._logs else None,
            width=width,
            markup=False,
            emoji=False,
            highlight=False,
        )

    def print(self, *objects: Any, **options: Any) -> None:
        """Print them, or log the lines that they make."""
        if not self._logs:
            return super().print(*objects, **options)
        with self.capture() as captured:
            super().print(*objects, **options)
        for line in captured.get().splitlines():
            if line.strip():
                LOG.info("progress", words=line.strip())
        return None

    def render_str(self, text: str, **options: Any) -> Text:
        """Text as Rich renders it."""
        return super().render_str(harmless(text), **{**options, "markup": False, "emoji": False})

    def status(self, status: Any, **options: Any) -> Status:
        """A line that is shown while something lasts."""
        return super().status(self.render_str(status) if isinstance(status, str) else status, **options)


def print_records(console: Console, columns: Sequence[str], rows: Iterable[Sequence[str]], title: str) -> None:
    """A table that cuts nothing; below `WIDE` columns a block of lines for each record, but for what is empty."""
    shown = [[Text(harmless(cell)) for cell in row] for row in rows]
    if console.width >= WIDE:
        table = Table(title=Text(title), title_justify="left")
        for name in columns:
            table.add_column(Text(name), overflow="fold")
        for row in shown:
            table.add_row(*row)
        console.print(table)
        return
    console.print(Text(title), soft_wrap=True)
    room = 2 + max(map(len, columns))
    for row in shown:
        console.print(Text(f"{columns[0]:<{room}}  ") + row[0], soft_wrap=True)
        for name, cell in zip(columns[1:], row[1:], strict=True):
            if cell.plain:
                console.print(Text(f"  {name:<{room - 2}}  ") + cell, soft_wrap=True)


def progress_on(console: Console) -> Progress:
    """Bars with a name and numbers; only where a terminal can redraw them."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal)


def made() -> str:
    """The foot of a page: the version, the date, and the command as it was typed, without passwords."""
    typed = _PASSWORD.sub(r"\1***@", shlex.join(["streamrec", *sys.argv[1:]]))
    return f"streamrec {__version__}, {datetime.now(UTC):%d %B %Y %H:%M} UTC: {typed}"
