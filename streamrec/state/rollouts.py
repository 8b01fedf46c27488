"""Stores of a rollout's revisions: one in Redis, shared by workers and commands, one in this process.

Knows nothing of what a revision means, beyond its number.
"""

from __future__ import annotations

from threading import Lock

import msgspec

from streamrec.engine.rollout.revisions import Revision
from streamrec.errors import StateError
from streamrec.state.connection import Servers
from streamrec.state.keys import KeySpace

KEPT = 256
"""Revisions; of a rollout that was changed more often, the oldest cannot be restored by number any more."""


class RedisRolloutStore:
    """Revisions in a list in Redis, newest first.

    Guarantee: as `RolloutStore`. One script compares and writes. It is sent again, once, when the connection breaks,
    and a revision that it finds written already is its own: the same number, time and words.

    Args:
        url: see `streamrec.state.redis_url`; a password in it never shows in an error.
        timeout_s: how long connecting, and one answer, may take.

    Raises:
        ConfigError: a URL that is none, or a name that does not fit.
    """

    def __init__(self, url: str, *, prefix: str, topic: str, timeout_s: float = 10.0) -> None:
        self._key = KeySpace(prefix, topic).rollout
        self._redis = Servers(url, timeout_s)
        self._revise = self._redis.script("revise.lua")

    def latest(self) -> Revision | None:
        """The newest revision, None while the settings alone count.

        Raises:
            StateError: Redis did not answer, or holds something else there.
        """
        with self._redis.named_errors("reading the newest revision of the rollout"):
            newest = self._redis.client.lindex(self._key, 0)
        return None if newest is None else self._decoded(newest)

    def history(self) -> list[Revision]:
        """The revisions kept, newest first.

        Raises:
            StateError: as `latest`.
        """
        with self._redis.named_errors("reading the revisions of the rollout"):
            stored = self._redis.client.lrange(self._key, 0, -1)
        return [self._decoded(revision) for revision in stored]

    def append(self, revision: Revision) -> None:
        """Write the next revision.

        Raises:
            StateError: the newest one's number is not the one before it: nothing was written. Or Redis did not answer:
                it may or may not have been written.
        """
        with self._redis.named_errors(f"writing revision {revision.number} of the rollout"):
            encoded = msgspec.json.encode(revision)
            written, newest = self._revise([self._key], [encoded, revision.number - 1, KEPT])
        if not written:
            raise _overtaken(revision, newest)

    def close(self) -> None:
        """Let go of connections."""
        self._redis.close()

    def _decoded(self, stored: bytes | str) -> Revision:
        try:
            return msgspec.json.decode(stored, type=Revision)
        except msgspec.DecodeError as error:
            raise StateError(
                f"Redis at {self._redis.where} holds no revision of a rollout under {self._key.decode()!r}: {error}; "
                "was it written by a newer streamrec? Update this one, or remove the key to go by the settings alone"
            ) from None


class MemoryRolloutStore:
    """Revisions in a list in this process: for backtests and tests.

    Guarantee: as `RolloutStore`, for every thread.
    """

    def __init__(self) -> None:
        self._revisions: list[Revision] = []  # newest first
        self._lock = Lock()

    def latest(self) -> Revision | None:
        """The newest revision, None while the settings alone count."""
        with self._lock:
            return self._revisions[0] if self._revisions else None

    def history(self) -> list[Revision]:
        """The revisions kept, newest first."""
        with self._lock:
            return list(self._revisions)

    def append(self, revision: Revision) -> None:
        """Write the next revision.

        Raises:
            StateError: the newest one's number is not the one before it; nothing was written.
        """
        with self._lock:
            newest = self._revisions[0].number if self._revisions else 0
            if newest != revision.number - 1:
                raise _overtaken(revision, newest)
            self._revisions = [revision, *self._revisions[: KEPT - 1]]

    def close(self) -> None:
        """Nothing to let go of."""


def _overtaken(revision: Revision, newest: int) -> StateError:
    return StateError(
        f"revision {revision.number} of the rollout was not written: the newest is {newest}, expected "
        f"{revision.number - 1}; somebody else changed the rollout meanwhile: see `streamrec rollout` and decide anew"
    )
