"""What is learned is a function of the topic of examples, whoever folds it, however often it dies; workers follow."""

from __future__ import annotations

import logging
import random
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from streamrec.codec import JSON, encode
from streamrec.config.groups import preset_settings
from streamrec.config.settings import Settings
from streamrec.engine.answering import Answering
from streamrec.engine.arrays.feedback import SlateFeedback
from streamrec.engine.examples import decoded, encoded
from streamrec.engine.following.changes import FollowedArrays
from streamrec.engine.pipeline import Pipeline
from streamrec.events import Event, EventType, Item
from streamrec.learner.catalogue_relay import PLACE
from streamrec.learner.loop import Learner
from streamrec.state.snapshots import SnapshotDirectory
from streamrec.transport import Record
from streamrec.transport.local import LocalSink, LocalSource
from streamrec.transport.local_follower import LocalFollower
from streamrec.wiring import bring_in, build_pipeline
from streamrec.wiring.engine_run import logged
from streamrec.wiring.learner import build_fold, build_learner
from streamrec.worker.following import ModelFollowing
from streamrec.worker.health import Health, Need
from streamrec.worker.memory import Clocks
from streamrec.worker.metrics import Metrics

EVENTS = 1_500
BEGAN = 1_700_000_000_000
SETTINGS = Settings.model_validate(
    {
        **preset_settings("fast"),
        "preset": "fast",
        "limits": {"max_items": 256, "max_users": 200},
        "learner": {"snapshot_every": 200, "publish_every_s": 0.01},
    }
)
Arrays = Mapping[str, Mapping[str, Any]]


def events(count: int = EVENTS, seed: int = 1) -> list[Event]:
    draw, ts, out = random.Random(seed), BEGAN, list[Event]()
    for _ in range(count):
        ts += draw.choice([0, 700, 4_000])
        kind = draw.choices(["view", "click", "purchase", "request"], [5, 3, 1, 3])[0]
        item = None if kind == "request" else f"i{min(int(draw.expovariate(0.05)), 150)}"
        out.append(Event(type=EventType(kind), user_id=f"u{draw.randrange(30)}", ts=ts, item_id=item))
    return out


def examples(count: int = EVENTS) -> list[bytes]:
    """What a worker sends of them, with untaught models."""
    pipeline = build_pipeline(SETTINGS, serving=True)
    answering, out = Answering(pipeline), list[bytes]()
    for chunk in portions(list(logged(events(count))), 64):
        bring_in(pipeline, chunk)
        for result in answering.process(chunk):
            out += [encoded(example) for example in result.examples.values() if not example.empty]
    return out


def portions(whole: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(whole), size):
        yield whole[start : start + size]


@pytest.fixture(scope="module")
def topic() -> list[Record]:
    """Examples with changes of the catalogue among them, and some that come twice."""
    draw, values = random.Random(2), list[tuple[bytes, tuple[tuple[str, bytes], ...]]]()
    for place, value in enumerate(examples()):
        values.append((value, ()))
        if place % 50 == 0:
            item = Item(item_id=f"i{draw.randrange(150)}", categories=(f"c{draw.randrange(4)}",), boost=1.5)
            where = f"0:{place}:{BEGAN}".encode()
            values += [(encode(item), (("content-type", JSON.encode()), (PLACE, where)))] * draw.choice([1, 2])
        if place % 70 == 69:
            values += values[-3:]  # a worker that did some of its work again
    return [
        Record("examples", 0, offset, _key(value, headers), value, headers, BEGAN + offset)
        for offset, (value, headers) in enumerate(values)
    ]


def _key(value: bytes, headers: tuple[tuple[str, bytes], ...]) -> bytes:
    from streamrec.codec import decode_item

    return decode_item(value, headers[:1]).item_id.encode() if headers else b"0"


class Shop:
    """The topics of a learner, and where its snapshots lie."""

    def __init__(self, place: Path) -> None:
        self.snapshots = SnapshotDirectory(place, 3)
        self.updates: list[Record] = []

    def learner(self, records: Sequence[Record], settings: Settings = SETTINGS) -> Learner:
        sink = LocalSink()

        def keep(topic: str, key: bytes | None, value: bytes | None, headers: Any = ()) -> None:
            if topic == SETTINGS.topics.model_updates:
                self.updates.append(Record(topic, 0, len(self.updates), key, value, tuple(headers), BEGAN))

        sink.publish = keep  # type: ignore[method-assign]
        return build_learner(
            settings,
            LocalSource("examples", list(records)),
            sink,
            self.snapshots,
            catalogue=lambda: LocalFollower("items"),
            updates=lambda since_ms: LocalFollower("model-updates", list(self.updates)),
        )


def learned(learner: Learner) -> Arrays:
    """What it holds, at the end of its source."""
    found: list[Arrays] = []
    put_down = learner._put_down

    def look() -> None:
        if learner._work is not None:
            found.append(learner._work.fold.state())
        put_down()

    learner._put_down = look  # type: ignore[method-assign]
    learner.run()
    return found[0]


class Killed(BaseException):
    """In place of SIGKILL: nothing is put down."""


def kill_at(learner: Learner, offset: int) -> None:
    """End it without a word once it has folded so far."""
    take = learner._take

    def mortal(records: Sequence[Record]) -> None:
        take(records)
        if learner._work is not None and learner._work.fold.position >= offset:
            learner._leave = lambda: None  # type: ignore[method-assign]
            raise Killed

    learner._take = mortal  # type: ignore[method-assign]
    with pytest.raises(Killed):
        learner.run()


def same(one: Arrays, other: Arrays) -> list[str]:
    """Names of the arrays that differ in any bit."""
    assert one.keys() == other.keys()
    return [
        f"{part}.{name}"
        for part in one
        for name in one[part]
        if one[part][name].tobytes() != other[part][name].tobytes() or one[part][name].shape != other[part][name].shape
    ]


def test_however_often_the_learner_dies_the_arrays_are_those_of_one_fold(topic: list[Record], tmp_path: Path) -> None:
    whole = learned(Shop(tmp_path / "whole").learner(topic))
    shop, draw = Shop(tmp_path / "shop"), random.Random(5)
    for offset in sorted(draw.randrange(1, len(topic) - 130) for _ in range(12)):
        kill_at(shop.learner(topic), offset)
    assert same(learned(shop.learner(topic)), whole) == []
    assert int(whole["examples"]["count"][0]) == len(examples())  # each once, though some came twice


def test_a_learner_that_fails_amid_a_portion_leaves_nothing_of_that_behind(
    topic: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = learned(Shop(tmp_path / "whole").learner(topic))
    learn, cuts = Pipeline.learn, [0]

    def failing(pipeline: Pipeline, feedback: Sequence[SlateFeedback] = ()) -> None:
        learn(pipeline, feedback)
        cuts[0] += 1
        if cuts[0] == 9:
            raise ZeroDivisionError

    shop = Shop(tmp_path / "shop")
    with monkeypatch.context() as broken, pytest.raises(ZeroDivisionError):
        broken.setattr(Pipeline, "learn", failing)
        shop.learner(topic).run()
    assert same(learned(shop.learner(topic)), whole) == []


def test_how_records_are_polled_changes_nothing(topic: list[Record]) -> None:
    one, other = build_fold(SETTINGS), build_fold(SETTINGS)
    for portion in portions(topic, 1):
        for _ in one.take(portion):
            pass
    for portion in portions(topic, 777):
        for _ in other.take(portion):
            pass
    assert same(one.state(), other.state()) == []


def test_versions_are_never_published_again_nor_backwards(topic: list[Record], tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    kill_at(shop.learner(topic), 500)
    kill_at(shop.learner(topic), 900)
    learned(shop.learner(topic))
    versions = [msgspec.msgpack.decode(record.value or b"")["version"] for record in shop.updates]
    assert versions == sorted(versions)
    assert versions[-1] == len(topic)


def follow(shop: Shop, updates: Sequence[Record], pipeline: Pipeline) -> ModelFollowing:
    metrics, health = Metrics(["fused", *pipeline.fusion.models]), Health()
    opened: Callable[[int], LocalFollower] = lambda since_ms: LocalFollower("model-updates", updates)  # noqa: E731
    following = ModelFollowing(pipeline, shop.snapshots, opened, metrics, health, Clocks())
    while not following.whole():
        following.look()
    assert Need.MODELS not in health.missing()
    return following


def test_whoever_follows_answers_as_the_learner_would(topic: list[Record], tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    kill_at(shop.learner(topic), 700)
    whole = learned(shop.learner(topic))
    one = build_pipeline(SETTINGS, serving=True)  # from the snapshot that is newest now
    assert follow(shop, shop.updates, one).version == len(topic)
    other = build_pipeline(SETTINGS, serving=True)  # by updates alone
    assert follow(Shop(tmp_path / "none"), shop.updates, other).version == len(topic)
    kept = build_pipeline(SETTINGS, serving=True)
    kept.restore(whole)
    kept.follow(len(topic))
    asked = [Event(type=EventType.REQUEST, user_id=f"u{n}", ts=events()[-1].ts + n) for n in range(20)]
    slates = []
    for pipeline in (one, other, kept):
        at = list(logged(asked))
        bring_in(pipeline, at)
        slates.append([slate for result in Answering(pipeline).process(at) for slate in result.slates.values()])
    assert slates[0] == slates[1] == slates[2]
    assert all(slate.items and slate.model_version == len(topic) for slate in slates[0])


def test_an_example_of_a_worker_that_was_replaced_teaches_nothing(topic: list[Record]) -> None:
    fold = build_fold(SETTINGS)
    firsts = [decoded(record.value or b"") for record in topic if not record.headers][:40]
    newer = [msgspec.structs.replace(example, epoch=2) for example in firsts[:20]]
    older = [msgspec.structs.replace(example, epoch=1) for example in firsts[20:]]
    sent = [Record("examples", 0, at, b"0", encoded(one), (), BEGAN) for at, one in enumerate([*newer, *older])]
    for _ in fold.take(sent):
        pass
    assert fold.examples == 20
    assert fold.repeats == 20


def test_a_topic_that_was_made_anew_teaches_from_its_beginning(topic: list[Record]) -> None:
    fold = build_fold(SETTINGS)
    firsts = [decoded(record.value or b"") for record in topic if not record.headers][:40]
    sources = [7] * 20 + [8] * 20 + [8] * 20
    told = [*firsts[:20], *firsts[:20], *firsts[:20]]  # the same offsets of another topic, and then once more
    sent = [
        Record("examples", 0, at, b"0", encoded(msgspec.structs.replace(one, source=source)), (), BEGAN)
        for at, (one, source) in enumerate(zip(told, sources, strict=True))
    ]
    for _ in fold.take(sent):
        pass
    assert fold.examples == 40
    assert fold.repeats == 20


def test_records_that_are_no_examples_are_passed_over_and_counted(topic: list[Record]) -> None:
    fold = build_fold(SETTINGS)
    bad = [Record("examples", 0, at, b"0", value, (), BEGAN) for at, value in enumerate([b"", b"\x93", b"{}", None])]
    for _ in fold.take(bad):
        pass
    assert fold.unreadable == len(bad)
    assert fold.position == len(bad)
    assert np.array_equal(fold.state()["sources"]["learned"], np.empty((0, 4), np.int64))


# Another list of models

OTHER = SETTINGS.model_copy(
    update={
        "learning": SETTINGS.learning.model_copy(
            update={"models": ("popularity", "popularity_days", "transitions", "repeats", "clicks", "sequence")}
        ),
        "learner": SETTINGS.learner.model_copy(update={"publish_every_s": 1e-6}),
    }
)
"""Some are gone, and two are new, one of which does not begin with zeros."""
CHANGED = 700


def test_a_learner_of_another_list_goes_on_with_what_both_have(
    topic: list[Record], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shop = Shop(tmp_path / "shop")
    before = learned(shop.learner(topic[:CHANGED]))
    shutil.copytree(tmp_path / "shop", tmp_path / "again")
    with caplog.at_level(logging.WARNING):
        whole = learned(shop.learner(topic, OTHER))
    assert "begun_untaught=['model.clicks', 'model.sequence']" in caplog.text
    assert "model.covisit_recent" in caplog.text.partition("dropped=")[2]
    assert np.array_equal(whole["model.repeats"]["events"], _folded(topic)["model.repeats"]["events"])
    assert before["model.repeats"]["events"].sum() < whole["model.repeats"]["events"].sum()
    again = Shop(tmp_path / "again")  # killed now and then: whoever adopts the same comes to the same
    for offset in (CHANGED + 40, CHANGED + 210, CHANGED + 390):
        kill_at(again.learner(topic, OTHER), offset)
    assert same(learned(again.learner(topic, OTHER)), whole) == []


def test_what_was_adopted_is_kept_at_once_and_shelters_no_snapshot_of_the_former_list(
    topic: list[Record], tmp_path: Path
) -> None:
    shop = Shop(tmp_path)
    learned(shop.learner(topic[:CHANGED]))
    learned(shop.learner(topic[:CHANGED], OTHER))  # learns nothing
    newest = shop.snapshots.describe(shop.snapshots.references()[0])
    assert newest.schema == build_fold(OTHER).pipeline.schema
    assert newest.watermarks == {0: CHANGED}
    learned(shop.learner(topic, OTHER))
    assert {shop.snapshots.describe(reference).schema for reference in shop.snapshots.references()} == {newest.schema}


def test_workers_of_another_list_serve_before_the_learner_has_it_and_answer_as_it_would_after(
    topic: list[Record], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shop = Shop(tmp_path)
    learned(shop.learner(topic[:CHANGED]))
    updates, pipeline = LocalFollower("model-updates"), build_pipeline(OTHER, serving=True)
    metrics, health = Metrics(["fused", *pipeline.fusion.models]), Health()
    following = ModelFollowing(pipeline, shop.snapshots, lambda since_ms: updates, metrics, health, Clocks())
    following.look()
    assert (following.version, Need.MODELS in health.missing()) == (CHANGED, False)
    assert len(answers(pipeline)) == 20  # by what both lists have
    updates.append(shop.updates)  # the former learner's
    with caplog.at_level(logging.WARNING):
        look_at_all(following, updates)
    assert caplog.text.count("an update of the models cannot be used") == 1
    assert following.version == CHANGED
    former = len(shop.updates)
    whole = learned(shop.learner(topic[: CHANGED + 30], OTHER))  # too few for all of the new ones to have moved
    updates.append(shop.updates[former:])
    look_at_all(following, updates)
    assert following.version == CHANGED + 30
    assert metrics.registry.get_sample_value("streamrec_model_update_gaps_total") == 0  # no snapshot had to help
    kept, arrays = build_pipeline(OTHER, serving=True), FollowedArrays()
    arrays.take(whole, kept.parts())
    arrays.serve(kept.parts())
    kept.follow(CHANGED + 30)
    assert answers(pipeline) == answers(kept)
    for own, expected in zip(pipeline.models, kept.models, strict=True):
        ours, theirs = own.served(), expected.served()
        assert [
            name for name, rows in theirs.items() if np.array(ours[name]).tobytes() != np.array(rows).tobytes()
        ] == []


def look_at_all(following: ModelFollowing, updates: LocalFollower) -> None:
    while updates._coming:
        following.look()


def answers(pipeline: Pipeline) -> list[Any]:
    """Items of slates, and their scores, of some users of whom nothing is known yet and of one who looks at items."""
    asked = [Event(type=EventType.REQUEST, user_id=f"n{n}", ts=events()[-1].ts + n, item_id=f"i{n}") for n in range(20)]
    at = list(logged(asked))
    bring_in(pipeline, at)
    return [slate for result in Answering(pipeline).process(at) for slate in result.slates.values() if slate.items]


def _folded(records: Sequence[Record]) -> Arrays:
    fold = build_fold(SETTINGS)
    for _ in fold.take(records):
        pass
    return fold.state()
