"""Prints what is known of a user, in words or as JSON."""

from __future__ import annotations

import json
from contextlib import closing

from streamrec.cli.shared.console import PlainConsole
from streamrec.cli.shared.not_stored import not_stored
from streamrec.cli.shared.titles import titles_of
from streamrec.codec import brief
from streamrec.config.settings import Settings
from streamrec.errors import StateError
from streamrec.state.inspection import Known
from streamrec.state.user_profile import words
from streamrec.wiring import StoredLookups

MOST_CHARS = 1_500
"""Of a line."""


def run(settings: Settings, user_id: str, *, as_json: bool) -> None:
    """Print a user.

    Raises:
        StateError: the user is unknown, or the store does not answer.
        TableError: the catalogue file cannot be read.
    """
    with closing(StoredLookups(settings)) as lookups:
        known = lookups.user(user_id)
        if known is None:
            raise StateError(not_stored("user", user_id, settings))
        decision = lookups.decision(user_id)
    titles = titles_of(settings, _named(known))
    if as_json:
        print(json.dumps({**known, "titles": titles}, ensure_ascii=False))
        return

    def title(item_id: str) -> str:
        return f"{titles[item_id]} ({item_id})" if item_id in titles else item_id

    console = PlainConsole()
    for line in words(known, decision, title):
        # Ids, categories and titles are what anybody sent: they command no terminal.
        console.print(brief(line, MOST_CHARS), highlight=False, markup=False, soft_wrap=True)


def _named(known: Known) -> set[str]:
    """The items that are named of a user."""
    places = [] if known["slate"] is None else known["slate"]["items"]
    return {touch["item_id"] for touch in known["recent"]} | {place["item_id"] for place in places}
