"""Users moved to more partitions: as if there had been so many all along, whatever dies on the way."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any

import msgspec
import pytest

from streamrec.cli.shared.handover import refuse_checkpoints
from streamrec.codec import decode
from streamrec.config.groups import preset_settings
from streamrec.config.settings import Settings
from streamrec.demo.embedded import EmbeddedRedis
from streamrec.engine.ads.accounts import AdAccounts, unpacked
from streamrec.engine.attribution.attribution import OpenSlate
from streamrec.engine.attribution.open_slates import stored_slates
from streamrec.errors import StaleEpoch, StateError
from streamrec.events import Event, Outcome
from streamrec.state import MOVING, Checkpoint, Key, Kind, Store
from streamrec.state import inspection as inspect
from streamrec.state import rescale as rescale_module
from streamrec.state.memory import MemoryStore
from streamrec.state.merging import merged
from streamrec.state.redis import RedisStore
from streamrec.state.rescale import Rescale, Survey, survey
from streamrec.state.totals import Totals, totals
from streamrec.testing import partition_of, records, recount, shop
from streamrec.transport import Record, TopicIdentity
from streamrec.transport.local import LocalSink, LocalSource
from streamrec.wiring import build_open_slates, build_worker
from streamrec.worker.topic_watch import TopicWatch
from tests.support.oracle import assert_counts_equal_a_recount

LOG = shop(600, seed=4)
HEAD = LOG[:400]
FEW, MANY = 2, 5
HOME, FORMER = partial(partition_of, partitions=MANY), partial(partition_of, partitions=FEW)
TOPIC = {"topic_id": "id", "cluster_id": "cluster", "partitions": str(MANY)}
SETTINGS = Settings.model_validate(
    {
        **preset_settings("fast"),
        "attribution": {"window_s": 600, "lateness_s": 5, "max_open_per_user": 2},
        "checkpoints": {"interval_s": 1e9},
        "limits": {"max_items": 4_096},
    }
)
OWN = ("counts", "first_ts", "last_ts", "recent", "session", "event_ids")
"""What follows from a user's events alone."""


def grown(log: list[Event], at: int) -> list[Record]:
    """A log whose topic had FEW partitions up to an event, and MANY from there on."""
    held = records("user-events", log[:at], FEW)
    ends = [sum(record.partition == partition for record in held) for partition in range(MANY)]
    for record in records("user-events", log[at:], MANY):
        held.append(replace(record, offset=ends[record.partition]))
        ends[record.partition] += 1
    return held


def fold(store: Store, log: list[Record], partitions: int) -> LocalSink:
    """Handle a log to its end; what was published."""
    sink = LocalSink()
    build_worker(SETTINGS, LocalSource("user-events", log, partitions=partitions), sink, store, None).run()
    return sink


def due() -> Any:
    return build_open_slates(SETTINGS, lambda partition, due: None)


def moved(store: Store) -> Rescale:
    run = Rescale(store, HOME, dict.fromkeys(range(MANY), 0))
    run.run(TOPIC, due())
    return run


def with_extras(store: MemoryStore) -> MemoryStore:
    """Accounts of ads on both partitions, and a user who was met on a second one."""
    strayed = next(key for key in store.scan() if key.kind is Kind.USER and key.partition == 0)
    [value] = store.load([strayed])
    user = msgspec.msgpack.decode(value or b"")
    second = {**user, "counts": {"view": 3}, "last_ts": user["last_ts"] + 5, "recent": [], "event_ids": [1]}
    listed = msgspec.msgpack.encode({"newest": 19_701, "ads": ["ad"]})
    extras: Mapping[int, dict[Key, bytes]] = {
        0: {Key(0, Kind.ACCOUNT, "ad"): msgspec.msgpack.encode({19_700: [7, 1]}), Key(0, Kind.ACCOUNT, ""): listed},
        1: {
            Key(1, Kind.ACCOUNT, ""): listed,
            Key(1, Kind.ACCOUNT, "ad"): msgspec.msgpack.encode({19_700: [5, 0], 19_701: [2, 2]}),
            replace(strayed, partition=1): msgspec.msgpack.encode(second),
        },
    }
    for partition, writes in extras.items():
        mark = store.open(partition)
        store.commit(Checkpoint(partition, mark.epoch, mark.watermark or 0, mark.snapshot, writes))
    return store


@pytest.fixture(scope="module")
def handled() -> MemoryStore:
    """What a worker left behind on FEW partitions: a log handled to its end."""
    store = MemoryStore()
    store.known_topic({**TOPIC, "partitions": str(FEW)})
    fold(store, records("user-events", HEAD, FEW), FEW)
    return store


def copied(source: MemoryStore, into: MemoryStore) -> MemoryStore:
    into._values, into._marks, into._topic = dict(source._values), source.marks(), source.known_topic({})
    return into


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest, handled: MemoryStore) -> Iterator[Store]:
    """Either kind, with what was handled in it."""
    if request.param == "memory":
        yield copied(handled, MemoryStore())
        return
    url = request.getfixturevalue("redis_server").url
    there = RedisStore(url, prefix=uuid.uuid4().hex, topic="user-events", ttl_s=600, slate_ttl_s=300)
    there.record_topic(handled.known_topic({}))
    for partition, mark in handled.marks().items():
        epoch = there.open(partition).epoch
        there.commit(Checkpoint(partition, epoch, mark.watermark or 0, mark.snapshot, handled.contents(partition)))
    yield there
    there.close()


def test_each_user_is_as_if_there_had_been_so_many_partitions_all_along(store: Store) -> None:
    before = totals(store)
    assert min(before.users, before.slates, before.open_slates) > 10
    moved(store)
    assert totals(store) == before
    assert survey(store, HOME, FORMER) == Survey(at_home=before.users)
    assert_counts_equal_a_recount(store, HEAD)
    assert {p: mark.sealed for p, mark in store.marks().items()} == dict.fromkeys(range(MANY), False)
    fold(store, grown(LOG, len(HEAD)), MANY)
    assert_counts_equal_a_recount(store, LOG)

    always = MemoryStore()
    fold(always, records("user-events", LOG, MANY), MANY)
    for user_id in recount(LOG).users:
        [(here, one)], [(there, other)] = (each.find(Kind.USER, user_id).items() for each in (store, always))
        assert here == there == HOME(user_id)
        mine, theirs = msgspec.msgpack.decode(one), msgspec.msgpack.decode(other)
        assert {name: mine[name] for name in OWN} == {name: theirs[name] for name in OWN}


def test_new_partitions_begin_with_the_models_that_the_others_have(handled: MemoryStore) -> None:
    store = copied(handled, MemoryStore())
    for partition, reference in enumerate(["0000000007-aa", "0000000009-bb"]):
        mark = store.open(partition)
        store.commit(Checkpoint(partition, mark.epoch, mark.watermark or 0, reference))
    before = store.marks()
    moved(store)
    after = {partition: (mark.watermark, mark.snapshot) for partition, mark in store.marks().items()}
    assert after == {p: (mark.watermark, mark.snapshot) for p, mark in before.items()} | dict.fromkeys(
        range(FEW, MANY), (0, "0000000009-bb")
    )


def test_slates_that_wait_when_users_move_are_judged_once_and_on_time(handled: MemoryStore) -> None:
    store = copied(handled, MemoryStore())
    shown = {slate.rec_id for slate in waiting_slates(store)}
    assert len(shown) == totals(store).open_slates > 10
    moved(store)
    later = [msgspec.structs.replace(event, event_id=None, ts=event.ts + 3_600_000) for event in LOG[len(HEAD) :]]
    everybody = [msgspec.structs.replace(later[-1], user_id=f"last-{n}", ts=later[-1].ts + 900_000) for n in range(60)]
    log = [*HEAD, *later, *everybody]
    judged = rewards(fold(store, grown(log, len(HEAD)), MANY), shown)
    assert not {slate.rec_id for slate in waiting_slates(store)} & shown
    assert any(judged.values())
    assert judged == rewards(fold(copied(handled, MemoryStore()), records("user-events", log, FEW), FEW), shown)


def rewards(sink: LocalSink, shown: Collection[str]) -> dict[str, float]:
    """By outcome, of some slates; no outcome came twice."""
    outcomes = [decode(record.value or b"", record.headers, Outcome) for record in sink.records("outcomes")]
    assert len({outcome.outcome_id for outcome in outcomes}) == len(outcomes)
    return {outcome.outcome_id: outcome.reward for outcome in outcomes if outcome.rec_id in shown}


def waiting_slates(store: MemoryStore) -> list[OpenSlate]:
    keys = [key for key in store.scan() if key.kind is Kind.OPEN]
    return [slate for value in store.load(keys) for slate in stored_slates(value or b"")]


class PowerCut(BaseException):
    """Nothing runs any more."""


class CutStore(MemoryStore):
    """Loses power at one of the calls that change it, before or after it has."""

    def __init__(self, cut_at: float, after: bool) -> None:
        super().__init__()
        self.calls = 0
        self._cut_at, self._after = cut_at, after

    def _struck(self, change: Callable[[], None]) -> None:
        self.calls += 1
        if self.calls == self._cut_at and not self._after:
            raise PowerCut
        change()
        if self.calls == self._cut_at:
            raise PowerCut

    def commit(self, checkpoint: Checkpoint) -> None:
        self._struck(lambda: super(CutStore, self).commit(checkpoint))

    def seal(self, partitions: Collection[int], *, keep: bool = False) -> None:
        self._struck(lambda: super(CutStore, self).seal(partitions, keep=keep))

    def unseal(self, partition: int, watermark: int | None, snapshot: str | None) -> None:
        self._struck(lambda: super(CutStore, self).unseal(partition, watermark, snapshot))

    def record_topic(self, told: Mapping[str, str]) -> None:
        self._struck(lambda: super(CutStore, self).record_topic(told))


def stands(store: MemoryStore) -> dict[int, tuple[int | None, str | None, bool]]:
    return {p: (mark.watermark, mark.snapshot, mark.sealed) for p, mark in store.marks().items()}


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_wherever_it_is_cut_short_no_worker_starts_and_the_next_run_comes_to_the_same_end(
    handled: MemoryStore, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamrec.state.totals.CHUNK", 60)
    state = with_extras(copied(handled, MemoryStore()))
    whole = copied(state, CutStore(float("inf"), after))
    moved(whole)
    assert whole.known_topic({}) == TOPIC
    struck = 0
    for cut_at in count(1):
        store = copied(state, CutStore(cut_at, after))
        with suppress(PowerCut):
            moved(store)
            break
        struck += 1
        if store.known_topic({}) != TOPIC:
            watch = TopicWatch("user-events", lambda limit_s: TopicIdentity("id", "cluster", MANY), store, lambda: 0.0)
            with pytest.raises(StateError, match="rescale --partitions 5"):
                watch.check()
        moved(store)
        assert (store._values, stands(store), store.known_topic({})) == (whole._values, stands(whole), TOPIC)
    assert struck == whole.calls > 40


def test_a_user_met_on_two_partitions_is_put_together_and_no_event_is_lost(handled: MemoryStore) -> None:
    store = with_extras(copied(handled, MemoryStore()))
    strayed = next(key.name for key in store.scan() if key.kind is Kind.USER and len(store.find(*key_of(key))) == 2)
    before, known = totals(store), inspect.user(store, strayed)
    run = moved(store)
    assert run.merged == {Kind.USER: 1}
    after = totals(store)
    assert (after.users, after.user_events) == (before.users - 1, before.user_events)
    assert list(store.find(Kind.USER, strayed)) == [HOME(strayed)]
    again = inspect.user(store, strayed)
    assert known is not None
    assert again is not None
    assert {name: again[name] for name in ("counts", "first_ts", "last_ts")} == {
        name: known[name] for name in ("counts", "first_ts", "last_ts")
    }
    assert moved(store).moved == {}


def key_of(key: Key) -> tuple[Kind, str]:
    return key.kind, key.name


def test_what_was_spent_counts_against_every_partition_s_part_of_the_budget(handled: MemoryStore) -> None:
    store = with_extras(copied(handled, MemoryStore()))
    moved(store)
    assert totals(store).spent == 7 + 1 + 5 + 2 + 2
    spent = {partition: unpacked(value) for partition, value in store.find(Kind.ACCOUNT, "ad").items()}
    assert [spent[partition][19_700] for partition in range(MANY)] == [[2, 0], [2, 0], [2, 0], [3, 0], [3, 1]]
    accounts = AdAccounts()
    for partition in range(MANY):
        accounts.take_over(
            partition, lambda kind, names, at=partition: store.load([Key(at, Kind(kind), n) for n in names])
        )  # type: ignore[misc]
    assert [accounts.spent(partition, "ad", 19_700) for partition in range(MANY)] == [2, 2, 2, 3, 4]
    assert sum(accounts.spent(partition, "ad", 19_701) for partition in range(MANY)) == 4


def test_what_two_partitions_know_of_one_user_is_put_together() -> None:
    small = {
        "counts": {"view": 1, "like": 1},
        "first_ts": 5,
        "last_ts": 90,
        "recent": [["b", "view", 90]],
        "seen": ["b"],
    }
    large = {"counts": {"view": 7}, "first_ts": 10, "last_ts": 80, "recent": [["a", "view", 80]], "seen": ["a"]}
    one, other = (msgspec.msgpack.encode({**user, "event_ids": [user["last_ts"]]}) for user in (small, large))
    assert merged(Kind.USER, one, other) == merged(Kind.USER, other, one)
    assert msgspec.msgpack.decode(merged(Kind.USER, one, other)) == {
        "counts": {"view": 8, "like": 1},
        "first_ts": 5,
        "last_ts": 90,
        "recent": [["b", "view", 90], ["a", "view", 80]],
        "seen": ["a"],
        "event_ids": [80, 90],
    }


def test_what_gets_lost_on_the_way_is_noticed_and_nobody_begins(handled: MemoryStore) -> None:
    class Leaking(MemoryStore):
        def commit(self, checkpoint: Checkpoint) -> None:
            kept = {key: value for key, value in checkpoint.writes.items() if key != lost}
            super().commit(replace(checkpoint, writes=kept))

    leaving = next(key for key in handled.scan() if key.kind is Kind.USER and HOME(key.name) != key.partition)
    lost = replace(leaving, partition=HOME(leaving.name))
    store = copied(handled, Leaking())
    with pytest.raises(StateError, match=r"there were \d+ users, .*; now there are \d+ users, .*stay sealed"):
        moved(store)
    assert all(mark.sealed for mark in store.marks().values())
    assert store.known_topic({})[MOVING] == str(MANY)
    with pytest.raises(StateError, match="something was learned already"):
        refuse_checkpoints(store, "streamrec", fresh=False)  # it is no warm-up that was cut short
    moved(store)  # somebody has read what was said, and goes on with what is there
    assert totals(store).users == totals(handled).users - 1


def test_what_a_warm_up_or_another_move_has_begun_is_not_touched(handled: MemoryStore) -> None:
    store = copied(handled, MemoryStore())
    store.seal([0], keep=True)
    with pytest.raises(StateError, match="finish it with `streamrec warmup`"):
        moved(store)
    store = copied(handled, MemoryStore())
    store.record_topic({MOVING: "7"})
    with pytest.raises(StateError, match="a move to 7 partitions was cut short"):
        moved(store)
    assert dict(store._values) == dict(handled._values)


@pytest.mark.parametrize("fewer", [False, True])
def test_another_topic_may_take_users_and_models_over_with_positions_of_its_own(
    handled: MemoryStore, fewer: bool
) -> None:
    state = with_extras(copied(handled, MemoryStore()))
    before, among = totals(state), 1 if fewer else MANY
    other, starts = {"topic_id": "new", "partitions": str(among)}, dict.fromkeys(range(among), 9)

    def adopt(store: MemoryStore) -> None:
        home = partial(partition_of, partitions=among)
        Rescale(store, home, dict.fromkeys(range(among), 0), (starts, "0000000009-bb")).run(other, due())

    here = dict.fromkeys(range(among), (9, "0000000009-bb", False))
    gone = dict.fromkeys(range(among, FEW), (None, None, False))
    for cut_at in range(1, 30, 3):
        store = copied(state, CutStore(cut_at, after=True))
        with suppress(PowerCut):
            adopt(store)
        store = copied(store, MemoryStore())
        adopt(store)
        after = totals(store)
        assert (after.user_events, after.spent) == (before.user_events, before.spent)
        assert after.open_slates == before.open_slates
        assert stands(store) == here | gone
        assert store.known_topic({}) == other


def test_two_runs_at_once_cannot_both_go_on(redis_server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = uuid.uuid4().hex
    first, second = (
        RedisStore(redis_server.url, prefix=prefix, topic="user-events", ttl_s=600, slate_ttl_s=300) for _ in range(2)
    )
    log = [Event(type="view", user_id=f"u{n}", item_id="i", ts=1_700_000_000_000 + n) for n in range(50)]
    fold(first, records("user-events", log, FEW), FEW)
    again = RedisStore(redis_server.url, prefix=prefix, topic="user-events", ttl_s=600, slate_ttl_s=300)

    def interrupted(*arguments: Any) -> Totals:
        monkeypatch.undo()
        moved(second)
        return totals(again)

    monkeypatch.setattr(rescale_module, "totals", lambda *arguments, **options: interrupted())
    with pytest.raises(StaleEpoch):
        Rescale(again, HOME, dict.fromkeys(range(MANY), 0)).run(TOPIC, due())
    assert totals(again).user_events == 50
    for store in (second, again):
        store.close()
