"""What survives a crash: in this process, cut at every place one can think of, and by workers killed from outside."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from operator import attrgetter
from pathlib import Path

import pytest
import redis
from msgspec import structs

from streamrec.codec import MSGPACK, decode_slate, encode_event
from streamrec.demo.embedded import EmbeddedBroker, EmbeddedRedis
from streamrec.errors import StateError, StateMissing, TooManyBadEvents
from streamrec.events import Event, EventType
from streamrec.state import Checkpoint, Kind, Store
from streamrec.state import inspection as inspect
from streamrec.state.memory import MemoryStore
from streamrec.state.redis import RedisStore
from streamrec.state.snapshots import SnapshotDirectory
from streamrec.testing import STARTED_MS, records, recount, requests, shop
from streamrec.transport import Record
from streamrec.wiring import build_store
from tests.support.deployment import Deployment, until
from tests.support.ground import (
    ATTRIBUTION,
    LONGEST_POLL,
    ROLLOUT,
    TOPIC,
    CutStore,
    Ground,
    PowerCut,
    learned,
    with_bad,
)
from tests.support.oracle import (
    assert_counts_equal_a_recount,
    assert_each_item_shown_has_one_outcome,
    assert_each_request_has_its_answer,
    by_id,
    counted,
    wanted,
)


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    if request.param == "memory":
        yield MemoryStore()
        return
    url = request.getfixturevalue("redis_server").url
    redis_store = RedisStore(url, prefix=uuid.uuid4().hex, topic=TOPIC, ttl_s=600, slate_ttl_s=300)
    yield redis_store
    redis_store.close()


LOG = shop(1_400, seed=3)
outcome_id = attrgetter("outcome_id")


def seeds(quick: int, whole: int) -> list[object]:
    """So many where time is short, and all of them where everything is asked for."""
    return [*range(quick), *(pytest.param(seed, marks=pytest.mark.whole) for seed in range(quick, whole))]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    """The log in one go, everything in memory, one checkpoint at the end."""
    ground = Ground(records(TOPIC, LOG), MemoryStore(), tmp_path_factory.mktemp("snapshots"))
    ground.work(seed=0, checkpoints=0.0)
    return ground


def test_the_shop_gives_the_models_something_to_do(uninterrupted: Ground) -> None:
    assert len(uninterrupted.slates) == len(requests(LOG)) > 250
    assert len(uninterrupted.outcomes) > 100
    assert sum(len(slate.items) for slate in uninterrupted.slates) > 2_000
    assert_counts_equal_a_recount(uninterrupted.store, LOG)


@pytest.mark.parametrize("seed", seeds(2, 3))
def test_how_the_log_is_cut_into_polls_and_checkpoints_changes_nothing(
    uninterrupted: Ground, tmp_path: Path, seed: int
) -> None:
    ground = Ground(uninterrupted.log, MemoryStore(), tmp_path)
    ground.work(seed)
    assert ground.slates == uninterrupted.slates
    assert ground.outcomes == uninterrupted.outcomes


def test_users_that_leave_memory_come_back_as_they_were(
    uninterrupted: Ground, tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamrec.wiring.worker.SLATES_HELD", LONGEST_POLL)
    ground = Ground(uninterrupted.log, store, tmp_path, max_users=LONGEST_POLL)
    ground.work(seed=1)
    assert ground.slates == uninterrupted.slates
    assert ground.outcomes == uninterrupted.outcomes
    assert_counts_equal_a_recount(store, LOG)


@pytest.mark.parametrize("seed", seeds(2, 6))
def test_after_any_crash_the_slates_are_those_of_an_uninterrupted_run(
    uninterrupted: Ground, tmp_path: Path, store: Store, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamrec.wiring.worker.SLATES_HELD", LONGEST_POLL)
    ground = Ground(uninterrupted.log, store, tmp_path, max_users=LONGEST_POLL if seed % 2 else 2_000)
    cuts = sorted(random.Random(seed).sample(range(len(LOG)), 4))
    for attempt, cut in enumerate(cuts):
        with pytest.raises(PowerCut):
            ground.work(10 * seed + attempt, until=lambda offset, cut=cut: offset >= cut)
    worker = ground.work(10 * seed + 9)
    assert by_id(ground.slates) == by_id(uninterrupted.slates)
    assert sorted(ground.outcomes, key=outcome_id) == sorted(uninterrupted.outcomes, key=outcome_id)
    assert_counts_equal_a_recount(store, LOG)
    assert learned(worker) == wanted(LOG)


@pytest.mark.parametrize(
    ("partitions", "moment"),
    [
        (1, "before"),
        (3, "after"),
        pytest.param(1, "after", marks=pytest.mark.whole),
        pytest.param(3, "before", marks=pytest.mark.whole),
    ],
)
def test_a_crash_around_any_commit_loses_nothing_and_doubles_nothing(
    tmp_path: Path, partitions: int, moment: str
) -> None:
    store = CutStore()
    cuts = getattr(store, moment)
    cuts |= {1, 2, 5, 9, 10, 17, 24, 30}
    ground = Ground(records(TOPIC, LOG, partitions), store, tmp_path, partitions)
    worker, crashes = None, 0
    while worker is None:
        try:
            worker = ground.work(seed=crashes, checkpoints=0.4)
        except PowerCut:
            crashes += 1
    assert crashes >= 7
    assert_counts_equal_a_recount(store, LOG)
    assert learned(worker) == wanted(LOG)
    assert_each_request_has_its_answer(ground.slates, LOG)
    assert_each_item_shown_has_one_outcome(ground.outcomes, ground.slates)


def test_marks_that_name_different_snapshots_are_told_apart_by_what_was_learned(tmp_path: Path) -> None:
    store = CutStore()
    ground = Ground(records(TOPIC, LOG, 3), store, tmp_path, 3)
    store.before = {5}  # in the second checkpoint: one partition has it, two have not
    with pytest.raises(PowerCut):
        ground.work(seed=5, checkpoints=0.1)
    marks = store.marks()
    assert len({mark.snapshot for mark in marks.values()}) == 2
    worker = ground.work(seed=6)
    assert learned(worker) == wanted(LOG)
    assert_counts_equal_a_recount(store, LOG)


def test_a_crash_between_the_first_snapshot_and_the_first_commit_starts_afresh(tmp_path: Path) -> None:
    store = CutStore()
    store.before = {1}
    ground = Ground(records(TOPIC, LOG[:300]), store, tmp_path)
    with pytest.raises(PowerCut):
        ground.work(seed=1)
    assert SnapshotDirectory(tmp_path, 3).latest() is not None
    worker = ground.work(seed=2)
    assert learned(worker) == wanted(LOG[:300])
    assert_counts_equal_a_recount(store, LOG[:300])


def test_a_store_that_was_emptied_is_not_mistaken_for_a_fresh_start(tmp_path: Path) -> None:
    Ground(records(TOPIC, LOG[:100]), MemoryStore(), tmp_path).work(seed=1)
    emptied = MemoryStore()
    for _ in range(2):  # the refusal must not leave traces that let the next try pass
        with pytest.raises(StateMissing, match="emptied"):
            Ground(records(TOPIC, LOG[:100]), emptied, tmp_path).work(seed=1)


def test_a_checkpoint_with_nothing_new_writes_nothing(tmp_path: Path) -> None:
    store = CutStore()
    ground = Ground(records(TOPIC, LOG[:100]), store, tmp_path)
    worker = ground.work(seed=1)
    commits, snapshots = store.commits, SnapshotDirectory(tmp_path, 3).references()
    worker.checkpoint()
    assert (store.commits, SnapshotDirectory(tmp_path, 3).references()) == (commits, snapshots)


def test_snapshots_that_marks_of_other_workers_name_are_kept(tmp_path: Path) -> None:
    store = MemoryStore()
    snapshots = SnapshotDirectory(tmp_path, 3)
    theirs = snapshots.save({"models": {}}, {}, "another", now_ms=0)
    mark = store.open(7)
    store.commit(Checkpoint(7, mark.epoch, 1, theirs))
    Ground(records(TOPIC, LOG[:600]), store, tmp_path).work(seed=1, checkpoints=0.5)
    assert theirs in snapshots.references()
    assert len(snapshots.references()) <= 5


def test_the_older_of_two_owners_cannot_write_and_lets_go(tmp_path: Path) -> None:
    store = MemoryStore()
    ground = Ground(records(TOPIC, LOG[:400]), store, tmp_path)
    zombie, source = ground.worker()
    zombie.step(source.poll(40, 0.0))
    zombie.checkpoint()
    owner = ground.work(seed=1)
    zombie.step(source.poll(40, 0.0))
    zombie.checkpoint()
    # Its checkpoint was refused; or it had been held up for so long that it asked before, and tried none.
    assert zombie.metrics.disowned._value.get() == 1
    refused = store.marks()[0].refused
    assert refused <= 1
    assert not source.poll(40, 0.0)
    assert "another owner" in zombie.health.missing()["partitions"]
    zombie.checkpoint()  # of nothing
    assert store.marks()[0].refused == refused
    assert_counts_equal_a_recount(store, LOG[:400])
    assert learned(owner) == wanted(LOG[:400])


def test_a_partition_that_comes_back_is_not_learned_twice(tmp_path: Path) -> None:
    store = MemoryStore()
    ground = Ground(records(TOPIC, LOG[:600]), store, tmp_path)
    worker, source = ground.worker()
    worker.step(source.poll(200, 0.0))
    worker.checkpoint()
    worker.step(source.poll(300, 0.0))
    worker.lost([0])  # nobody else touched it in the meantime
    source.seek({0: worker.assigned([0])[0] or 0})
    worker.step(source.poll(100, 0.0))
    worker.checkpoint()
    ground.work(seed=1)  # after a crash right there
    assert learned(ground.worker()[0]) == 0
    final, source = ground.worker()
    source.poll(0, 0.0)
    assert learned(final) == wanted(LOG[:600])
    assert_counts_equal_a_recount(store, LOG[:600])


def test_events_dated_ahead_of_their_messages_move_no_clock(uninterrupted: Ground, tmp_path: Path) -> None:
    """Whatever decays, paces, limits or closes by time: all of it is as if they were dated as their messages."""

    def ahead(record: Record, event: Event) -> Record:
        return replace(record, value=encode_event(structs.replace(event, ts=event.ts + 200_000), MSGPACK))

    log = [
        ahead(*pair) if n % 10 == 0 else pair[0] for n, pair in enumerate(zip(records(TOPIC, LOG), LOG, strict=True))
    ]
    ground = Ground(log, MemoryStore(), tmp_path)
    worker = ground.work(seed=0, checkpoints=0.0)
    assert ground.slates == uninterrupted.slates
    assert ground.outcomes == uninterrupted.outcomes
    assert worker.metrics.registry.get_sample_value("streamrec_early_events_total") == 140


# A store that forgets


def test_values_that_the_store_lost_stop_the_worker_and_the_next_or_are_counted_as_told(
    redis_server: EmbeddedRedis, tmp_path: Path
) -> None:
    prefix = uuid.uuid4().hex
    ground = Ground(records(TOPIC, LOG[:600]), MemoryStore(), tmp_path)

    def connect() -> RedisStore:
        return RedisStore(redis_server.url, prefix=prefix, topic=TOPIC, ttl_s=600, slate_ttl_s=300)

    with closing(connect()) as ground.store, closing(redis.Redis.from_url(redis_server.url)) as client:
        worker, source = ground.worker()
        worker.step(source.poll(300, 0.0))
        worker.checkpoint()
        users = list(client.scan_iter(f"{prefix}:*:user:*"))
        client.delete(*users[::2])
        worker.step(source.poll(100, 0.0))
        with pytest.raises(StateError, match=rf"no longer holds {len(users[::2])} or more values.*on_gap.*'skip'"):
            worker.checkpoint()
        with pytest.raises(StateError, match="no longer holds"):
            ground.work(seed=1)
        ground.on_gap = "skip"
        tolerant = ground.work(seed=1)
        counted_lost = tolerant.metrics.registry.get_sample_value("streamrec_lost_values_total")
        assert counted_lost == len(users[::2]) > 3
        assert ground.store.marks()[0].watermark == 600


# Unusable messages


@pytest.mark.parametrize("seed", range(3))
def test_crashes_inside_a_run_of_bad_messages_change_no_count(tmp_path: Path, seed: int) -> None:
    log = LOG[:500]
    places = [0, 1, *range(100, 130), 200, *range(300, 340), *range(560, 574)]
    ground = Ground(with_bad(log, places), MemoryStore(), tmp_path)
    for attempt, cut in enumerate([0, 110, 125, 201, 320, 339, 565]):
        with pytest.raises(PowerCut):
            ground.work(10 * seed + attempt, until=lambda offset, cut=cut: offset >= cut, checkpoints=0.5)
    ground.work(10 * seed + 9)
    assert_counts_equal_a_recount(ground.store, log)
    assert {int(dead_letter["offset"]) for dead_letter in ground.dead_letters} == set(places)
    assert {dead_letter["reason"] for dead_letter in ground.dead_letters} == {"malformed"}


def test_nothing_past_a_run_of_only_bad_messages_is_committed(tmp_path: Path) -> None:
    log = LOG[:200]
    ground = Ground(with_bad(log, range(150, 250)), MemoryStore(), tmp_path, max_bad_in_a_row=60)
    for attempt in range(2):
        with pytest.raises(TooManyBadEvents, match="60 messages in a row"):
            ground.work(seed=attempt, checkpoints=1.0)
    assert ground.store.marks()[0].watermark == 150
    patient = Ground(ground.log, ground.store, tmp_path)
    patient.work(seed=1)
    assert_counts_equal_a_recount(ground.store, log)


def test_a_run_of_bad_messages_is_forgotten_with_its_partition(tmp_path: Path) -> None:
    store = MemoryStore()
    ground = Ground(with_bad(LOG[:20], [10, 11]), store, tmp_path)
    worker, source = ground.worker()
    worker.step(source.poll(12, 0.0))
    worker.revoked([0])
    other, theirs = ground.worker()
    other.step(theirs.poll(20, 0.0))
    other.checkpoint()
    worker.assigned([0])
    worker.step([Record(TOPIC, 0, 22, b"k", b"{")])
    worker.checkpoint()
    assert store.marks()[0].watermark == 22


# Crowds


def test_a_user_who_returns_just_as_room_is_made_is_not_lost(tmp_path: Path) -> None:
    def view(user: int, n: int) -> Event:
        return Event(type=EventType.VIEW, user_id=f"u{user}", item_id=f"i{user}", ts=STARTED_MS + n)

    order = [*range(100), *[user for pair in zip(range(100), range(100, 200), strict=True) for user in pair]]
    log = [view(user, n) for n, user in enumerate(order)]
    ground = Ground(records(TOPIC, log), MemoryStore(), tmp_path, max_users=100)
    worker, source = ground.worker()
    for _ in range(3):
        worker.step(source.poll(100, 0.0))
        worker.checkpoint()
    assert_counts_equal_a_recount(ground.store, log)


@pytest.mark.parametrize("seed", range(2))
def test_counts_stay_exact_when_there_are_more_items_than_the_models_can_hold(tmp_path: Path, seed: int) -> None:
    ground = Ground(records(TOPIC, LOG), MemoryStore(), tmp_path, max_users=LONGEST_POLL, max_items=80)
    for cut in (400, 900):
        with pytest.raises(PowerCut):
            ground.work(seed, until=lambda offset, cut=cut: offset >= cut)
    worker = ground.work(seed)
    assert worker.pipeline.features.items.known <= 80 < len(recount(LOG).items)
    assert_counts_equal_a_recount(ground.store, LOG)
    for name in recount(LOG).users:
        known = inspect.user(ground.store, name)
        assert known is not None
        assert all(isinstance(touch["item_id"], str) for touch in known["recent"])


def test_late_and_repeated_events_are_counted_as_what_they_are(tmp_path: Path) -> None:
    def click(user: str, ts: int, event_id: str) -> Event:
        return Event(type=EventType.CLICK, user_id=user, item_id="i", ts=STARTED_MS + ts, event_id=event_id)

    log = [click("a", 5, "1"), click("a", 3, "2"), click("b", 1, "1"), click("a", 5, "1"), click("a", 4, "3")]
    ground = Ground(records(TOPIC, log), MemoryStore(), tmp_path)
    worker, source = ground.worker()
    for _ in range(5):
        worker.step(source.poll(2, 0.0))
    worker.checkpoint()
    metrics = worker.metrics
    assert metrics.late._value.get() == 2
    assert metrics.duplicates._value.get() == 1
    assert counted(ground.store, Kind.USER, ["a", "b"]) == {"a": {"click": 3}, "b": {"click": 1}}


# Killed from outside

AHEAD = 600
"""Events that a worker may handle past the place where it is to be killed."""


@pytest.mark.whole  # tools/test has kills at random points, and at each step, in tests/chaos
@pytest.mark.parametrize(("partitions", "kills", "seed"), [(1, 3, 1), (4, 3, 2)])
def test_a_worker_killed_in_the_middle_of_a_log_resumes_exactly(
    apache_kafka: EmbeddedBroker, redis_server: EmbeddedRedis, tmp_path: Path, partitions: int, kills: int, seed: int
) -> None:
    log = shop(6_000, seed=seed, users=300, items=400)
    groups = {"limits": {"max_items": 2_048}, "attribution": ATTRIBUTION, "rollout": ROLLOUT}
    deployment = Deployment(tmp_path, apache_kafka.settings, redis_server.url, partitions, **groups)
    draw = random.Random(seed)
    at = sorted(draw.sample(range(len(log) * 9 // 10), kills))
    reached, sent = [], 0
    for place in at:
        deployment.send(log[sent : place + AHEAD])  # so that no worker is at the end of the log when it is killed
        sent = place + AHEAD
        with deployment.worker() as worker:
            until(lambda place=place: deployment.committed() >= place, worker)
            time.sleep(draw.random() * 0.5)
            worker.kill()
            reached.append(deployment.committed())
    assert reached[0] < len(log)
    deployment.send(log[sent:])
    with deployment.worker() as worker:
        until(lambda: deployment.committed() == len(log), worker)
        assert worker.stop() == 0

    with closing(build_store(deployment.settings)) as store:
        assert_counts_equal_a_recount(store, log)
    published = deployment.read(deployment.settings.topics.recommendations)
    slates = [decode_slate(record.value or b"", record.headers) for record in published]
    assert_each_request_has_its_answer(slates, log)
    if partitions == 1:
        topic = deployment.settings.topics.events
        whole = Ground(records(topic, log), MemoryStore(), tmp_path / "uninterrupted", topic=topic)
        whole.work(seed=0, checkpoints=0.0)
        assert by_id(slates) == by_id(whole.slates)
