"""Reads a range of outcomes, from their topic or from a file, for the commands that judge by them.

Joins no group and commits nothing, so no worker notices.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from streamrec.cli.shared.handover import moment_of
from streamrec.codec import decode
from streamrec.config.settings import Settings
from streamrec.errors import BadEvent, TableError
from streamrec.events import Outcome
from streamrec.transport import Record

ROLLOUT = "rollout"
"""In place of a time: since the rollout was changed last."""
NONE_YET = "outcomes are published when the window of a slate is over (attribution.window_s, in log time)"
"""What to say where there are no outcomes."""
Take = Callable[[int, Outcome], None]


class OutcomesLeftOut(NamedTuple):
    """How many messages were no outcomes, and how many outcomes are of slates shown outside the range."""

    unreadable: int
    by_time: int


@dataclass(frozen=True, slots=True)
class OutcomeRange:
    """Which outcomes: of slates shown from `since` to before `until` (ms); of a file of JSON lines, or of the topic."""

    since: int | None = None
    until: int | None = None
    file: Path | None = None

    def holds(self, outcome: Outcome) -> bool:
        """Whether the outcome's slate was shown in the range."""
        ts = outcome.shown_ts or outcome.ts
        return (self.since is None or ts >= self.since) and (self.until is None or ts < self.until)


def time_of(text: str | None, option: str) -> int | None:
    """A time as it is typed, in ms; None for none.

    Raises:
        ConfigError: it is no time.
    """
    return None if text is None else moment_of(text, option)


def read(settings: Settings, part: OutcomeRange, take: Take) -> OutcomesLeftOut:
    """Hand every outcome of the range to `take`, with its partition, and return what was left out.

    Raises:
        TransportError: the topic cannot be read.
        TableError: the file cannot be read.
    """
    return _of_topic(settings, part, take) if part.file is None else _of_file(part.file, part, take)


def _of_topic(settings: Settings, part: OutcomeRange, take: Take) -> OutcomesLeftOut:
    from streamrec.transport.positions import TopicReader

    unreadable = by_time = 0

    def each(record: Record) -> None:
        nonlocal unreadable, by_time
        outcome = _outcome(record)
        if outcome is None:
            unreadable += 1
        elif part.holds(outcome):
            take(record.partition, outcome)
        else:
            by_time += 1

    def shown(record: Record) -> int | None:
        outcome = _outcome(record)
        return None if outcome is None else outcome.shown_ts or outcome.ts

    with closing(TopicReader(settings.topics.outcomes, settings.kafka)) as topic:
        first = topic.beginning()
        # What became of a slate is sent after the slate was shown.
        starts = first if part.since is None else topic.since(part.since, shown)
        by_time += sum(starts[partition] - offset for partition, offset in first.items())
        topic.read(starts, each)
    return OutcomesLeftOut(unreadable, by_time)


def _of_file(path: Path, part: OutcomeRange, take: Take) -> OutcomesLeftOut:
    unreadable = by_time = 0
    try:
        with path.open("rb") as lines:
            for line in lines:
                if not line.strip():
                    continue
                try:
                    outcome = decode(line, (), Outcome)
                except BadEvent:
                    unreadable += 1
                    continue
                if part.holds(outcome):
                    take(0, outcome)
                else:
                    by_time += 1
    except OSError as error:
        raise TableError(f"outcomes file {path} cannot be read: {error.strerror}; check --outcomes") from None
    return OutcomesLeftOut(unreadable, by_time)


def _outcome(record: Record) -> Outcome | None:
    try:
        return decode(record.value or b"", record.headers, Outcome)
    except BadEvent:
        return None
