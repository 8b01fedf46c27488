"""A request has one slate and an item shown one outcome, whoever owned the partition when they were published."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from streamrec.codec import decode_slate, encode
from streamrec.engine.attribution.attribution import FITS_NOTHING, OpenSlate
from streamrec.engine.attribution.open_slates import stored_slates
from streamrec.errors import TransportUnavailable
from streamrec.events import Slate, SlateItem
from streamrec.state import Kind, Store
from streamrec.state.memory import MemoryStore
from streamrec.testing import records, shop
from streamrec.transport import Ends, Record
from streamrec.transport.local import LocalSink
from streamrec.worker.answered import Answered
from streamrec.worker.loop import Worker
from tests.support.ground import TOPIC, Ground
from tests.support.oracle import (
    assert_counts_equal_a_recount,
    assert_each_item_shown_has_one_outcome,
    assert_each_request_has_its_answer,
    by_id,
)

LOG = shop(900, seed=11)
FEW = ("popularity", "covisit")


def ground(directory: Path, partitions: int = 1, **more: Any) -> Ground:
    return Ground(records(TOPIC, LOG, partitions), MemoryStore(), directory, partitions, models=FEW, **more)


def died(there: Ground, *portions: int, saves: int = 0) -> Worker:
    """A worker that handles these portions of the log, saves after the first `saves` of them, and is gone."""
    worker, source = there.worker()
    source.poll(0, 0.0)
    for number, portion in enumerate(portions):
        while portion > 0:
            polled = source.poll(min(portion, 40), 0.0)
            worker.step(polled)
            portion -= len(polled)
        if number < saves:
            worker.checkpoint()
    return worker


def past_the_marks(slates: list[Slate], store: Store) -> list[Slate]:
    """Those that a new owner comes to again."""
    marks = store.marks()
    places = [slate.rec_id.rsplit("-", 2) for slate in slates]
    return [
        slate
        for slate, (_, number, at) in zip(slates, places, strict=True)
        if int(at) >= (marks[int(number)].watermark or 0)
    ]


def before(worker: Worker, what: str) -> float:
    return worker.metrics.registry.get_sample_value("streamrec_published_before_total", {"what": what}) or 0.0


def assert_one_of_each(there: Ground) -> None:
    assert_each_request_has_its_answer(there.slates, LOG)
    assert_each_item_shown_has_one_outcome(there.outcomes, there.slates)
    assert_counts_equal_a_recount(there.store, LOG)


@pytest.mark.parametrize(("partitions", "saves"), [(1, 0), (3, 0), (3, 1)])
def test_what_a_worker_published_before_it_died_is_not_published_again(
    tmp_path: Path, partitions: int, saves: int
) -> None:
    there = ground(tmp_path, partitions)
    died(there, 300, 400, saves=saves)
    again = past_the_marks(there.slates, there.store)
    assert len(again) > 60
    assert there.outcomes
    heir = there.work(seed=1)
    assert before(heir, "slate") == len(again)
    assert before(heir, "outcome") > 0
    assert heir._answered.settled(0)
    assert_one_of_each(there)


def test_an_heir_that_dies_before_it_met_all_of_it_leaves_the_rest_to_the_next(tmp_path: Path) -> None:
    there = ground(tmp_path, 3)
    died(there, 100, 600, saves=1)
    died(there, 150, 100, saves=1)
    left = past_the_marks(there.slates, there.store)
    assert len(left) > 60
    assert before(there.work(seed=1), "slate") == len(left)
    assert_one_of_each(there)


def rewritten(there: Ground, change: Callable[[Slate], Slate]) -> Slate:
    """The last slate that was published, as another worker would have made it."""
    assert there.sink is not None
    kept = there.sink._topics["recommendations"]
    slate = change(decode_slate(kept[-1].value or b"", kept[-1].headers))
    kept[-1] = replace(kept[-1], value=encode(slate))
    there.slates[-1] = slate
    return slate


def open_slate(there: Ground, slate: Slate) -> OpenSlate:
    [value] = there.store.find(Kind.OPEN, slate.user_id).values()
    [waiting] = [one for one in stored_slates(value) if one.rec_id == slate.rec_id]
    return waiting


def test_the_fold_goes_on_from_the_slate_that_was_published_and_learns_from_it(tmp_path: Path) -> None:
    there = ground(tmp_path)
    died(there, 400, 300, saves=1)
    chosen = there.slates[-1]
    shown = rewritten(there, lambda slate: structs.replace(slate, policy="another", items=tuple(reversed(slate.items))))
    heir = died(there, 300, saves=1)
    waiting = open_slate(there, shown)
    assert waiting.items == tuple(item.item_id for item in reversed(chosen.items))
    assert len(set(waiting.items)) > 3
    assert waiting.schema == heir.pipeline.fusion.schema
    assert len(waiting.features) > 0
    assert b"another" in waiting.slate
    there.work(seed=1)
    assert by_id(there.slates)[shown.rec_id] == shown
    assert_one_of_each(there)


def test_nothing_is_learned_from_a_slate_with_an_item_that_is_no_candidate_but_its_outcomes_come(
    tmp_path: Path,
) -> None:
    there = ground(tmp_path)
    died(there, 400, 300, saves=1)
    gone = SlateItem(item_id="long gone", position=1, score=0.0, propensity=0.5, shares={})
    shown = rewritten(there, lambda slate: structs.replace(slate, items=(gone, *slate.items[1:])))
    died(there, 300, saves=1)
    waiting = open_slate(there, shown)
    assert (waiting.schema, waiting.items[0], waiting.traces) == (FITS_NOTHING, "long gone", {})
    there.work(seed=1)
    assert_one_of_each(there)


def test_a_request_that_was_refused_is_answered_once(tmp_path: Path) -> None:
    there = ground(tmp_path)
    ts = LOG[-1].ts
    asked = json.dumps({"type": "request", "user_id": "ann", "ts": ts, "event_id": "e", "scenario": "hoome"}).encode()
    there.log = [*there.log, Record(TOPIC, 0, len(LOG), b"ann", asked, (), ts)]
    died(there, 400, len(LOG) - 399, saves=1)
    heir = there.work(seed=1)
    refused = [slate for slate in there.slates if slate.refused is not None]
    assert [slate.request_id for slate in refused] == ["e"]
    assert heir.metrics.registry.get_sample_value("streamrec_refused_requests_total", {"reason": "invalid"}) is None


def test_messages_of_others_among_the_slates_are_passed_over(tmp_path: Path) -> None:
    there = ground(tmp_path)
    died(there, 300)
    assert there.sink is not None
    slate = there.slates[-1]
    there.sink._on_publish = None
    for value in (b"", None, b"{", b"\xff\x00", b"[]", b'{"rec_id": 7}', b'{"rec_id": "hello"}'):
        there.sink.publish("recommendations", b"k", value)
    there.sink.publish("recommendations", b"k", f'{{"rec_id": "{TOPIC}-0-300"}}'.encode())
    for rec_id in ("other-events-0-299", f"{TOPIC}-7-299", f"{TOPIC}-0-{'9' * 30}"):
        there.sink.publish("recommendations", b"k", encode(structs.replace(slate, rec_id=rec_id)))
    published = len(there.slates)
    heir = there.work(seed=1)
    assert before(heir, "slate") == published


class Tail:
    """One that is away the first time, half way."""

    def __init__(self, held: list[Record]) -> None:
        self.held = held
        self.reads = 0

    def ends(self, wait_s: float = 0.0) -> Ends:
        return {"recommendations": {0: 100}}

    def read(self, starts: Ends, each: Callable[[Record], None]) -> None:
        self.reads += 1
        for record in self.held[: 1 if self.reads == 1 else None]:
            each(record)
        if self.reads == 1:
            raise TransportUnavailable("gone")

    def close(self) -> None: ...


def test_what_was_read_in_part_is_read_again_before_anything_is_handled() -> None:
    held = [Record("recommendations", 0, n, b"k", json.dumps({"rec_id": f"events-{n}-5"}).encode()) for n in range(2)]
    tail = Tail(held)
    answered = Answered(tail, "events", "recommendations", "outcomes")
    for partition in (0, 1):
        answered.take_over(partition, 5, '{"recommendations": {"0": 0}}')
    with pytest.raises(TransportUnavailable):
        answered.look(lambda timeout_s: None)
    answered.look(lambda timeout_s: None)
    answered.look(lambda timeout_s: None)  # all is known
    assert tail.reads == 2
    assert [answered.settled(partition) for partition in (0, 1)] == [False, False]
    answered.settle({0: 6, 1: 5})
    assert [answered.settled(partition) for partition in (0, 1)] == [True, False]


def test_a_worker_whose_partition_has_a_newer_owner_stops_publishing_in_the_middle_of_its_step(tmp_path: Path) -> None:
    there = ground(tmp_path)
    zombie, source = there.worker()
    source.poll(0, 0.0)
    zombie.step(source.poll(200, 0.0))
    zombie.checkpoint()
    published = len(there.slates), len(there.outcomes)
    there.store.open(0)
    zombie._heard_at = float("-inf")  # as after SIGSTOP
    zombie.step(source.poll(300, 0.0))
    assert (len(there.slates), len(there.outcomes)) == published
    assert not zombie._checkpoints.held
    assert "another owner" in zombie.health.missing()["partitions"]
    there.work(seed=1)
    assert_one_of_each(there)


@dataclass
class Waiting(LocalSink):
    """Says what is asked of it."""

    def __post_init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def forget(self) -> None:
        self.calls.append("forget")

    def flush(self, timeout_s: float) -> None:
        self.calls.append("flush")


def test_what_waits_to_be_sent_when_partitions_are_lost_does_not_come_later(tmp_path: Path) -> None:
    there = ground(tmp_path, 2, sink=Waiting())
    worker, source = there.worker()
    source.poll(0, 0.0)
    worker.step(source.poll(50, 0.0))
    assert isinstance(there.sink, Waiting)
    there.sink.calls.clear()
    worker.lost([0])
    worker.lost([1])
    assert there.sink.calls == ["flush", "forget"]


def test_where_topics_end_is_noted_although_nothing_is_new_here(tmp_path: Path) -> None:
    there = ground(tmp_path, 2)
    worker, source = there.worker()
    source.poll(0, 0.0)
    assert there.sink is not None
    for count in (1, 2):
        there.sink.publish("elsewhere", b"k", b"v")  # by another worker
        worker.checkpoint()
        assert {mark.ends for mark in there.store.marks().values()} == {f'{{"elsewhere":{{"0":{count}}}}}'}
    assert all(mark.watermark is None for mark in there.store.marks().values())


def test_a_state_of_before_says_that_it_does_not_know_and_knows_from_then_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = ground(tmp_path)
    died(there, 300, saves=1)
    store = there.store
    assert isinstance(store, MemoryStore)
    store._marks = {p: replace(mark, ends=None) for p, mark in store.marks().items()}
    died(there, 200)
    assert store.marks()[0].ends is not None
    assert before(there.work(seed=1), "slate") > 0
    assert_one_of_each(there)
