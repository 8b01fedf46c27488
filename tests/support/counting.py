"""Counts through a store as a worker does, whatever happens to the servers behind it."""

from __future__ import annotations

import time

from streamrec.errors import StateError, StateUnavailable
from streamrec.state import Checkpoint, Key, Kind
from streamrec.state.redis import RedisStore

TIMEOUT_S = 1.0
LONGEST_S = 20.0
"""Of one call, whatever happens to the servers: twice the timeout, and time for a busy machine."""


def opened(url: str, prefix: str, topic: str = "t") -> RedisStore:
    """A store that soon gives up on servers that do not answer."""
    return RedisStore(url, prefix=prefix, topic=topic, ttl_s=600, slate_ttl_s=300, timeout_s=TIMEOUT_S)


class Counting:
    """Does what a worker does: counts one partition's records one by one, and goes on from where the store stands."""

    def __init__(self, store: RedisStore, partition: int) -> None:
        self.store, self.key = store, Key(partition, Kind.USER, "ann")
        self.epoch = self.confirmed = self.waited = self.lost = 0
        self.begin()

    def begin(self) -> None:
        mark = self.store.open(self.key.partition)
        (value,) = self.store.load([self.key])
        self.epoch, self.confirmed = mark.epoch, mark.watermark or 0
        assert int(value or 0) == self.confirmed  # a checkpoint is there whole

    def count(self) -> None:
        """One more; what does not work now is tried again."""
        began = time.monotonic()
        try:
            if self.epoch == 0:
                self.begin()
            after = self.confirmed + 1
            self.store.commit(Checkpoint(self.key.partition, self.epoch, after, None, {self.key: b"%d" % after}))
            self.confirmed = after
        except StateUnavailable:
            self.waited += 1
        except StateError as error:
            if "has lost checkpoints" not in str(error):
                raise
            self.epoch, self.lost = 0, self.lost + 1
        assert time.monotonic() - began < LONGEST_S

    def reaches(self, number: int) -> bool:
        """Whether it came so far before something did not work."""
        before = -1
        while before < self.confirmed < number:
            before = self.confirmed
            self.count()
        return self.confirmed >= number
