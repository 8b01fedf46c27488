"""Prints what is known of a user, in words or as JSON."""

from __future__ import annotations

import json
from contextlib import closing

from streamrec.cli.shared.console import PlainConsole
from streamrec.cli.shared.not_stored import not_stored
from streamrec.cli.shared.titles import titles_of
from streamrec.cli.shared.user_profile import segments, words
from streamrec.codec import brief
from streamrec.config.settings import Settings
from streamrec.engine.rollout.plan import Decision, Plan
from streamrec.errors import ConfigError, StateError
from streamrec.state import inspection as inspect
from streamrec.state.inspection import Known
from streamrec.wiring import build_rollout_store, build_store, settled_revision

MOST_CHARS = 1_500
"""Of a line."""


def run(settings: Settings, user_id: str, *, as_json: bool) -> None:
    """Print a user.

    Raises:
        StateError: the user is unknown, or the store does not answer.
        TableError: the catalogue file cannot be read.
    """
    with closing(build_store(settings)) as store:
        known = inspect.user(store, user_id)
    if known is None:
        raise StateError(not_stored("user", user_id, settings))
    decision = _decision(settings, user_id)
    titles = titles_of(settings, _named(known))
    if as_json:
        answered = None if decision is None else _plain(decision)
        said = {"segments": list(segments(known)), "answered_by": answered, "titles": titles}
        print(json.dumps({**known, **said}, ensure_ascii=False))
        return

    def title(item_id: str) -> str:
        return f"{titles[item_id]} ({item_id})" if item_id in titles else item_id

    console = PlainConsole()
    for line in words(known, decision, title):
        # Ids, categories and titles are what anybody sent: they command no terminal.
        console.print(brief(line, MOST_CHARS), highlight=False, markup=False, soft_wrap=True)


def _decision(settings: Settings, user_id: str) -> Decision | None:
    """Who answers the user, by the rollout in force; None where the settings here fit no rollout."""
    with closing(build_rollout_store(settings)) as rollouts:
        revision = rollouts.latest() or settled_revision(settings)
    try:
        return Plan.of(revision).decide(user_id)
    except ConfigError:
        return None


def _plain(decision: Decision) -> Known:
    return {
        "policy": decision.publish,
        "mode": decision.mode.value,
        "arm": decision.arm,
        "interleaved": None if decision.interleaved is None else list(decision.interleaved),
    }


def _named(known: Known) -> set[str]:
    """The items that are named of a user."""
    places = [] if known["slate"] is None else known["slate"]["items"]
    return {touch["item_id"] for touch in known["recent"]} | {place["item_id"] for place in places}
