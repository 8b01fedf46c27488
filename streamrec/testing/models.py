"""What every model promises, as checks that can be run on any: `check_model(entry)`."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np

from streamrec.config import parts
from streamrec.config.groups import Learning, Limits, TrendsSettings
from streamrec.config.parts import BASELINE, Finds, ModelEntry
from streamrec.config.settings import Settings
from streamrec.engine.arrays.batch import NOTHING, Float32, MicroBatch, Queries
from streamrec.engine.items.item_table import ItemTable
from streamrec.engine.learning.quarantine import unsound
from streamrec.engine.models import Model, ModelParts
from streamrec.testing.expectations import expect, run_all, same
from streamrec.testing.following import Following, what_is_served_is_part_of_the_state
from streamrec.testing.patterns import hits, pattern_of
from streamrec.testing.visits import BEGAN_MS, CAPACITY, ITEMS, USERS, Visits, everything
from streamrec.wiring import build_model, steady_arithmetic

SETTINGS = Settings(
    limits=Limits(max_items=CAPACITY),
    learning=Learning(device="cpu", models=(BASELINE,)),
    trends=TrendsSettings(stale_after_s=1e6),  # the questions come hours after what was learned
)
ROOM = 80_000_000
"""Bytes that a state may grow by, however much is learned."""


class ModelBench:
    """A model beside visits that it may learn from; `taught` has learned `batches`, and both are to be read only."""

    def __init__(self, entry: ModelEntry) -> None:
        steady_arithmetic()
        self.entry = entry
        self.visits = Visits()
        self.batches = self.visits.walk(12)

    def untaught(self, table: ItemTable | None = None, *, serving: bool = False) -> Model:
        """The model, sharing nothing with another; `serving`: to follow what another one learns."""
        return build_model(SETTINGS, self.entry, self.visits.table if table is None else table, serving=serving)

    def learned(self, batches: list[MicroBatch]) -> Model:
        """The model, having learned these batches."""
        model = self.untaught()
        for batch in batches:
            model.learn(batch)
        return model

    @cached_property
    def taught(self) -> Model:
        """The model, having learned a little."""
        return self.learned(self.batches)

    def questions(self, first: int = 0, last: int = USERS) -> Queries:
        """One query of each of these users, hours after the visits; from the number USERS on they are new."""
        return self.visits.questions(range(first, last))


def scores(model: Model, queries: Queries) -> Float32:
    """Of everything, for every query, (queries, ITEMS + 2); a copy."""
    rows = len(queries.ts)
    return model.score(queries, slice(0, rows), everything(rows)).copy()


def scoring_changes_nothing(bench: ModelBench) -> None:
    """Scores are (rows, candidates) float32, the same each time they are asked for, and the state stays as it was."""
    model, queries = bench.taught, bench.questions(0, USERS + 8)
    before = model.state()
    first = scores(model, queries)
    expect(first.shape == (USERS + 8, ITEMS + 2), f"scores have the shape {first.shape}, expected (rows, candidates)")
    expect(first.dtype == np.float32, f"scores are {first.dtype}, expected float32")
    expect(same(model.state(), before), "scoring changed the state, expected `score` to only read it")
    expect(first.tobytes() == scores(model, queries).tobytes(), "asked twice, the scores differ, expected the same")


def a_score_does_not_depend_on_the_company_it_is_asked_in(bench: ModelBench) -> None:
    """A query gets the same bits alone and among others."""
    model, queries = bench.taught, bench.questions()
    together = scores(model, queries)
    for row in (0, 5, USERS - 1):
        alone = model.score(queries, slice(row, row + 1), everything(1))
        expect(alone.tobytes() == together[row].tobytes(), f"query {row} scores otherwise alone, expected the same")


def what_is_unknown_is_unlikely_or_nothing_but_never_nonsense(bench: ModelBench) -> None:
    """No user, item or table is so new that a score is no number; an empty place has -inf."""
    queries = bench.questions(USERS, USERS + 4)
    queries.items[1, 0] = CAPACITY - 1  # a past of unknown items
    queries.session[1] = 1
    for model in (bench.taught, bench.untaught(ItemTable(CAPACITY))):
        found = scores(model, queries)
        _expect_numbers(found)
        expect(np.isneginf(found[:, -1]).all(), "an empty place (NOTHING) has a score, expected -inf")


def learning_moves_the_model_and_only_reads_the_batch(bench: ModelBench) -> None:
    """Three batches leave a trace in the state, and are as they were."""
    batches = bench.batches[:3]
    before, model = [batch.state() for batch in batches], bench.untaught()
    untaught = model.state()
    for batch, was in zip(batches, before, strict=True):
        model.learn(batch)
        expect(same(batch.state(), was), "learning changed the batch, expected `learn` to only read it")
    expect(not same(model.state(), untaught), "learning left the state as it was, expected what was learned in it")


def two_that_learned_the_same_are_the_same(bench: ModelBench) -> None:
    """The state is a function of the batches."""
    expect(
        same(bench.learned(bench.batches).state(), bench.taught.state()),
        "two that learned the same batches differ, expected the same: no clock, no randomness but from the seed",
    )


def an_empty_batch_teaches_nothing(bench: ModelBench) -> None:
    """Neither does an example whose label says that it does not count."""
    model = bench.learned(bench.batches[:3])
    before = model.state()
    model.learn(MicroBatch.empty(4, 4, 1, 4))
    dropped = bench.visits.batch([(1, BEGAN_MS, 5)])
    dropped.examples.label[:] = -1  # a repeat that counts once
    model.learn(dropped)
    expect(same(model.state(), before), "an empty batch, or an example with label -1, changed the state")


def a_restored_model_scores_and_learns_as_the_first_one_would(bench: ModelBench) -> None:
    """A snapshot holds everything: in another process the model goes on as if nothing had happened."""
    first, second = bench.learned(bench.batches[:8]), bench.untaught()
    saved = first.state()
    second.restore(saved)
    expect(same(second.state(), saved), "restored, the state is another one than was saved")
    _expect_to_go_on_alike(first, second, bench.batches[8:], bench)


def a_model_that_is_brought_back_is_as_one_that_learned_nothing_since(bench: ModelBench) -> None:
    """Restoring leaves nothing of what was learned before it."""
    batches = bench.batches
    first, second = bench.learned(batches[:4]), bench.learned(batches[:4])
    untaught, saved = bench.untaught().state(), first.state()
    for batch in batches[4:]:
        second.learn(batch)
    for goal, known, again in ((saved, batches[:4], batches[8:]), (untaught, [], batches)):
        second.restore(goal)
        expect(same(second.state(), goal), "brought back, the state is another one than was saved")
        _expect_to_go_on_alike(bench.learned(known), second, again, bench)


def _expect_to_go_on_alike(first: Model, second: Model, batches: list[MicroBatch], bench: ModelBench) -> None:
    queries = bench.questions()
    for batch in [None, *batches]:
        for model in (first, second):
            if batch is not None:
                model.learn(batch)
        expect(
            scores(first, queries).tobytes() == scores(second, queries).tobytes(),
            "a restored model scores otherwise than the one it was saved of, expected the same bits",
        )
    expect(same(first.state(), second.state()), "a restored model learned otherwise than the one it was saved of")


def the_state_is_owned_by_who_asked_for_it(bench: ModelBench) -> None:
    """Writing into a state that was handed out changes nothing in the model."""
    model = bench.learned(bench.batches[:3])
    before = model.state()
    for array in model.state().values():
        array[...] = 0
    expect(same(model.state(), before), "`state` handed out the model's own arrays, expected copies")


def one_that_serves_scores_as_the_one_it_follows(bench: ModelBench) -> None:
    """What `served` gives leads a model that was never taught to the same bits, by a snapshot and then row by row.

    So it does after more was learned, after items were forgotten and learned again, and after the model was brought
    back to what it was.
    """
    first, second = bench.learned(bench.batches[:4]), bench.untaught(serving=True)
    saved, queries = first.state(), bench.questions(0, USERS + 8)
    following = Following(lambda: {"model": first}, lambda: {"model": second})
    following.begin({"model": first.state()})
    steps: tuple[Callable[[], None], ...] = (
        lambda: None,
        *(lambda batch=batch: first.learn(batch) for batch in bench.batches[4:9]),
        lambda: first.forget(np.array([7, 8, 20], np.int32)),
        *(lambda batch=batch: first.learn(batch) for batch in bench.batches[9:]),
        lambda: first.restore(saved),
        lambda: first.learn(bench.batches[4]),
    )
    for number, step in enumerate(steps):
        step()
        what_is_served_is_part_of_the_state(first, first.state())
        following.catch_up()
        queries.seed += 1_000
        expect(
            scores(first, queries).tobytes() == scores(second, queries).tobytes(),
            f"after step {number}, a model that serves scores otherwise than the one it follows",
        )


def a_forgotten_item_is_as_good_as_new(bench: ModelBench) -> None:
    """Of a forgotten item nothing is known; where an entry says that it does not forget, its score stays a number."""
    model, gone = bench.learned(bench.batches), np.array([7, 8, 20], np.int32)
    queries = bench.questions()
    model.forget(gone)
    queries.items[np.isin(queries.items, gone)] = NOTHING
    queries.seed += 10_000
    found = scores(model, queries)
    expect(not np.isnan(found).any(), "after `forget` a score is not a number")
    if bench.entry.forgets:
        expect(np.isneginf(found[:, gone]).all(), "a forgotten item has a score, expected -inf")


def memory_stays_bounded_however_much_is_learned(bench: ModelBench) -> None:
    """New users go on coming, and the state does not go on growing."""
    visits, model, sizes = Visits(), bench.untaught(), []
    bound = _size(model) + ROOM
    for start in range(0, 40, 10):
        for batch in visits.walk(10, BEGAN_MS + 10**8 * start):
            batch.queries.user[:] = visits.rng.integers(0, 2**63, USERS)  # always somebody new
            model.learn(batch)
        sizes.append(_size(model))
    expect(max(sizes) < bound, f"the state grew to {max(sizes):,} bytes, expected less than {bound:,}")
    expect(
        sizes[3] - sizes[2] <= max(sizes[1] - sizes[0], 1_000) * 1.5,
        f"with new users the state grows faster and faster: {sizes} bytes after each thousand visits or so",
    )


def _size(model: Model) -> int:
    return sum(array.nbytes for array in model.state().values())


def a_bad_number_in_an_example_or_its_context_never_reaches_a_model(bench: ModelBench) -> None:
    """Not a number, or infinity, in what is learned: state and scores stay numbers."""
    for bad in (float("nan"), float("inf"), float("-inf")):
        model, broken = bench.learned(bench.batches[:6]), Visits().walk(1)[0]
        broken.examples.weight[3] = bad
        broken.queries.activity[:] = broken.queries.affinity[:, 0] = bad
        broken.candidates.scores[:] = broken.candidates.features[:] = broken.candidates.utility[:] = bad
        with np.errstate(all="ignore"):
            model.learn(broken)
        found = scores(model, bench.questions())
        expect(
            unsound({bench.entry.name: model.state()}, [bench.entry.name]) == [],
            f"{bad} in a batch reached the state, expected such an example to be left out",
        )
        _expect_numbers(found)


def _expect_numbers(found: Float32) -> None:
    expect(not np.isnan(found).any(), "a score is not a number, expected -inf where nothing is known")
    expect(not np.isposinf(found).any(), "a score is infinite, expected a log mass or -inf")


def it_finds_the_pattern_it_is_meant_for(bench: ModelBench) -> None:
    """It puts what is wanted among the first three, much more often than popularity where the pattern says so."""
    pattern, visits = pattern_of(bench.entry), Visits()
    batches = pattern.planted(visits)
    warm = len(batches) // 2

    def found(entry: ModelEntry) -> float:
        return hits(build_model(SETTINGS, entry, visits.table), visits, batches, warm)

    own, rivals = found(bench.entry), popularities() if pattern.times_popularity else []
    popular = max(map(found, rivals), default=0.0)
    print(f"{bench.entry.name}: {own:.3f} in the first three, popularity {popular:.3f}")
    least = max(pattern.hits, pattern.times_popularity * popular)
    expect(
        own > least,
        f"it puts {own:.1%} of what is wanted among the first three, expected more than {least:.1%}: "
        f"{pattern.times_popularity} times the best popularity, and {pattern.hits:.0%} at least",
    )


def popularities() -> list[ModelEntry]:
    """The listed popularities."""
    popular = [one.reads for one in parts.retrievers().values() if one.finds is Finds.POPULAR]
    return [parts.models()[name] for name in popular if name]


MODEL_CHECKS: tuple[Callable[[ModelBench], None], ...] = (
    scoring_changes_nothing,
    a_score_does_not_depend_on_the_company_it_is_asked_in,
    what_is_unknown_is_unlikely_or_nothing_but_never_nonsense,
    learning_moves_the_model_and_only_reads_the_batch,
    two_that_learned_the_same_are_the_same,
    an_empty_batch_teaches_nothing,
    a_restored_model_scores_and_learns_as_the_first_one_would,
    a_model_that_is_brought_back_is_as_one_that_learned_nothing_since,
    the_state_is_owned_by_who_asked_for_it,
    one_that_serves_scores_as_the_one_it_follows,
    a_forgotten_item_is_as_good_as_new,
    memory_stays_bounded_however_much_is_learned,
    a_bad_number_in_an_example_or_its_context_never_reaches_a_model,
    it_finds_the_pattern_it_is_meant_for,
)


def check_model(model: ModelEntry | Callable[[ModelParts], Model], meant_for: str | None = None) -> None:
    """Check that a model keeps every promise of `streamrec.engine.models.Model`, and learns what it is meant for.

    Args:
        model: an entry, listed or not, or what builds the model of its parts, under the name that they give.
        meant_for: the pattern, where `model` is no entry.

    Raises:
        AssertionError: it does not; the message says which promise, and what was expected.
    """
    entry = model if isinstance(model, ModelEntry) else ModelEntry("model", model, meant_for=meant_for)
    bench = ModelBench(entry)
    run_all(MODEL_CHECKS, lambda: bench)
