"""What every store of state promises, as checks that can be run on any: `check_store(make)`."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from streamrec.errors import StaleEpoch, StateError
from streamrec.state import Checkpoint, Key, Kind, PartitionMark, Store
from streamrec.testing.expectations import expect, expect_equal, expect_raised, run_all

ANN, BOB = Key(0, Kind.USER, "ann"), Key(0, Kind.USER, "bob")
CAT = Key(1, Kind.USER, "cat")
ODD_NAMES = ["{}", "}{", "a:b", "user:ann", "mark", "é☃", "\ud800", "x" * 256, " ", "\n", "\x00"]

Steps = Sequence[tuple[int, int, Mapping[tuple[Kind, str], bytes]]]
"""Checkpoints: of which partition, by how much its watermark moves, and what it writes by kind and name (a or b)."""


def a_partition_never_seen_has_no_watermark(store: Store) -> None:
    """It is opened for the first time, under the first epoch."""
    expect_equal(store.open(0), PartitionMark(watermark=None, snapshot=None, epoch=1), "a new partition")


def every_owner_of_a_partition_has_an_epoch_of_its_own(store: Store) -> None:
    """Each `open` raises it."""
    expect_equal([store.open(0).epoch, store.open(0).epoch, store.open(1).epoch], [1, 2, 1], "the epochs")


def values_come_back_in_the_order_of_the_keys(store: Store) -> None:
    """Of one partition or many, None where there is none."""
    store.open(0)
    store.open(1)
    store.commit(Checkpoint(0, 1, 10, None, {ANN: b"a", BOB: b"\x00"}))
    store.commit(Checkpoint(1, 1, 20, None, {CAT: b"\x00\xff"}))
    nobody = Key(1, Kind.USER, "ann")
    loaded = store.load([CAT, ANN, nobody, BOB, CAT])
    expect_equal(loaded, [b"\x00\xff", b"a", None, b"\x00", b"\x00\xff"], "what was loaded")
    expect_equal(store.load([]), [], "what was loaded of no keys")


def the_next_owner_finds_the_mark_of_the_last_checkpoint(store: Store) -> None:
    """Watermark and snapshot, and the values that they stand for."""
    store.open(0)
    store.commit(Checkpoint(0, 1, 10, "0000000001-aa", {ANN: b"old"}))
    store.commit(Checkpoint(0, 1, 12, "0000000002-bb", {ANN: b"new"}))
    expect_equal(store.open(0), PartitionMark(watermark=12, snapshot="0000000002-bb", epoch=2), "the mark")
    expect_equal(store.load([ANN]), [b"new"], "the value")


def an_empty_value_removes_what_was_there(store: Store) -> None:
    """And another one may be written after it."""
    store.open(0)
    store.commit(Checkpoint(0, 1, 10, None, {ANN: b"a", BOB: b"b"}))
    store.commit(Checkpoint(0, 1, 11, None, {ANN: b"", Key(0, Kind.OPEN, "nobody"): b""}))
    expect_equal(store.load([ANN, BOB]), [None, b"b"], "what is left")
    expect_equal(store.find(Kind.USER, "ann"), {}, "what is found")
    store.commit(Checkpoint(0, 1, 12, None, {ANN: b"again"}))
    expect_equal(store.load([ANN]), [b"again"], "what was written again")


def a_checkpoint_without_a_snapshot_clears_the_reference(store: Store) -> None:
    """A mark names the snapshot of the last checkpoint, not of one before."""
    store.open(0)
    store.commit(Checkpoint(0, 1, 0, "0000000001-aa"))
    store.commit(Checkpoint(0, 1, 0, None))
    expect_equal(store.marks(), {0: PartitionMark(watermark=0, snapshot=None, epoch=1)}, "the marks")


def a_zombie_cannot_commit(store: Store) -> None:
    """Who owned the partition before the newest owner is refused, nothing is written, and the refusal is counted."""
    zombie = store.open(0)
    owner = store.open(0)
    store.commit(Checkpoint(0, owner.epoch, 10, "0000000001-aa", {ANN: b"owner"}))
    late = Checkpoint(0, zombie.epoch, 99, "0000000009-zz", {ANN: b"zombie", BOB: b"zombie"})
    expect_raised(StaleEpoch, "owned under epoch 2, this checkpoint came from epoch 1", lambda: store.commit(late))
    expect_equal(store.load([ANN, BOB]), [b"owner", None], "what is stored")
    expect_equal(
        store.marks(), {0: PartitionMark(watermark=10, snapshot="0000000001-aa", epoch=2, refused=1)}, "the marks"
    )
    expect_equal(store.open(0).refused, 1, "what the next owner is told of refusals")


def a_zombie_cannot_commit_before_its_successor_has(store: Store) -> None:
    """The epoch decides, not the watermark."""
    store.open(0)
    store.open(0)
    expect_raised(StaleEpoch, "", lambda: store.commit(Checkpoint(0, 1, 10, None, {ANN: b"zombie"})))
    expect_equal(store.load([ANN]), [None], "what is stored")
    store.commit(Checkpoint(0, 2, 3, None, {ANN: b"owner"}))
    expect_equal(store.load([ANN]), [b"owner"], "what the owner stored")


def where_topics_end_is_noted_for_the_next_owner_by_the_newest_alone(store: Store) -> None:
    """A note outlives checkpoints and owners; a former owner's is passed over."""
    expect_equal(store.open(0).ends, None, "what was noted of a new partition")
    store.note_ends({0: 1, 7: 1}, "at five")
    store.commit(Checkpoint(0, 1, 10, None, {ANN: b"a"}))
    expect_equal(store.open(0), PartitionMark(10, None, 2, ends="at five"), "the mark")
    store.note_ends({0: 1}, "a zombie's")
    expect_equal(store.marks(), {0: PartitionMark(10, None, 2, ends="at five")}, "the marks")
    store.note_ends({0: 2}, "at nine")
    expect_equal(store.open(0).ends, "at nine", "what was noted last")


def a_watermark_never_goes_backwards(store: Store) -> None:
    """Of one owner or the next; it may stay where it is."""
    store.open(0)
    store.commit(Checkpoint(0, 1, 10, None, {ANN: b"ten"}))
    said = "watermark 9, expected at least 10"
    expect_raised(StateError, said, lambda: store.commit(Checkpoint(0, 1, 9, None, {ANN: b"nine"})))
    store.open(0)
    expect_raised(StateError, said, lambda: store.commit(Checkpoint(0, 2, 9, None, {ANN: b"nine"})))
    expect_equal(store.load([ANN]), [b"ten"], "what is stored")
    store.commit(Checkpoint(0, 2, 10, None, {ANN: b"ten again"}))
    expect_equal(store.load([ANN]), [b"ten again"], "what is stored")


def a_watermark_that_cannot_be_compared_is_refused(store: Store) -> None:
    """Below zero, or larger than a double can count."""
    store.open(0)
    for watermark in (-1, 2**53 + 1):
        expect_raised(StateError, "expected an offset", partial(store.commit, Checkpoint(0, 1, watermark, None)))


def the_largest_watermark_is_kept_exactly(store: Store) -> None:
    """To the last bit of a double."""
    store.open(0)
    store.commit(Checkpoint(0, 1, 2**53 - 1, None))
    before = Checkpoint(0, 1, 2**53 - 2, None)
    expect_raised(StateError, "expected at least 9007199254740991", lambda: store.commit(before))
    expect_equal(store.marks()[0].watermark, 2**53 - 1, "the watermark")


def a_partition_must_be_opened_before_it_is_written(store: Store) -> None:
    """By anybody; another partition's owner is none of this."""
    store.open(1)
    unopened = Checkpoint(0, 1, 10, None, {ANN: b"a"})
    expect_raised(StateError, r"call open\(0\)", lambda: store.commit(unopened))
    expect_equal(store.load([ANN]), [None], "what is stored")
    expect_equal(list(store.marks()), [1], "the partitions opened")


def an_epoch_the_store_never_gave_is_refused(store: Store) -> None:
    """It has lost checkpoints that it had confirmed; that is not a newer owner."""
    store.open(0)
    ahead = Checkpoint(0, 7, 10, None, {ANN: b"a"})
    refusal = expect_raised(StateError, "lost checkpoints", lambda: store.commit(ahead))
    expect(not isinstance(refusal, StaleEpoch), "an epoch ahead of the store's is refused as a stale one")
    expect_equal(store.load([ANN]), [None], "what is stored")


def a_checkpoint_cannot_write_to_another_partition(store: Store) -> None:
    """Nothing of it is written then."""
    store.open(0)
    store.open(1)
    straying = Checkpoint(0, 1, 10, None, {ANN: b"a", CAT: b"c"})
    expect_raised(StateError, "its own partition only", lambda: store.commit(straying))
    expect_equal(store.load([ANN, CAT]), [None, None], "what is stored")
    expect_equal(store.marks()[0].watermark, None, "the watermark")


def looking_at_marks_takes_nothing_from_the_owner(store: Store) -> None:
    """`marks` raises no epoch."""
    store.open(5)
    store.open(2)
    for _ in range(2):
        expect_equal(store.marks(), {5: PartitionMark(None, None, 1), 2: PartitionMark(None, None, 1)}, "the marks")
    store.commit(Checkpoint(5, 1, 1, None))


def partitions_that_are_behind_are_heard_of_until_they_have_caught_up(store: Store) -> None:
    """Each by the time of its next record, whoever told it."""
    expect_equal(store.exchange({}), {}, "what is told at first")
    expect_equal(store.exchange({0: 1_000, 1: None}), {0: 1_000}, "what is told then")
    expect_equal(store.exchange({2: 0, 3: 3_000}), {0: 1_000, 2: 0, 3: 3_000}, "what another hears")
    expect_equal(store.exchange({0: 2_000, 2: None}), {0: 2_000, 3: 3_000}, "what is told at last")


def a_name_is_found_on_every_partition_that_knows_it(store: Store) -> None:
    """By kind."""
    for partition in (0, 1, 2):
        store.open(partition)
    for partition in (0, 2):
        store.commit(Checkpoint(partition, 1, 1, None, {Key(partition, Kind.ITEM, "tea"): b"%d" % partition}))
    expect_equal(store.find(Kind.ITEM, "tea"), {0: b"0", 2: b"2"}, "what is found of the item")
    expect_equal(store.find(Kind.USER, "tea"), {}, "what is found of a user of that name")


def odd_names_are_kept_apart(store: Store) -> None:
    """Braces, colons, the store's own words, half a surrogate pair, an empty-looking name."""
    writes = {Key(0, kind, name): f"{kind} {name!r}".encode() for kind in Kind for name in ODD_NAMES}
    store.open(0)
    store.commit(Checkpoint(0, 1, 1, "0000000001-aa", writes))
    expect_equal(store.load(list(writes)), list(writes.values()), "what is stored under odd names")
    expect_equal(store.marks(), {0: PartitionMark(1, "0000000001-aa", 1)}, "the marks")


def every_value_is_found_by_looking_through_all(store: Store) -> None:
    """Of every partition and kind, under whatever name; what was removed is not."""
    writes = {Key(0, kind, name): b"x" for kind in Kind for name in ["", *ODD_NAMES]}
    store.open(0)
    store.open(1)
    store.commit(Checkpoint(0, 1, 1, None, writes))
    store.commit(Checkpoint(1, 1, 1, None, {CAT: b"c"}))
    store.commit(Checkpoint(0, 1, 2, None, {ANN: b"a"}))
    store.commit(Checkpoint(0, 1, 3, None, {ANN: b""}))
    expect_equal(set(store.scan()), {*writes, CAT}, "the keys found")


def what_is_recorded_of_the_topic_stays_until_it_is_recorded_anew(store: Store) -> None:
    """What was lacking is added, what was there is not changed; beside marks and values, which are as they were."""
    expect_equal(store.known_topic({}), {}, "what is known of a topic nobody told of")
    expect_equal(store.known_topic({"partitions": "2"}), {"partitions": "2"}, "what was told")
    both = {"partitions": "2", "topic_id": "é"}
    expect_equal(store.known_topic({"partitions": "5", "topic_id": "é"}), both, "what is recorded")
    store.record_topic({"partitions": "5"})
    expect_equal(store.known_topic({}), {"partitions": "5"}, "what was recorded anew")
    store.record_topic({})
    expect_equal(store.known_topic({}), {}, "what is left of it")
    expect_equal(store.marks(), {}, "the marks")


def a_large_checkpoint_is_written_in_one_piece(store: Store) -> None:
    """Twenty thousand values of 500 bytes."""
    kinds = tuple(Kind)
    writes = {Key(0, kinds[n % 3], f"id-{n}"): n.to_bytes(4, "big") * 125 for n in range(20_000)}
    store.open(0)
    store.commit(Checkpoint(0, 1, 1, None, writes))
    expect(store.load(list(writes)) == list(writes.values()), "of 20,000 values some are missing, or others")


def a_reader_sees_a_checkpoint_whole_or_not_at_all(store: Store) -> None:
    """While another thread writes two values together, they are always equal."""
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
    expect(done.is_set(), "the writing thread was stopped by an error")
    expect_equal(torn, [], "what was read half")


def a_store_holds_what_a_dictionary_would(store: Store) -> None:
    """Under checkpoints drawn at random, a few hundred."""
    for seed in range(25):
        draw = random.Random(seed)
        expect_to_hold(store, [_drawn_step(draw) for _ in range(draw.randrange(9))])


def _drawn_step(draw: random.Random) -> tuple[int, int, dict[tuple[Kind, str], bytes]]:
    names = [(draw.choice(list(Kind)), draw.choice("ab")) for _ in range(draw.randrange(5))]
    return draw.randrange(3), draw.randrange(4), {name: draw.randbytes(draw.randrange(20)) for name in names}


def expect_to_hold(store: Store, steps: Steps) -> None:
    """Check a store beside a dictionary; what earlier steps left in it is overwritten first."""
    expected: dict[Key, bytes] = {}
    marks = {partition: store.open(partition) for partition in range(3)}
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
    expect_equal(store.load(everything), [expected[key] or None for key in everything], "what is stored")
    expect_equal({partition: mark.watermark for partition, mark in store.marks().items()}, at, "the watermarks")


STORE_CHECKS: tuple[Callable[[Store], None], ...] = (
    a_partition_never_seen_has_no_watermark,
    every_owner_of_a_partition_has_an_epoch_of_its_own,
    values_come_back_in_the_order_of_the_keys,
    the_next_owner_finds_the_mark_of_the_last_checkpoint,
    an_empty_value_removes_what_was_there,
    a_checkpoint_without_a_snapshot_clears_the_reference,
    a_zombie_cannot_commit,
    a_zombie_cannot_commit_before_its_successor_has,
    where_topics_end_is_noted_for_the_next_owner_by_the_newest_alone,
    a_watermark_never_goes_backwards,
    a_watermark_that_cannot_be_compared_is_refused,
    the_largest_watermark_is_kept_exactly,
    a_partition_must_be_opened_before_it_is_written,
    an_epoch_the_store_never_gave_is_refused,
    a_checkpoint_cannot_write_to_another_partition,
    looking_at_marks_takes_nothing_from_the_owner,
    partitions_that_are_behind_are_heard_of_until_they_have_caught_up,
    a_name_is_found_on_every_partition_that_knows_it,
    odd_names_are_kept_apart,
    every_value_is_found_by_looking_through_all,
    what_is_recorded_of_the_topic_stays_until_it_is_recorded_anew,
    a_large_checkpoint_is_written_in_one_piece,
    a_reader_sees_a_checkpoint_whole_or_not_at_all,
    a_store_holds_what_a_dictionary_would,
)


def check_store(make: Callable[[], Store]) -> None:
    """Check that a store keeps every promise of `streamrec.state.Store`.

    Args:
        make: opens an empty store, another one each time; the caller closes them.

    Raises:
        AssertionError: it does not; the message says which promise, and what was expected.
    """
    run_all(STORE_CHECKS, make)
