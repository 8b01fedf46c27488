"""Updates lead a follower to the very arrays that are served, however they are cut; what is no update is refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from streamrec.config.groups import Learning, Limits
from streamrec.config.parts import models
from streamrec.config.settings import Settings
from streamrec.engine.ads.ads import ADS
from streamrec.engine.arrays.batch import MicroBatch
from streamrec.engine.features import ITEMS, LISTING, UNCERTAINTY
from streamrec.engine.following.changes import LINE, ArrayChange, FollowedArrays, ModelChanges
from streamrec.engine.following.messages import ModelUpdate, UpdateAssembler, decoded, encoded
from streamrec.engine.following.served import Arrays, ChangedRows, Rows, RowStamps, Served
from streamrec.engine.pipeline import Pipeline
from streamrec.errors import StateError, UpdateGap, UpdateRefused
from streamrec.events import Event, EventType, Item
from streamrec.testing.following import Following
from streamrec.wiring import build_pipeline, run_engine

SCHEMA = "v0/models"
BEGAN_MS = 1_700_000_000_000
DTYPES = ("?", "i1", "i4", "f2", "f4", "f8", "u8")
WIDTHS = ((), (3,), (16,), (20,), (64,), (2, 24))


class Tables:
    """A component that serves whatever it is given."""

    def __init__(self, tables: Mapping[str, Rows] | None = None) -> None:
        self.tables = dict(tables or {})

    def served(self) -> dict[str, Rows]:
        return self.tables

    def serve(self, arrays: Arrays, changed: ChangedRows | None = None) -> None:
        self.tables = dict(arrays)


def messages(changes: list[ArrayChange], since: int, max_bytes: int = 900_000) -> list[bytes]:
    return list(encoded(changes, schema=SCHEMA, since=since, version=since + 1, max_bytes=max_bytes))


def same(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    return first.keys() == second.keys() and all(
        first[name] == second[name]
        if isinstance(first[name], list)
        else (first[name].dtype, first[name].shape, first[name].tobytes())
        == (second[name].dtype, second[name].shape, second[name].tobytes())
        for name in first
    )


# Whatever happens to tables

seeds = st.integers(0, 2**32 - 1)


def grown(rng: np.random.Generator, old: Rows | None, fickle: bool) -> Rows:
    """A table that may have grown, shrunk, changed here and there, or become another."""
    if old is None or fickle:
        if rng.random() < 0.3:
            return [str(rng.integers(9)) for _ in range(rng.integers(6))]
        shape = (int(rng.integers(5)), *WIDTHS[rng.integers(len(WIDTHS))])
        return np.zeros(shape, DTYPES[rng.integers(len(DTYPES))])
    size = max(0, len(old) + int(rng.integers(-2, 9)))
    if isinstance(old, list):
        texts = (old + [""] * size)[:size]
        for place in rng.integers(0, max(size, 1), 2).tolist():
            if place < size:
                texts[place] = ["", "ä", "\ud800", "x" * 300][rng.integers(4)]
        return texts
    new = np.zeros((size, *old.shape[1:]), old.dtype)
    new[: len(old)] = old[:size]
    flat = new.reshape(-1)
    if len(flat):
        some = rng.integers(0, len(flat), rng.choice([1, 4, len(flat)]))
        with np.errstate(over="ignore"):
            flat[some] = rng.choice(
                np.array([0, 1, 0]) if new.dtype.kind in "b" else np.array([0, 1, 7, 100]), len(some)
            )
        if new.dtype.kind == "f":
            flat[some[:2]] = rng.choice([np.nan, -0.0, np.inf], len(some[:2]))
    return new


@effort(max_examples=150, deadline=None)
@given(seed=seeds, max_bytes=st.sampled_from([400, 1_500, 900_000]))
def test_what_follows_holds_the_same_bits_however_tables_change_and_messages_are_cut(seed: int, max_bytes: int) -> None:
    rng = np.random.default_rng(seed)
    taught, changes, followed, assembler = Tables(), ModelChanges(), FollowedArrays(), UpdateAssembler(SCHEMA, 0)
    for version in range(5):
        taught.tables = {
            name: grown(rng, taught.tables.get(name), fickle=rng.random() < 0.15)
            for name in ("a", "b", "c")[: 1 + version]
        }
        for message in messages(list(changes.since_last({"tables": taught})), version, max_bytes):
            assert len(message) <= max_bytes + 1_400  # the longest string, written as it may be at the longest
            complete = assembler.take(message)
            if complete is not None:
                followed.apply(complete)
        assert assembler.version == version + 1
        assert same(followed.arrays("tables"), taught.tables)


def test_only_what_changed_travels_and_nothing_where_nothing_did() -> None:
    table = np.zeros((1_000, 256), np.float32)
    taught, changes = Tables({"table": table, "names": ["a"] * 500}), ModelChanges()
    changes.begin({"tables": taught})
    assert list(changes.since_last({"tables": taught})) == []
    table[7, 100], table[7, 101], table[999, 0] = np.nan, -0.0, 1.0
    [change] = changes.since_last({"tables": taught})
    assert change.count == 2  # of LINE elements each
    assert change.places.tolist() == [7 * 256 // LINE + 100 // LINE, 999 * 256 // LINE]  # type: ignore[union-attr]
    assert list(changes.since_last({"tables": taught})) == []  # NaN is itself
    table[:600] += 1.0
    [change] = changes.since_last({"tables": taught})
    assert change.places == slice(0, 1_000 * 256 // LINE)  # more than half: whole


def test_a_snapshot_leads_to_where_its_updates_begin_and_lacks_nothing() -> None:
    taught = Tables({"table": np.arange(12.0).reshape(4, 3), "names": ["x", "y"]})
    changes, followed, follower = ModelChanges(), FollowedArrays(), Tables({"table": np.zeros((0, 3)), "names": []})
    changes.begin({"one": taught})
    state = {"one": {"table": np.arange(12.0).reshape(4, 3), "names.utf8": np.frombuffer(b"xy", np.uint8)}}
    with pytest.raises(StateError, match=r"no one\.names.*another version"):
        followed.take(state, {"one": follower})
    state["one"]["names.ends"] = np.array([1, 2])
    followed.take(state, {"one": follower})
    taught.tables["table"][2, 1] = 5.0  # type: ignore[index]
    changed = followed.apply(list(changes.since_last({"one": taught})))
    assert {name: rows.tolist() for name, rows in changed["one"].items()} == {"table": [2]}
    followed.serve({"one": follower}, changed)
    assert same(follower.tables, taught.tables)


def test_rows_are_touched_since_a_moment_whoever_asks() -> None:
    stamps = RowStamps(4)
    stamps.touch(np.array([1, 3]))
    first, rows = stamps.since(0)
    assert rows.tolist() == [1, 3]
    stamps.touch(slice(0, 1))
    assert stamps.since(first)[1].tolist() == [0]
    assert stamps.since(0)[1].tolist() == [0, 1, 3]
    assert stamps.since(stamps.moment)[1].tolist() == []


# Parts, repeats and gaps


def three_parts(since: int = 5) -> list[bytes]:
    taught = Tables({"table": np.full((30, 16), since, np.float64)})
    parts = messages(list(ModelChanges().since_last({"tables": taught})), since, 1_800)
    assert len(parts) >= 3
    return parts


def test_an_update_counts_when_all_its_parts_came_in_order() -> None:
    parts, assembler = three_parts(), UpdateAssembler(SCHEMA, 5)
    assert [assembler.take(part) for part in (parts[0], parts[1], parts[0], parts[1], parts[1])] == [None] * 5
    assert assembler.version == 5
    rest = [assembler.take(part) for part in parts[2:]]
    assert rest[-1] is not None
    assert sum(change.count for change in rest[-1]) == 30
    assert assembler.version == 6
    assert [assembler.take(part) for part in parts] == [None] * len(parts)  # a repeat says nothing new


def test_whoever_missed_an_update_is_told_so_and_what_is_cut_off_never_counts() -> None:
    assembler = UpdateAssembler(SCHEMA, 5)
    assert [assembler.take(part) for part in three_parts()[1:]] == [None] * (len(three_parts()) - 1)
    with pytest.raises(UpdateGap, match=r"stand at example 5.*follows on 6.*newer snapshot"):
        assembler.take(three_parts(6)[0])
    assert UpdateAssembler(SCHEMA, 9).take(three_parts()[0]) is None  # older than what is held
    with pytest.raises(UpdateRefused, match="of models 'v0/models', expected 'v0/others'"):
        UpdateAssembler("v0/others", 5).take(three_parts()[0])


# What is no update


def refused(**change: Any) -> str:
    """What is said of a piece with something else in it."""
    piece: dict[str, Any] = {
        "component": "one", "name": "table", "dtype": "<f4", "shape": [2, 16], "first": 0, "places": None,
        "values": bytes(128),
    }  # fmt: skip
    message = {"layout": 1, "schema": SCHEMA, "since": 1, "version": 2, "part": 1, "parts": 1}
    message |= {name: value for name, value in change.items() if name in message}
    piece |= {name: value for name, value in change.items() if name not in message}
    with pytest.raises(UpdateRefused) as raised:
        decoded(msgspec.msgpack.encode({**message, "changes": [list(piece.values())]}))
    return str(raised.value)


def test_a_message_that_contradicts_itself_is_refused_in_words() -> None:
    assert "layout 2, expected 1" in refused(layout=2)
    assert "part 3 of 1" in refused(part=3)
    assert "from 9 to 2" in refused(since=9)
    assert "the type '|O', expected" in refused(dtype="|O")
    assert "the type '>f4'" in refused(dtype=">f4")
    assert "no whole places of 64 bytes" in refused(values=bytes(127))
    assert "values up to 3" in refused(first=1)
    assert "beyond them, or out of order" in refused(places=np.array([1, 2], "<u4").tobytes())
    assert "beyond them, or out of order" in refused(places=np.array([1, 1], "<u4").tobytes())
    assert "2 values, and 4 bytes" in refused(places=bytes(4))
    assert "rows of 0 elements" in refused(shape=[2, 0])
    assert "rows of 4,611,686,018,427,387,904" in refused(shape=[0, 2**31, 2**31])
    assert "Expected `int` >= 0" in refused(shape=[-1, 16])
    assert "neither true nor false" in refused(dtype="|b1", shape=[128], values=b"\x02")
    assert "a list of strings" in refused(dtype="str", shape=[2])
    assert "a string that is none" in refused(dtype="str", shape=[1], values=[b"\xff"])


def test_no_update_makes_an_array_larger_than_what_it_carries() -> None:
    followed = FollowedArrays()
    big = ArrayChange("one", "table", "<f8", (2**31, 2), slice(0, 1), np.zeros((1, 16), np.uint8))
    small = ArrayChange("one", "other", "<f8", (1,), slice(0, 1), np.ones((1, 8), np.uint8))
    with pytest.raises(UpdateRefused, match=r"one\.table grows by 2147483648 places, and the update has 1"):
        followed.apply([small, big])
    assert followed.arrays("one") == {}  # none of it was taken over
    other = ArrayChange("one", "other", "<f8", (2,), slice(0, 1), np.ones((1, 8), np.uint8))
    with pytest.raises(UpdateRefused, match="two shapes"):
        followed.apply([small, other])


@effort(max_examples=300, deadline=None)
@given(seed=seeds, cut=st.integers(0, 400), flips=st.integers(0, 4))
def test_hostile_bytes_are_refused_or_harmless(seed: int, cut: int, flips: int) -> None:
    rng = np.random.default_rng(seed)
    taught = Tables({"table": rng.normal(size=(3, 16)), "names": ["a", "b"], "flags": np.ones(5, np.bool_)})
    [message] = messages(list(ModelChanges().since_last({"tables": taught})), 0)
    hostile = bytearray(message)
    for place in rng.integers(0, len(hostile), flips).tolist():
        hostile[place] = int(rng.integers(256))
    if cut < 200:
        del hostile[cut:]
    followed = FollowedArrays()
    with suppress(UpdateRefused):
        followed.apply(UpdateAssembler(SCHEMA, 0).take(bytes(hostile)) or [])
    held = sum(rows.nbytes for rows in followed.arrays("tables").values() if isinstance(rows, np.ndarray))
    assert held <= 2 * len(message)


def test_an_update_without_changes_still_says_where_the_models_stand() -> None:
    [message] = messages([], 3)
    assert decoded(message)[0] == ModelUpdate(schema=SCHEMA, since=3, version=4, part=1, parts=1, changes=[])
    assert UpdateAssembler(SCHEMA, 3).take(message) == []


# The whole of it


def parts_of(pipeline: Pipeline, named: Iterable[str] = ()) -> dict[str, Served]:
    """Every component of a pipeline, the items first."""
    features = pipeline.features
    return {
        ITEMS: features.items,
        LISTING: features.catalogue,
        UNCERTAINTY: features.uncertainty,
        ADS: features.ads,
        **pipeline.rollback.parts(named),
    }


def asked_alike(first: Pipeline, second: Pipeline) -> None:
    """The second ranks the queries that the first one has just ranked, to the same bits."""
    rows = slice(0, first.batch.asked)
    second.batch.queries = first.batch.queries
    second.queries.excluded = first.queries.excluded
    nothing = MicroBatch.empty(1, 1, len(first.models), first.fusion.width)
    for retriever in (*second.retrievers, *second.special, *first.retrievers):
        retriever.learn(nothing)
    for pipeline in (first, second):
        pipeline.rank(rows)
    assert rows.stop >= 5
    for name in ("items", "scores", "utility", "features"):
        one, other = (getattr(pipeline.batch.candidates, name) for pipeline in (first, second))
        one, other = (array[:, rows] if name == "scores" else array[rows] for array in (one, other))
        assert one.tobytes() == other.tobytes(), name
    for part in ("mean", "precision", "particles", "version"):
        one, other = (getattr(pipeline.fusion.posterior, part) for pipeline in (first, second))
        assert (one == other) if part == "version" else one.tobytes() == other.tobytes()
    items = first.batch.candidates.items[rows]
    doubts = [one.features.uncertainty.of(items, first.batch.queries.ts[rows]) for one in (first, second)]
    assert doubts[0].tobytes() == doubts[1].tobytes()
    assert doubts[0].min() < 1.0


def test_a_pipeline_that_serves_ranks_as_the_one_that_learns_also_after_items_made_room() -> None:
    chosen = Settings(
        limits=Limits(max_items=150, max_users=300), learning=Learning(device="cpu", models=tuple(models()))
    )
    said = {
        f"i{n}": Item(item_id=f"i{n}", categories=(f"c{n % 5}",), tags=(f"t{n // 4}",), bid=0.1 if n % 9 == 0 else None,
                      budget=9.0 if n % 9 == 0 else None)
        for n in range(0, 400, 2)
    }  # fmt: skip
    learner = build_pipeline(chosen, said)
    learner.features.catalogue.withdraw("i40")
    del said["i40"]  # nor does the topic tell the server of it any more
    server = build_pipeline(chosen, said, serving=True)
    forgotten: list[int] = []
    clear = server.features.items.on_forgotten

    def forget(lost: np.ndarray) -> None:
        forgotten.extend(lost.tolist())
        clear(lost)

    server.features.items.on_forgotten = forget
    rng, at = np.random.default_rng(3), 0

    def visits(count: int) -> None:
        nonlocal at
        events = []
        for number in range(at, at + count):
            item = int(number // 6 + rng.integers(9))
            kind = EventType.REQUEST if number % 10 == 0 else EventType.VIEW
            said_of = {} if kind is EventType.REQUEST else {"item_id": f"i{item}", "context": {"category": "own"}}
            events.append(Event(type=kind, user_id=f"u{number % 40}", ts=BEGAN_MS + 1_000 * number, **said_of))
        for _ in run_engine(learner, events, first=at):
            pass
        at += count

    visits(250)
    learner.answers.policies.policy("exp3")
    state = learner.state()
    following = Following(lambda: parts_of(learner), lambda: parts_of(server, state))
    following.begin(state)
    asked_alike(learner, server)
    for _ in range(3):
        visits(300)
        following.catch_up()
        asked_alike(learner, server)
        assert server.features.items._index == learner.features.items._index
    assert len(forgotten) > 20
    assert learner.features.items.room < 40


SERVES = """
import sys
import numpy as np
from streamrec.config.settings import Settings
from streamrec.engine.arrays.batch import NOTHING, Candidates, Excluded, Queries
from streamrec.wiring import build_pipeline

pipeline = build_pipeline(Settings(), serving=True)
for part in pipeline.state().values():
    for array in part.values():
        array.tobytes()
queries = Queries.empty(2)
items = np.array([[0, 3, NOTHING]] * 2, np.int32)
for model in pipeline.models:
    assert model.score(queries, slice(0, 2), items).shape == (2, 3), model.name
for retriever in (*pipeline.retrievers, *pipeline.special):
    assert (retriever.candidates(queries, slice(0, 2), 5, Excluded.nothing(2)) == NOTHING).all(), retriever.name
assert "sequence" in [model.name for model in pipeline.models] and pipeline.fusion.residual is not None
pipeline.fusion.residual.score(np.ones((2, 3, pipeline.fusion.plain), np.float32), queries, slice(0, 2))
assert "torch" not in sys.modules
"""


def test_whoever_only_serves_loads_no_torch() -> None:
    done = subprocess.run([sys.executable, "-c", SERVES], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
