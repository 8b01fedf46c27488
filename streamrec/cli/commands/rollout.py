"""Shows the rollout and rolls it back: each change is a revision in the book, which workers follow."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime

import msgspec
from rich.console import Console
from rich.table import Table

from streamrec.config.settings import Settings
from streamrec.engine.rollout.revisions import Mode, Revision, RolloutStore
from streamrec.errors import ConfigError
from streamrec.wiring import build_plan, build_rollout_store, settled_revision


def show(settings: Settings, *, as_json: bool) -> None:
    """Print the revision in force and those before it.

    Raises:
        StateError: Redis does not answer.
    """
    with closing(build_rollout_store(settings)) as rollouts:
        history = rollouts.history()
    settled = settled_revision(settings)
    if as_json:
        found = {"current": (history or [settled])[0], "settings": settled, "history": history}
        print(msgspec.json.encode(found).decode())
        return
    console = Console()
    console.print(_table([*history, settled]))
    current = (history or [settled])[0]
    say(console, f"in force: {named(current)}, {described(current)}")
    if history and _terms_of(current) != _terms_of(settled):
        say(console, f"the settings say otherwise: {described(settled)}; `streamrec rollback 0` goes by them")


def rollback(settings: Settings, number: int | None, *, why: str) -> None:
    """Return to an earlier revision at once; without a number, to the one before.

    Raises:
        ConfigError: there is no such revision.
        StateError: Redis does not answer, or somebody else changed the rollout meanwhile.
    """
    with closing(build_rollout_store(settings)) as rollouts:
        following = _restoring(rollouts, settings, number, why)
        build_plan(settings, following)  # before anything is written
        rollouts.append(following)
    say(
        Console(),
        f"{named(following)}: back to {following.restores}, {described(following)}; workers follow at their next "
        "checkpoint",
    )


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


def _restoring(rollouts: RolloutStore, settings: Settings, number: int | None, why: str) -> Revision:
    """The revision that returns to `number`, or to the one before what is in force."""
    history = rollouts.history()
    if not history:
        raise ConfigError("there is nothing to return from: the rollout was never changed, the settings alone count")
    by_number = {revision.number: revision for revision in [*history, settled_revision(settings)]}
    newest = history[0]
    if number is None:
        number = _origin(newest) - 1
        if number < 0:
            raise ConfigError("there is nothing before the settings, which are in force; name a revision to return to")
    if number not in by_number or number == newest.number:
        known = f"0 and {history[-1].number} to {newest.number - 1}" if len(history) > 1 else "0, the settings"
        raise ConfigError(f"there is no revision {number} to return to; there are {known}")
    restored = by_number[number]
    return msgspec.structs.replace(
        restored,
        number=newest.number + 1,
        ts=now_ms(),
        why=why or f"rolled back from {newest.number}",
        figures={},
        forced=False,
        restores=_origin(restored),
    )


def _origin(revision: Revision) -> int:
    """The revision that first said what this one says."""
    return revision.number if revision.restores is None else revision.restores


def _terms_of(revision: Revision) -> Revision:
    """What decides, without when and why."""
    return msgspec.structs.replace(
        revision, number=0, ts=0, why="", figures={}, forced=False, restores=None, arms=dict(revision.arms)
    )


def _table(revisions: Sequence[Revision]) -> Table:
    table = Table("revision", "since", "who gets what", "why", "figures", title="rollout", title_justify="left")
    for revision in revisions:
        notes = [revision.why, *(["forced"] if revision.forced else [])]
        if revision.restores is not None:
            notes.append(f"restores {revision.restores}")
        looked_at = ", ".join(f"{name} {value:.4g}" for name, value in revision.figures.items())
        table.add_row(str(revision.number), _time(revision.ts), described(revision), "; ".join(notes), looked_at)
    return table


def named(revision: Revision) -> str:
    """A revision by its number."""
    return f"revision {revision.number}" if revision.number else "the settings"


def _time(ts: int) -> str:
    return f"{datetime.fromtimestamp(ts / 1000, UTC):%Y-%m-%d %H:%M:%S}Z" if ts else ""


def now_ms() -> int:
    """The wall clock's time."""
    return int(time.time() * 1000)


def say(console: Console, words: str) -> None:
    """Print words as they are."""
    console.print(words, highlight=False, markup=False, soft_wrap=True)
