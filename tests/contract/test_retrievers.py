"""What every retriever promises, checked on every retriever that `build` names; and their union."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrec.config.groups import MODELS, Learning, Limits
from streamrec.config.settings import Settings
from streamrec.engine.arrays.batch import NOTHING, Excluded, Queries
from streamrec.engine.arrays.logged_event import LoggedEvent
from streamrec.engine.items.catalogue import Catalogue
from streamrec.engine.items.item_table import ItemTable
from streamrec.engine.pipeline import Pipeline
from streamrec.engine.retrieval import CandidateUnion
from streamrec.events import Event, EventType, Item
from streamrec.replay.catalogue_file import CatalogueItems
from streamrec.wiring import build_models, build_pipeline, build_retrievers

CAPACITY, ITEMS, K = 256, 80, 30
BEGAN = 1_700_000_000_000
SETTINGS = Settings(limits=Limits(max_items=CAPACITY, max_users=500), learning=Learning(device="cpu", models=MODELS))
NAMES = [
    retriever.name
    for retriever in build_retrievers(
        build_models(SETTINGS, ItemTable(CAPACITY)), Catalogue(ItemTable(CAPACITY), CAPACITY)
    )
]
UNSEEN = [Item(item_id=f"new{n}") for n in range(40)]
SAID = [Item(item_id=f"i{n}", tags=(f"t{n}", f"t{n + 1}"), added=BEGAN + 10**12) for n in range(300)]
"""Of items that the log names first."""
FOLLOWING = ["transitions", "covisit", "sessions", "nearest"]
PLACES = range(len(NAMES))
NONE = np.empty(0, np.int32)


def run(pipeline: Pipeline, visits: list[tuple[str, str]], first: int = 0) -> None:
    """Users view items, a tenth of a second apart."""
    events = [
        Event(type=EventType.VIEW, user_id=user, item_id=item, ts=BEGAN + 100 * (first + at))
        for at, (user, item) in enumerate(visits)
    ]
    users = pipeline.features.users
    lacking = users.missing((0, event.user_id) for event in events)
    users.admit(lacking, [None] * len(lacking), BEGAN)
    for _ in pipeline.process([LoggedEvent(event, 0, first + at) for at, event in enumerate(events)]):
        pass


@pytest.fixture(scope="module")
def taught() -> Pipeline:
    """People stroll along a ring of items: i5 is followed by i6. Left in the middle of a micro-batch."""
    pipeline, rng = build_pipeline(SETTINGS, CatalogueItems([*UNSEEN, *SAID])), np.random.default_rng(2)
    visits = []
    for stroll in range(300):
        start = int(rng.integers(ITEMS))
        visits += [(f"u{stroll % 90}", f"i{(start + step) % ITEMS}") for step in range(4)]
    run(pipeline, visits)
    run(pipeline, [(f"u{user}", "i7") for user in range(10)], len(visits))
    return pipeline


@pytest.mark.parametrize("place", PLACES, ids=NAMES)
def test_proposals_are_distinct_items_best_first_and_then_nothing(place: int, taught: Pipeline) -> None:
    batch, retriever = taught.batch, taught.retrievers[place]
    proposals = retriever.candidates(batch.queries, slice(0, batch.asked), K, Excluded.nothing(batch.asked))
    assert batch.asked >= 10
    assert proposals.shape == (batch.asked, K)
    assert proposals.dtype == np.int32
    assert proposals.max() < len(taught.features.items)
    for row in proposals.tolist():
        there = [item for item in row if item != NOTHING]
        assert len(set(there)) == len(there)
        assert row == there + [NOTHING] * (K - len(there))
    assert (proposals != NOTHING).any()


@pytest.mark.parametrize("place", PLACES, ids=NAMES)
def test_proposing_changes_nothing(place: int, taught: Pipeline) -> None:
    batch, retriever = taught.batch, taught.retrievers[place]
    before = {(part, name): a.tobytes() for part, arrays in taught.state().items() for name, a in arrays.items()}
    first = retriever.candidates(batch.queries, slice(0, batch.asked), K, Excluded.nothing(batch.asked)).tolist()
    assert (
        retriever.candidates(batch.queries, slice(0, batch.asked), K, Excluded.nothing(batch.asked)).tolist() == first
    )
    after = {(part, name): a.tobytes() for part, arrays in taught.state().items() for name, a in arrays.items()}
    assert before == after


@pytest.mark.parametrize("place", PLACES, ids=NAMES)
def test_a_proposal_does_not_depend_on_the_company_it_is_asked_in(place: int, taught: Pipeline) -> None:
    batch, retriever = taught.batch, taught.retrievers[place]
    together = np.array(retriever.candidates(batch.queries, slice(0, batch.asked), K, Excluded.nothing(batch.asked)))
    for row in (0, 3, batch.asked - 1):
        assert (
            retriever.candidates(batch.queries, slice(row, row + 1), K, Excluded.nothing(1))[0].tolist()
            == together[row].tolist()
        )


@pytest.mark.parametrize("place", PLACES, ids=NAMES)
@pytest.mark.parametrize("k", [1, 200])
def test_more_than_there_is_and_almost_nothing_can_be_asked_for(place: int, k: int, taught: Pipeline) -> None:
    proposals = taught.retrievers[place].candidates(taught.batch.queries, slice(0, 4), k, Excluded.nothing(4))
    assert proposals.shape == (4, k)


@pytest.mark.parametrize("place", PLACES, ids=NAMES)
def test_the_untaught_propose_nothing(place: int) -> None:
    retriever = build_retrievers(build_models(SETTINGS, ItemTable(CAPACITY)), Catalogue(ItemTable(CAPACITY), CAPACITY))[
        place
    ]
    assert (retriever.candidates(Queries.empty(3), slice(0, 3), K, Excluded.nothing(3)) == NOTHING).all()


@pytest.mark.parametrize("place", PLACES, ids=NAMES)
def test_excluded_items_give_their_places_to_the_next_best(place: int, taught: Pipeline) -> None:
    batch, retriever = taught.batch, taught.retrievers[place]
    rows = slice(0, batch.asked)
    everything = np.array(retriever.candidates(batch.queries, rows, 200, Excluded.nothing(batch.asked)))
    excluded = Excluded.of(everything[row, :10] for row in range(batch.asked))
    proposals = np.array(retriever.candidates(batch.queries, rows, 5, excluded))
    assert (proposals == everything[:, 10:15]).all()


@pytest.mark.parametrize("place", PLACES, ids=NAMES)
def test_barred_items_give_their_places_to_the_next_best(place: int, taught: Pipeline) -> None:
    batch, retriever = taught.batch, taught.retrievers[place]
    everything = np.array(retriever.candidates(batch.queries, slice(0, 1), 200, Excluded.nothing(1)))[0]
    barred = np.zeros(len(taught.features.items), np.bool_)
    barred[everything[:20:2]] = True
    allowed = [item for item in everything.tolist() if item != NOTHING and not barred[item]]
    proposals = retriever.candidates(batch.queries, slice(0, 1), 5, Excluded.of([NONE], barred))
    assert proposals[0].tolist() == (allowed + [NOTHING] * 5)[:5]
    again = retriever.candidates(batch.queries, slice(0, 1), 200, Excluded.nothing(1))[0]
    assert again.tolist() == everything.tolist()


@pytest.mark.parametrize("place", PLACES, ids=NAMES)
def test_a_forgotten_item_is_not_proposed(place: int) -> None:
    pipeline = build_pipeline(
        SETTINGS.model_copy(update={"limits": Limits(max_items=64, max_users=500)}),
        CatalogueItems([*UNSEEN[:20], *SAID]),
    )
    run(pipeline, [("u0", f"i{n}") for n in range(4)])
    assert pipeline.features.items.lookup("new0") != NOTHING
    rng = np.random.default_rng(5)
    run(pipeline, [(f"u{n % 40}", f"i{n // 4 + int(rng.integers(5))}") for n in range(800)])
    assert pipeline.features.items.lookup("i0") == NOTHING
    pipeline.features.catalogue.take(Item(item_id="newest"))
    run(pipeline, [(f"u{n}", "i200") for n in range(45)], 800)
    batch, free = pipeline.batch, pipeline.features.items._free
    proposals = pipeline.retrievers[place].candidates(
        batch.queries, slice(0, batch.asked), K, Excluded.nothing(batch.asked)
    )
    assert (proposals != NOTHING).any()
    assert not np.isin(proposals, np.array(free, np.int32)).any()


def proposed(pipeline: Pipeline, place: int, item: str) -> list[str]:
    """What is proposed to somebody who has just touched this item and nothing else."""
    queries = Queries.empty(1)
    queries.items[0, 0] = pipeline.features.items.lookup(item)
    queries.session[0], queries.seed[0] = 1, sum(map(ord, item))
    indices = pipeline.retrievers[place].candidates(queries, slice(0, 1), 5, Excluded.nothing(1))[0]
    return [pipeline.features.items.ids[index] for index in indices.tolist() if index != NOTHING]


@pytest.mark.parametrize("name", FOLLOWING)
def test_what_follows_is_found_better_than_by_popularity(name: str, taught: Pipeline) -> None:
    found = {
        retriever: sum(f"i{(n + 1) % ITEMS}" in proposed(taught, NAMES.index(retriever), f"i{n}") for n in range(ITEMS))
        for retriever in (name, "popularity_days")
    }
    print(found)
    assert found[name] > max(3 * found["popularity_days"], ITEMS // 2)


def test_own_history_is_what_was_touched_newest_first(taught: Pipeline) -> None:
    queries = Queries.empty(1)
    queries.items[0, :5] = [4, 9, 4, 2, 9]
    own = taught.retrievers[NAMES.index("repeats")].candidates(queries, slice(0, 1), 4, Excluded.nothing(1))
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
