"""GET /trends: what this instance counts, for people. The figures of its partitions, added up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from string import Template

from streamrec.codec import harmless
from streamrec.engine.trending.windows import Windows, acceleration, rate_per_hour
from streamrec.trends.counts import CATEGORY, EVERYTHING, ITEM, PartitionCounts

PAGE = Path(__file__).parent / "page.html"
SHOWN = 20
LOOKED_AT = 100
"""So many of each partition's first are added up: an item that is in none of them is in no list."""


def trends_page(windows: Windows, counts: Sequence[PartitionCounts], skipped: Mapping[str, int]) -> str:
    """The page as text."""
    clock = max((each.clock for each in counts), default=0)
    when = f"{datetime.fromtimestamp(clock / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC" if clock else "nothing yet"
    bad = ", ".join(f"{reason} {count:,}" for reason, count in sorted(skipped.items())) or "none"
    return Template(PAGE.read_text(encoding="utf-8")).substitute(
        clock=when,
        partitions=", ".join(str(each.partition) for each in counts) or "none",
        subjects=f"{sum(map(len, counts)):,}",
        skipped=escape(harmless(bad)),
        windows="".join(_window(windows.lengths_s[at], at, counts) for at in range(len(windows.lengths_s))),
    )


def _window(length_s: int, at: int, counts: Sequence[PartitionCounts]) -> str:
    held, before = _added(at, counts, [EVERYTHING])[EVERYTHING]
    busiest = _added(at, counts, (s for each in counts for s in each.top(ITEM, at, LOOKED_AT)))
    rising = _added(at, counts, (s for each in counts for s in each.rising(at)))
    categories = _added(at, counts, (s for each in counts for s in each.top(CATEGORY, at, LOOKED_AT)))
    return (
        f"<h2>The last {_length(length_s)}</h2><p>{held:,} events, {before:,} in as long before.</p>"
        + _table("Fastest rising", length_s, sorted(rising.items(), key=lambda pair: -acceleration(*pair[1])))
        + _table("Most wanted", length_s, sorted(busiest.items(), key=lambda pair: -pair[1][0]))
        + _table("Categories", length_s, sorted(categories.items(), key=lambda pair: -pair[1][0]))
    )


def _added(at: int, counts: Sequence[PartitionCounts], subjects: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Count and before of each subject in window number `at`, over all partitions."""
    held: Counter[str] = Counter()
    before: Counter[str] = Counter()
    names = set(subjects)
    for each in counts:
        for subject in names:
            sums = each.sums(subject)
            held[subject] += sums[2 * at]
            before[subject] += sums[2 * at + 1]
    return {subject: (held[subject], before[subject]) for subject in names}


def _table(title: str, length_s: int, rows: Sequence[tuple[str, tuple[int, int]]]) -> str:
    if not rows:
        return ""
    body = "".join(
        f'<tr><th scope="row">{escape(harmless(subject[len(ITEM) :]))}</th><td>{held:,}</td><td>{before:,}</td>'
        f"<td>{rate_per_hour(held, length_s):,.1f}</td><td>{acceleration(held, before):+.2f}</td></tr>"
        for subject, (held, before) in rows[:SHOWN]
    )
    head = "<th>count</th><th>before</th><th>per hour</th><th>acceleration</th>"
    return (
        f'<div class="scroll"><table><thead><tr><th>{title}</th>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _length(length_s: int) -> str:
    for unit_s, unit in ((3_600, "hours"), (60, "minutes")):
        if length_s % unit_s == 0:
            return f"{length_s // unit_s} {unit}"
    return f"{length_s} seconds"
