"""Counts what is wanted in windows of log time, and says so, until told to stop."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from typing import Any

from streamrec.cli.shared.titles import Titles
from streamrec.config.log_lines import get_logger
from streamrec.config.settings import Settings
from streamrec.engine.arrays.labels import Interest
from streamrec.engine.trending.windows import Windows
from streamrec.errors import ConfigError, TransportError
from streamrec.transport import Record
from streamrec.transport.librdkafka import HEARTBEAT_MS, SESSION_TIMEOUT_MS
from streamrec.transport.outage import Outage
from streamrec.transport.positions import TopicReader
from streamrec.trends.app import Gap, TrendsApp, TrendTopics, make_app
from streamrec.trends.app import run as run_app
from streamrec.trends.credentials import credentials
from streamrec.trends.page import trend_lists, trends_page
from streamrec.trends.watchdog import Watchdog
from streamrec.wiring import build_validation_limits

LOG = get_logger("streamrec.trends")
LOOKS = 6
"""How often the watchdog looks within its limit."""


def run(settings: Settings, kind: type[TrendsApp] = TrendsApp) -> None:
    """Count until Ctrl-C or SIGTERM; then publish and keep what changed, and leave the group.

    What cannot go on (a flush that fails, counting that hangs) ends the process with exit code 1.

    Raises:
        TransportError: a topic is missing, or no broker answers.
        ConfigError: the settings do not fit together.
    """
    partitions = _partitions(settings)
    LOG.info(
        "counting events; Ctrl-C stops",
        topic=settings.topics.events,
        into=settings.topics.trends,
        group=group_of(settings),
    )
    asyncio.run(_count(settings, partitions, kind))
    LOG.info("stopped, counts kept")


def group_of(settings: Settings) -> str:
    """The consumer group; its name begins those of the table's changelog topics too."""
    return f"{settings.group_id}-trends"


def _partitions(settings: Settings) -> int:
    """Of the events topic; the trends topic has one for each."""
    with closing(TopicReader(settings.topics.events, settings.kafka)) as events:
        with closing(TopicReader(settings.topics.trends, settings.kafka)) as says:
            if says.partitions < events.partitions:
                raise ConfigError(
                    f"topic {says.topic!r} has {says.partitions} partitions, expected {events.partitions}, as many as "
                    f"{events.topic!r}: each says what one of those counted"
                )
        return events.partitions


async def _count(settings: Settings, partitions: int, kind: type[TrendsApp]) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    trends = assemble(settings, partitions, kind)
    survey = TopicReader(settings.topics.events, settings.kafka)  # the watchdog's own: it must not wait for anybody
    watchdog = Watchdog(
        partial(log_range, survey, Outage(settings.kafka)),
        lambda: trends.stored,
        lambda *gap: _records_in(settings, [Gap(*gap)]),
        trends.give_up,
        settings.trends.stall_s,
    )
    watchdog.watch(settings.trends.stall_s / LOOKS)
    await run_app(trends, settings.trends.emit_every_s, stop)


def log_range(survey: TopicReader, outage: Outage) -> tuple[dict[int, int], dict[int, int]]:
    """Where the partitions begin and end.

    Raises:
        TransportError: no broker says so; `outage` is told.
    """
    try:
        found = survey.beginning(), survey.end()
    except TransportError:
        outage.goes_on()
        raise
    outage.over()
    return found


def assemble(settings: Settings, partitions: int, kind: type[TrendsApp] = TrendsApp) -> TrendsApp:
    """The app and its counts, not started; to be called in the loop that runs them.

    Raises:
        ConfigError: the settings do not fit together.
    """
    wanted, kafka = settings.trends, settings.kafka
    app = make_app(
        group_of(settings),
        str(kafka["bootstrap.servers"]),
        replication_factor=settings.topics.replication_factor,
        session_timeout_s=float(kafka.get("session.timeout.ms", SESSION_TIMEOUT_MS)) / 1000,
        heartbeat_s=float(kafka.get("heartbeat.interval.ms", HEARTBEAT_MS)) / 1000,
        isolation_level=str(kafka.get("isolation.level", "read_committed")),
        credentials=credentials(kafka),
        web=None if wanted.web_port is None else (wanted.web_host, wanted.web_port),
    )
    windows = Windows(wanted.windows_s)
    trends = kind(
        app=app,
        topics=TrendTopics(settings.topics.events, settings.topics.trends, partitions),
        windows=windows,
        max_subjects=wanted.max_items,
        validation_limits=build_validation_limits(settings),
        interest=Interest(settings.learning.positives),
        records_in=partial(_records_in, settings),
    )
    if wanted.web_port is not None:
        titles = Titles(settings)

        async def page(web: Any, request: Any) -> Any:
            counts = [trends.counts[partition] for partition in sorted(trends.counts)]
            known = await asyncio.to_thread(titles.of, trend_lists(windows, counts).items)
            return web.html(trends_page(windows, counts, trends.skipped, known))

        app.page("/trends")(page)
    return trends


def _records_in(settings: Settings, gaps: Sequence[Gap]) -> int:
    """How many records the log holds where nothing was delivered."""
    starts: dict[int, int] = {}
    ends: dict[int, int] = {}
    missing: set[tuple[int, int]] = set()
    for gap in gaps:
        starts[gap.partition] = min(gap.first, starts.get(gap.partition, gap.first))
        ends[gap.partition] = max(gap.end, ends.get(gap.partition, 0))
    by_partition = {partition: [gap for gap in gaps if gap.partition == partition] for partition in starts}

    def look(record: Record) -> None:
        if any(gap.first <= record.offset < gap.end for gap in by_partition[record.partition]):
            missing.add((record.partition, record.offset))

    with closing(TopicReader(settings.topics.events, settings.kafka)) as survey:
        survey.read(starts, look, ends)
    return len(missing)
