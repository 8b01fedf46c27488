"""Shows the rollout: the revision in force, which workers follow, and those before it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

import msgspec
from rich.table import Table

from streamrec.cli.shared.console import PlainConsole
from streamrec.cli.shared.revisions import described, moment, named, say
from streamrec.config.settings import Settings
from streamrec.engine.rollout.revisions import Revision
from streamrec.wiring import build_rollout_store, settled_revision


def run(settings: Settings, *, as_json: bool) -> None:
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
    console = PlainConsole()
    console.print(_table([*history, settled]))
    current = (history or [settled])[0]
    say(console, f"in force: {named(current)}, {described(current)}")
    if history and _terms_of(current) != _terms_of(settled):
        say(console, f"the settings say otherwise: {described(settled)}; `streamrec rollback 0` goes by them")


def _terms_of(revision: Revision) -> Revision:
    """What decides, without when and why."""
    return msgspec.structs.replace(
        revision, number=0, ts=0, log_ts=None, why="", figures={}, forced=False, restores=None, arms=dict(revision.arms)
    )


def _table(revisions: Sequence[Revision]) -> Table:
    table = Table("revision", "since", "who gets what", "why", "figures", title="rollout", title_justify="left")
    for revision in revisions:
        notes = [revision.why, *(["forced"] if revision.forced else [])]
        if revision.restores is not None:
            notes.append(f"restores {revision.restores}")
        looked_at = ", ".join(f"{name} {value:.4g}" for name, value in revision.figures.items())
        since = moment(revision.ts) if revision.ts else ""
        table.add_row(str(revision.number), since, described(revision), "; ".join(notes), looked_at)
    return table
