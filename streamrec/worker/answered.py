"""What former owners of a partition have published past its checkpoint: it is not published again.

A worker that takes a partition over reads the slates and outcomes that were published since the checkpoint, before it
handles anything of the partition. A request that has its slate keeps it, and the fold goes on from that slate as if it
had been chosen now; an outcome that is out is not sent again. Where the reading has to begin is noted beside the
partition's mark: the ends of both topics, as told by the log at or before the checkpoint.

Knows nothing of stores, nor of how slates are made.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec

from streamrec.codec import decode_slate
from streamrec.config.log_lines import get_logger
from streamrec.errors import BadEvent
from streamrec.events import Outcome, Slate
from streamrec.transport import Ends, Record, Tail
from streamrec.worker.dead_letters import MessagePlace

LOG = get_logger("streamrec.worker.answered")
FLUSH_TIMEOUT_S = 5.0
PASSED_MS = 120_000
"""Outcomes come by the minute in which their slates were shown: what is so much older than the latest is not coming."""


class _Names(msgspec.Struct):
    """What is looked at of every message; of a slate `shown_ts` and `outcome_id` are absent."""

    rec_id: str
    outcome_id: str = ""
    shown_ts: int = 0


@dataclass(slots=True)
class _Former:
    """What former owners of one partition have published past its checkpoint."""

    watermark: int
    unread: Ends | None
    """Where their publishing is to be read from; None once it was read."""
    slates: dict[int, bytes] = field(default_factory=dict)  # by the request's offset, the message compressed
    outcomes: dict[str, int] = field(default_factory=dict)  # by id, when its item was shown, ms
    latest_ms: int = 0  # when the item of the latest outcome was shown


class Answered:
    """Of the partitions held; `tail` None is a worker that nobody has come before, and nothing is looked for."""

    def __init__(self, tail: Tail | None, events: str, recommendations: str, outcomes: str) -> None:
        self._tail = tail
        self._events = events
        self._recommendations = recommendations
        self._outcomes = outcomes
        self._former: dict[int, _Former] = {}
        self.gone: set[int] = set()
        """Partitions that have a newer owner, of which the group has not told yet: nothing is published for them."""

    # Where to begin

    def ends(self, wait_s: float = 0.0) -> str | None:
        """The ends of what is published, as text to be noted; None where nothing is looked for. See `Tail.ends`."""
        return None if self._tail is None else _ENDS_ENCODER.encode(self._tail.ends(wait_s)).decode()

    def take_over(self, partition: int, watermark: int | None, ends: str | None) -> None:
        """Another one's partition is ours now. `ends` was noted with its watermark, None if nothing was."""
        if self._tail is None:
            return
        if ends is not None:
            self._former[partition] = _Former(watermark or 0, _ENDS_DECODER.decode(ends))
        elif watermark is not None:
            # After a warm-up nobody has answered; after an upgrade a worker that died may have.
            LOG.info("no ends are noted: nothing is looked for that was published before", partition=partition)

    def let_go(self, partitions: Sequence[int]) -> None:
        """These are another worker's now."""
        self.gone -= set(partitions)
        for partition in partitions:
            self._former.pop(partition, None)

    # What was published

    def look(self, flush: Callable[[float], None]) -> None:
        """Read what was published of partitions just taken over; of none, nothing is done.

        `flush` waits for what this worker has sent itself: it may have been the former owner.

        Raises:
            TransportUnavailable, PublishDelayed: not everything is known yet; look again before anything is handled.
        """
        unread = {partition: former for partition, former in self._former.items() if former.unread is not None}
        if not unread or self._tail is None:
            return
        flush(FLUSH_TIMEOUT_S)
        began, read = time.monotonic(), 0

        def note(record: Record) -> None:
            nonlocal read
            read += 1
            self._note(record, unread)

        self._tail.read(_earliest([former.unread or {} for former in unread.values()]), note)
        for former in unread.values():
            former.unread = None
        LOG.info(
            "read what was published since the last checkpoints",
            partitions=sorted(unread),
            records=read,
            slates=sum(len(former.slates) for former in unread.values()),
            outcomes=sum(len(former.outcomes) for former in unread.values()),
            seconds=round(time.monotonic() - began, 3),
        )

    def _note(self, record: Record, unread: Mapping[int, _Former]) -> None:
        try:
            names = _NAMES.decode(record.value or b"")
        except msgspec.DecodeError:
            return  # not of a worker
        asked = MessagePlace.of(names.rec_id)
        if asked is None or asked.topic != self._events or asked.partition not in unread:
            return
        former = unread[asked.partition]
        if record.topic == self._outcomes:
            former.outcomes[names.outcome_id] = names.shown_ts
        elif asked.offset >= former.watermark:
            former.slates[asked.offset] = zlib.compress(record.value or b"", 1)

    def slates(self, records: Sequence[Record]) -> dict[tuple[int, int], Slate]:
        """The slates that requests among these have already, by partition and offset."""
        if not self._former:
            return {}
        found = {}
        for record in records:
            former = self._former.get(record.partition)
            value = None if former is None else former.slates.get(record.offset)
            if value is not None:
                with suppress(BadEvent):  # not of a worker, so nobody has answered
                    found[record.partition, record.offset] = decode_slate(zlib.decompress(value))
        return found

    def told(self, outcome: Outcome) -> bool:
        """Whether this outcome, whose time has come, is out already."""
        if not self._former:
            return False
        asked = MessagePlace.of(outcome.rec_id)
        former = None if asked is None else self._former.get(asked.partition)
        if former is None:
            return False
        former.latest_ms = max(former.latest_ms, outcome.shown_ts)
        return former.outcomes.pop(outcome.outcome_id, None) is not None

    def may_publish(self, rec_id: str) -> bool:
        """Whether a slate, or an outcome of it, is ours to publish."""
        if not self.gone:
            return True
        asked = MessagePlace.of(rec_id)
        return asked is None or asked.partition not in self.gone

    # Once it was met

    def settle(self, positions: Mapping[int, int]) -> None:
        """Everything before these positions is saved: what was published of it need not be known any longer."""
        for partition, former in list(self._former.items()):
            if former.unread is not None or partition not in positions:
                continue
            at, passed = positions[partition], former.latest_ms - PASSED_MS
            former.slates = {offset: value for offset, value in former.slates.items() if offset >= at}
            former.outcomes = {name: shown for name, shown in former.outcomes.items() if shown >= passed}
            if not former.slates and not former.outcomes:
                del self._former[partition]

    def settled(self, partition: int) -> bool:
        """Whether everything that former owners published of it was met, and is saved."""
        return partition not in self._former


def _earliest(starts: Sequence[Ends]) -> Ends:
    """From where on all of them are read; a partition that one of them does not name is read from its beginning."""
    topics = {topic for one in starts for topic in one}
    return {
        topic: {
            number: min(one[topic][number] for one in starts)
            for number in set.intersection(*(set(one.get(topic, ())) for one in starts))
        }
        for topic in topics
    }


_NAMES = msgspec.json.Decoder(_Names)
_ENDS_ENCODER = msgspec.json.Encoder()
_ENDS_DECODER = msgspec.json.Decoder(Ends)
