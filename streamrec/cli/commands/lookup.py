"""Prints what is known of a user, in words, and of an item, in a table; both also as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table
from rich.text import Text

from streamrec.cli.commands.titles import titles_of
from streamrec.cli.user_profile import segments, words
from streamrec.codec import brief
from streamrec.config.settings import Settings
from streamrec.engine.rollout.plan import Decision, Plan
from streamrec.errors import ConfigError, StateError
from streamrec.state import inspection as inspect
from streamrec.state.inspection import Known
from streamrec.wiring import build_rollout_store, build_store, settled_revision

MOST_CHARS = 1_500
"""Of a line."""


def user(settings: Settings, user_id: str, *, as_json: bool) -> None:
    """Print a user.

    Raises:
        StateError: the user is unknown, or the store does not answer.
        TableError: the catalogue file cannot be read.
    """
    with closing(build_store(settings)) as store:
        known = inspect.user(store, user_id)
    if known is None:
        raise StateError(_unknown("user", user_id, settings))
    decision = _decision(settings, user_id)
    titles = titles_of(settings, _named(known))
    if as_json:
        answered = None if decision is None else _plain(decision)
        said = {"segments": list(segments(known)), "answered_by": answered, "titles": titles}
        print(json.dumps({**known, **said}, ensure_ascii=False))
        return

    def title(item_id: str) -> str:
        return f"{titles[item_id]} ({item_id})" if item_id in titles else item_id

    console = Console()
    for line in words(known, decision, title):
        # Ids, categories and titles are what anybody sent: they command no terminal.
        console.print(brief(line, MOST_CHARS), highlight=False, markup=False, soft_wrap=True)


def item(settings: Settings, item_id: str, *, as_json: bool) -> None:
    """Print an item.

    Raises:
        StateError: the item is unknown, or the store does not answer.
    """
    with closing(build_store(settings)) as store:
        known = inspect.item(store, item_id)
    if known is None:
        raise StateError(_unknown("item", item_id, settings))
    if as_json:
        print(json.dumps(known, ensure_ascii=False))
        return
    console = Console()
    _print_counts(console, f"item {item_id}", known)
    if known["category"] is not None:
        console.print(f"category {brief(known['category'], 300)}", highlight=False, markup=False)
    console.print(_touches("recent users", "user_id", known["recent_users"]))


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


def _unknown(kind: str, name: str, settings: Settings) -> str:
    return (
        f"{kind} {name!r} is unknown under prefix {settings.redis.prefix!r}; a worker must have handled an event of it "
        f"and saved a checkpoint since (about {settings.checkpoints.interval_s:g} s)"
    )


def _print_counts(console: Console, title: str, known: Known) -> None:
    counts = ", ".join(f"{count:,} {kind}" for kind, count in known["counts"].items())
    console.print(f"{title}: {known['events']:,} events ({counts})", highlight=False, markup=False)
    console.print(f"first {_time(known['first_ts'])}, last {_time(known['last_ts'])}", highlight=False)


def _touches(title: str, name: str, touches: list[Known]) -> Table:
    rows = [(touch[name], touch["type"], _time(touch["ts"])) for touch in touches[:20]]
    return _rows(title, (name, "type", "time"), rows)


def _rows(title: str, columns: tuple[str, ...], rows: Sequence[tuple[object, ...]]) -> Table:
    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        # As text: ids and categories are what anybody sent, and a bracket in one is no markup.
        table.add_row(*(Text(f"{cell:.4g}" if isinstance(cell, float) else brief(str(cell), 300)) for cell in row))
    return table


def _time(ts: int) -> str:
    return f"{datetime.fromtimestamp(ts / 1000, UTC):%Y-%m-%d %H:%M:%S}Z"
