"""Revisions of the rollout in words, and what dates a new one."""

from __future__ import annotations

import time
from contextlib import closing
from datetime import UTC, datetime
from typing import TypedDict

from rich.console import Console

from streamrec.codec import JOINERS, harmless
from streamrec.config.settings import Settings
from streamrec.engine.rollout.revisions import Mode, Revision
from streamrec.state import inspection
from streamrec.wiring import build_store


class Now(TypedDict):
    """The wall clock's time, and the log's as far as workers have stored it, 0 before; ms."""

    ts: int
    log_ts: int


def described(revision: Revision) -> str:
    """Who gets what, in a few words."""
    match revision.mode:
        case Mode.ONLINE if revision.interleave:
            return f"online, {' and '.join(revision.interleave)} interleaved"
        case Mode.ONLINE if revision.arms:
            arms = ", ".join(f"{100 * share:g}% {policy}" for policy, share in revision.arms.items())
            return f"online, {arms}, the rest {revision.policy}"
        case Mode.ONLINE:
            return f"online, everybody gets {revision.policy}"
        case Mode.CANARY:
            return f"canary, {100 * revision.share:g}% get {revision.policy}, the others {revision.baseline}"
    return f"{revision.mode.value}, {revision.baseline} answers in the place of {revision.policy}"


def moment(ts: int) -> str:
    """A time in ms as people read it."""
    return f"{datetime.fromtimestamp(ts / 1000, UTC):%Y-%m-%d %H:%M:%S}Z"


def named(revision: Revision) -> str:
    """A revision by its number."""
    return f"revision {revision.number}" if revision.number else "the settings"


def written_now(settings: Settings) -> Now:
    """What dates a revision written now.

    Raises:
        StateError: Redis does not answer, or holds something else there.
    """
    with closing(build_store(settings)) as store:
        return Now(ts=int(time.time() * 1000), log_ts=inspection.log_ts(store) or 0)


def say(console: Console, words: str) -> None:
    """Print words as one line."""
    console.print(harmless(words, JOINERS), soft_wrap=True)
