"""Revisions of the rollout in words."""

from __future__ import annotations

import time

from rich.console import Console

from streamrec.codec import JOINERS, harmless
from streamrec.engine.rollout.revisions import Mode, Revision


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


def named(revision: Revision) -> str:
    """A revision by its number."""
    return f"revision {revision.number}" if revision.number else "the settings"


def now_ms() -> int:
    """The wall clock's time."""
    return int(time.time() * 1000)


def say(console: Console, words: str) -> None:
    """Print words as one line."""
    console.print(harmless(words, JOINERS), soft_wrap=True)
