"""What every table that a partition owns promises, asked of each of a worker's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from streamrec.config.parts import BASELINE
from streamrec.config.settings import Settings
from streamrec.engine.ads import accounts
from streamrec.engine.ads.accounts import Due
from streamrec.engine.attribution.attribution import ServedSlate
from streamrec.engine.partition_tables import NOTHING_LEFT, Changes, PartitionTable
from streamrec.events import Event, EventType, Slate, SlateItem
from streamrec.state import Kind
from streamrec.state.memory import MemoryStore
from streamrec.transport.local import LocalSink, LocalSource
from streamrec.wiring import build_worker
from streamrec.wiring import worker as wiring_worker

ROOM = 8
NOW = 1_700_000_000_000


def visit(name: str) -> Event:
    return Event(type=EventType.VIEW, user_id=name, item_id=name, ts=NOW)


def show(table: Any, partition: int, name: str) -> None:
    place = SlateItem(item_id="a", position=1, score=1.0, propensity=0.5, shares={})
    slate = Slate(
        rec_id=f"{partition}-{name}", user_id=name, ts=NOW, items=(place,), policy="p", version="1", candidates=9
    )
    table.shown(partition, slate, ServedSlate(0, 7, np.zeros((1, 2), np.float32), {}))


CHANGE: dict[str, Callable[[Any, int, str], object]] = {
    "user": lambda table, partition, name: table.touch((partition, name)),
    "item": lambda table, partition, name: table.count(partition, visit(name), "lamps"),
    "open": show,
    "account": lambda table, partition, name: table.charge(partition, Due(name, NOW, 5, 100)),
}
"""What happens to an entry that is in memory, by kind of table."""


@pytest.fixture(autouse=True)
def little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "MAX_ACCOUNTS", ROOM)
    monkeypatch.setattr(wiring_worker, "SLATES_HELD", ROOM)


def tables() -> dict[str, PartitionTable]:
    settings = Settings.model_validate({"limits": {"max_users": ROOM}, "learning": {"models": [BASELINE]}})
    source = LocalSource("user-events", [], partitions=2)
    worker = build_worker(settings, source, LocalSink(), MemoryStore(), None)
    return {table.kind: table for table in worker._checkpoints.tables}


@pytest.fixture(params=CHANGE)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def table(kind: str) -> PartitionTable:
    return tables()[kind]


def meet(table: PartitionTable, *names: str, partition: int = 0, stored: Changes | None = None) -> list[str]:
    """Bring entries into memory; returns those that had to be loaded."""
    lacking = table.missing([(partition, name) for name in names])
    table.admit(lacking, [(stored or {}).get((table.kind, name)) for _, name in lacking], NOW)
    return [name for _, name in lacking]


def change(table: PartitionTable, *names: str, partition: int = 0) -> None:
    for name in names:
        meet(table, name, partition=partition)
        CHANGE[table.kind](table, partition, name)


def loads(stored: Changes) -> Callable[[str, Sequence[str]], list[bytes | None]]:
    return lambda kind, names: [stored.get((kind, name)) for name in names]


def test_every_table_of_a_worker_is_asked() -> None:
    assert set(tables()) == set(CHANGE)


def test_an_entry_is_in_memory_once_it_was_met(table: PartitionTable) -> None:
    met = meet(table, "a", "b")
    assert met in (["a", "b"], [])  # nothing is missing where a partition is loaded whole
    assert table.missing([(0, "a"), (0, "b"), (0, "a")]) == []
    assert table.missing([(1, "a")]) == ([(1, "a")] if met else [])
    assert (table.key(visit("a")) is not None) is bool(met)


def test_what_changed_is_handed_over_once_and_only_with_its_partition(table: PartitionTable) -> None:
    change(table, "a", "b")
    meet(table, "c")
    change(table, "a", partition=1)
    assert table.changed == 3
    saved = table.take_changes(0)
    assert {name for kind, name in saved if kind == table.kind and name} == {"a", "b"}
    assert all(Kind(kind) and value != NOTHING_LEFT for (kind, _), value in saved.items())
    assert table.changed == 1
    assert table.take_changes(0) == {}
    assert (table.kind, "a") in table.take_changes(1)


def test_a_dropped_partition_is_forgotten_unsaved_and_no_other(table: PartitionTable) -> None:
    change(table, "a")
    change(table, "a", partition=1)
    table.drop([0])
    assert table.changed == 1
    assert table.take_changes(0) == {}
    assert table.missing([(0, "a"), (1, "a")]) in ([(0, "a")], [])
    change(table, "b", partition=0)
    assert (table.kind, "a") not in table.take_changes(0)


def test_an_entry_comes_back_from_the_store_as_it_was(kind: str) -> None:
    first, second = tables()[kind], tables()[kind]
    change(first, "a", "b", "a")
    stored = first.take_changes(0)
    first.drop([0])
    for heir in (first, second):
        heir.take_over(0, loads(stored))
        meet(heir, "a", "b", stored=stored)
        assert heir.take_changes(0) == {}
        change(heir, "a")
    assert first.take_changes(0) == second.take_changes(0)
    # As if it had never left.
    stayed, left = tables()[kind], tables()[kind]
    change(stayed, "a", "b", "a", "a")
    change(left, "a", "b", "a")
    stored = left.take_changes(0)
    left.drop([0])
    left.take_over(0, loads(stored))
    meet(left, "a", stored=stored)
    change(left, "a")
    assert left.take_changes(0)[kind, "a"] == stayed.take_changes(0)[kind, "a"]


def test_memory_is_bounded_and_what_changed_or_was_asked_for_last_stays(table: PartitionTable) -> None:
    stored: Changes = {}
    meet(table, "first")
    CHANGE[table.kind](table, 0, "first")
    for number in range(5 * ROOM):
        names = [f"n{number}", f"n{number + 1}"]
        if table.crowded(len(names)):
            stored |= table.take_changes(0)
        else:
            assert table.missing([(0, "first")]) == [] or (table.kind, "first") in stored
        meet(table, *names, stored=stored)
        assert table.missing([(0, name) for name in names]) == []
        CHANGE[table.kind](table, 0, names[0])
        assert entries(table) <= ROOM
    assert table.crowded(ROOM) or table.key(visit("a")) is None


def entries(table: Any) -> int:
    """How many are in memory."""
    return len(table.partitions[0].entries) if hasattr(table, "partitions") else len(table)
