"""A user feature of another package, which one entry point lists, reaches queries, fusion, store and snapshots."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgpack
import pytest

from streamrec.config import user_features as listed
from streamrec.config.settings import Settings
from streamrec.config.user_features import UserFeatureEntry
from streamrec.engine.adoption import adopted
from streamrec.engine.arrays.batch import NOTHING, Array, MicroBatch
from streamrec.engine.arrays.timeline import ASK, Timeline
from streamrec.engine.fusion.features import names
from streamrec.engine.pipeline import Pipeline
from streamrec.errors import ConfigError
from streamrec.state import Key, Kind
from streamrec.state.memory import MemoryStore
from streamrec.testing import STARTED_MS, check_user_feature, records, shop
from streamrec.transport.local import LocalSink, LocalSource
from streamrec.wiring import build_pipeline, build_rehearsal, build_worker, run_engine

MODELS = ("popularity", "covisit_recent")
SETTINGS = Settings.model_validate(
    {"learning": {"models": MODELS}, "fusion": {"form": "linear"}, "limits": {"max_items": 4_096}}
)
LOG = shop(900, users=20, items=60, seed=3)
LATER = STARTED_MS + 10**9
PACKAGE = '''
"""How much of what a user touched was of an item's category."""

from zlib import crc32

import numpy as np

from streamrec.config.user_features import UserFeatureEntry
from streamrec.engine.arrays.timeline import REMEMBER
from streamrec.engine.users.user_feature import UserFeature

CATEGORIES = 16


class CategoryShare(UserFeature):
    keys = ("category_counts",)
    names = ("category share",)

    def __init__(self, parts):
        self.items, self.ranked_items, self.counts = parts.items, parts.ranked_items, {}

    def columns(self):
        return {"category_crcs": (CATEGORIES, np.uint32), "category_shares": (CATEGORIES, np.float32)}

    def fold(self, steps, queries, examples):
        for kind, row, ref, item in zip(steps.kind, steps.user, steps.ref, steps.item):
            counts = self.counts.setdefault(int(row), {})
            if kind == REMEMBER:
                name = None if item < 0 else self.items.category_of(item)
                if name in counts or (name is not None and len(counts) < CATEGORIES):
                    counts[name] = counts.get(name, 0) + 1
                continue
            for slot, (name, count) in enumerate(counts.items()):
                queries.columns["category_crcs"][ref, slot] = crc32(name.encode())
                queries.columns["category_shares"][ref, slot] = count / sum(counts.values())

    def describe(self, queries, rows, items):
        crcs = np.array([crc32(name.encode()) for name in self.ranked_items.category_names()] + [0], np.uint32)
        theirs = crcs[np.where(items < 0, -1, self.ranked_items.category[items])]  # the last is nobody's
        ours = queries.columns["category_crcs"][rows][:, None, :] == theirs[:, :, None]
        shares = ours * queries.columns["category_shares"][rows][:, None, :]
        return shares.sum(2, keepdims=True).astype(np.float32)

    def clear(self, rows):
        for row in rows.tolist():
            self.counts.pop(row, None)

    def pack(self, row, item_ids):
        return {"category_counts": dict(self.counts.get(row, {}))}

    def unpack(self, row, value, indices):
        self.counts[row] = dict(value["category_counts"])


ENTRY = UserFeatureEntry("category_share", CategoryShare)
'''


@pytest.fixture
def acme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package, as pip leaves it."""
    about = tmp_path / "acme_shares-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-shares\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[streamrec.user_features]\ncategory_share = acme_shares:ENTRY\n")
    (tmp_path / "acme_shares.py").write_text(PACKAGE)
    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        listed._from_packages.cache_clear()
        yield
    sys.modules.pop("acme_shares", None)
    listed._from_packages.cache_clear()


@contextmanager
def with_packages(*entries: UserFeatureEntry) -> Iterator[None]:
    """Other packages list these and nothing else."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listed, "_from_packages", lambda: entries)
        yield


def run(store: MemoryStore) -> Pipeline:
    """A worker's pipeline after the whole log, everything saved."""
    source = LocalSource(SETTINGS.topics.events, records(SETTINGS.topics.events, LOG))
    worker = build_worker(SETTINGS, source, LocalSink(), store, None)
    worker.run()
    return worker.pipeline


def met(pipeline: Pipeline, users: list[str], store: MemoryStore) -> Array:
    """What queries see of these users, who come from the store, (users, category shares)."""
    table = pipeline.features.users
    lacking = table.missing([(0, user) for user in users])
    table.admit(lacking, store.load([Key(partition, Kind.USER, user) for partition, user in lacking]), LATER)
    batch = MicroBatch.empty(len(users), 1, 1, 1, pipeline.features.columns)
    rows = [table.touch((0, user)) for user in users]
    pipeline.features.fold(
        Timeline.of([(ASK, row, at, LATER, 0, NOTHING, 0, NOTHING) for at, row in enumerate(rows)]), batch
    )
    return batch.queries.columns["category_shares"].copy()


USERS = sorted({event.user_id for event in LOG})


def test_it_keeps_the_promises_of_every_feature(acme: None) -> None:
    check_user_feature(listed.user_features()["category_share"])


def test_the_fusion_of_a_backtest_weighs_what_it_says_of_candidates(acme: None) -> None:
    seen: list[Any] = []
    worker = build_rehearsal(
        SETTINGS, lambda: iter(records(SETTINGS.topics.events, LOG)), lambda batch_result: seen.append(batch_result)
    )
    worker.run()
    fusion = worker.pipeline.fusion
    assert fusion.names == (*names(MODELS), "category share")
    assert sum(batch_result.trial.ranks.shape[1] for batch_result in seen) > 300
    assert fusion.mean[fusion.names.index("category share")] > 0.1  # this shop's users keep to a few kinds


def test_it_is_saved_with_the_user_and_is_the_same_after_a_restart(acme: None) -> None:
    store = MemoryStore()
    before = met(run(store), USERS, store)
    assert (before.max(1) > 0).all()
    assert met(build_pipeline(SETTINGS), USERS, store).tobytes() == before.tobytes()


def test_what_is_stored_of_one_that_is_no_longer_listed_is_ignored_and_leaves(acme: None) -> None:
    store = MemoryStore()
    run(store)
    with with_packages():
        plain = build_pipeline(SETTINGS)
    table = plain.features.users
    [stored] = store.load([Key(0, Kind.USER, USERS[0])])
    table.admit(table.missing([(0, USERS[0])]), [stored], LATER)
    table.touch((0, USERS[0]))
    kept, was = msgpack.unpackb(table.take_changes(0)["user", USERS[0]]), msgpack.unpackb(stored)
    assert was.pop("category_counts")
    assert kept == was


def test_a_user_stored_before_it_was_listed_starts_with_nothing(acme: None) -> None:
    store = MemoryStore()
    with with_packages():
        run(store)
    assert (met(build_pipeline(SETTINGS), USERS, store) == 0).all()


def test_what_queries_see_of_it_is_in_snapshots_and_makes_them_of_another_schema(acme: None) -> None:
    first, second = run(MemoryStore()), build_pipeline(SETTINGS)
    assert first.schema.endswith("/category share/category_crcs[16]/category_shares[16]")
    queries = first.batch.queries
    assert len(first.state()["batch"]["queries.columns.category_shares"]) == first.batch.asked
    second.restore(first.state())
    asked = slice(0, first.batch.asked)
    for name, column in queries.columns.items():
        assert column[asked].tobytes() == second.batch.queries.columns[name][asked].tobytes()


def test_a_snapshot_of_before_it_was_listed_is_gone_on_from_and_one_of_when_it_was_too(acme: None) -> None:
    with with_packages():
        before = run(MemoryStore())
    since = build_pipeline(SETTINGS)
    adoption = adopted(before.state(), before.schema, since)
    assert set(adoption.begun) == {"category share", "category_crcs[16]", "category_shares[16]"}
    since.restore(adoption.arrays)
    assert since.fusion.mean.tolist() == [*before.fusion.mean.tolist(), 0.0]
    assert since.batch.learned == before.batch.learned > 0
    for _ in run_engine(since, LOG[:300], first=len(LOG)):
        pass
    assert since.fusion.mean[-1] != 0.0
    with with_packages():
        again = build_pipeline(SETTINGS)
    adoption = adopted(since.state(), since.schema, again)
    assert set(adoption.dropped) == {"category share", "category_crcs[16]", "category_shares[16]"}
    again.restore(adoption.arrays)
    assert again.fusion.width == before.fusion.width
    assert again.batch.queries.columns == {}


def test_with_nothing_listed_beside_ours_queries_and_fusion_are_what_they_were() -> None:
    with with_packages():
        pipeline = build_pipeline(SETTINGS)
    assert pipeline.fusion.names == names(MODELS)
    assert pipeline.batch.queries.columns == {}
    assert pipeline.schema == "/".join(["v4", *names(MODELS)])


def test_only_what_a_setting_asks_for_is_remembered() -> None:
    def remembered(**given: Any) -> set[str]:
        features = build_pipeline(Settings.model_validate({"learning": {"models": MODELS}} | given)).features
        return {key for feature in features.user_features for key in feature.keys}

    assert remembered().isdisjoint({"seen", "bought", "shown"})
    assert "seen" in remembered(learning={"models": MODELS, "exclude_seen": True})
    assert "bought" in remembered(scenarios={"home": {"leave_out": {"bought_within_s": 60.0}}})
    assert "shown" in remembered(scenarios={"home": {"leave_out": {"shown_at_most": 3}}})


def test_a_feature_that_takes_what_is_anothers_is_refused() -> None:
    history = listed.USER_FEATURES[0]
    for entry, said in (
        (history, "two user feature entries are called 'history'"),
        (UserFeatureEntry("past", history.build), "'recent' of user feature 'past' is taken"),
        (UserFeatureEntry("lost", "acme.nowhere:build"), "'lost' is listed as 'acme.nowhere:build', which cannot be"),
    ):
        with with_packages(entry), pytest.raises(ConfigError, match=said):
            build_pipeline(SETTINGS)
