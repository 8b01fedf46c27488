"""The Faust app around the counts: reads events, and every few seconds publishes and stores what changed.

Faust gives membership of a group, the table's changelog and its restoration, and the web server. It is used with one
agent, concurrency 1, and no batches. Four things are done otherwise than Faust does them:

- Of transactions only committed records are counted, unless the settings say otherwise.
- An event is acknowledged not when it was counted, but when its count is stored: published in the trends topic, then
  written to the changelog. So offsets never pass what is stored, and a flush that fails ends the process before they
  move.
- Offsets that were not delivered are looked up in the log at the next flush, through another client. Either there is
  nothing (a transaction's marker, deleted records), or Faust has dropped events, and the process ends before storing.
- A table value is written once per key and flush, straight through the app's producer: Faust's own way of writing takes
  seven times as long per key, and knows no partition outside an event.

When partitions come or go, what was counted since the last flush is forgotten and read again.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, cast

import faust
from faust.transport.consumer import Consumer

from streamrec.codec import encode
from streamrec.config.log_lines import get_logger
from streamrec.engine.arrays.labels import WANTED, Interest
from streamrec.engine.trending.windows import Windows
from streamrec.errors import BadEvent
from streamrec.events import Event
from streamrec.transport import Record
from streamrec.trends.committed import transport
from streamrec.trends.counts import Flush, PartitionCounts
from streamrec.worker.validation import ValidationLimits, event_of

LOG = get_logger("streamrec.trends")
SEPARATOR = "|"
"""Between the partition and the subject in a table's key."""
EXIT_FAILED = 1

OutgoingRecords = list[tuple[bytes, bytes | None, int]]
"""Key, value and partition of what is to be sent."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Offsets of a partition that were not delivered, from `first` to before `end`."""

    partition: int
    first: int
    end: int


def give_up(reason: str) -> NoReturn:
    """End this process now: nothing that Faust still holds may be committed, and it may hang."""
    LOG.critical("stopped", error=reason)
    os._exit(EXIT_FAILED)


@dataclass(frozen=True, slots=True)
class TrendTopics:
    """What is read and where counts are published."""

    events: str
    trends: str
    partitions: int
    """Of the events topic."""


class TrendsApp:
    """The Faust app with the counts of its partitions."""

    def __init__(
        self,
        *,
        app: faust.App,
        topics: TrendTopics,
        windows: Windows,
        max_subjects: int,
        validation_limits: ValidationLimits,
        interest: Interest,
        records_in: Callable[[Sequence[Gap]], int],
        give_up: Callable[[str], NoReturn] = give_up,
    ) -> None:
        """`records_in` says how many records the log holds in some gaps; it may block. `give_up` must not return."""
        self.give_up = give_up
        self.app = app
        self.events = topics.events
        self.windows = windows
        self.skipped: Counter[str] = Counter()
        """Unusable messages by reason; the worker sends them to the dead-letter topic."""
        self.counts: dict[int, PartitionCounts] = {}
        self._stored: Mapping[int, int] | None = None
        self._says = topics.trends
        self._max_subjects = max_subjects
        self._validation_limits = validation_limits
        self._interest = interest
        self._held: list[Any] = []  # messages that are counted and not stored
        self._gaps: list[Gap] = []
        self._records_in = records_in
        self._generation = 0
        self._flushing = asyncio.Lock()
        # Other windows, other counts: a changelog of their own.
        name = "-".join(["counts", *map(str, windows.lengths_s)])
        self.table = app.Table(name, key_type=bytes, value_type=bytes, partitions=topics.partitions)
        topic = app.topic(topics.events, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")
        app.agent(topic, concurrency=1, name="count")(self._count)
        app.on_partitions_revoked.connect(self._revoked)
        app.on_rebalance_complete.connect(self._assigned)

    @property
    def stored(self) -> Mapping[int, int] | None:
        """Per partition of ours, the offset that comes after what is stored; None while they are being dealt.

        Partitions that the group has dealt and Faust has not handed over are still being dealt.
        """
        stored = self._stored
        return stored if stored is not None and stored.keys() == self._ours() else None

    def _ours(self) -> set[int]:
        return {tp.partition for tp in self.app.consumer.assignment() if tp.topic == self.events}

    # Counting

    async def _count(self, stream: Any) -> None:
        try:
            async for event in stream.noack().events():
                self.take(event.message)
        except Exception as error:  # Faust would begin again after the event that did it
            self.give_up(f"counting failed: {error!r}; nothing past the last flush is committed")

    def take(self, message: Any) -> None:
        """Count one message; ignored when its partition is not assigned to this process (any more)."""
        counts = self.counts.get(message.partition)
        if counts is None:
            return
        if message.offset > counts.position + 1:
            self._gaps.append(Gap(message.partition, counts.position + 1, message.offset))
        self._held.append(message)
        self._count_one(counts, message)

    def _count_one(self, counts: PartitionCounts, message: Any) -> None:
        ts_ms = max(0, round((message.timestamp or 0.0) * 1000))
        headers = tuple(message.headers or ())
        record = Record(self.events, message.partition, message.offset, message.key, message.value, headers, ts_ms)
        try:
            event = event_of(record, self._validation_limits)
        except BadEvent as error:
            self.skipped[error.reason] += counts.passed(message.offset)
            return
        if self._interest.label(event) == WANTED:
            counts.take(message.offset, event.ts, event.item_id, _category(event))
        else:
            counts.take(message.offset, event.ts)

    # Storing

    async def flush(self) -> None:
        """Publish and store what changed, then acknowledge it; ends the process when that cannot be done."""
        try:
            async with self._flushing:
                await self._flush()
        except Exception as error:
            self.give_up(f"a flush failed: {error!r}; nothing of it is committed, and it is counted again")

    async def _flush(self) -> None:
        generation = self._generation
        held, self._held = self._held, []
        gaps, self._gaps = self._gaps, []
        flushes = [flush for counts in self.counts.values() if (flush := counts.flush()) is not None]
        if gaps and (dropped := await asyncio.to_thread(self._records_in, gaps)):
            self.give_up(
                f"{dropped} events were never delivered, near {gaps[0]}; they are read again from the last flush"
            )
        # What is kept was said: a restored table need not be said again.
        kept = self._kept(flushes)
        stored = await self._send(self._says, _said(flushes), generation) and await self._send(
            self.table.changelog_topic.get_topic_name(), kept, generation
        )
        if not stored or generation != self._generation:
            return  # the partitions were dealt anew meanwhile, and are read again from the last flush
        self._put(kept)
        for message in held:
            self.app.consumer.ack(message)
        self._stored = {**(self._stored or {}), **{flush.partition: flush.position + 1 for flush in flushes}}
        await self.app.consumer.commit()

    async def _send(self, topic: str, wire: OutgoingRecords, generation: int) -> bool:
        """Store it in order per key; False when the partitions were dealt anew before everything was on its way."""
        send = self.app.producer.send
        waiting = []
        for key, value, partition in wire:
            if generation != self._generation:
                break
            waiting.append(await send(topic, key, value, partition, None, None))
        await asyncio.gather(*waiting)
        return len(waiting) == len(wire)

    def _kept(self, flushes: Iterable[Flush]) -> OutgoingRecords:
        return [
            (f"{flush.partition}{SEPARATOR}{subject}".encode(), value, flush.partition)
            for flush in flushes
            for subject, value in flush.kept.items()
        ]

    def _put(self, kept: OutgoingRecords) -> None:
        """Write to the table, after the changelog: a table ahead of its changelog would never be written again."""
        for key, value, _ in kept:
            if value is None:
                self.table.data.pop(key, None)
            else:
                self.table.data[key] = value

    # Partitions come and go

    async def _revoked(self, app: Any, /, *args: Any, signal: Any, **kwargs: Any) -> None:
        self._generation += 1
        self.counts, self._held, self._gaps, self._stored = {}, [], [], None

    async def _assigned(self, app: Any, /, *args: Any, signal: Any, **kwargs: Any) -> None:
        """The table is restored; the consumer is about to begin at the committed offsets."""
        # Else what is fetched before the consumer is back at the committed offsets is delivered too, and what comes at
        # these offsets then is dropped. Faust itself lets it flow again.
        self.app.consumer.stop_flow()
        await cast(Consumer, self.app.consumer).wait_for_stopped_flow()
        self._generation += 1
        ours = self._ours()
        kept: dict[int, list[tuple[str, bytes]]] = {partition: [] for partition in ours}
        for key, value in list(self.table.data.items()):
            partition, _, subject = key.decode().partition(SEPARATOR)
            if int(partition) in ours:
                kept[int(partition)].append((subject, value))
            else:
                del self.table.data[key]  # restored again from the beginning, should it come back
        self._held, self._gaps = [], []
        self.counts = {partition: self._restored(partition, found) for partition, found in kept.items()}
        self._stored = {partition: counts.position + 1 for partition, counts in self.counts.items()}
        LOG.info("counts restored", partitions=sorted(ours), subjects=sum(map(len, kept.values())))

    def _restored(self, partition: int, kept: Iterable[tuple[str, bytes]]) -> PartitionCounts:
        counts = PartitionCounts(partition, self.windows, self._max_subjects)
        counts.restore(kept)
        return counts


def _category(event: Event) -> str | None:
    said = (event.context or {}).get("category")
    return said if isinstance(said, str) else None


def _said(flushes: Iterable[Flush]) -> OutgoingRecords:
    return [
        (item_id.encode(), None if trend is None else encode(trend), flush.partition)
        for flush in flushes
        for item_id, trend in flush.said.items()
    ]


def make_app(
    name: str,
    brokers: str,
    *,
    replication_factor: int = 1,
    session_timeout_s: float = 10.0,
    heartbeat_s: float = 3.0,
    isolation_level: str = "read_committed",
    credentials: Any = None,
    web: tuple[str, int] | None = None,
) -> faust.App:
    """A Faust app configured for exact counts; `name` is its consumer group, `brokers` is HOST:PORT,..."""
    hosts = ";".join(f"aiokafka://{host.strip()}" for host in brokers.split(","))
    host, port = web or ("127.0.0.1", 6066)
    app = faust.App(
        name,
        broker=hosts,
        broker_credentials=credentials,
        broker_session_timeout=session_timeout_s,
        broker_heartbeat_interval=heartbeat_s,
        broker_request_timeout=max(30.0, session_timeout_s),
        broker_rebalance_timeout=3 * session_timeout_s,  # so long a group waits for a member that died while it joined
        producer_request_timeout=30.0,
        consumer_auto_offset_reset="earliest",
        stream_wait_empty=False,
        processing_guarantee="at_least_once",
        store="memory://",
        table_standby_replicas=0,
        topic_disable_leader=True,
        topic_replication_factor=replication_factor,
        key_serializer="raw",
        value_serializer="raw",
        web_enabled=web is not None,
        web_bind=host,
        web_host=host,
        web_port=port,
        datadir=Path(tempfile.mkdtemp(prefix="streamrec-trends-")),
    )
    app.transport = transport(isolation_level)(app.conf.broker_consumer, app)
    return app


async def run(trends: TrendsApp, emit_every_s: float, stop: asyncio.Event, shutdown_limit_s: float = 20.0) -> None:
    """Count until `stop` is set; then flush, and leave the group."""
    app = trends.app
    await app.start()
    shutil.rmtree(app.conf.datadir, ignore_errors=True)  # made on start, and empty: all that is kept is in Kafka
    while not stop.is_set():
        # Never cancelled in the middle: what a flush has taken out of the counts would be written by nobody.
        if trends.stored is not None:
            await trends.flush()
        await app.wait(stop.wait(), timeout=emit_every_s)
        if app.crashed:
            trends.give_up(f"Faust gave up: {app.crash_reason!r}")
    try:
        await asyncio.wait_for(trends.flush(), shutdown_limit_s)
        await asyncio.wait_for(app.stop(), shutdown_limit_s)
    except TimeoutError:
        trends.give_up(f"not everything was stored within {shutdown_limit_s:g} s; the rest is counted again")
