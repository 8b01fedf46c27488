"""Counts dead letters by reason and field, and shows the newest.

Whatever a message holds, nothing of it reaches the terminal that could command it.
"""

from __future__ import annotations

import heapq
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from streamrec.cli.shared.console import PlainConsole, print_records
from streamrec.cli.shared.dead_letters import (
    DETAIL_CHARS,
    DeadLetterSelection,
    as_json_text,
    read,
    summary,
    time_text,
)
from streamrec.codec import brief
from streamrec.config.settings import Settings
from streamrec.transport.positions import TopicReader
from streamrec.worker.dead_letters import DeadLetter

MOST_KINDS = 1_000
"""Pairs of reason and field counted apart; whoever sends bad messages chooses the field's name."""
MOST_CHARS = 300
"""Of what is said of a letter: all that a worker writes."""
OTHERS = ("others", "")


@dataclass
class Overview:
    """Counts of all letters, and the newest of them without their values. Its size does not grow with the topic."""

    keep: int
    dead_letters: int = 0
    strangers: int = 0
    kinds: Counter[tuple[str, str]] = field(default_factory=Counter)
    _newest: list[tuple[int, int, int, DeadLetter]] = field(default_factory=list)

    def add(self, dead_letter: DeadLetter) -> None:
        """Count one more."""
        self.dead_letters += 1
        kind = dead_letter.reason, dead_letter.field
        self.kinds[kind if kind in self.kinds or len(self.kinds) < MOST_KINDS else OTHERS] += 1
        light = replace(dead_letter, key=None, value=None, headers=())
        entry = (dead_letter.sent_ms, dead_letter.place.offset, dead_letter.place.partition, light)
        if len(self._newest) < self.keep:
            heapq.heappush(self._newest, entry)
        elif self.keep:
            heapq.heappushpop(self._newest, entry)

    def newest(self) -> list[DeadLetter]:
        """Newest first."""
        return [dead_letter for *_, dead_letter in sorted(self._newest, key=lambda entry: entry[:3], reverse=True)]


def run(settings: Settings, selection: DeadLetterSelection, *, limit: int, as_json: bool) -> None:
    """Print counts by reason and field, and the `limit` newest letters.

    Raises:
        TransportError: no broker answers, or there is no such topic.
    """
    overview = Overview(limit)
    with closing(TopicReader(settings.topics.dead_letters, settings.kafka)) as topic:
        overview.strangers = read(topic, selection, overview.add)
    if as_json:
        print(as_json_text(_plain_overview(settings.topics.dead_letters, overview)))
    else:
        _print_overview(PlainConsole(), settings.topics.dead_letters, overview)


def _plain_overview(topic: str, overview: Overview) -> dict[str, Any]:
    return {
        "topic": topic,
        "letters": overview.dead_letters,
        "strangers": overview.strangers,
        "counts": [
            {"reason": reason, "field": name, "letters": count}
            for (reason, name), count in overview.kinds.most_common()
        ],
        "newest": [summary(dead_letter) for dead_letter in overview.newest()],
    }


def _print_overview(console: Console, topic: str, overview: Overview) -> None:
    console.print(f"{topic}: {overview.dead_letters:,} letters", highlight=False, markup=False)
    if overview.strangers:
        console.print(f"{overview.strangers:,} records there are no letters of a worker", highlight=False)
    if not overview.dead_letters:
        return
    counts = Table("reason", "field", "letters", title="by reason", title_justify="left")
    for (reason, name), count in overview.kinds.most_common(20):
        counts.add_row(Text(brief(reason, DETAIL_CHARS)), Text(brief(name, DETAIL_CHARS)), f"{count:,}")
    console.print(counts)
    rows = []
    for dead_letter in overview.newest():
        where = str(dead_letter.origin) + (
            f", redriven from {dead_letter.redriven_from}" if dead_letter.redriven_from else ""
        )
        cells = (
            dead_letter.address,
            time_text(dead_letter.sent_ms),
            dead_letter.reason,
            dead_letter.field,
            where,
            dead_letter.detail,
        )
        rows.append([brief(cell, MOST_CHARS) for cell in cells])
    if rows:
        print_records(console, ("address", "when", "reason", "field", "from", "detail"), rows, "newest")
