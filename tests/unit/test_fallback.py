"""A worker begins with the newest snapshot that can be used, says what that costs, and never learns a thing twice."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Sequence
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamrec.config.groups import Checkpointing, FusionSettings, Learning, Limits
from streamrec.config.parts import default_models
from streamrec.config.settings import Settings
from streamrec.engine.learning.quarantine import PROBATION
from streamrec.errors import SnapshotCorrupt, StateError, StateMissing
from streamrec.events import EventType
from streamrec.state import PartitionMark, SavedSnapshot
from streamrec.state.memory import MemoryStore
from streamrec.state.snapshots import MANIFEST, TENSORS, SnapshotDirectory
from streamrec.testing import records, shop
from streamrec.transport.local import LocalSink, LocalSource
from streamrec.wiring import build_worker
from streamrec.worker.loop import Worker
from streamrec.worker.recovery import begin, good_ones, last_good, restore

LOG = shop(600, seed=5)
KEPT = 4
WANTED = {EventType.VIEW, EventType.CLICK, EventType.ADD_TO_CART, EventType.PURCHASE, EventType.LIKE}


class Ground:
    """A store and a shelf, and workers on the same log one after the other."""

    def __init__(self, directory: Path) -> None:
        self.store, self.directory = MemoryStore(), directory
        self.shelf = SnapshotDirectory(directory, KEPT)

    def worker(self, models: Sequence[str] = default_models("fast")) -> tuple[Worker, LocalSource]:
        settings = Settings(
            limits=Limits(max_items=512, max_users=500),
            learning=Learning.model_validate({"device": "cpu", "models": models}),
            fusion=FusionSettings(form="linear"),
            checkpoints=Checkpointing(interval_s=1e9),
        )
        source = LocalSource("user-events", records("user-events", LOG))
        worker = build_worker(settings, source, LocalSink(keep=1), self.store, SnapshotDirectory(self.directory, KEPT))
        source.subscribe(worker)
        source.poll(0, 0.0)  # joins
        return worker, source

    def work(self, *stops: int) -> Worker:
        """Read from the beginning to each of these offsets, with a checkpoint there."""
        worker, source = self.worker()
        for start, stop in pairwise((0, *stops)):
            worker.step(source.poll(stop - start, 0.0))
            worker.checkpoint()
        return worker

    def file(self, age: int, name: str = TENSORS) -> Path:
        """Of the newest snapshot (age 0), the one before it (1), ..."""
        return self.directory / self.shelf.references()[age] / name


def learned(worker: Worker) -> int:
    """Wanted items that models were taught, those of the open micro-batch included."""
    repeats = next(model for model in worker.pipeline.models if model.name == "repeats")
    batch = worker.pipeline.batch
    return int(repeats.events.sum()) + int((batch.examples.label[: batch.learned] == 1).sum())  # type: ignore[attr-defined]


def wanted(start: int, stop: int) -> int:
    return sum(
        event.type in WANTED or (event.type is EventType.RATING and (event.value or 0) >= 4)
        for event in LOG[start:stop]
    )


def taken_as_it_is(saved: SavedSnapshot) -> None:
    """It fits."""


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(bytes(content))


def removed(path: Path) -> None:
    path.unlink()


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def a_link_to_nothing(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.parent / "nowhere")


def a_link_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def a_file_in_place_of_the_snapshot(path: Path) -> None:
    shutil.rmtree(path.parent)
    path.parent.write_text("mine")


DAMAGES = (truncated, flipped, removed, a_folder, a_link_to_nothing, a_link_to_itself, a_file_in_place_of_the_snapshot)


@pytest.mark.parametrize("name", [TENSORS, MANIFEST])
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_snapshot_is_skipped_for_the_one_before_it(
    tmp_path: Path, damage: Callable[[Path], None], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    ground = Ground(tmp_path)
    ground.work(200, 330, 500)
    newest, older = ground.shelf.references()[:2]
    damage(ground.file(0, name))
    with caplog.at_level(logging.WARNING):
        worker, source = ground.worker()
    said = "\n".join(caplog.messages)
    assert newest in said
    assert f"snapshot='{older}'" in said
    assert "unlearned_by_partition={0: 170}" in said
    value = worker.metrics.registry.get_sample_value
    assert (value("streamrec_skipped_snapshots_total"), value("streamrec_unlearned_events_total")) == (1, 170)
    assert learned(worker) == wanted(0, 330)
    worker.step(source.poll(1_000, 0.0))
    assert learned(worker) == wanted(0, 330) + wanted(500, 600)  # once each, and what lay between by nobody
    worker.checkpoint()
    assert worker.pipeline.schema == ground.shelf.describe(ground.shelf.references()[0]).schema
    again, _ = ground.worker()
    assert learned(again) == learned(worker)
    assert value("streamrec_skipped_snapshots_total") == 1
    assert again.metrics.registry.get_sample_value("streamrec_skipped_snapshots_total") == 0


def test_several_damaged_ones_are_skipped_down_to_the_last_that_is_whole(tmp_path: Path) -> None:
    ground = Ground(tmp_path)
    ground.work(100, 200, 300, 400)
    for reference, damage in zip(ground.shelf.references(), (truncated, flipped, removed), strict=False):
        damage(tmp_path / reference / TENSORS)
    worker, source = ground.worker()
    # The one without tensors that no mark names is none, so nobody had to skip it.
    assert (worker._checkpoints.skipped_snapshots, worker._checkpoints.unlearned) == (2, 300)
    worker.step(source.poll(1_000, 0.0))
    assert learned(worker) == wanted(0, 100) + wanted(400, 600)


def test_when_none_can_be_used_the_error_is_of_the_newest_and_nothing_starts_afresh(tmp_path: Path) -> None:
    ground = Ground(tmp_path)
    ground.work(100, 200, 300)
    newest = ground.shelf.references()[0]
    for reference in ground.shelf.references():
        truncated(tmp_path / reference / TENSORS)
    for _ in range(2):
        with pytest.raises(SnapshotCorrupt, match=f"{newest} cannot be used"):
            ground.worker()
    shutil.rmtree(tmp_path)
    with pytest.raises(StateMissing, match=f"{newest} is not in"):
        ground.worker()


def test_a_worker_begins_with_what_its_list_of_models_shares_with_the_snapshot_s(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ground = Ground(tmp_path)
    before = ground.work(100, 200)
    with caplog.at_level(logging.WARNING):
        worker, source = ground.worker(("popularity", "content", "transitions", "repeats"))
    assert "begun_untaught=['model.content']" in caplog.text
    assert "'model.popularity_days'" in caplog.text.partition("dropped=")[2]
    assert learned(worker) == learned(before) == wanted(0, 200)
    worker.step(source.poll(1_000, 0.0))
    worker.checkpoint()
    again, _ = ground.worker(("popularity", "content", "transitions", "repeats"))
    assert learned(again) == learned(worker) == wanted(0, 600)  # each event once


def test_a_snapshot_of_another_layout_is_refused_in_words(tmp_path: Path) -> None:
    ground = Ground(tmp_path)
    worker = ground.work(100)
    older = ground.shelf.save(worker.pipeline.state(), {0: 100}, "v3/popularity share", now_ms=1)
    ground.store._marks[0] = PartitionMark(100, older, 1)
    shutil.rmtree(tmp_path / ground.shelf.references()[1])
    with pytest.raises(StateError, match=f"{older} cannot be used: it is of layout 'v3', expected 'v4': .* go back"):
        ground.worker()


def test_a_foreign_one_among_ours_is_skipped(tmp_path: Path) -> None:
    ground = Ground(tmp_path)
    worker = ground.work(100, 200)
    foreign = ground.shelf.save({"x": {"a": np.zeros(3)}}, {0: 150}, "another", now_ms=1)
    named_wrongly = ground.shelf.save({"x": {"a": np.zeros(3)}}, {0: 150}, worker.pipeline.schema, now_ms=1)
    mark = ground.store.open(0)
    for reference in (foreign, named_wrongly):
        ground.store._marks[0] = PartitionMark(200, reference, mark.epoch)
        again, _ = ground.worker()
        assert learned(again) == wanted(0, 200)


def test_that_a_snapshot_is_in_another_workers_directory_is_no_damage(tmp_path: Path) -> None:
    ours, theirs = SnapshotDirectory(tmp_path / "a", 3), SnapshotDirectory(tmp_path / "b", 3)
    theirs.save({"m": {"n": np.array(8)}}, {1: 8}, "v", now_ms=1)
    elsewhere = theirs.save({"m": {"n": np.array(9)}}, {1: 9}, "v", now_ms=1)
    here = ours.save({"m": {"n": np.array(4)}}, {0: 4}, "v", now_ms=1)
    taken: list[SavedSnapshot] = []
    beginning = begin(ours, {0: PartitionMark(4, here, 1), 1: PartitionMark(9, elsewhere, 1)}, taken.append)
    assert beginning is not None
    assert (beginning.snapshot.reference, beginning.skipped, beginning.unlearned) == (here, (), {})
    # What others left here stands for partitions that are not ours, and is no beginning.
    with pytest.raises(StateMissing):
        begin(ours, {1: PartitionMark(9, elsewhere, 1)}, taken.append)
    assert len(taken) == 1


def test_where_no_mark_names_one_there_is_nothing_to_begin_with(tmp_path: Path) -> None:
    shelf = SnapshotDirectory(tmp_path, 3)
    shelf.save({"m": {"n": np.array(4)}}, {0: 4}, "v", now_ms=1)
    assert begin(shelf, {0: PartitionMark(None, None, 1)}, taken_as_it_is) is None


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.sampled_from([TENSORS, MANIFEST]), st.data())
def test_whatever_bits_are_flipped_an_older_whole_one_is_begun_with(
    tmp_path: Path, name: str, data: st.DataObject
) -> None:
    shelf = SnapshotDirectory(tmp_path, 2)
    for n in (1, 2):
        newest = shelf.save({"m": {"n": np.arange(n, n + 5.0)}}, {0: n}, "v", now_ms=1)
    path = tmp_path / newest / name
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(bytes(content))
    taken: list[SavedSnapshot] = []
    beginning = begin(shelf, {0: PartitionMark(2, newest, 1)}, taken.append)
    assert beginning is not None
    assert beginning.skipped == (newest,)
    assert beginning.unlearned == {0: 1}
    assert taken[0].arrays["m"]["n"].tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]


# Tensors that were made to look right


def forged(shelf: SnapshotDirectory, tensors: bytes, components: dict[str, int]) -> str:
    """A snapshot whose checksums are all right, whatever is in it."""
    manifest = json.dumps(
        {
            "layout": 1,
            "created_ms": 1,
            "schema": "v",
            "watermarks": {"0": 9},
            "sha256": sha256(tensors).hexdigest(),
            "components": components,
        }
    ).encode()
    reference = f"0000000009-{sha256(manifest).hexdigest()[:16]}"
    folder = Path(shelf.url) / reference
    folder.mkdir()
    (folder / TENSORS).write_bytes(tensors)
    (folder / MANIFEST).write_bytes(manifest)
    return reference


def header(text: str, size: int | None = None, body: bytes = b"") -> bytes:
    raw = text.encode()
    return (len(raw) if size is None else size).to_bytes(8, "little") + raw + body


FORGERIES: dict[str, tuple[bytes, dict[str, int]]] = {
    "huge header": (header("{}", 2**62), {"m": 8}),
    "huge array": (
        header('{"m/n": {"dtype": "F64", "shape": [1099511627776], "data_offsets": [0, 8796093022208]}}'),
        {"m": 8},
    ),
    "array of another size than its shape": (
        header('{"m/n": {"dtype": "F64", "shape": [1048576], "data_offsets": [0, 8]}}', body=bytes(8)),
        {"m": 8},
    ),
    "shape that overflows": (
        header('{"m/n": {"dtype": "F64", "shape": [4294967296, 4294967297], "data_offsets": [0, 8]}}', body=bytes(8)),
        {"m": 8},
    ),
    "unknown type": (header('{"m/n": {"dtype": "X9", "shape": [1], "data_offsets": [0, 8]}}', body=bytes(8)), {"m": 8}),
    "no header": (b"", {"m": 8}),
    "other components": (safetensors.numpy.save({"else/n": np.zeros(1)}), {"m": 8}),
    "fewer components": (safetensors.numpy.save({"m/n": np.zeros(1)}), {"m": 8, "fusion": 16}),
    "sizes that lie": (safetensors.numpy.save({"m/n": np.zeros(1)}), {"m": 80}),
    "a name without a component": (safetensors.numpy.save({"n": np.zeros(1)}), {"m": 8}),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_tensors_that_were_made_to_look_right_are_refused_without_taking_room(tmp_path: Path, name: str) -> None:
    shelf = SnapshotDirectory(tmp_path, 3)
    older = shelf.save({"m": {"n": np.array(4.0)}}, {0: 4}, "v", now_ms=1)
    reference = forged(shelf, *FORGERIES[name])
    with pytest.raises(SnapshotCorrupt, match=reference):
        shelf.load(reference)
    beginning = begin(shelf, {0: PartitionMark(9, reference, 1)}, taken_as_it_is)
    assert beginning is not None
    assert beginning.snapshot.reference == older


def test_a_manifest_of_before_names_no_suspects(tmp_path: Path) -> None:
    shelf = SnapshotDirectory(tmp_path, 3)
    reference = forged(shelf, safetensors.numpy.save({"m/n": np.zeros(1)}), {"m": 8})
    assert tuple(shelf.describe(reference).suspect) == tuple(shelf.load(reference).suspect) == ()


# Going back


def saved(shelf: SnapshotDirectory, n: int, *suspect: str, schema: str = "v", partition: int = 0) -> str:
    return shelf.save({"m": {"n": np.array(n)}, "o": {}}, {partition: n}, schema, now_ms=n, suspect=suspect)


def test_one_goes_back_to_the_newest_snapshot_in_which_it_was_not_in_doubt(tmp_path: Path) -> None:
    shelf = SnapshotDirectory(tmp_path, 9)
    first, second, third = saved(shelf, 1), saved(shelf, 2), saved(shelf, 3, "m")
    foreign, theirs = saved(shelf, 4, schema="w"), saved(shelf, 5, partition=7)
    standing = {0: 5}
    assert list(good_ones(shelf, "m", "v", standing)) == [second, first]
    assert list(good_ones(shelf, "o", "v", standing)) == [third, second, first]
    assert list(good_ones(shelf, "m", "v", standing, before=second)) == [first]
    assert list(good_ones(shelf, "m", "v", standing, before="")) == []
    assert list(good_ones(shelf, "another", "v", standing)) == []
    assert list(good_ones(shelf, "m", "v", {0: 1})) == [first]  # what stands for more was made by others
    assert {foreign, theirs}.isdisjoint(good_ones(shelf, "m", "v", standing))
    flipped(tmp_path / second / TENSORS)
    found = last_good(shelf, "m", "v", standing)
    assert found is not None
    assert found.reference == first
    truncated(tmp_path / first / MANIFEST)
    assert last_good(shelf, "m", "v", standing) is None


def test_the_snapshots_that_a_suspect_may_need_are_kept_as_long_as_it_is_one(tmp_path: Path) -> None:
    ground = Ground(tmp_path)
    worker = ground.work(50, 100)
    good = ground.shelf.references()[:2]
    record = worker.pipeline.quarantine
    for _ in range(8):
        record.complain("model.transitions")
        record.judge({})
    for _ in range(KEPT + 3):
        worker.step(worker._source.poll(50, 0.0))
        worker.checkpoint()  # the first one rolls it back; it is on probation for as long as this goes on
    assert record.before("model.transitions") == good[0]
    kept = ground.shelf.references()
    assert kept[KEPT:] == (good[1],)  # what to go back to next
    record.rolled_back("model.transitions", None, 0)
    for _ in range(PROBATION):
        record.judge({})
    worker.step(worker._source.poll(50, 0.0))
    worker.checkpoint()
    assert len(ground.shelf.references()) == KEPT


def test_a_worker_rolls_back_who_is_sentenced_and_says_to_where(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ground = Ground(tmp_path)
    worker = ground.work(200)
    (good,) = ground.shelf.references()
    model = next(model for model in worker.pipeline.models if model.name == "popularity")
    before = {name: array.tobytes() for name, array in model.state().items()}
    worker.step(worker._source.poll(100, 0.0))
    model.mass[3] = np.nan  # type: ignore[attr-defined]
    with caplog.at_level(logging.WARNING):
        worker.checkpoint()
    assert f"component='model.popularity' to='{good}'" in caplog.text
    assert {name: array.tobytes() for name, array in model.state().items()} == before
    value = worker.metrics.registry.get_sample_value
    assert value("streamrec_rollbacks_total", {"model": "popularity"}) == 1
    assert value("streamrec_quarantined", {"model": "popularity"}) == 1
    assert ground.shelf.describe(ground.shelf.references()[0]).suspect == ("model.popularity",)
    assert worker._checkpoints.due() is False


def test_without_a_good_snapshot_one_begins_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ground = Ground(tmp_path)
    worker, source = ground.worker()
    model = next(model for model in worker.pipeline.models if model.name == "popularity")
    untaught = {name: array.tobytes() for name, array in model.state().items()}
    worker.step(source.poll(200, 0.0))
    model.mass[3] = np.nan  # type: ignore[attr-defined]
    with caplog.at_level(logging.WARNING):
        worker.checkpoint()
    assert "untaught: no good snapshot is left" in caplog.text
    assert {name: array.tobytes() for name, array in model.state().items()} == untaught
    worker.step(source.poll(400, 0.0))
    assert np.isfinite(model.mass).all()  # type: ignore[attr-defined]
    assert model.mass.sum() > 0  # type: ignore[attr-defined]


def test_a_sentence_makes_a_checkpoint_due(tmp_path: Path) -> None:
    worker = Ground(tmp_path).work(100)
    assert not worker._checkpoints.due()
    worker.pipeline.quarantine.condemn(["fusion"])
    assert worker._checkpoints.due()
    worker.checkpoint()
    assert not worker._checkpoints.due()


def test_the_error_of_a_snapshot_that_does_not_fit_says_what_to_do(tmp_path: Path) -> None:
    ground = Ground(tmp_path)
    worker = ground.work(100)
    reference = saved(ground.shelf, 1, schema=worker.pipeline.schema)
    with pytest.raises(StateError, match=f"snapshot {reference} does not fit: KeyError"):
        restore(worker.pipeline, ground.shelf.load(reference))
