"""What a worker does while something is away: nothing is lost, nothing is done twice, and it goes on by itself."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from threading import Thread

import msgspec
import pytest

from streamrec.codec import decode_slate
from streamrec.config.groups import preset_settings
from streamrec.config.settings import Settings
from streamrec.errors import PublishDelayed, StaleEpoch, StateError, StateUnavailable
from streamrec.events import Event
from streamrec.state import Checkpoint, Key, Kind
from streamrec.state.memory import MemoryStore
from streamrec.testing import records, recount, requests, shop
from streamrec.transport import Record
from streamrec.transport.local import LocalSink, LocalSource
from streamrec.wiring import build_worker
from streamrec.worker.backpressure import FULL, Brake
from streamrec.worker.health import Health
from streamrec.worker.loop import Worker
from streamrec.worker.metrics import Metrics
from streamrec.worker.retry import Retry
from tests.support.deployment import until

LOG = shop(700, seed=11)
TOPIC = "user-events"


class Moody:
    """Says every now and then that it is away, by draws of its own."""

    def __init__(self, seed: int, share: float) -> None:
        self._draw = random.Random(seed)
        self._share = share
        self.refusals = 0

    def __call__(self) -> bool:
        away = self._draw.random() < self._share
        self.refusals += away
        return away


class MoodyStore(MemoryStore):
    """Is away for single calls, before it does anything or after it has written."""

    def __init__(self, mood: Callable[[], bool]) -> None:
        super().__init__()
        self._mood = mood

    def load(self, keys: Sequence[Key]) -> list[bytes | None]:
        self._show("load")
        return super().load(keys)

    def commit(self, checkpoint: Checkpoint) -> None:
        self._show("commit")
        super().commit(checkpoint)
        self._show("confirm")

    def _show(self, doing: str) -> None:
        if self._mood():
            raise StateUnavailable(f"away: {doing}")


class MoodySink(LocalSink):
    """Does not acknowledge in time every now and then."""

    def __init__(self, mood: Callable[[], bool]) -> None:
        super().__init__()
        self._mood = mood

    def flush(self, timeout_s: float) -> None:
        if self._mood():
            raise PublishDelayed("brokers are away")
        super().flush(timeout_s)


def made(
    log: Sequence[Event], store: MemoryStore, sink: LocalSink, growing: bool = False, **groups: object
) -> tuple[Worker, LocalSource]:
    source = LocalSource(TOPIC, records(TOPIC, log, 2), partitions=2, growing=growing)
    chosen = {**preset_settings("fast"), "checkpoints": {"interval_s": 0.001, "share": 0.5}, **groups}
    settings = Settings.model_validate(chosen)
    return build_worker(settings, source, sink, store, None), source


def user_counts(store: MemoryStore, log: Sequence[Event]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for user_id in recount(log).users:
        (value,) = store.find(Kind.USER, user_id).values()
        found[user_id] = msgspec.msgpack.decode(value)["counts"]
    return found


@pytest.mark.parametrize(("seed", "max_users"), [(0, 2_000), (1, 26), (2, 26), (3, 26)])
def test_store_and_log_that_are_away_now_and_then_change_nothing(
    seed: int, max_users: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamrec.worker.retry.FIRST_WAIT_S", 0.0)
    monkeypatch.setattr("streamrec.worker.loop.POLL_RECORDS", 23)
    mood = Moody(seed, 0.4)
    store, sink = MoodyStore(mood), MoodySink(mood)
    limits, checkpoints = {"max_users": max_users}, {"interval_s": 0.001 if max_users > 26 else 1e9}
    worker, _ = made(LOG, store, sink, limits=limits, checkpoints=checkpoints)
    worker.run()
    steady_store, steady_sink = MemoryStore(), LocalSink()
    made(LOG, steady_store, steady_sink)[0].run()
    assert mood.refusals > 20
    assert worker.metrics.pauses.labels("state")._value.get() > 0
    assert worker.metrics.paused._value.get() == 0
    monkeypatch.setattr(mood, "_share", 0.0)
    assert user_counts(store, LOG) == recount(LOG).users
    published = [sorted(r.value or b"" for r in each.records("recommendations")) for each in (sink, steady_sink)]
    assert published[0] == published[1]
    answered = {decode_slate(r.value or b"", r.headers).request_id for r in sink.records("recommendations")}
    assert answered == {event.event_id for event in requests(LOG)}


def test_a_worker_that_waits_is_not_ready_and_goes_on_by_itself() -> None:
    away = [False]
    store = MoodyStore(lambda: away[0])
    worker, source = made(LOG[:300], store, LocalSink(), growing=True)
    thread = Thread(target=worker.run)
    thread.start()
    until(lambda: worker.metrics.events._value.get() == 300)
    assert worker.health.missing() == {}
    away[0] = True
    source.append(records(TOPIC, LOG, 2)[300:])
    until(lambda: worker.metrics.paused._value.get() == 1)
    assert worker.health.missing()["state"].startswith("away")
    assert worker.metrics.events._value.get() < len(LOG)
    away[0] = False
    source.end()
    thread.join(60)
    assert not thread.is_alive()
    assert worker.health.missing() == {}
    assert user_counts(store, LOG) == recount(LOG).users


def test_a_worker_that_must_stop_while_the_store_is_away_gives_up_in_time() -> None:
    away = [False]
    store = MoodyStore(lambda: away[0])
    worker, _ = made(LOG, store, LocalSink(), growing=True, checkpoints={"handover_s": 0.3, "interval_s": 1e9})
    failed: list[BaseException] = []

    def work() -> None:
        try:
            worker.run()
        except StateUnavailable as error:
            failed.append(error)

    thread = Thread(target=work)
    thread.start()
    until(lambda: worker.metrics.events._value.get() == len(LOG))
    away[0] = True
    worker.stop()
    thread.join(5)
    assert not thread.is_alive()
    assert "away" in str(failed[0])
    assert all(mark.watermark is None for mark in store.marks().values())


def test_partitions_that_leave_while_the_store_is_away_leave_without_a_checkpoint() -> None:
    away = [False]
    store = MoodyStore(lambda: away[0])
    worker, source = made(LOG, store, LocalSink(), checkpoints={"handover_s": 0.2})
    source.subscribe(worker)
    worker.step(source.poll(300, 0.0))
    away[0] = True
    worker.revoked([0, 1])
    assert worker.metrics.unsaved._value.get() == 2
    away[0] = False
    made(LOG, store, LocalSink())[0].run()
    assert user_counts(store, LOG) == recount(LOG).users


def test_a_checkpoint_that_was_cut_short_is_completed_before_anything_else_happens() -> None:
    log = [msgspec.structs.replace(event, event_id=None) for event in LOG]  # what is handled twice counts twice
    away = [False]
    store = MoodyStore(lambda: away[0])
    worker, source = made(log, store, LocalSink())
    source.subscribe(worker)
    for _ in range(2):
        worker.step(source.poll(100, 0.0))
    away[0] = True
    with pytest.raises(StateUnavailable):
        worker.checkpoint()
    away[0] = False
    for _ in range(2):
        worker.step(source.poll(100, 0.0))
    worker.checkpoint()
    made(log, store, LocalSink())[0].run()  # after a crash right here
    assert user_counts(store, log) == recount(log).users


def test_a_store_that_stays_away_in_the_middle_of_a_step_stops_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamrec.worker.loop.INSIST_S", 0.1)
    worker, _ = made(LOG, MoodyStore(lambda: True), LocalSink())
    with pytest.raises(StateError, match="in the middle of a step") as raised:
        worker._load_surely([])
    assert not isinstance(raised.value, StateUnavailable)


def test_a_partition_taken_by_somebody_outside_the_group_stops_the_worker_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("streamrec.worker.loop.DISOWNED_S", 0.2)
    store = MemoryStore()
    worker, source = made(LOG, store, LocalSink())
    source.subscribe(worker)
    for _ in range(2):  # partitions take turns
        worker.step(source.poll(100, 0.0))
    store.open(0)
    worker.checkpoint()
    assert store.marks()[1].watermark is not None  # its neighbour is saved all the same
    source.subscribe = lambda assignee: None  # type: ignore[method-assign]  # go on as the member it is
    with pytest.raises(StaleEpoch, match="partition 0 has been another worker's"):
        worker.run()


class Rebalancing(LocalSource):
    """Takes partition 0 away and gives it back the first time it is polled while it is stopped."""

    assignee: Worker
    took = False

    def poll(self, max_records: int, timeout_s: float) -> Sequence[Record]:
        if self._paused and not self.took:
            self.took = True
            self.assignee.revoked([0])
            starts: Mapping[int, int | None] = self.assignee.assigned([0])
            self.seek({0: starts[0] or 0})
        return super().poll(max_records, timeout_s)


def test_records_read_before_a_partition_left_are_not_handled_after_it_came_back() -> None:
    def away_once() -> bool:
        return worker.metrics.events._value.get() > 100 and not source.took

    store = MoodyStore(away_once)
    source = Rebalancing(TOPIC, records(TOPIC, LOG, 2), partitions=2)
    settings = Settings.model_validate({**preset_settings("fast"), "checkpoints": {"handover_s": 0.1}})
    worker = source.assignee = build_worker(settings, source, LocalSink(), store, None)
    worker._poll_records = 40
    worker.run()
    assert source.took
    assert user_counts(store, LOG) == recount(LOG).users


# The brake


class Stopped(LocalSource):
    """Writes down when it is stopped and let go."""

    def __init__(self) -> None:
        super().__init__(TOPIC, [])
        self.heard: list[str] = []

    def pause(self) -> None:
        self.heard.append("pause")

    def resume(self) -> None:
        self.heard.append("resume")


def test_a_queue_between_high_and_low_changes_nothing() -> None:
    source = Stopped()
    brake = Brake(source, Metrics(["fused"]))
    for fullness in (0.2, 0.49, 0.5, 0.6, 0.3, 0.49, 0.11, 0.1, 0.3, 0.45, 0.7, 0.05):
        brake.watch(fullness)
    assert source.heard == ["pause", "resume", "pause", "resume"]


def test_reading_goes_on_when_the_last_reason_has_passed() -> None:
    source = Stopped()
    brake = Brake(source, Metrics(["fused"]))
    brake.press("state", "away")
    brake.watch(1.0)
    brake.release("state")
    assert brake.on
    assert source.heard == ["pause", "pause"]
    brake.release(FULL)
    assert not brake.on
    assert source.heard[-1] == "resume"


def test_what_cannot_heal_is_not_waited_for() -> None:
    source = Stopped()
    patience = Retry(source, Brake(source, Metrics(["fused"])), Health(), lambda: 0.0)

    def broken() -> None:
        raise StateError("lost")

    with pytest.raises(StateError, match="lost"):
        patience.endure(broken)
    assert source.heard == []
