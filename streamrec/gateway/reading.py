"""A topic that is followed in a thread, for whoever keeps something of it in the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from streamrec.config.log_lines import get_logger
from streamrec.errors import BadEvent, TransportError
from streamrec.transport import Follower, Record

LOG = get_logger("streamrec.gateway")
_LOOK_RECORDS, _LOOK_S = 256, 0.2

Kept = TypeVar("Kept")


class TopicFeed(Generic[Kept]):
    """Follows a topic, and tells what `read` makes of its records to `hear`, in the event loop it was made in."""

    def __init__(
        self, follower: Follower, read: Callable[[Record], Kept | None], hear: Callable[[Sequence[Kept]], None]
    ) -> None:
        """`read` runs in the thread; None and BadEvent leave a record out."""
        self._follower = follower
        self._read = read
        self._hear = hear
        self._loop = asyncio.get_running_loop()
        self._stopping = threading.Event()
        self._failure: str | None = None
        self._thread = threading.Thread(target=self._run, name=f"streamrec-{follower.topic}", daemon=True)
        self._thread.start()

    @property
    def failure(self) -> str | None:
        """Why nothing is read any more, None while it is."""
        ended = f"the thread that reads {self._follower.topic} has ended"
        return self._failure if self._failure or self._thread.is_alive() else ended

    @property
    def whole(self) -> bool:
        """Whether the topic was read up to where it ended at the start."""
        return self._follower.whole()

    def close(self) -> None:
        """Stop reading."""
        self._stopping.set()
        self._thread.join(5.0)

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                found = []
                for record in self._follower.look(_LOOK_RECORDS, _LOOK_S):
                    try:
                        kept = self._read(record)
                    except BadEvent as error:
                        LOG.warning("a message is left out", topic=record.topic, offset=record.offset, error=str(error))
                        continue
                    if kept is not None:
                        found.append(kept)
                if found:
                    self._loop.call_soon_threadsafe(self._hear, found)
        except TransportError as error:
            self._failure = str(error)
            LOG.error("a topic cannot be read any more", topic=self._follower.topic, error=str(error))
        finally:
            self._follower.close()
