"""Sends a historical log to the events topic, at a pace, resumable.

Progress is written only after the broker has stored what was sent, so an interrupted replay loses nothing; Ctrl-C and
SIGTERM note the last row sent. After a kill some rows are sent again. Events without an `event_id` get one made of the
replay and the row, so that a worker, which remembers the last few ids of each user, can leave out what comes twice.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import dropwhile
from pathlib import Path

import msgspec
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from streamrec import codec
from streamrec.cli.shared.console import PlainConsole
from streamrec.cli.shared.logs import LogPart, checked
from streamrec.config.settings import Settings
from streamrec.events import Event
from streamrec.transport import Sink

FLUSH_ROWS = 5_000
"""Rows between two notes of progress: so many may be sent again after a kill."""
FLUSH_S = 2.0
FLUSH_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a replay has come: rows before `next_row` are stored by the broker. `run` names it in event ids."""

    run: str
    next_row: int


class Bookmark:
    """The file that remembers a replay's mark, one per part of a log and destination."""

    def __init__(self, digest: str) -> None:
        home = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
        self.path = home / "streamrec" / "replay" / f"{digest}.json"

    def read(self) -> Mark | None:
        """The mark, None where there is none or it is unreadable."""
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=Mark)
        except (OSError, msgspec.DecodeError):
            return None

    def write(self, mark: Mark) -> None:
        """Replace the mark, whole or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_suffix(".new")
        draft.write_text(json.dumps(asdict(mark)), encoding="utf-8")
        draft.replace(self.path)

    def clear(self) -> None:
        """Forget the mark: the replay is complete, or starts anew."""
        self.path.unlink(missing_ok=True)


class Pace:
    """When each event is due: `speed` times as fast as the log's own clock, or at once without a speed.

    `clock` is in seconds; `sleep` waits so many.
    """

    def __init__(
        self,
        speed: float | None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._speed = speed
        self._clock = clock
        self._sleep = sleep
        self._first: tuple[int, float] | None = None

    def delay_s(self, ts: int) -> float:
        """Seconds from now until an event with this `ts` (ms) is due; the first is due at once."""
        if self._speed is None:
            return 0.0
        if self._first is None:
            self._first = (ts, self._clock())
        first_ts, started = self._first
        return max(0.0, started + (ts - first_ts) / 1000 / self._speed - self._clock())

    def wait(self, delay_s: float) -> None:
        """Let so many seconds pass."""
        self._sleep(delay_s)


def run(part: LogPart, settings: Settings, *, speed: float | None, resume: bool) -> None:
    """Check the log, then send it from where an earlier replay of it stopped.

    Raises:
        TableError, LogError: the log cannot be replayed as asked; nothing was sent.
        TransportError: the brokers cannot be reached or refuse; what was stored is remembered.
    """
    console = PlainConsole(stderr=True)
    log = part.open(settings, sent=True)
    summary = checked(log, console)
    from streamrec.wiring import kafka_sink  # loads every model: a wrong log is told before that

    topic = settings.topics.events
    bookmark = Bookmark(part.digest(topic, str(settings.kafka["bootstrap.servers"])))
    mark = (bookmark.read() if resume else None) or Mark(secrets.token_hex(4), log.start)
    if mark.next_row > log.start:
        console.print(f"resuming at row {mark.next_row:,}; --no-resume starts from the beginning")
    # From the first row: whether a row counts may depend on those before it.
    events = dropwhile(lambda entry: entry[0] < mark.next_row, log.events())
    sink = kafka_sink(settings)
    bookmark.write(mark)  # before anything is sent, so that a resumed replay makes the same event ids
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=console) as progress:
            bar = progress.add_task(f"to {topic}", total=log.stop - log.start, completed=mark.next_row - log.start)
            for stored in send(events, mark, sink, topic, Pace(speed)):
                bookmark.write(stored)
                progress.update(bar, completed=stored.next_row - log.start)
            progress.update(bar, completed=log.stop - log.start)
    except SystemExit:
        console.print("stopped; the same command goes on from here")
        raise
    finally:
        sink.close()
    bookmark.clear()
    but = f", but for {summary.refusals.rows:,} that were refused" if summary.refusals.rows else ""
    console.print(f"sent to {topic}: {part.path.name}, rows {log.start:,} to {log.stop:,}{but}", markup=False)


def send(events: Iterator[tuple[int, Event]], mark: Mark, sink: Sink, topic: str, pace: Pace) -> Iterator[Mark]:
    """Publish the events when they are due; yields a mark each time the broker has stored everything so far.

    Raises:
        PublishFailed: as `Sink`.
    """
    sent, stored = mark.next_row, mark.next_row
    flushed_at = time.monotonic()
    try:
        for row, event in events:
            delay_s = pace.delay_s(event.ts)
            if sent > stored and (
                delay_s > 0 or sent - stored >= FLUSH_ROWS or time.monotonic() - flushed_at > FLUSH_S
            ):
                sink.flush(FLUSH_TIMEOUT_S)
                stored, flushed_at = sent, time.monotonic()
                yield Mark(mark.run, stored)
            if delay_s > 0:
                pace.wait(delay_s)
            if event.event_id is None:
                event = msgspec.structs.replace(event, event_id=f"{mark.run}-{row}")
            sink.publish(topic, event.user_id.encode(), codec.encode_event(event, codec.MSGPACK), codec.MSGPACK_HEADERS)
            sent = row + 1
    except SystemExit:  # asked to stop: the queue goes out with the program, so it must not be sent again
        sink.flush(FLUSH_TIMEOUT_S)
        yield Mark(mark.run, sent)
        raise
    if sent > stored:
        sink.flush(FLUSH_TIMEOUT_S)
        yield Mark(mark.run, sent)
