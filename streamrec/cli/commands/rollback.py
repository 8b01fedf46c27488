"""Returns to an earlier revision of the rollout, which workers follow."""

from __future__ import annotations

from contextlib import closing

import msgspec

from streamrec.cli.shared.console import PlainConsole
from streamrec.cli.shared.revisions import described, named, say, written_now
from streamrec.config.settings import Settings
from streamrec.engine.rollout.revisions import Revision, RolloutStore
from streamrec.errors import ConfigError
from streamrec.wiring import build_plan, build_rollout_store, settled_revision


def run(settings: Settings, number: int | None, *, why: str, as_json: bool) -> None:
    """Return to an earlier revision at once; without a number, to the one before.

    Raises:
        ConfigError: there is no such revision.
        StateError: Redis does not answer, or somebody else changed the rollout meanwhile.
    """
    with closing(build_rollout_store(settings)) as rollouts:
        following = _restoring(rollouts, settings, number, why)
        build_plan(settings, following)  # before anything is written
        rollouts.append(following)
    if as_json:
        print(msgspec.json.encode({"revision": following}).decode())
        return
    say(
        PlainConsole(),
        f"{named(following)}: back to {following.restores}, {described(following)}; workers follow at their next "
        "checkpoint",
    )


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
        **written_now(settings),
        why=why or f"rolled back from {newest.number}",
        figures={},
        forced=False,
        restores=_origin(restored),
    )


def _origin(revision: Revision) -> int:
    """The revision that first said what this one says."""
    return revision.number if revision.restores is None else revision.restores
