"""What every store promises while partitions are sealed, and what a shared one promises besides."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
import redis

from streamrec.demo.embedded import EmbeddedRedis
from streamrec.errors import StaleEpoch, StateError
from streamrec.state import Checkpoint, Key, Kind, PartitionMark, Store
from streamrec.state.memory import MemoryStore
from streamrec.state.redis import RedisStore

ANN, CAT = Key(0, Kind.USER, "ann"), Key(1, Kind.USER, "cat")
ODD = [Key(0, Kind.ITEM, name) for name in ("mark", ":mark", "}:mark", "*", "[a]", "{t:1}:user:cat", "\ud800")]

Connect = Callable[[], RedisStore]


@pytest.fixture
def connect(redis_server: EmbeddedRedis) -> Iterator[Connect]:
    """Makes stores over the same keys."""
    prefix, stores = uuid.uuid4().hex, []

    def connect() -> RedisStore:
        stores.append(RedisStore(redis_server.url, prefix=prefix, topic="t", ttl_s=600, slate_ttl_s=300))
        return stores[-1]

    yield connect
    for store in stores:
        store.close()


@pytest.fixture(params=["memory", "redis_server", "redis_cluster"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    if request.param == "memory":
        yield MemoryStore()
        return
    url = request.getfixturevalue(request.param).url
    with closing(RedisStore(url, prefix=uuid.uuid4().hex, topic="t", ttl_s=600, slate_ttl_s=300)) as store:
        yield store


def fill(store: Store) -> None:
    """A checkpoint of each of two partitions."""
    store.open(0)
    store.open(1)
    store.commit(Checkpoint(0, 1, 10, "0000000001-aa", {ANN: b"a", **dict.fromkeys(ODD, b"odd")}))
    store.commit(Checkpoint(1, 1, 20, "0000000001-aa", {CAT: b"c"}))


def test_sealing_empties_and_leaves_other_partitions_alone(store: Store) -> None:
    fill(store)
    store.seal([0])
    assert store.load([ANN, *ODD, CAT]) == [None] * (1 + len(ODD)) + [b"c"]
    assert store.marks() == {0: PartitionMark(None, None, 2, sealed=True), 1: PartitionMark(20, "0000000001-aa", 1)}


def test_sealing_can_keep_what_there_is_for_whoever_seals_to_go_on_with(store: Store) -> None:
    fill(store)
    store.seal([0, 1, 2], keep=True)
    assert store.load([ANN, *ODD, CAT]) == [b"a", *[b"odd"] * len(ODD), b"c"]
    assert store.marks()[0] == PartitionMark(10, "0000000001-aa", 2, sealed=True)
    with pytest.raises(StaleEpoch):
        store.commit(Checkpoint(0, 1, 11, None, {ANN: b"late"}))
    epoch = store.open(0).epoch
    store.commit(Checkpoint(0, epoch, 10, "0000000001-aa", {ANN: b"moved"}))
    store.unseal(0, 10, "0000000001-aa")
    assert store.open(0) == PartitionMark(10, "0000000001-aa", epoch + 1, refused=1)
    assert store.load([ANN]) == [b"moved"]


def test_what_is_sealed_and_kept_does_not_expire_for_a_day(redis_server: EmbeddedRedis, connect: Connect) -> None:
    store = connect()
    fill(store)
    store.seal([0], keep=True)
    with closing(redis.Redis.from_url(redis_server.url)) as server:
        keys = [store._keys.value(key) for key in (ANN, *ODD, CAT)]
        assert [server.ttl(key) for key in keys] == pytest.approx([86_400] * (1 + len(ODD)) + [600], abs=20)


def test_a_partition_never_seen_can_be_sealed(store: Store) -> None:
    store.seal([0, 1])
    assert store.marks() == dict.fromkeys((0, 1), PartitionMark(None, None, 1, sealed=True))
    assert store.open(1) == PartitionMark(None, None, 2, sealed=True)


def test_whoever_sealed_a_partition_fills_it_in_many_commits(store: Store) -> None:
    store.seal([0])
    epoch = store.open(0).epoch
    store.commit(Checkpoint(0, epoch, 500, None, {ANN: b"half"}))
    store.commit(Checkpoint(0, epoch, 900, None, {ANN: b"whole"}))
    assert store.marks()[0].sealed
    store.unseal(0, 7, "0000000002-bb")
    assert store.marks()[0] == PartitionMark(7, "0000000002-bb", epoch)
    assert store.open(0) == PartitionMark(7, "0000000002-bb", epoch + 1)
    assert store.load([ANN]) == [b"whole"]


def test_a_partition_unsealed_without_a_watermark_is_as_new(store: Store) -> None:
    fill(store)
    store.seal([0])
    store.unseal(0, None, None)
    mark = store.open(0)
    assert (mark.watermark, mark.snapshot, mark.sealed) == (None, None, False)


def test_what_was_noted_of_where_topics_end_goes_with_the_position_it_was_noted_for(store: Store) -> None:
    fill(store)
    store.note_ends({0: 1, 1: 1}, "at five")
    store.seal([0, 1], keep=True)
    store.unseal(0, 10, None)
    store.unseal(1, 3, None)
    assert [store.open(partition).ends for partition in (0, 1)] == ["at five", None]
    store.seal([0])
    store.unseal(0, None, None)
    assert store.open(0).ends is None


def test_the_former_owner_cannot_commit(store: Store) -> None:
    fill(store)
    store.seal([0])
    with pytest.raises(StaleEpoch):
        store.commit(Checkpoint(0, 1, 11, None, {ANN: b"zombie"}))
    assert store.load([ANN]) == [None]


def test_nobody_else_can_open_what_is_sealed(connect: Connect) -> None:
    ours, theirs = connect(), connect()
    ours.seal([0])
    epoch = ours.open(0).epoch
    for _ in range(2):
        with pytest.raises(StateError, match="partition 0 is sealed"):
            theirs.open(0)
    ours.commit(Checkpoint(0, epoch, 1, None, {ANN: b"a"}))  # being asked has not cost us the partition
    ours.unseal(0, 1, None)
    assert theirs.open(0).watermark == 1


def test_a_seal_outlives_whoever_set_it_and_yields_to_another(connect: Connect) -> None:
    dead, heir = connect(), connect()
    dead.seal([0, 1])
    epoch = dead.open(0).epoch
    dead.commit(Checkpoint(0, epoch, 1, None, {ANN: b"half"}))
    heir.seal([0, 1])
    assert heir.load([ANN]) == [None]
    with pytest.raises(StaleEpoch):
        dead.commit(Checkpoint(0, epoch, 2, None, {ANN: b"late"}))
    with pytest.raises(StaleEpoch, match="sealed by somebody else"):
        dead.unseal(0, 2, None)
    assert heir.marks()[0].sealed
    assert heir.open(0).watermark is None


def test_unsealing_again_changes_nothing(connect: Connect) -> None:
    store = connect()
    store.seal([0])
    store.unseal(0, 5, "0000000001-aa")
    store.unseal(0, 5, "0000000001-aa")  # as after an answer that was lost
    assert store.open(0).watermark == 5


def test_keys_of_other_topics_and_prefixes_are_left_alone(redis_server: EmbeddedRedis) -> None:
    prefix = uuid.uuid4().hex
    stores = [
        RedisStore(redis_server.url, prefix=start, topic=topic, ttl_s=600, slate_ttl_s=300)
        for start, topic in ((prefix, "t"), (prefix, "t2"), (f"{prefix}:t", "t"), (f"x{prefix}", "t"))
    ]
    for store in stores:
        fill(store)
    stores[0].seal([0, 1])
    assert [store.load([ANN, CAT]) for store in stores] == [[None, None], *[[b"a", b"c"]] * 3]
    for store in stores:
        store.close()
