"""Orders made of scores equal plain sorts."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamrec.engine.arrays.batch import CANDIDATES, NOTHING
from streamrec.engine.arrays.top_k import best, ranked, ranks

values = st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 2.0])


@given(
    rows=st.lists(
        st.tuples(st.lists(st.tuples(values, values), min_size=30, max_size=30), st.integers(0, 31)), max_size=4
    )
)
def test_ranks_equal_a_plain_sort(rows: list) -> None:  # type: ignore[type-arg]
    items = np.full((len(rows), CANDIDATES), NOTHING, np.int32)
    items[:, :30] = np.arange(30)
    scores = np.full((1, len(rows), CANDIDATES), -np.inf, np.float32)
    fill = np.full((len(rows), CANDIDATES), -np.inf, np.float32)
    for row, (drawn, _) in enumerate(rows):
        scores[0, row, :30], fill[row, :30] = zip(*drawn, strict=True)
    targets = np.array([target for _, target in rows], np.int32)
    found = ranks(scores, fill, items, targets)
    for row, (drawn, target) in enumerate(rows):
        order = sorted(range(30), key=lambda c: (-drawn[c][0], -drawn[c][1], c))
        place = order.index(target) + 1 if target < 30 else 0
        assert found[0, row] == (place if place <= 20 else 0)


@given(utilities=st.lists(values, min_size=1, max_size=12), k=st.integers(1, 15))
def test_ranked_equals_a_plain_sort(utilities: list[float], k: int) -> None:
    order = [c for c in sorted(range(len(utilities)), key=lambda c: -utilities[c]) if utilities[c] > -np.inf]
    places = ranked(np.array([utilities]), k)[0]
    assert places[places != NOTHING].tolist() == order[:k]


@given(
    worth=st.lists(st.sampled_from([0.0, 0.5, 1.0, 3.0]), max_size=40),
    hidden=st.lists(st.booleans(), max_size=50),
    k=st.integers(0, 6),
)
def test_the_best_are_those_of_a_plain_sort_and_never_what_is_hidden_or_worthless(
    worth: list[float], hidden: list[bool], k: int
) -> None:
    order = [
        at for at in sorted(range(len(worth)), key=lambda at: -worth[at]) if worth[at] and not any(hidden[at : at + 1])
    ]
    assert best(np.array(worth), k, np.array(hidden, bool), 0.0).tolist() == order[:k]
