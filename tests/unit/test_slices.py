"""Slices of a run's targets: each family divides them, and each is told from what was known at the moment."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrec.engine.arrays.batch import NOTHING, MicroBatch
from streamrec.engine.items.item_table import ItemTable
from streamrec.evaluation.backtest.lift import Lift, best_single, lift, lift_by_slice
from streamrec.evaluation.backtest.new_items import NewItemRecorder, NewItems
from streamrec.evaluation.backtest.slices import TargetContextRecorder, TargetContexts, masks

counts = st.integers(0, 150)


@given(st.lists(st.tuples(counts, counts, counts, st.floats(0, 1e6, width=32), st.booleans()), max_size=30))
def test_every_target_is_in_one_slice_of_each_family(rows: list[tuple[int, int, int, float, bool]]) -> None:
    columns = [np.array([row[at] for row in rows]) for at in range(5)]
    parts = masks(TargetContexts(*columns[:4]), columns[4].astype(bool))
    for family in ("session", "item", "user"):
        together = [mask for name, mask in parts.items() if name.startswith(family + ":")]
        assert (np.sum(together, axis=0, dtype=int) == 1).all()


def test_a_moment_by_hand() -> None:
    ages_s = np.array([0.0, 3_599.0, 3_600.0, 2e5])
    target_contexts = TargetContexts(np.array([0, 2, 9, 1]), np.array([0, 5, 64, 1]), np.array([0, 5, 101, 2]), ages_s)
    parts = masks(target_contexts, np.array([False, True, True, True]))
    assert {name: mask.tolist() for name, mask in parts.items() if mask.any()} == {
        "session: 1st event": [True, False, False, False],
        "session: 2nd event": [False, False, False, True],
        "session: 3rd event": [False, True, False, False],
        "session: later": [False, False, True, False],
        "user: 1st event": [True, False, False, False],
        "user: 2nd event": [False, False, False, True],
        "user: 4th event to 100th": [False, True, False, False],
        "user: after 100 events": [False, False, True, False],
        "item: never seen before": [True, False, False, False],
        "item: first seen within an hour": [False, True, False, False],
        "item: first seen an hour to a day before": [False, False, True, False],
        "item: older": [False, False, False, True],
    }


def noted(events: list[tuple[int, int]], portions: list[int]) -> TargetContexts:
    """Targets (user, ts) of one item that was first seen at 1,000 ms, noted in portions of these sizes."""
    items, recorder, start = ItemTable(8), TargetContextRecorder(), 0
    item = items.intern("a", 1_000)
    for size in portions:
        part = events[start : start + size]
        batch = MicroBatch.empty(len(part), len(part), 1, 1)
        batch.queries.user[:] = [user for user, _ in part]
        batch.queries.ts[:] = [ts for _, ts in part]
        batch.queries.session[:] = 2
        batch.queries.items[:, :3] = item
        batch.examples.item[:] = item
        batch.examples.ts[:] = [ts for _, ts in part]
        recorder.add(batch, np.arange(len(part)), np.arange(len(part)), items)
        start += size
    return recorder.recorded()


def test_the_moment_of_a_basket_is_the_one_before_its_first_line() -> None:
    events = [(1, 1_000), (2, 1_000), (1, 1_000), (1, 5_000), (2, 5_000), (1, 5_000), (1, 6_000)]
    for portions in ([7], [1] * 7, [3, 4], [2, 3, 2]):
        target_contexts = noted(events, portions)
        assert target_contexts.user_targets.tolist() == [0, 0, 0, 2, 1, 2, 4]
        assert target_contexts.item_age_s.tolist() == [0, 0, 0, 4, 4, 4, 5]
        assert target_contexts.session_items.tolist() == [2] * 7
        assert target_contexts.user_items.tolist() == [3] * 7


def test_nothing_noted_is_nothing() -> None:
    assert len(TargetContextRecorder().recorded().user_items) == 0


def test_how_far_a_list_is_ahead_by_hand() -> None:
    fused, popular = np.array([1, 0, 10, 11, 3]), np.array([0, 4, 10, 1, 20])
    found = lift(fused, popular, np.array([True, True, True, True, False]), of=5)
    assert (found.targets, found.share, found.recall_10, found.baseline_recall_10) == (4, 0.8, 0.5, 0.75)
    assert found.difference == pytest.approx(-0.25)
    assert (found.lower, found.upper) == (-1, 1)  # four targets tell nothing
    assert lift(fused, popular, np.zeros(5, bool), of=5) == Lift(0, 0.0, 0.0, 0.0)


def test_the_interval_holds_the_difference_of_targets_that_depend_on_each_other() -> None:
    """The chance that the fused list alone hits follows the last target's luck: .1 after a miss, .5 after a hit."""
    missed = 0
    for seed in range(60):
        luck, hit, chances = np.random.default_rng(seed).random(2_000), np.zeros(2_000, bool), np.zeros(2_000)
        for at in range(2_000):
            chances[at] = 0.5 if at and hit[at - 1] else 0.1
            hit[at] = luck[at] < chances[at]
        found = lift(hit.astype(int), np.zeros(2_000, int), np.ones(2_000, bool), of=2_000)
        missed += not found.lower <= chances.mean() <= found.upper
        assert found.upper - found.lower < 0.1
    assert missed <= 3


def test_the_best_single_list_is_the_one_with_most_hits_and_the_verdict_says_what_is_certain() -> None:
    rng, scored = np.random.default_rng(3), np.ones(4_000, bool)
    lists = {"hours": rng.random(4_000) < 0.1, "days": rng.random(4_000) < 0.3}
    assert best_single(lists, scored) == "days"
    assert best_single({}, scored) is None
    slates = {"beat": rng.random(4_000) < 0.5, "fall behind": rng.random(4_000) < 0.1, "is not certain": lists["days"]}
    for word, hit in slates.items():
        apart = lift(hit, lists["days"], scored, of=4_000)
        found = apart.verdict("days", "purchases")
        assert word in found.partition(":")[0]
        assert (
            f"{hit.mean():.2%} of 4,000 purchases stood in their first ten, days has {lists['days'].mean():.2%}"
            in found
        )
        assert f"{100 * apart.difference:+.2f} ({100 * apart.lower:+.2f} to {100 * apart.upper:+.2f}) points" in found


def test_all_targets_come_first_and_shares_of_a_family_add_up() -> None:
    scored = np.array([False, True, True, True, True])
    first = np.array([True, True, False, False, True])
    parts = lift_by_slice(np.ones(5, int), np.zeros(5, int), scored, {"a: one": first, "a: other": ~first})
    assert list(parts) == ["all targets", "a: one", "a: other"]
    assert [(part.targets, part.share) for part in parts.values()] == [(4, 1.0), (2, 0.5), (2, 0.5)]


def test_the_share_of_places_with_young_items_by_hand() -> None:
    items = ItemTable(8)
    for name, ts in (("old", 0), ("hour", 100_000), ("young", 100_001)):
        items.intern(name, ts)
    recorder = NewItemRecorder(items)
    assert recorder.new_items() == NewItems(0.0, 0.0)
    slates = np.array([[2, 1], [0, NOTHING]], np.int32)
    recorder.add_slates(slates, np.array([[0, 1], [1, 0]], np.int32), np.array([3_700_000, 3_700_000]))
    assert recorder.new_items() == NewItems(pytest.approx(1 / 3), 0.0)
    recorder.add_slates(slates[:, ::-1], slates, np.array([3_600_000, 0]))
    assert recorder.new_items() == NewItems(pytest.approx(4 / 6), pytest.approx(3 / 7))
