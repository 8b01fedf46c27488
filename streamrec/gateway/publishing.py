"""Records to the log, confirmed: whoever publishes waits until the log has stored them.

A thread of its own publishes what waits in one go and flushes (a group commit), so that many callers share one round
trip. Guarantee: `publish` returns once all of its records are stored. When it raises, none of them is waiting any more;
some may be stored all the same, so a caller that repeats should name its events.
Knows nothing of HTTP, or of what the records say.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from streamrec.config.log_lines import get_logger
from streamrec.errors import ConfigError, PublishFailed, TransportUnavailable
from streamrec.transport import Headers, Sink

LOG = get_logger("streamrec.gateway")
MOST_RECORDS = 50_000
"""That wait at once; some 50 MB with what they hold."""
ROUND_RECORDS = 10_000
"""Published between two flushes at most, unless one caller brings more."""
CLOSE_S = 5.0


class Outgoing(NamedTuple):
    """A record to be published; without a value, the tombstone of its key."""

    topic: str
    key: bytes
    value: bytes | None
    headers: Headers = ()


class _Pending(NamedTuple):
    records: Sequence[Outgoing]
    stored: asyncio.Future[None]


class ConfirmedPublisher:
    """Publishes to one sink. Made and used within one event loop."""

    def __init__(self, sink: Sink, flush_s: float = 2.0) -> None:
        """`flush_s` is how long the log has to store a round."""
        self._sink = sink
        self._flush_s = flush_s
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Pending] = deque()
        self._records = 0  # that wait, or are under way
        self._work = threading.Condition()
        self._closing = False
        self.away = False  # the log did not store the last round
        self._thread = threading.Thread(target=self._run, name="streamrec-publish", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it goes on publishing."""
        return self._thread.is_alive()

    async def publish(self, records: Sequence[Outgoing]) -> None:
        """Wait until these are stored.

        Raises:
            TransportUnavailable: they were not stored in time, or too many wait already.
        """
        if self._closing or not self.alive:
            raise TransportUnavailable("the gateway is stopping")
        if self._records and self._records + len(records) > MOST_RECORDS:
            raise TransportUnavailable(f"{self._records} records wait to be stored already; send more slowly")
        waiting = _Pending(records, self._loop.create_future())
        self._count(len(records))
        waiting.stored.add_done_callback(lambda _: self._count(-len(records)))
        with self._work:
            self._waiting.append(waiting)
            self._work.notify()
        await asyncio.shield(waiting.stored)  # whoever no longer waits does not undo what is under way

    def close(self) -> None:
        """Publish what waits, and let go."""
        with self._work:
            self._closing = True
            self._work.notify()
        self._thread.join(2 * self._flush_s + CLOSE_S)

    def _count(self, more: int) -> None:
        self._records += more

    def _run(self) -> None:
        while round_ := self._next_round():
            error = self._stored(round_)
            self.away = error is not None
            self._loop.call_soon_threadsafe(_tell, round_, error)
        try:
            self._sink.close(CLOSE_S)
        except PublishFailed as error:
            LOG.warning("something was not stored at the end", error=str(error))

    def _next_round(self) -> list[_Pending]:
        """What waits now, once something does; nothing when it is time to end."""
        with self._work:
            while not self._waiting and not self._closing:
                self._work.wait()
            found: list[_Pending] = []
            count = 0
            while self._waiting and (not found or count + len(self._waiting[0].records) <= ROUND_RECORDS):
                found.append(self._waiting.popleft())
                count += len(found[-1].records)
            return found

    def _stored(self, round_: Sequence[_Pending]) -> TransportUnavailable | None:
        """Publish a round; why it failed, if it did: then nothing of it is sent any more."""
        try:
            for waiting in round_:
                for record in waiting.records:
                    self._sink.publish(record.topic, record.key, record.value, record.headers)
            self._sink.flush(self._flush_s)
        except PublishFailed as error:
            LOG.warning("the log does not store what comes in", error=str(error))
            try:
                self._sink.forget()
            except ConfigError as broken:
                return TransportUnavailable(str(broken))
            return TransportUnavailable("the log did not store it in time; send it again, under the same ids")
        return None


def _tell(round_: Sequence[_Pending], error: TransportUnavailable | None) -> None:
    for waiting in round_:
        if waiting.stored.done():
            continue
        if error is None:
            waiting.stored.set_result(None)
        else:
            waiting.stored.set_exception(error)
            waiting.stored.exception()  # heard, also where nobody waits any more
