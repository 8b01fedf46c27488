"""Tells the workers what changed in the models since they were last told, with the offset that it stands for.

A learner that takes over goes on from a snapshot; until it has come past what was published before, it says nothing,
for the same records have made the same arrays. While nothing changes a message now and then says that the learner is
there.
Knows nothing of who follows.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from streamrec.engine.following.changes import ModelChanges
from streamrec.engine.following.messages import encoded
from streamrec.errors import TransportError
from streamrec.learner.fold import Fold
from streamrec.learner.metrics import LearnerMetrics
from streamrec.transport import Follower, Sink
from streamrec.worker.following import STANDING, LearnerStanding

ALIVE_S = 2.0
"""Between two messages at most."""
TAIL_LIMIT_S = 30.0
LOOK_RECORDS = 256


class Publisher:
    """Of one fold, from where it stands on."""

    def __init__(
        self, fold: Fold, sink: Sink, topic: str, metrics: LearnerMetrics, tail: Callable[[], Follower]
    ) -> None:
        """`tail` opens the topic where what was published since the fold's snapshot begins.

        Raises:
            TransportError: the topic could not be read to its end in TAIL_LIMIT_S.
        """
        self.behind = 0  # records that the fold has yet to take
        self._fold = fold
        self._sink = sink
        self._topic = topic
        self._metrics = metrics
        self._changes = ModelChanges()
        self._since = fold.position
        if fold.saved_ms:  # else whoever follows holds nothing yet, and is told everything
            parts = fold.pipeline.parts()
            self._changes.begin({name: part for name, part in parts.items() if name not in fold.translated})
        self._newest = _newest_version(tail())
        self._said_at = float("-inf")

    def publish(self, wall_ms: int) -> None:
        """Say what changed, if anything did and it is not said already."""
        version = self._fold.position
        if version < self._newest or (version == self._since and wall_ms < self._said_at + ALIVE_S * 1000):
            return
        changes = self._changes.since_last(self._fold.pipeline.parts()) if version > self._since else ()
        learned = {partition: offset for partition, (offset, *_) in self._fold.learned.items()}
        standing = LearnerStanding(self.behind, self._fold.latest_ms, wall_ms, learned)
        headers = ((STANDING, msgspec.json.encode(standing)),)
        schema = self._fold.pipeline.schema
        for message in encoded(changes, schema=schema, since=self._since, version=version):
            self._sink.publish(self._topic, None, message, headers)
            self._metrics.update_bytes.inc(len(message))
        self._metrics.updates.inc()
        self._since = self._newest = version
        self._said_at = wall_ms


class _Version(msgspec.Struct):
    version: int = 0


def _newest_version(tail: Follower) -> int:
    newest, end = 0, time.monotonic() + TAIL_LIMIT_S
    try:
        while True:
            for record in tail.look(LOOK_RECORDS, 0.1):
                try:
                    newest = max(newest, _DECODER.decode(record.value or b"").version)
                except msgspec.MsgspecError:
                    continue
            if tail.whole():
                return newest
            if time.monotonic() > end:
                raise TransportError(f"topic {tail.topic!r} could not be read to its end within {TAIL_LIMIT_S:.0f} s")
    finally:
        tail.close()


_DECODER = msgspec.msgpack.Decoder(_Version)
