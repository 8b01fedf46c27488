"""Prints what was spent on ads in a day, summed over partitions, as the workers' newest checkpoints have it."""

from __future__ import annotations

import json
from contextlib import closing
from datetime import UTC, datetime

import msgspec
from rich.table import Table
from rich.text import Text

from streamrec.cli.shared.console import PlainConsole
from streamrec.codec import brief
from streamrec.config.settings import Settings
from streamrec.engine.ads.accounts import DAY_MS, total, unpacked
from streamrec.engine.items.bids import MILLION
from streamrec.engine.partition_tables import DIRECTORY
from streamrec.errors import StateError
from streamrec.replay.catalogue_file import CatalogueItems, read_catalogue
from streamrec.state import Kind, Store
from streamrec.state.inspection import Known
from streamrec.wiring import build_store

SHOWN = 50


def run(settings: Settings, *, as_json: bool) -> None:
    """Print a row for each ad, what was spent most first; budgets are those of the catalogue file, where one is given.

    Raises:
        StateError: nothing was charged yet, or the store does not answer.
        TableError: the catalogue cannot be read.
    """
    catalogue = CatalogueItems() if settings.items is None else read_catalogue(settings.items, settings.separator)
    with closing(build_store(settings)) as store:
        known = spending(store, catalogue)
    if known is None:
        raise StateError(
            f"no click on an ad was charged yet under prefix {settings.redis.prefix!r}, or none saved: a checkpoint "
            f"comes about {settings.checkpoints.interval_s:g} s later"
        )
    if as_json:
        print(json.dumps(known, ensure_ascii=False))
    else:
        PlainConsole().print(_table(known))


def spending(store: Store, catalogue: CatalogueItems) -> Known | None:
    """What was spent on the newest day that anything was charged, and on which ads; None when nothing ever was.

    An ad of the catalogue without a click is there with 0.
    """
    directories = [msgspec.msgpack.decode(value) for value in store.find(Kind.ACCOUNT, DIRECTORY).values()]
    if not directories:
        return None
    day = max(directory["newest"] for directory in directories)
    offered = [item.item_id for item in catalogue.values() if item.bid is not None]
    names = dict.fromkeys([*offered, *(ad for directory in directories for ad in directory["ads"])])
    rows = []
    for name in names:
        accounts = store.find(Kind.ACCOUNT, name)
        spent = {str(partition): total(unpacked(value), day) / MILLION for partition, value in sorted(accounts.items())}
        item = catalogue.get(name)
        rows.append(
            {
                "item_id": name,
                "bid": None if item is None else item.bid,
                "budget": None if item is None else item.budget,
                "spent": round(sum(spent.values()), 6),
                "by_partition": {partition: amount for partition, amount in spent.items() if amount},
            }
        )
    rows.sort(key=lambda row: (-row["spent"], row["item_id"]))
    return {"day": f"{datetime.fromtimestamp(day * DAY_MS / 1000, UTC):%Y-%m-%d}", "ads": rows}


def _table(known: Known) -> Table:
    more = f", the first {SHOWN} of {len(known['ads']):,}" if len(known["ads"]) > SHOWN else ""
    table = Table("ad", "bid", "budget", "spent", "by partition", title=f"ads, {known['day']}{more}")
    for row in known["ads"][:SHOWN]:
        money = (f"{row[name]:,.2f}" if row[name] is not None else "" for name in ("bid", "budget", "spent"))
        parts = "  ".join(f"{partition}: {amount:,.2f}" for partition, amount in row["by_partition"].items())
        table.add_row(Text(brief(row["item_id"], 100)), *money, parts)
    return table
