"""Slices of a run's targets: each family divides them, and each is told from what was known at the moment."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamrec.features.batch import MicroBatch
from streamrec.features.items import ItemTable
from streamrec.replay.slices import MomentRecorder, Moments, masks

counts = st.integers(0, 150)


@given(st.lists(st.tuples(counts, counts, counts, st.floats(0, 1e6, width=32), st.booleans()), max_size=30))
def test_every_target_is_in_one_slice_of_each_family(rows: list[tuple[int, int, int, float, bool]]) -> None:
    columns = [np.array([row[at] for row in rows]) for at in range(5)]
    parts = masks(Moments(*columns[:4]), columns[4].astype(bool))
    for family in ("session", "item", "user"):
        together = [mask for name, mask in parts.items() if name.startswith(family + ":")]
        assert (np.sum(together, axis=0, dtype=int) == 1).all()


def test_a_moment_by_hand() -> None:
    moments = Moments(np.array([0, 2, 9]), np.array([0, 5, 64]), np.array([0, 5, 101]), np.array([0.0, 5e4, 2e5]))
    parts = masks(moments, np.array([False, True, True]))
    assert {name: mask.tolist() for name, mask in parts.items() if mask.any()} == {
        "session: 1st event": [True, False, False],
        "session: 3rd event": [False, True, False],
        "session: later": [False, False, True],
        "user: 1st event": [True, False, False],
        "user: 4th event to 100th": [False, True, False],
        "user: after 100 events": [False, False, True],
        "item: never seen before": [True, False, False],
        "item: first seen within a day": [False, True, False],
        "item: older": [False, False, True],
    }


def noted(events: list[tuple[int, int]], portions: list[int]) -> Moments:
    """Targets (user, ts) of one item that was first seen at 1,000 ms, noted in portions of these sizes."""
    items, recorder, start = ItemTable(8), MomentRecorder(), 0
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
    return recorder.moments()


def test_the_moment_of_a_basket_is_the_one_before_its_first_line() -> None:
    events = [(1, 1_000), (2, 1_000), (1, 1_000), (1, 5_000), (2, 5_000), (1, 5_000), (1, 6_000)]
    for portions in ([7], [1] * 7, [3, 4], [2, 3, 2]):
        moments = noted(events, portions)
        assert moments.user_targets.tolist() == [0, 0, 0, 2, 1, 2, 4]
        assert moments.item_age_s.tolist() == [0, 0, 0, 4, 4, 4, 5]
        assert moments.session_items.tolist() == [2] * 7
        assert moments.user_items.tolist() == [3] * 7


def test_nothing_noted_is_nothing() -> None:
    assert len(MomentRecorder().moments().user_items) == 0
