"""Shows what the items topic says of an item. Joins no group and commits nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing

import msgspec
from rich.table import Table
from rich.text import Text

from streamrec.cli.shared.console import PlainConsole
from streamrec.codec import brief, encode
from streamrec.config.settings import Settings
from streamrec.errors import BadEvent, TransportError
from streamrec.events import Item
from streamrec.transport import Record
from streamrec.worker.catalogue_feed import item_of

SHOWN_NUMBERS = 6


def run(settings: Settings, item_id: str, *, as_json: bool) -> None:
    """Print what the topic says of an item.

    Raises:
        TransportError: no broker answers, there is no such topic, or it says nothing of the item.
    """
    from streamrec.transport.positions import TopicReader

    found: list[Record] = []

    def keep(record: Record) -> None:
        if record.key == item_id.encode():
            found[:] = [record]

    with closing(TopicReader(settings.topics.items, settings.kafka)) as topic:
        topic.read_whole(keep)
    if not found or not found[0].value:
        state = "was withdrawn" if found else "is not there"
        raise TransportError(f"item {item_id!r} {state} in topic {settings.topics.items!r}; `streamrec items load`")
    try:
        item = item_of(found[0], settings.limits.max_message_bytes, settings.limits.max_depth)
    except BadEvent as error:
        raise TransportError(f"item {item_id!r}: what the topic says of it cannot be used: {error.detail}") from None
    if as_json:
        print(encode(item).decode())
    else:
        PlainConsole().print(_table(item, found[0]))


def _table(item: Item, record: Record) -> Table:
    table = Table("field", "value", title=f"item, {record.topic}-{record.partition}-{record.offset}")
    for name, value in _rows(item):
        table.add_row(name, Text(value))
    return table


def _rows(item: Item) -> Iterator[tuple[str, str]]:
    for name, value in msgspec.to_builtins(item).items():
        if isinstance(value, Iterable) and not isinstance(value, str):
            parts = [f"{part:.4g}" if isinstance(part, float) else str(part) for part in value]
            more = f" ... ({len(parts)})" if len(parts) > SHOWN_NUMBERS and name == "vector" else ""
            yield name, brief(", ".join(parts[: SHOWN_NUMBERS if more else None]) + more, 1_000)
        else:
            yield name, brief(str(value), 1_000)
