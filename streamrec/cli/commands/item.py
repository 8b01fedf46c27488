"""Prints what is known of an item, in a table or as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table
from rich.text import Text

from streamrec.cli.shared.console import PlainConsole
from streamrec.cli.shared.not_stored import not_stored
from streamrec.cli.shared.titles import titles_of
from streamrec.codec import brief
from streamrec.config.settings import Settings
from streamrec.errors import StateError
from streamrec.state.inspection import Known
from streamrec.wiring import StoredLookups


def run(settings: Settings, item_id: str, *, as_json: bool) -> None:
    """Print an item.

    Raises:
        StateError: the item is unknown, or the store does not answer.
    """
    with closing(StoredLookups(settings)) as lookups:
        known = lookups.item(item_id)
    if known is None:
        raise StateError(not_stored("item", item_id, settings))
    if as_json:
        print(json.dumps(known, ensure_ascii=False))
        return
    console = PlainConsole()
    title = titles_of(settings, [item_id]).get(item_id)
    _print_counts(console, f"item {item_id}" + (f", {brief(title, 300)}" if title else ""), known)
    if known["category"] is not None:
        console.print(f"category {brief(known['category'], 300)}", highlight=False, markup=False)
    console.print(_touches("recent users", "user_id", known["recent_users"]))


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
