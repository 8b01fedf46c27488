"""Remembers in Redis which dead letters were redriven, so that none is sent twice: marks, a journal and a lock.

Redis and Kafka share no transaction. So a redrive notes in its journal where the events topic ends before it sends
anything, marks what was sent once Kafka has stored it, and closes the journal at the end. A journal found open belongs
to a run that was cut short: what it sent and did not mark lies in the topic past the places noted.

Knows nothing of a dead letter beyond the name of the message it was made of.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import msgspec
from redis.exceptions import LockError
from redis.lock import Lock

from streamrec.errors import StateError
from streamrec.state.connection import Servers
from streamrec.state.keys import KeySpace

LEASE_S = 120.0
"""A redrive that says nothing for so long has ended: no wait of its own is as long, not the producer's last flush."""


class RedriveJournal:
    """The record of redrives into one topic, in Redis.

    Guarantee: one redrive at a time holds it; a mark outlives every process, for `keep_ms`.

    Args:
        keep_ms: how long a mark is kept, as long as the letter itself; None for ever.
        lease_s: how long a redrive that says nothing keeps its turn.

    Raises:
        ConfigError: a URL that is none, or a name that does not fit.
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str,
        topic: str,
        keep_ms: int | None,
        timeout_s: float = 10.0,
        lease_s: float = LEASE_S,
    ) -> None:
        self._keys = KeySpace(prefix, topic)
        self._keep_ms = keep_ms
        self._lease_s = lease_s
        self._redis = Servers(url, timeout_s)
        self._asked_s = 0.0
        self._lock: Lock | None = None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other redrives away while the body runs.

        Raises:
            StateError: somebody else holds it, or Redis did not answer.
        """
        with self._redis.named_errors("beginning a redrive"):
            name = self._keys.redrive("lock").decode()
            lock = self._redis.client.lock(name, timeout=self._lease_s, blocking=False)
            mine = lock.acquire()
        if not mine:
            raise StateError(
                f"another redrive into topic {self._keys.topic!r} is under way, or was killed within the last "
                f"{self._lease_s:.0f} s; wait for it"
            )
        self._asked_s, self._lock = time.monotonic(), lock
        try:
            yield
        finally:
            self._lock = None
            with self._redis.named_errors("ending a redrive"):
                if lock.owned():
                    lock.release()

    def go_on(self) -> None:
        """Extend the lock; to be called for every record read or sent, and asks Redis only now and then.

        Raises:
            StateError: the last call was so long ago that the lock has expired: another redrive may have begun.
        """
        now_s = time.monotonic()
        if self._lock is None or now_s - self._asked_s < self._lease_s / 8:
            return
        with self._redis.named_errors("going on with a redrive"):
            try:
                self._lock.reacquire()
            except LockError:
                raise StateError(
                    f"this redrive was silent for more than {self._lease_s:.0f} s and has lost its turn; nothing was "
                    "sent since: run it again"
                ) from None
        self._asked_s = now_s

    def known(self, origins: Sequence[str]) -> list[bool]:
        """Which of these messages have been sent back, in their order."""
        if not origins:
            return []
        with self._redis.named_errors("asking which letters were sent back"):
            return [bool(there) for there in self._redis.together([("EXISTS", self._mark(o)) for o in origins])]

    def mark(self, origins: Iterable[str]) -> None:
        """Mark these messages as sent back, once Kafka has stored them."""
        with self._redis.named_errors("noting which letters were sent back"):
            lasting = () if self._keep_ms is None else ("PX", self._keep_ms)
            self._redis.together([("SET", self._mark(origin), b"", *lasting) for origin in origins])

    def unfinished(self) -> dict[int, int] | None:
        """The end offsets noted by a run that did not finish; None when every run has finished."""
        with self._redis.named_errors("reading the journal of redrives"):
            noted = self._redis.client.get(self._journal)
        return msgspec.msgpack.decode(noted, type=dict[int, int]) if isinstance(noted, bytes) else None

    def begin(self, ends: Mapping[int, int]) -> None:
        """Note the end offsets of the events topic, before anything is sent."""
        with self._redis.named_errors("opening the journal of redrives"):
            self._redis.client.set(self._journal, msgspec.msgpack.encode(dict(ends)))

    def finish(self) -> None:
        """Close the journal: everything that was sent is marked."""
        with self._redis.named_errors("closing the journal of redrives"):
            self._redis.client.delete(self._journal)

    def close(self) -> None:
        """Let go of connections."""
        self._redis.close()

    @property
    def _journal(self) -> bytes:
        return self._keys.redrive("journal")

    def _mark(self, origin: str) -> bytes:
        return self._keys.redrive(f"sent:{origin}")
