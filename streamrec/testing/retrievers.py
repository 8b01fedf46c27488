"""What every retriever promises, as checks that can be run on any: `check_retriever(entry)`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import cached_property

import numpy as np

from streamrec.config import parts
from streamrec.config.groups import Learning, Limits
from streamrec.config.parts import BASELINE, Finds, ModelEntry, RetrieverEntry, listing
from streamrec.config.settings import Settings
from streamrec.engine.arrays.batch import NOTHING, Excluded, Int32, Queries
from streamrec.engine.pipeline import Pipeline
from streamrec.engine.retrieval import Retriever
from streamrec.events import Event, EventType, Item
from streamrec.replay.catalogue_file import CatalogueItems
from streamrec.testing.expectations import expect, run_all
from streamrec.wiring import build_pipeline, run_engine

CAPACITY, ITEMS, K = 256, 80, 30
MOST = 200
"""More than there is."""
BEGAN_MS = 1_700_000_000_000
RIVAL = "popularity_days"
"""The popularity that a retriever of neighbours has to beat."""
UNSEEN = [Item(item_id=f"new{n}") for n in range(40)]
SAID = [Item(item_id=f"i{n}", tags=(f"t{n}", f"t{n + 1}"), added=BEGAN_MS + 10**12) for n in range(300)]
"""Of items that the log names first."""
SPONSORED = [Item(item_id=f"ad{n}", bid=0.1 + n / 100, budget=1e6) for n in range(12)]


class RetrieverBench:
    """A retriever in a pipeline of its own, beside the popularity that every pipeline has.

    People stroll along a ring of items: i5 is followed by i6. `taught` is left in the middle of a micro-batch, and is
    to be read only.
    """

    def __init__(self, entry: RetrieverEntry | ModelEntry) -> None:
        """A model's entry is that of the retriever which it `proposes`."""
        self.entry = entry
        asked = entry.proposes if isinstance(entry, ModelEntry) else entry
        assert asked is not None, f"the model {entry.name!r} proposes nothing, expected an entry with `proposes`"
        self.name, self.finds = asked.name, asked.finds

    def pipeline(self, max_items: int = CAPACITY, catalogue: list[Item] | None = None) -> Pipeline:
        """Untaught, with what the catalogue says."""
        with ExitStack() as stack:
            if parts.models().get(self.entry.name) is not self.entry and self.name not in parts.retrievers():
                stack.enter_context(listing(self.entry))
            reads = parts.retrievers()[self.name].reads
            chosen = tuple(dict.fromkeys([BASELINE, RIVAL, *([reads] if reads else [])]))
            settings = Settings(
                limits=Limits(max_items=max_items, max_users=500), learning=Learning(device="cpu", models=chosen)
            )
            return build_pipeline(settings, CatalogueItems(catalogue or []))

    def retriever(self, pipeline: Pipeline) -> Retriever:
        """The retriever within a pipeline."""
        return next(one for one in (*pipeline.retrievers, *pipeline.special) if one.name == self.name)

    @cached_property
    def taught(self) -> Pipeline:
        """What has seen three hundred strolls."""
        pipeline, rng = self.pipeline(catalogue=[*UNSEEN, *SAID, *SPONSORED]), np.random.default_rng(2)
        visits = []
        for stroll in range(300):
            start = int(rng.integers(ITEMS))
            visits += [(f"u{stroll % 90}", f"i{(start + step) % ITEMS}") for step in range(4)]
        run(pipeline, visits)
        run(pipeline, [(f"u{user}", "i7") for user in range(10)], len(visits))
        return pipeline

    def proposed(self, rows: slice | None = None, k: int = K, excluded: Excluded | None = None) -> Int32:
        """What the taught retriever proposes for some of the batch's queries, all by default; a copy."""
        batch = self.taught.batch
        rows = slice(0, batch.asked) if rows is None else rows
        none = Excluded.nothing(rows.stop - rows.start)
        return np.array(self.retriever(self.taught).candidates(batch.queries, rows, k, excluded or none))


def run(pipeline: Pipeline, visits: list[tuple[str, str]], first: int = 0) -> None:
    """Users view items, a tenth of a second apart."""
    events = [
        Event(type=EventType.VIEW, user_id=user, item_id=item, ts=BEGAN_MS + 100 * (first + at))
        for at, (user, item) in enumerate(visits)
    ]
    for _ in run_engine(pipeline, events, first=first):
        pass


def proposals_are_distinct_items_best_first_and_then_nothing(bench: RetrieverBench) -> None:
    """(rows, k) int32: known items, each once, NOTHING behind them."""
    proposals, asked = bench.proposed(), bench.taught.batch.asked
    expect(asked >= 10, "too few queries were asked")
    expect(proposals.shape == (asked, K), f"proposals have the shape {proposals.shape}, expected (rows, k)")
    expect(proposals.dtype == np.int32, f"proposals are {proposals.dtype}, expected int32")
    expect(proposals.max() < len(bench.taught.features.items), "an index is proposed that names no item")
    for row in proposals.tolist():
        there = [item for item in row if item != NOTHING]
        expect(len(set(there)) == len(there), f"an item is proposed twice for one query: {there}")
        expect(row == there + [NOTHING] * (K - len(there)), "an empty place (NOTHING) stands before an item")
    expect((proposals != NOTHING).any(), "nothing is proposed for anybody, expected some items after 1,200 visits")


def proposing_changes_nothing(bench: RetrieverBench) -> None:
    """The pipeline's state stays as it was, and the same question has the same answer."""

    def state() -> dict[tuple[str, str], bytes]:
        return {
            (part, name): a.tobytes() for part, arrays in bench.taught.state().items() for name, a in arrays.items()
        }

    before = state()
    first = bench.proposed().tolist()
    expect(bench.proposed().tolist() == first, "asked twice, the proposals differ")
    expect(before == state(), "proposing changed the state, expected `candidates` to only read it")


def a_proposal_does_not_depend_on_the_company_it_is_asked_in(bench: RetrieverBench) -> None:
    """A query gets the same items alone and among others."""
    together = bench.proposed()
    for row in (0, 3, len(together) - 1):
        alone = bench.proposed(slice(row, row + 1))[0]
        expect(alone.tolist() == together[row].tolist(), f"query {row} gets other items when it is asked alone")


def more_than_there_is_and_almost_nothing_can_be_asked_for(bench: RetrieverBench) -> None:
    """The shape is (rows, k) for any k."""
    for k in (1, MOST):
        shape = bench.proposed(slice(0, 4), k).shape
        expect(shape == (4, k), f"for k = {k} proposals have the shape {shape}, expected (4, {k})")


def the_untaught_propose_nothing(bench: RetrieverBench) -> None:
    """Without events and without a catalogue every place is empty."""
    proposals = bench.retriever(bench.pipeline()).candidates(Queries.empty(3), slice(0, 3), K, Excluded.nothing(3))
    expect((np.array(proposals) == NOTHING).all(), "something is proposed before there are items")


def excluded_items_give_their_places_to_the_next_best(bench: RetrieverBench) -> None:
    """What a query must not get leaves the order of the others as it was."""
    everything = bench.proposed(k=MOST)
    excluded = Excluded.of(row[:10] for row in everything)
    proposals = bench.proposed(k=5, excluded=excluded)
    expect((proposals == everything[:, 10:15]).all(), "without the first ten, the next five best were expected")


def barred_items_give_their_places_to_the_next_best(bench: RetrieverBench) -> None:
    """The same where an item is barred from every query, and afterwards it comes back."""
    one = slice(0, 1)
    everything = bench.proposed(one, MOST)[0]
    barred = np.zeros(len(bench.taught.features.items), np.bool_)
    barred[everything[:20:2][everything[:20:2] != NOTHING]] = True
    allowed = [item for item in everything.tolist() if item != NOTHING and not barred[item]]
    proposals = bench.proposed(one, 5, Excluded.of([np.empty(0, np.int32)], barred))[0].tolist()
    expect(proposals == (allowed + [NOTHING] * 5)[:5], f"{proposals} is proposed, expected the best that is not barred")
    expect(bench.proposed(one, MOST)[0].tolist() == everything.tolist(), "what was barred once does not come back")


def a_forgotten_item_is_not_proposed(bench: RetrieverBench) -> None:
    """An index that names no item any more is never proposed, when the table of items is full."""
    pipeline = bench.pipeline(64, [*UNSEEN[:20], *SAID])
    run(pipeline, [("u0", f"i{n}") for n in range(4)])
    expect(pipeline.features.items.lookup("new0") != NOTHING, "the catalogue's items were expected in the table")
    rng = np.random.default_rng(5)
    run(pipeline, [(f"u{n % 40}", f"i{n // 4 + int(rng.integers(5))}") for n in range(800)])
    expect(pipeline.features.items.lookup("i0") == NOTHING, "the oldest item was expected to be forgotten")
    pipeline.features.catalogue.take(Item(item_id="newest", bid=1.0, budget=1e6))  # an ad, too
    run(pipeline, [(f"u{n}", "i200") for n in range(45)], 800)
    batch, retriever, free = pipeline.batch, bench.retriever(pipeline), np.array(pipeline.features.items.free, np.int32)
    excluded = Excluded.nothing(batch.asked)
    if retriever in pipeline.special:  # rules bar these, too, from what a scenario names
        barred = np.zeros(len(pipeline.features.items), np.bool_)
        barred[free] = True
        excluded = Excluded.of([np.empty(0, np.int32)] * batch.asked, barred)
    proposals = retriever.candidates(batch.queries, slice(0, batch.asked), K, excluded)
    expect((proposals != NOTHING).any(), "nothing is proposed to anybody")
    expect(not np.isin(proposals, free).any(), "a forgotten item is proposed")


def a_finder_of_neighbours_finds_what_follows_better_than_popularity(bench: RetrieverBench) -> None:
    """Asked with nothing but the last item, it names the next one of the ring among five, three times as often."""
    if bench.finds is not Finds.NEIGHBOURS:
        return
    pipeline = bench.taught
    rival = next(one for one in pipeline.retrievers if one.name == RIVAL)
    found = {
        one.name: sum(f"i{(n + 1) % ITEMS}" in _proposed_after(pipeline, one, f"i{n}") for n in range(ITEMS))
        for one in (bench.retriever(pipeline), rival)
    }
    print(found)
    least = max(3 * found[RIVAL], ITEMS // 2)
    expect(
        found[bench.name] > least,
        f"of {ITEMS} items, it finds what follows of {found[bench.name]}, expected more than {least}",
    )


def _proposed_after(pipeline: Pipeline, retriever: Retriever, item: str) -> list[str]:
    """What is proposed to a user who has just touched this item and nothing else."""
    queries, items = Queries.empty(1), pipeline.features.items
    queries.items[0, 0] = items.lookup(item)
    queries.session[0], queries.seed[0] = 1, sum(map(ord, item))
    indices = retriever.candidates(queries, slice(0, 1), 5, Excluded.nothing(1))[0]
    return [items.ids[index] for index in indices.tolist() if index != NOTHING]


RETRIEVER_CHECKS: tuple[Callable[[RetrieverBench], None], ...] = (
    proposals_are_distinct_items_best_first_and_then_nothing,
    proposing_changes_nothing,
    a_proposal_does_not_depend_on_the_company_it_is_asked_in,
    more_than_there_is_and_almost_nothing_can_be_asked_for,
    the_untaught_propose_nothing,
    excluded_items_give_their_places_to_the_next_best,
    barred_items_give_their_places_to_the_next_best,
    a_forgotten_item_is_not_proposed,
    a_finder_of_neighbours_finds_what_follows_better_than_popularity,
)


def check_retriever(entry: RetrieverEntry | ModelEntry) -> None:
    """Check that a retriever keeps every promise of `streamrec.engine.retrieval.Retriever`.

    Args:
        entry: listed or not; of a model, the retriever that it `proposes` is checked.

    Raises:
        AssertionError: it does not; the message says which promise, and what was expected.
    """
    bench = RetrieverBench(entry)
    run_all(RETRIEVER_CHECKS, lambda: bench)
