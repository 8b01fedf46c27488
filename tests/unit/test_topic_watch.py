"""A worker notices that its topic is another one, or has more partitions, before it reads a record of it."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from streamrec.config.groups import preset_settings
from streamrec.config.settings import Settings
from streamrec.errors import StateError, TransportUnavailable
from streamrec.state import MOVING, Checkpoint, Store
from streamrec.state.memory import MemoryStore
from streamrec.testing import records, shop
from streamrec.transport import TopicIdentity
from streamrec.transport.local import LocalSink, LocalSource
from streamrec.wiring import build_worker
from streamrec.worker.loop import Worker
from streamrec.worker.topic_watch import LOOK_EVERY_S, TopicWatch

TOPIC = TopicIdentity("id-1", "cluster-1", 2)
ANEW, ELSEWHERE = TopicIdentity("id-2", "cluster-1", 2), TopicIdentity("id-1", "cluster-2", 2)
GROWN = TopicIdentity("id-1", "cluster-1", 5)
UNTOLD = TopicIdentity("", "", 2)


class Brokers:
    """Tell what they are made to tell."""

    def __init__(self, identity: TopicIdentity) -> None:
        self.identity = identity
        self.away = False
        self.asked = 0

    def __call__(self, timeout_s: float) -> TopicIdentity:
        self.asked += 1
        if self.away:
            raise TransportUnavailable("nobody answers")
        return self.identity


def begun() -> MemoryStore:
    """A store that holds a position."""
    store = MemoryStore()
    store.open(0)
    store.commit(Checkpoint(0, 1, 700, None))
    return store


def watch(brokers: Brokers, store: Store, clock: Callable[[], float] = lambda: 0.0) -> TopicWatch:
    return TopicWatch("user-events", brokers, store, clock)


def test_state_without_an_identity_adopts_the_topic_that_is_there() -> None:
    store = begun()
    watch(Brokers(TOPIC), store).check()
    assert store.known_topic({}) == {"topic_id": "id-1", "cluster_id": "cluster-1", "partitions": "2"}
    watch(Brokers(TOPIC), store).check()


@pytest.mark.parametrize("other", [ANEW, ELSEWHERE, TopicIdentity("", "", 1)], ids=["anew", "elsewhere", "fewer"])
def test_another_topic_under_the_name_stops_the_worker_each_time_it_starts(other: TopicIdentity) -> None:
    store = begun()
    watch(Brokers(TOPIC), store).check()
    for _ in range(2):
        with pytest.raises(StateError, match=r"'user-events' is not the one whose positions are stored .*recorded"):
            watch(Brokers(other), store).check()


def test_more_partitions_stop_the_worker_with_the_command_that_moves_the_users() -> None:
    store = begun()
    watch(Brokers(TOPIC), store).check()
    with pytest.raises(
        StateError, match=r"has 5 partitions, its users were spread over 2.*`streamrec topics rescale --partitions 5`"
    ):
        watch(Brokers(GROWN), store).check()


def test_where_nobody_has_a_position_a_topic_may_be_made_anew() -> None:
    store = MemoryStore()
    watch(Brokers(TOPIC), store).check()
    store.open(0)
    watch(Brokers(TopicIdentity("id-2", "cluster-1", 5)), store).check()
    assert store.known_topic({}) == {"topic_id": "id-2", "cluster_id": "cluster-1", "partitions": "5"}


def test_but_not_under_a_worker_that_has_begun_and_saved_nothing_yet() -> None:
    brokers = Brokers(TOPIC)
    running = watch(brokers, MemoryStore())
    running.check()
    brokers.identity = ANEW
    with pytest.raises(StateError, match="is not the one"):
        running.check()


def test_what_brokers_do_not_tell_is_not_compared_and_that_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    store, brokers = begun(), Brokers(UNTOLD)
    with caplog.at_level(logging.WARNING):
        running = watch(brokers, store)
        running.check()
        running.check()
    assert [line for line in caplog.messages if "will not be noticed" in line] == caplog.messages[:1]
    watch(Brokers(TopicIdentity("", "", 0)), store).check()
    watch(Brokers(TOPIC), store).check()  # the brokers were upgraded, and tell now
    watch(brokers, store).check()
    with pytest.raises(StateError, match="is not the one"):
        watch(Brokers(ANEW), store).check()


def test_a_running_worker_looks_before_it_saves_and_brokers_that_are_away_are_no_other_topic() -> None:
    now, brokers = [0.0], Brokers(TOPIC)
    running = watch(brokers, begun(), lambda: now[0])
    running.look()
    assert brokers.asked == 0  # nothing is held yet
    running.check()
    for _ in range(40):
        now[0] += LOOK_EVERY_S / 4
        running.look()
    assert brokers.asked == 1 + 10
    brokers.away = True
    now[0] += LOOK_EVERY_S
    running.look()
    brokers.away, brokers.identity = False, GROWN
    running.look()  # asked a moment ago
    now[0] += LOOK_EVERY_S
    with pytest.raises(StateError, match="rescale --partitions 5"):
        running.look()


def test_while_users_are_being_moved_nobody_begins() -> None:
    store = begun()
    store.record_topic({"topic_id": "id-1", "partitions": "2", MOVING: "5"})
    for brokers in (Brokers(TOPIC), Brokers(GROWN)):
        with pytest.raises(StateError, match="rescale --partitions 5`, which goes on where it stopped"):
            watch(brokers, store).check()


def test_a_worker_whose_topic_was_made_anew_reads_and_saves_nothing() -> None:
    store, brokers = MemoryStore(), Brokers(TOPIC)
    settings = Settings.model_validate({**preset_settings("fast"), "checkpoints": {"interval_s": 1e9}})

    log = records("user-events", shop(60, seed=3), 2)

    def worker(read: int) -> Worker:
        source = LocalSource("user-events", log[:read], partitions=2)
        return build_worker(settings, source, LocalSink(), store, None, identity=brokers)

    worker(40).run()
    stands = {partition: mark.watermark for partition, mark in store.marks().items()}
    assert sum(filter(None, stands.values())) == 40
    again, brokers.identity = worker(60), ANEW
    with pytest.raises(StateError, match="is not the one"):
        again.run()
    assert {partition: mark.watermark for partition, mark in store.marks().items()} == stands
    assert again.metrics.events._value.get() == 0


def test_nothing_that_was_read_from_a_topic_made_anew_is_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamrec.worker.topic_watch.LOOK_EVERY_S", 0.0)
    store, brokers = MemoryStore(), Brokers(TOPIC)
    settings = Settings.model_validate({**preset_settings("fast"), "checkpoints": {"interval_s": 1e9}})
    source = LocalSource("user-events", records("user-events", shop(60, seed=3), 2), partitions=2)
    worker = build_worker(settings, source, LocalSink(), store, None, identity=brokers)
    source.subscribe(worker)
    worker.step(source.poll(20, 0.0))
    worker.checkpoint()
    stands = store.marks()
    worker.step(source.poll(20, 0.0))
    brokers.identity = ANEW
    for save in (worker.checkpoint, lambda: worker.revoked([0, 1])):
        with pytest.raises(StateError, match="is not the one"):
            save()
    assert store.marks() == stands
