"""Shows dead letters: how many for which reason, the newest, or one whole.

Whatever a message holds, nothing of it reaches the terminal that could command it.
"""

from __future__ import annotations

import heapq
import json
import re
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from streamrec.cli.commands.letter_text import excerpt
from streamrec.codec import brief
from streamrec.config.settings import Settings
from streamrec.errors import BadEvent, ConfigError, StateError
from streamrec.transport import Record
from streamrec.transport.positions import TopicReader
from streamrec.wiring import build_validation_limits
from streamrec.worker.dead_letters import DeadLetter, opened
from streamrec.worker.validation import event_of

MOST_KINDS = 1_000
"""Pairs of reason and field counted apart; whoever sends bad messages chooses the field's name."""
OTHERS = ("others", "")
_ADDRESS = re.compile(r"(\d{1,9})-(\d{1,18})")
_DETAIL_CHARS = 160
_NAME_CHARS = 80


@dataclass(frozen=True, slots=True)
class DeadLetterSelection:
    """Which letters: with one of `reasons` (none: any), put aside from `since` to before `until` (ms)."""

    reasons: frozenset[str] = frozenset()
    since: int | None = None
    until: int | None = None

    def holds(self, dead_letter: DeadLetter) -> bool:
        """Whether the letter is one of them."""
        return (
            (not self.reasons or dead_letter.reason in self.reasons)
            and (self.since is None or dead_letter.sent_ms >= self.since)
            and (self.until is None or dead_letter.sent_ms < self.until)
        )


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


def show_all(settings: Settings, selection: DeadLetterSelection, *, limit: int, as_json: bool) -> None:
    """Print counts by reason and field, and the `limit` newest letters.

    Raises:
        TransportError: no broker answers, or there is no such topic.
    """
    overview = Overview(limit)
    with closing(TopicReader(settings.topics.dead_letters, settings.kafka)) as topic:
        overview.strangers = read(topic, selection, overview.add)
    if as_json:
        print(_json(_plain_overview(settings.topics.dead_letters, overview)))
    else:
        _print_overview(Console(), settings.topics.dead_letters, overview)


def show(settings: Settings, address: str, *, as_json: bool) -> None:
    """Print one letter.

    Raises:
        ConfigError: the address is none.
        StateError: there is no such letter.
        TransportError: no broker answers, or there is no such topic.
    """
    with closing(TopicReader(settings.topics.dead_letters, settings.kafka)) as topic:
        dead_letter = at(topic, address)
    plain = _plain_letter(dead_letter, settings)
    if as_json:
        print(_json(plain))
        return
    for name, said in plain.items():
        if name not in ("value", "headers"):
            print(f"{name}: {'-' if said in (None, '') else said}")
    for name, content in dead_letter.headers:
        print(f"header {brief(name, _NAME_CHARS)}: {brief(content.decode('utf-8', 'replace'), _DETAIL_CHARS)}")
    print(f"value:\n{plain['value']}")


def read(
    topic: TopicReader,
    selection: DeadLetterSelection,
    take: Callable[[DeadLetter], None],
    meanwhile: Callable[[], None] = lambda: None,
) -> int:
    """Hand every letter selected to `take`, up to where the topic ends now; how many records were no letters.

    `meanwhile` is called for every record, selected or not.

    Raises:
        TransportError: the topic cannot be read.
    """
    strangers = 0

    def each(record: Record) -> None:
        nonlocal strangers
        meanwhile()
        dead_letter = opened(record)
        if dead_letter is None:
            strangers += 1
        elif selection.holds(dead_letter):
            take(dead_letter)

    ends = topic.end()
    starts = topic.beginning() if selection.since is None else topic.since(selection.since, lambda r: r.timestamp_ms)
    topic.read({place: start for place, start in starts.items() if start < ends[place]}, each, ends)
    return strangers


def at(topic: TopicReader, address: str) -> DeadLetter:
    """The letter at an address.

    Raises:
        ConfigError: the address is none.
        StateError: there is no such letter.
    """
    named = _ADDRESS.fullmatch(address)
    if named is None:
        raise ConfigError(f"{brief(address, _NAME_CHARS)!r} is no letter, expected PARTITION-OFFSET as 3-1041")
    record = topic.record(int(named[1]), int(named[2]))
    dead_letter = None if record is None else opened(record)
    if dead_letter is None:
        what = "nothing there: it has expired, or was never written" if record is None else "no letter of a worker"
        raise StateError(f"topic {topic.topic!r}, {address}: {what}; see `streamrec dlq list`")
    return dead_letter


def refused_now(dead_letter: DeadLetter, settings: Settings, now_ms: int) -> BadEvent | None:
    """Why a worker with these settings would refuse the message, were it sent now; None when it would not."""
    topic, partition, offset = dead_letter.origin
    record = Record(topic, partition, offset, dead_letter.key, dead_letter.value, dead_letter.headers, now_ms)
    try:
        event_of(record, build_validation_limits(settings))
    except BadEvent as error:
        return error
    return None


def _plain_overview(topic: str, overview: Overview) -> dict[str, Any]:
    return {
        "topic": topic,
        "letters": overview.dead_letters,
        "strangers": overview.strangers,
        "counts": [
            {"reason": reason, "field": name, "letters": count}
            for (reason, name), count in overview.kinds.most_common()
        ],
        "newest": [_summary(dead_letter) for dead_letter in overview.newest()],
    }


def _summary(dead_letter: DeadLetter) -> dict[str, Any]:
    return {
        "address": dead_letter.address,
        "ts": dead_letter.sent_ms,
        "reason": dead_letter.reason,
        "field": dead_letter.field,
        "detail": dead_letter.detail,
        "topic": dead_letter.origin.topic,
        "partition": dead_letter.origin.partition,
        "offset": dead_letter.origin.offset,
        "redriven_from": dead_letter.redriven_from,
    }


def _plain_letter(dead_letter: DeadLetter, settings: Settings) -> dict[str, Any]:
    refusal = refused_now(dead_letter, settings, int(time.time() * 1000))
    texts = {name: brief(said, 500) if isinstance(said, str) else said for name, said in _summary(dead_letter).items()}
    return {
        **texts,
        "when": _time(dead_letter.sent_ms),
        "bytes": dead_letter.cut_bytes or len(dead_letter.value or b""),
        "kept_bytes": len(dead_letter.value or b""),
        "now": "accepted" if refusal is None else f"refused: {refusal.reason}: {refusal.detail}",
        "key": None if dead_letter.key is None else brief(dead_letter.key.decode("utf-8", "backslashreplace"), 500),
        "headers": [[name, content.decode("utf-8", "backslashreplace")] for name, content in dead_letter.headers],
        "value": excerpt(dead_letter.value, dead_letter.headers),
    }


def _print_overview(console: Console, topic: str, overview: Overview) -> None:
    console.print(f"{topic}: {overview.dead_letters:,} letters", highlight=False, markup=False)
    if overview.strangers:
        console.print(f"{overview.strangers:,} records there are no letters of a worker", highlight=False)
    if not overview.dead_letters:
        return
    counts = Table("reason", "field", "letters", title="by reason", title_justify="left")
    for (reason, name), count in overview.kinds.most_common(20):
        counts.add_row(*map(_cell, (reason, name)), f"{count:,}")
    console.print(counts)
    newest = Table("address", "when", "reason", "field", "from", "detail", title="newest", title_justify="left")
    for dead_letter in overview.newest():
        where = str(dead_letter.origin) + (
            f", redriven from {dead_letter.redriven_from}" if dead_letter.redriven_from else ""
        )
        cells = (
            dead_letter.address,
            _time(dead_letter.sent_ms),
            dead_letter.reason,
            dead_letter.field,
            where,
            dead_letter.detail,
        )
        newest.add_row(*map(_cell, cells))
    if newest.row_count:
        console.print(newest)


def _cell(text: str) -> Text:
    # As text, so that no bracket is taken for markup.
    return Text(brief(text, _DETAIL_CHARS))


def _json(plain: dict[str, Any]) -> str:
    return json.dumps(plain).replace("\x7f", "\\u007f")


def _time(ts: int) -> str:
    return f"{datetime.fromtimestamp(ts / 1000, UTC):%Y-%m-%d %H:%M:%S}Z"
