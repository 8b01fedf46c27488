"""Writes the training log to parquet files: a row for each event, and one for each place of a slate that was seen.

Changes of the catalogue, which the learner sends through the same topic, are no rows. Joins no group and commits
nothing, and reads up to the end as of now. Memory does not grow with the topic.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from streamrec.cli.shared.console import PlainConsole
from streamrec.config.settings import Settings
from streamrec.engine.examples import FLOAT32, FLOAT64, Ended, Example, Query, decoded
from streamrec.errors import BadEvent, ConfigError
from streamrec.transport import Record

FILE_ROWS = 100_000
GROUP_ROWS = 4_096
"""Rows held before they are written: with full histories about 20 MB."""

_NAMES, _FLOATS, _TIME = pa.list_(pa.string()), pa.list_(pa.float32()), pa.timestamp("ms", tz="UTC")
EVENTS = pa.schema(
    {
        "partition": pa.int32(),  # with the offset: the event's place in the events topic
        "offset": pa.int64(),
        "epoch": pa.int64(),
        "ts": _TIME,
        "user_id": pa.string(),
        "type": pa.string(),
        "item_id": pa.string(),
        "category": pa.string(),
        "label": pa.int8(),
        "history_items": _NAMES,
        "history_ages_s": _FLOATS,
        "history_steps": pa.list_(pa.int16()),
        "session_items": pa.int32(),
        "activity": pa.float32(),
        "categories": _NAMES,
        "affinity": _FLOATS,
        "excluded": _NAMES,
        "shown": _NAMES,
    }
)
FEEDBACK = pa.schema(
    {
        "rec_id": pa.string(),
        "user_id": pa.string(),
        "policy": pa.string(),
        "ts": _TIME,  # of the slate
        "position": pa.int32(),
        "item_id": pa.string(),
        "propensity": pa.float64(),
        "reward": pa.float64(),
        "candidates": pa.int32(),
    }
)


@dataclass(frozen=True, slots=True)
class Span:
    """Events from `since` to before `until`, ms; None is open."""

    since: int | None = None
    until: int | None = None

    def holds(self, ts: int) -> bool:
        """Whether a time is in it."""
        return (self.since is None or ts >= self.since) and (self.until is None or ts < self.until)


def run(settings: Settings, out: Path, span: Span, *, as_json: bool) -> None:
    """Write the files and say what is in them.

    Raises:
        TransportError: the topic cannot be read.
        ConfigError: the directory has such files already, or cannot be written to.
    """
    events, feedback = _Files(out, "examples", EVENTS), _Files(out, "feedback", FEEDBACK)
    try:
        _refuse_used(out)
        with PlainConsole(stderr=True).status(f"reading {settings.topics.examples}"):
            unreadable = _read(settings, span, events, feedback)
        events.close()
        feedback.close()
    except OSError as error:
        raise ConfigError(f"--out {out}: {error.strerror}; name a directory that can be written to") from error
    if as_json:
        said = {"topic": settings.topics.examples, "examples": events.rows, "feedback": feedback.rows}
        print(json.dumps({**said, "unreadable": unreadable, "files": events.names + feedback.names}))
    else:
        print(f"{events.rows:,} examples and {feedback.rows:,} places of slates in {out}")
        if unreadable:
            print(f"{unreadable:,} records of {settings.topics.examples} are no examples and were left out")


def _refuse_used(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    there = [path.name for path in out.glob("*.parquet*")]
    if there:
        raise ConfigError(
            f"--out {out} holds {min(there)!r} already, expected no parquet files: name another directory"
        )


def _read(settings: Settings, span: Span, events: _Files, feedback: _Files) -> int:
    """Hand on what the topic holds of that time; returns how many records could not be read."""
    from streamrec.learner.catalogue_relay import PLACE
    from streamrec.transport.positions import TopicReader

    unreadable = 0

    def each(record: Record) -> None:
        nonlocal unreadable
        if PLACE in dict(record.headers):
            return
        example = _example(record)
        if example is None:
            unreadable += 1
        elif span.holds(example.ts):
            events.add(event_row(example))
            for ended in example.ended:
                for row in feedback_rows(ended):
                    feedback.add(row)

    def happened(record: Record) -> int | None:
        example = _example(record)
        return None if example is None else example.ts

    with closing(TopicReader(settings.topics.examples, settings.kafka)) as topic:
        starts = topic.beginning() if span.since is None else topic.since(span.since, happened)
        topic.read(starts, each, topic.end())
    return unreadable


def _example(record: Record) -> Example | None:
    try:
        return decoded(record.value or b"")
    except BadEvent:
        return None


def event_row(example: Example) -> dict[str, Any]:
    """A row of EVENTS; what an event without a label does not say is null."""
    row: dict[str, Any] = {name: getattr(example, name) for name in EVENTS.names if hasattr(example, name)}
    known = {} if example.query is None else _known(example.query)
    return {**row, "type": example.type.value, "shown": list(example.shown) or None, **known}


def _known(query: Query) -> dict[str, Any]:
    affinity = zip(query.categories, np.frombuffer(query.affinity, FLOAT32).tolist(), strict=True)
    leanings = [(name, weight) for name, weight in affinity if name]
    excluded = query.excluded
    return {
        "history_items": _or_null(query.items),
        "history_ages_s": np.frombuffer(query.ages_s, FLOAT32).tolist(),
        "history_steps": list(query.steps),
        "session_items": query.session,
        "activity": query.activity,
        "categories": [name for name, _ in leanings],
        "affinity": [weight for _, weight in leanings],
        "excluded": None if excluded is None else sorted({name for name in (*query.items, *excluded) if name}),
    }


def _or_null(names: Sequence[str]) -> list[str | None]:
    """An item that is known no more is null."""
    return [name or None for name in names]


def feedback_rows(ended: Ended) -> Iterator[dict[str, Any]]:
    """Rows of FEEDBACK, from the top of the slate."""
    came = ended.feedback
    numbers = zip(
        _or_null(came.items),
        np.frombuffer(came.propensity, FLOAT64).tolist(),
        np.frombuffer(came.reward, FLOAT64).tolist(),
        strict=True,
    )
    of_slate = {"rec_id": ended.rec_id, "user_id": ended.user_id, "policy": came.policy, "ts": came.ts}
    for position, (item_id, propensity, reward) in enumerate(numbers, 1):
        of_place = {"position": position, "item_id": item_id, "propensity": propensity, "reward": reward}
        yield {**of_slate, **of_place, "candidates": came.candidates}


@dataclass
class _Files:
    """Files NAME-00000.parquet and on, of FILE_ROWS rows each; each has its name only once it is complete."""

    directory: Path
    name: str
    schema: pa.Schema
    rows: int = 0
    names: list[str] = field(default_factory=list)
    _held: list[dict[str, Any]] = field(default_factory=list)
    _in_file: int = 0
    _writer: pq.ParquetWriter | None = None

    def add(self, row: dict[str, Any]) -> None:
        """One row more."""
        self._held.append(row)
        self.rows += 1
        if len(self._held) == GROUP_ROWS or self._in_file + len(self._held) == FILE_ROWS:
            self._flush()

    def close(self) -> None:
        """Write the rest; without any row there is one empty file, that says what the columns are."""
        if self._held or not self.names:
            self._flush()
        self._finish()

    def _flush(self) -> None:
        if self._writer is None:
            self.names.append(f"{self.name}-{len(self.names):05}.parquet")
            self._writer = pq.ParquetWriter(self._unfinished, self.schema, compression="zstd")
        self._writer.write_table(pa.Table.from_pylist(self._held, self.schema))
        self._in_file += len(self._held)
        self._held.clear()
        if self._in_file == FILE_ROWS:
            self._finish()

    def _finish(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._unfinished.rename(self.directory / self.names[-1])
            self._writer, self._in_file = None, 0

    @property
    def _unfinished(self) -> Path:
        return self.directory / f"{self.names[-1]}.part"
