"""Every retriever that is listed, here or by another package, keeps every promise; and so does their union."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrec.config.parts import retrievers
from streamrec.engine.arrays.batch import NOTHING, Excluded, Queries
from streamrec.engine.retrieval import CandidateUnion
from streamrec.testing import RETRIEVER_CHECKS, RetrieverBench

bench_of = cache(lambda name: RetrieverBench(retrievers()[name]))


@pytest.mark.parametrize("name", retrievers())
@pytest.mark.parametrize("check", RETRIEVER_CHECKS, ids=lambda check: check.__name__)
def test_a_listed_retriever_keeps_its_promises(check: Callable[[RetrieverBench], None], name: str) -> None:
    check(bench_of(name))


def test_own_history_is_what_was_touched_newest_first() -> None:
    bench, queries = bench_of("repeats"), Queries.empty(1)
    queries.items[0, :5] = [4, 9, 4, 2, 9]
    own = bench.retriever(bench.taught).candidates(queries, slice(0, 1), 4, Excluded.nothing(1))
    assert own.tolist() == [[4, 9, 2, NOTHING]]


# Their union

lists = st.lists(st.integers(NOTHING, 15), min_size=4, max_size=4)


@given(
    drawn=st.lists(
        st.tuples(lists, lists, lists.map(lambda row: row[:2]), st.lists(st.integers(NOTHING, 15), max_size=5)),
        min_size=1,
        max_size=4,
    ),
    width=st.integers(1, 12),
)
def test_the_union_takes_turns_and_names_each_item_once(drawn: list, width: int) -> None:  # type: ignore[type-arg]
    proposals = [np.array([row[source] for row in drawn], np.int32) for source in range(3)]
    excluded = Excluded.of(np.array(row[3], np.int32) for row in drawn)
    found = CandidateUnion(16)(proposals, excluded, width)
    for q, (first, second, third, gone) in enumerate(drawn):
        turns = [source[place] for place in range(4) for source in (first, second, third) if place < len(source)]
        plain = [item for item in dict.fromkeys(turns) if item != NOTHING and item not in gone][:width]
        assert found[q].tolist() == plain + [NOTHING] * (width - len(plain))
