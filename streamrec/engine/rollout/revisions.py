"""A rollout is changed by revisions, and a store keeps them: what changed, when, why, and on which figures.

A revision says in full which user gets which policy, so the newest alone counts, and an earlier one can be restored by
writing it again. Revision 0 is what the settings say; it is in no store.

Knows nothing of stores or clocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Protocol

import msgspec


class Mode(StrEnum):
    """How the policy that is on trial comes to be asked, from the least trust to the most."""

    APPRENTICE = "apprentice"
    SHADOW = "shadow"
    CANARY = "canary"
    ONLINE = "online"


class Revision(msgspec.Struct, frozen=True, kw_only=True):
    """Which users get which policy from `ts` (ms) on, by the wall clock.

    `log_ts` is the newest time of the log that was stored then, ms: slates have the log's time, and a history may be
    replayed long after it happened. It is 0 where nothing was stored yet, None in revisions written without it.
    `policy` is the one on trial, `baseline` the one that answers in its place. The rest is as in the `[rollout]`
    settings. `figures` are those that the gate looked at, by name; `forced`: it was not asked, or not listened to.
    `restores` is the number of the revision that this one returns to.
    """

    number: int
    ts: int
    mode: Mode
    policy: str
    baseline: str
    share: float
    arms: Mapping[str, float] = {}
    interleave: tuple[str, ...] = ()
    salt: str = "streamrec"
    why: str = ""
    figures: Mapping[str, float] = {}
    forced: bool = False
    restores: int | None = None
    log_ts: int | None = None

    @property
    def first_shown_ts(self) -> int:
        """When the first slate under this revision can have been shown, in the log's time, ms.

        Of a revision without `log_ts` by the wall clock: right on a live system alone.
        """
        return self.ts if self.log_ts is None else self.log_ts + 1


class RolloutStore(Protocol):
    """The revisions of one topic's rollout.

    Guarantee: numbers go up by one, and of two that append the same number only one succeeds.
    """

    def latest(self) -> Revision | None:
        """The newest revision, None while the settings alone count."""

    def history(self) -> list[Revision]:
        """The revisions kept, newest first; the oldest leave."""

    def append(self, revision: Revision) -> None:
        """Write the next revision.

        Raises:
            StateError: the newest one's number is not the one before it; nothing was written.
        """

    def close(self) -> None:
        """Let go of connections."""
