"""What every store promises, asked of each of them."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamrec.errors import StaleEpoch, StateError
from streamrec.state import Checkpoint, Key, Kind, PartitionMark, Store
from streamrec.state.memory import MemoryStore
from streamrec.state.redis import RedisStore

ANN, BOB = Key(0, Kind.USER, "ann"), Key(0, Kind.USER, "bob")
CAT = Key(1, Kind.USER, "cat")
ODD_NAMES = ["{}", "}{", "a:b", "user:ann", "mark", "é☃", "\ud800", "x" * 256, " ", "\n", "\x00"]


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    if request.param == "memory":
        yield MemoryStore()
        return
    url = request.getfixturevalue("redis_server").url
    redis_store = RedisStore(url, prefix=uuid.uuid4().hex, topic="user-events", ttl_s=600, slate_ttl_s=300)
    yield redis_store
    redis_store.close()


def test_a_partition_never_seen_has_no_watermark(store: Store) -> None:
    assert store.open(0) == PartitionMark(watermark=None, snapshot=None, epoch=1)


def test_every_owner_of_a_partition_has_an_epoch_of_its_own(store: Store) -> None:
    assert [store.open(0).epoch, store.open(0).epoch, store.open(1).epoch] == [1, 2, 1]


def test_values_come_back_in_the_order_of_the_keys(store: Store) -> None:
    store.open(0)
    store.open(1)
    store.commit(Checkpoint(0, 1, 10, None, {ANN: b"a", BOB: b"\x00"}))
    store.commit(Checkpoint(1, 1, 20, None, {CAT: b"\x00\xff"}))
    nobody = Key(1, Kind.USER, "ann")
    assert store.load([CAT, ANN, nobody, BOB, CAT]) == [b"\x00\xff", b"a", None, b"\x00", b"\x00\xff"]
    assert store.load([]) == []


def test_the_next_owner_finds_the_mark_of_the_last_checkpoint(store: Store) -> None:
    store.open(0)
    store.commit(Checkpoint(0, 1, 10, "0000000001-aa", {ANN: b"old"}))
    store.commit(Checkpoint(0, 1, 12, "0000000002-bb", {ANN: b"new"}))
    assert store.open(0) == PartitionMark(watermark=12, snapshot="0000000002-bb", epoch=2)
    assert store.load([ANN]) == [b"new"]


def test_an_empty_value_removes_what_was_there(store: Store) -> None:
    store.open(0)
    store.commit(Checkpoint(0, 1, 10, None, {ANN: b"a", BOB: b"b"}))
    store.commit(Checkpoint(0, 1, 11, None, {ANN: b"", Key(0, Kind.OPEN, "nobody"): b""}))
    assert store.load([ANN, BOB]) == [None, b"b"]
    assert store.find(Kind.USER, "ann") == {}
    store.commit(Checkpoint(0, 1, 12, None, {ANN: b"again"}))
    assert store.load([ANN]) == [b"again"]


def test_a_checkpoint_without_a_snapshot_clears_the_reference(store: Store) -> None:
    store.open(0)
    store.commit(Checkpoint(0, 1, 0, "0000000001-aa"))
    store.commit(Checkpoint(0, 1, 0, None))
    assert store.marks() == {0: PartitionMark(watermark=0, snapshot=None, epoch=1)}


def test_a_zombie_cannot_commit(store: Store) -> None:
    zombie = store.open(0)
    owner = store.open(0)
    store.commit(Checkpoint(0, owner.epoch, 10, "0000000001-aa", {ANN: b"owner"}))
    with pytest.raises(StaleEpoch, match="owned under epoch 2, this checkpoint came from epoch 1"):
        store.commit(Checkpoint(0, zombie.epoch, 99, "0000000009-zz", {ANN: b"zombie", BOB: b"zombie"}))
    assert store.load([ANN, BOB]) == [b"owner", None]
    assert store.marks() == {0: PartitionMark(watermark=10, snapshot="0000000001-aa", epoch=2, refused=1)}
    assert store.open(0).refused == 1  # whoever comes next can tell


def test_a_zombie_cannot_commit_before_its_successor_has(store: Store) -> None:
    store.open(0)
    store.open(0)
    with pytest.raises(StaleEpoch):
        store.commit(Checkpoint(0, 1, 10, None, {ANN: b"zombie"}))
    assert store.load([ANN]) == [None]
    store.commit(Checkpoint(0, 2, 3, None, {ANN: b"owner"}))
    assert store.load([ANN]) == [b"owner"]


def test_a_watermark_never_goes_backwards(store: Store) -> None:
    store.open(0)
    store.commit(Checkpoint(0, 1, 10, None, {ANN: b"ten"}))
    with pytest.raises(StateError, match="watermark 9, expected at least 10"):
        store.commit(Checkpoint(0, 1, 9, None, {ANN: b"nine"}))
    store.open(0)
    with pytest.raises(StateError, match="watermark 9, expected at least 10"):
        store.commit(Checkpoint(0, 2, 9, None, {ANN: b"nine"}))
    assert store.load([ANN]) == [b"ten"]
    store.commit(Checkpoint(0, 2, 10, None, {ANN: b"ten again"}))
    assert store.load([ANN]) == [b"ten again"]


@pytest.mark.parametrize("watermark", [-1, 2**53 + 1])
def test_a_watermark_that_cannot_be_compared_is_refused(store: Store, watermark: int) -> None:
    store.open(0)
    with pytest.raises(StateError, match="expected an offset"):
        store.commit(Checkpoint(0, 1, watermark, None))


def test_the_largest_watermark_is_kept_exactly(store: Store) -> None:
    store.open(0)
    store.commit(Checkpoint(0, 1, 2**53 - 1, None))
    with pytest.raises(StateError, match="expected at least 9007199254740991"):
        store.commit(Checkpoint(0, 1, 2**53 - 2, None))
    assert store.marks()[0].watermark == 2**53 - 1


def test_a_partition_must_be_opened_before_it_is_written(store: Store) -> None:
    store.open(1)
    with pytest.raises(StateError, match=r"call open\(0\)"):
        store.commit(Checkpoint(0, 1, 10, None, {ANN: b"a"}))
    assert store.load([ANN]) == [None]
    assert list(store.marks()) == [1]


def test_an_epoch_the_store_never_gave_is_refused(store: Store) -> None:
    store.open(0)
    with pytest.raises(StateError, match="lost checkpoints") as refusal:
        store.commit(Checkpoint(0, 7, 10, None, {ANN: b"a"}))
    assert not isinstance(refusal.value, StaleEpoch)
    assert store.load([ANN]) == [None]


def test_a_checkpoint_cannot_write_to_another_partition(store: Store) -> None:
    store.open(0)
    store.open(1)
    with pytest.raises(StateError, match="its own partition only"):
        store.commit(Checkpoint(0, 1, 10, None, {ANN: b"a", CAT: b"c"}))
    assert store.load([ANN, CAT]) == [None, None]
    assert store.marks()[0].watermark is None


def test_looking_at_marks_takes_nothing_from_the_owner(store: Store) -> None:
    store.open(5)
    store.open(2)
    assert store.marks() == store.marks() == {5: PartitionMark(None, None, 1), 2: PartitionMark(None, None, 1)}
    store.commit(Checkpoint(5, 1, 1, None))


def test_a_name_is_found_on_every_partition_that_knows_it(store: Store) -> None:
    for partition in (0, 1, 2):
        store.open(partition)
    for partition in (0, 2):
        store.commit(Checkpoint(partition, 1, 1, None, {Key(partition, Kind.ITEM, "tea"): b"%d" % partition}))
    assert store.find(Kind.ITEM, "tea") == {0: b"0", 2: b"2"}
    assert store.find(Kind.USER, "tea") == {}


def test_odd_names_are_kept_apart(store: Store) -> None:
    writes = {Key(0, kind, name): f"{kind} {name!r}".encode() for kind in Kind for name in ODD_NAMES}
    store.open(0)
    store.commit(Checkpoint(0, 1, 1, "0000000001-aa", writes))
    assert store.load(list(writes)) == list(writes.values())
    assert store.marks() == {0: PartitionMark(1, "0000000001-aa", 1)}


def test_a_large_checkpoint_is_written_in_one_piece(store: Store) -> None:
    kinds = tuple(Kind)
    writes = {Key(0, kinds[n % 3], f"id-{n}"): n.to_bytes(4, "big") * 125 for n in range(20_000)}  # 500 bytes each
    store.open(0)
    store.commit(Checkpoint(0, 1, 1, None, writes))
    assert store.load(list(writes)) == list(writes.values())


def test_a_reader_sees_a_checkpoint_whole_or_not_at_all(store: Store) -> None:
    store.open(0)
    store.commit(Checkpoint(0, 1, 0, None, {ANN: b"0", BOB: b"0"}))
    done = threading.Event()

    def write() -> None:
        for n in range(1, 300):
            store.commit(Checkpoint(0, 1, n, None, {ANN: b"%d" % n, BOB: b"%d" % n}))
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    torn = []
    while not done.is_set() and writer.is_alive():
        ann, bob = store.load([ANN, BOB])
        torn += [(ann, bob)] if ann != bob else []
    writer.join()
    assert done.is_set()
    assert torn == []


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(
            st.integers(0, 2),
            st.integers(0, 3),
            st.dictionaries(
                st.tuples(st.sampled_from(Kind), st.sampled_from("ab")), st.binary(max_size=20), max_size=4
            ),
        ),
        max_size=8,
    )
)
def test_a_store_holds_what_a_dictionary_would(
    store: Store, steps: list[tuple[int, int, dict[tuple[Kind, str], bytes]]]
) -> None:
    expected: dict[Key, bytes] = {}
    marks = {partition: store.open(partition) for partition in range(3)}  # what earlier examples left is overwritten
    everything = [Key(partition, kind, name) for partition in marks for kind in Kind for name in "ab"]
    at = {partition: mark.watermark or 0 for partition, mark in marks.items()}
    for partition in marks:
        blank = {key: b"blank" for key in everything if key.partition == partition}
        store.commit(Checkpoint(partition, marks[partition].epoch, at[partition], None, blank))
        expected |= blank
    for partition, ahead, values in steps:
        at[partition] += ahead
        writes = {Key(partition, kind, name): value for (kind, name), value in values.items()}
        store.commit(Checkpoint(partition, marks[partition].epoch, at[partition], f"{at[partition]:010d}-a", writes))
        expected |= writes
    assert store.load(everything) == [expected[key] or None for key in everything]
    assert {partition: mark.watermark for partition, mark in store.marks().items()} == at
