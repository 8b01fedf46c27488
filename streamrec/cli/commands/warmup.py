"""Learns a log before the first worker starts, and says where in the topic workers will go on."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from streamrec.cli.shared.console import PlainConsole
from streamrec.cli.shared.handover import (
    EARLIEST,
    END_OF_LOG,
    LATEST,
    SAMPLE,
    home_of,
    moment_of,
    partitioner_of,
    positions,
    refuse_checkpoints,
    refuse_live_workers,
    still_kept,
)
from streamrec.cli.shared.logs import LogPart, checked
from streamrec.config.settings import Settings
from streamrec.errors import LogError
from streamrec.replay.catalogue_file import read_catalogue
from streamrec.replay.logs import Log, LogSummary
from streamrec.state.snapshots import SnapshotDirectory
from streamrec.transport.identity import IdentityReader
from streamrec.transport.positions import TopicReader
from streamrec.wiring import build_store, build_validation_limits, build_warmup
from streamrec.worker.topic_watch import facts
from streamrec.worker.validation import event_of

if TYPE_CHECKING:
    from streamrec.engine.batch_result import BatchResult


@dataclass(frozen=True, slots=True)
class WarmupPlan:
    """How a log is learned and where the topic takes over, as it was typed.

    `until`, and a time in `start`, are ISO 8601 or milliseconds.
    """

    until: str | None = None
    start: str = END_OF_LOG
    passes: int = 1
    fresh: bool = False


def run(part: LogPart, settings: Settings, plan: WarmupPlan, *, as_json: bool) -> None:
    """Check everything, learn the log, and print where workers will go on.

    Raises:
        TableError, LogError: the log cannot be read as asked, or holds nothing to learn.
        TransportError: no broker answers, there is no such topic, or it cannot be told how users are spread over it.
        StateError: Redis does not answer, holds checkpoints already, or workers are running.
        ConfigError: a setting or an option does not fit.
    """
    console = PlainConsole(stderr=True)
    until = None if plan.until is None else moment_of(plan.until, "--until")
    start = plan.start if plan.start in (EARLIEST, LATEST, END_OF_LOG) else moment_of(plan.start, "--from")
    log = part.open(settings)
    catalogue = read_catalogue(settings.items, settings.separator) if settings.items is not None else None
    snapshots = SnapshotDirectory(settings.snapshots.url, settings.snapshots.keep)
    with closing(TopicReader(settings.topics.events, settings.kafka)) as topic, closing(build_store(settings)) as store:
        refuse_live_workers(settings)
        refuse_checkpoints(store, settings.redis.prefix, plan.fresh)
        spread = partitioner_of(settings, topic.oldest(SAMPLE), topic.partitions)
        place = home_of(spread, topic.partitions)
        identity = facts(IdentityReader(settings.topics.events, settings.kafka).identity())
        summary = checked(log, console)
        end = end_of(log, summary, until)
        from streamrec.replay.warmup import LogSource, warm_up  # loads every model: what is wrong is told before that

        past = LogSource(log, topic.topic, topic.partitions, place, end)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
        with Progress(*columns, console=console) as bar:
            learned = Learned(log, bar)
            worker = build_warmup(settings, past, store, learned, catalogue)
            judge = partial(event_of, validation_limits=build_validation_limits(settings))
            starts = positions(topic, start, end, judge, console)
            handed_over = warm_up(
                worker,
                store,
                snapshots,
                topic.partitions,
                lambda: still_kept(topic, starts, console),
                passes=plan.passes,
                topic=identity,
                examples_end=None if settings.learner.where == "within" else end_of_examples(settings),
                items=() if catalogue is None else catalogue.values(),
                now_ms=time.time_ns() // 1_000_000,
            )
    left_out = worker.metrics.left_out()
    if as_json:
        said = {
            "events": learned.events,
            "rows": past.rows,
            "refused_rows": summary.refusals.rows,
            "refused": summary.refusals.as_dict(),
            **left_out,
            "until": end,
            "users": worker.newcomers,
            "items": worker.pipeline.features.items.known,
            "snapshot": f"{snapshots.url}/{handed_over.snapshot}",
            "topic": topic.topic,
            "starts": {str(partition): offset for partition, offset in sorted(handed_over.starts.items())},
        }
        print(json.dumps(said, ensure_ascii=False))
        return
    refused = f" ({summary.refusals.rows:,} were refused)" if summary.refusals.rows else ""
    print(
        f"learned {learned.events:,} events of {past.rows:,} rows{refused} up to {_time(end)}: "
        f"{worker.newcomers:,} users, {worker.pipeline.features.items.known:,} items"
    )
    if left_out["dead_letters"]:
        print(f"{left_out['dead_letters']:,} rows went to the worker's dead letters and were not learned")
    print(f"models in {snapshots.url}/{handed_over.snapshot}")
    print(f"next: start `streamrec worker` with the same configuration; in {topic.topic} it goes on at")
    PlainConsole().print(handover_table(handed_over.starts))


def end_of(log: Log, summary: LogSummary, until: int | None) -> int:
    """The last moment to be learned, in ms: the log's own, or `until` if that is earlier.

    Raises:
        LogError: there is nothing to learn up to then.
    """
    assert summary.first_ts is not None  # there are events
    assert summary.last_ts is not None
    if until is not None and until < summary.first_ts:
        raise LogError(
            f"{log.table.path.name}: there is nothing to learn up to {_time(until)}: the first event is of "
            f"{_time(summary.first_ts)}; give a later --until, or start the worker without a warm-up"
        )
    return summary.last_ts if until is None else min(until, summary.last_ts)


def end_of_examples(settings: Settings) -> int:
    """Where a learner goes on: what is in the topic already was taught by what is forgotten now.

    Raises:
        TransportError: no broker answers, or there is no such topic.
    """
    with closing(TopicReader(settings.topics.examples, settings.kafka)) as examples:
        return examples.end().get(0, 0)


class Learned:
    """Counts what a worker has learned, and shows it on a bar."""

    def __init__(self, log: Log, bar: Progress) -> None:
        self.events = 0
        self._first_row = log.start
        self._bar = bar
        self._task = bar.add_task("learning", total=len(log))

    def __call__(self, result: BatchResult) -> None:
        """After a portion of the log."""
        self.events += len(result.logged_events)
        self._bar.update(self._task, completed=result.logged_events[-1].offset + 1 - self._first_row)


class Rate(ProgressColumn):
    """Rows per second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.finished_speed or task.speed or 0:,.0f} rows/s", style="progress.data.speed")


def handover_table(starts: Mapping[int, int]) -> Table:
    """Where each partition goes on."""
    table = Table("partition", "first offset")
    for partition, offset in sorted(starts.items()):
        table.add_row(str(partition), str(offset))
    return table


def _time(ts: int) -> str:
    return f"{datetime.fromtimestamp(ts / 1000, UTC):%Y-%m-%d %H:%M:%S}Z"
