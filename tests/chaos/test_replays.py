"""One log read twice, out of order, or with repeats, and a store emptied: in this process, where all can be seen."""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from streamrec.config.parts import default_models
from streamrec.errors import StateMissing
from streamrec.events import Event, EventType
from streamrec.state import Key
from streamrec.state.memory import MemoryStore
from streamrec.state.snapshots import MANIFEST, SnapshotDirectory
from streamrec.testing import records, shop
from tests.support.ground import ATTRIBUTION, TOPIC, Ground, PowerCut
from tests.support.oracle import assert_counts_equal_a_recount

LOG = shop(900, seed=5)
FAST_MODELS = default_models("fast")
FEW_ITEMS = 5
"""So few that every slate shows all of them: what came of a slate can then be compared, whatever its order."""


def tensors_hash(directory: Path) -> str:
    """Of the newest snapshot's arrays."""
    newest = SnapshotDirectory(directory, 3).latest() or ""
    return str(msgspec.json.decode((directory / newest / MANIFEST).read_bytes())["sha256"])


def values(store: MemoryStore) -> dict[Key, bytes]:
    """Every value of a store."""
    return dict(store._values)


@pytest.mark.parametrize("partitions", [pytest.param(1, marks=pytest.mark.whole), 3])
def test_a_range_of_the_log_replayed_twice_from_one_snapshot_gives_the_same_bytes(
    tmp_path: Path, seed: int, partitions: int
) -> None:
    store, copy = MemoryStore(), MemoryStore()
    ground = Ground(records(TOPIC, LOG, partitions), store, tmp_path / "first", partitions)
    with pytest.raises(PowerCut):
        ground.work(seed, until=lambda offset: offset >= 600 // partitions, checkpoints=0.5)
    ground.sink = None  # what was published is not there for either of them
    again = replace(ground, store=copy, directory=tmp_path / "second", slates=[], outcomes=[])
    copy._values, copy._marks = values(store), store.marks()
    shutil.copytree(ground.directory, again.directory)
    ground.slates.clear()
    ground.outcomes.clear()
    for each in (ground, again):
        each.work(seed + 1, checkpoints=0.0)
    assert len(ground.slates) > 30
    assert (ground.slates, ground.outcomes) == (again.slates, again.outcomes)
    assert tensors_hash(ground.directory) == tensors_hash(again.directory)
    assert values(store) == values(copy)


def repeated(log: Sequence[Event], draw: random.Random, share: float) -> list[Event]:
    """Some events come twice, the second time a few places later."""
    order = [(float(place), event) for place, event in enumerate(log)]
    order += [(place + draw.uniform(0, 20), event) for place, event in order if draw.random() < share]
    return [event for _, event in sorted(order, key=lambda placed: placed[0])]


def delayed(log: Sequence[Event], draw: random.Random, share: float, at_most_ms: float) -> list[Event]:
    """Some events come late; requests do not, for nobody responds to a slate that was not asked for yet."""
    movable = [event.type not in (EventType.REQUEST, EventType.SEARCH) and draw.random() < share for event in log]
    due = [event.ts + draw.uniform(0, at_most_ms) * late for event, late in zip(log, movable, strict=True)]
    return [log[place] for place in sorted(range(len(log)), key=lambda place: (due[place], place))]


def outcomes(ground: Ground) -> dict[tuple[str | None, str], tuple[float, str | None]]:
    """What came of each item shown, by the request that it answered."""
    asked = {slate.rec_id: slate.request_id for slate in ground.slates}
    return {(asked[o.rec_id], o.item_id): (o.reward, o.type) for o in ground.outcomes}


@pytest.mark.parametrize(
    "mess", [*(pytest.param(one, marks=pytest.mark.whole) for one in ("repeats", "delays")), "both"]
)
def test_repeats_and_delays_within_the_bound_change_neither_counts_nor_outcomes(
    tmp_path: Path, seed: int, mess: str
) -> None:
    draw = random.Random(seed)
    made_up = shop(1_400, seed=seed, items=FEW_ITEMS, kinds=2)
    log = [
        msgspec.structs.replace(event, ts=event.ts + place)  # no two at once: which came first must be told by the time
        for place, event in enumerate(made_up)
        if event.type is not EventType.IMPRESSION  # says how far down a slate was seen, which depends on its order
    ]
    known = [
        Event(
            type=EventType.VIEW,
            user_id=f"first-{number}",
            item_id=f"item-{number % FEW_ITEMS}",
            ts=log[0].ts,
            event_id=f"first-{number}",
        )
        for number in range(100)
    ]
    messy: Sequence[Event] = log
    if mess != "repeats":
        messy = delayed(messy, draw, 0.2, 1000 * ATTRIBUTION["lateness_s"])
    if mess != "delays":
        messy = repeated(messy, draw, 0.2)
    assert list(messy) != log
    grounds = {
        name: Ground(records(TOPIC, [*known, *events]), MemoryStore(), tmp_path / name, models=FAST_MODELS)
        for name, events in (("clean", log), ("messy", messy))
    }
    for ground in grounds.values():
        ground.work(seed)
        assert_counts_equal_a_recount(ground.store, [*known, *log])
    clean, beset = outcomes(grounds["clean"]), outcomes(grounds["messy"])
    assert len(clean) > 500
    assert sum(reward > 0 for reward, _ in clean.values()) > 100
    assert beset == clean


def test_a_store_emptied_under_a_running_worker_is_noticed_when_partitions_move(tmp_path: Path) -> None:
    store = MemoryStore()
    ground = Ground(records(TOPIC, LOG[:300], 2), store, tmp_path, 2, models=FAST_MODELS)
    worker, source = ground.worker()
    source.poll(0, 0.0)
    worker.step(source.poll(200, 0.0))
    worker.checkpoint()
    worker.revoked([1])
    store._values.clear()
    store._marks.clear()
    with pytest.raises(StateMissing, match="emptied"):
        worker.assigned([1])
    with pytest.raises(StateMissing, match="emptied"):  # nor does whoever comes next start from nothing
        ground.work(seed=1)
    assert store.marks() == {}
