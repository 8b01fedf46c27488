"""GET /trends: what this instance counts, for people. The figures of its partitions, added up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from string import Template
from typing import NamedTuple

from streamrec.codec import harmless
from streamrec.engine.trending.windows import Windows, acceleration
from streamrec.trends.counts import CATEGORY, EVERYTHING, ITEM, PartitionCounts

Sums = tuple[tuple[int, int], ...]
"""Count and before of each window, the shortest first."""
PAGE = Path(__file__).parent / "page.html"
SHOWN = 20
LOOKED_AT = 100
"""So many of each partition's first are added up: an item that is in none of them is in no list."""


class TrendLists(NamedTuple):
    """One list per question: the first subjects, with (count, before) of each window, the shortest first."""

    rising: list[tuple[str, Sums]]
    wanted: list[tuple[str, Sums]]
    categories: list[tuple[str, Sums]]

    @property
    def items(self) -> set[str]:
        """The ids of the items in the lists."""
        return {subject[len(ITEM) :] for subject, _ in (*self.rising, *self.wanted)}


def trend_lists(windows: Windows, counts: Sequence[PartitionCounts]) -> TrendLists:
    """What rises, by the window in which it rises most; what is wanted, and categories, by the longest window."""
    every = range(len(windows.lengths_s))
    rising = _added(counts, every, (s for each in counts for at in every for s in each.rising(at)))
    wanted = _added(counts, every, (s for each in counts for at in every for s in each.top(ITEM, at, LOOKED_AT)))
    categories = _added(
        counts, every, (s for each in counts for at in every for s in each.top(CATEGORY, at, LOOKED_AT))
    )
    steepest = sorted(rising.items(), key=lambda pair: -max(acceleration(*window) for window in pair[1]))
    most = [sorted(found.items(), key=lambda pair: -pair[1][-1][0]) for found in (wanted, categories)]
    return TrendLists(steepest[:SHOWN], most[0][:SHOWN], most[1][:SHOWN])


def trends_page(
    windows: Windows,
    counts: Sequence[PartitionCounts],
    skipped: Mapping[str, int],
    titles: Mapping[str, str] | None = None,
) -> str:
    """The page as text; `titles` are those of items, as far as they are known."""
    clock = max((each.clock for each in counts), default=0)
    when = f"{datetime.fromtimestamp(clock / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC" if clock else "nothing yet"
    bad = ", ".join(f"{reason} {count:,}" for reason, count in sorted(skipped.items())) or "none"
    lists, lengths = trend_lists(windows, counts), [_length(length_s) for length_s in windows.lengths_s]
    said = "; ".join(
        f"{held:,} events in the last {length}, {before:,} in as long before"
        for length, (held, before) in zip(
            lengths, _added(counts, range(len(lengths)), [EVERYTHING])[EVERYTHING], strict=True
        )
    )
    tables = (
        ("What rises most?", lists.rising),
        ("What is wanted most?", lists.wanted),
        ("Which categories?", lists.categories),
    )
    return Template(PAGE.read_text(encoding="utf-8")).substitute(
        clock=when,
        partitions=", ".join(str(each.partition) for each in counts) or "none",
        subjects=f"{sum(map(len, counts)):,}",
        skipped=escape(harmless(bad)),
        said=said[:1].upper() + said[1:],
        lists="".join(_table(title, lengths, rows, titles or {}) for title, rows in tables),
    )


def _added(counts: Sequence[PartitionCounts], every: range, subjects: Iterable[str]) -> dict[str, Sums]:
    """Count and before of each subject in each window, over all partitions."""
    found = {}
    for subject in set(subjects):
        sums = [sum(column) for column in zip(*(each.sums(subject) for each in counts), strict=True)] or [0] * 2 * len(
            every
        )
        found[subject] = tuple((sums[2 * at], sums[2 * at + 1]) for at in every)
    return found


def _table(title: str, lengths: Sequence[str], rows: Sequence[tuple[str, Sums]], titles: Mapping[str, str]) -> str:
    if not rows:
        return ""
    head = "".join(f"<th>last {length}</th><th>before</th>" for length in lengths)
    body = ""
    for subject, sums in rows:
        name = subject[len(ITEM) :]
        known = titles.get(name) if subject.startswith(ITEM) else None
        label = escape(harmless(known or name)) + (f" <code>{escape(harmless(name))}</code>" if known else "")
        cells = "".join(f"<td>{held:,}</td><td>{before:,}</td>" for held, before in sums)
        body += f'<tr><th scope="row">{label}</th>{cells}</tr>'
    table = f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<h2>{title}</h2><div class="scroll">{table}</div>'


def _length(length_s: int) -> str:
    for unit_s, unit in ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second")):
        if length_s % unit_s == 0:
            count = length_s // unit_s
            return unit if count == 1 else f"{count} {unit}s"
    raise AssertionError("every length is so many seconds")
