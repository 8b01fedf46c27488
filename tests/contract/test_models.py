"""What every model promises, checked on every model that `build` names, and the pattern each is meant for."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest

from streamrec.config.groups import MODELS, Learning, Limits, TrendsSettings
from streamrec.config.settings import Settings
from streamrec.engine.arrays.batch import CANDIDATES, NOTHING, Array, MicroBatch, Queries
from streamrec.engine.arrays.feedback import SlateFeedback
from streamrec.engine.items.item_table import ItemTable
from streamrec.engine.items.text_encoders import Hashed, TextVectors
from streamrec.engine.learning.quarantine import unsound
from streamrec.engine.models import Model
from streamrec.engine.models.clicks import ClickModel
from streamrec.engine.models.factors import Factorisation
from streamrec.engine.models.guards import StepGuard
from streamrec.engine.models.sequence import SequenceModel, Training
from streamrec.events import Item
from streamrec.wiring import HALF_LIVES_S, build_models, steady_arithmetic

CAPACITY, ITEMS, QUERIES = 256, 60, 32
BEGAN = 1_700_000_000_000
SETTINGS = Settings(
    limits=Limits(max_items=CAPACITY),
    learning=Learning(device="cpu", models=MODELS),
    trends=TrendsSettings(stale_after_s=1e6),  # the questions come hours after what was learned
)
NAMES = list(build_models(SETTINGS, ItemTable(CAPACITY)))


def alone(name: str, table: ItemTable) -> Model:
    """The model of this name, untaught, sharing nothing with another."""
    learning = SETTINGS.learning.model_copy(update={"models": ("popularity", name)})
    return build_models(SETTINGS.model_copy(update={"learning": learning}), table)[name]


class Bench:
    """Every model, untaught, over items in ten categories, and the past of a few users."""

    def __init__(self, items: int = ITEMS) -> None:
        steady_arithmetic()
        self.table = ItemTable(CAPACITY)
        texts = TextVectors(Hashed(self.table.content.width), self.table.content.width)
        for number in range(items):
            index = self.table.intern(f"i{number}", BEGAN)
            self.table.categorise(index, f"c{number % 10}")
            said = Item(item_id=f"i{number}", categories=(f"c{number % 10}",), tags=(f"t{number}", f"t{number // 7}"))
            self.table.content.set(index, texts.of_item(said))
        self.models = {name: alone(name, self.table) for name in NAMES}
        self.rng = np.random.default_rng(11)
        self.asked = 0
        self.past: dict[int, list[tuple[int, int]]] = {}  # per user, (item, ts), newest first

    def batch(self, visits: list[tuple[int, int, int]]) -> MicroBatch:
        """A micro-batch of (user, ts, item), each with its own ranking of candidates that hold the item."""
        batch = MicroBatch.empty(len(visits), len(visits), len(self.models), 4)
        for row, (user, ts, item) in enumerate(visits):
            self.ask(batch.queries, row, user, ts)
            others = self.rng.permutation(len(self.table))[: CANDIDATES // 2]
            offered = self.rng.permutation(np.union1d(others, [item]))
            batch.candidates.items[row, : len(offered)] = offered
            examples, recent = batch.examples, self.past.get(user, [])[: batch.examples.recent.shape[1]]
            examples.query[row], examples.item[row], examples.ts[row], examples.label[row] = row, item, ts, 1
            examples.recent[row, : len(recent)] = [earlier for earlier, _ in recent]
            examples.recent_steps[row, : len(recent)] = np.arange(len(recent))
            examples.session[row] = len(recent)
            self.past.setdefault(user, []).insert(0, (item, ts))
        batch.asked = batch.learned = len(visits)
        return batch

    def ask(self, queries: Queries, row: int, user: int, ts: int) -> None:
        past = self.past.get(user, [])[: queries.items.shape[1]]
        self.asked += 1
        queries.user[row], queries.ts[row], queries.seed[row] = 1_000 + user, ts, self.asked
        queries.items[row, : len(past)] = [item for item, _ in past]
        queries.steps[row, : len(past)] = np.arange(len(past))
        queries.ages_s[row, : len(past)] = [(ts - at) / 1000 for _, at in past]
        queries.session[row] = len(past)
        for slot, kind in enumerate(dict.fromkeys(int(self.table.category[item]) for item, _ in past)):
            if slot < queries.categories.shape[1]:
                queries.categories[row, slot], queries.affinity[row, slot] = kind, 1.0

    def questions(self, users: range, ts: int) -> Queries:
        queries = Queries.empty(len(users))
        for row, user in enumerate(users):
            self.ask(queries, row, user, ts)
        return queries

    def walk(self, steps: int, start: int = BEGAN) -> list[MicroBatch]:
        """People who each stay around a few items and go on from one to the next."""
        batches = []
        for step in range(steps):
            visits = []
            for user in range(QUERIES):
                last = self.past.get(user, [(user, 0)])[0][0]
                item = (last + 1 + int(self.rng.integers(2))) % ITEMS if self.rng.random() < 0.7 else user
                visits.append((user, start + 60_000 * step + user, item))
            batches.append(self.batch(visits))
        return batches


@pytest.fixture(scope="module")
def taught() -> tuple[Bench, list[MicroBatch]]:
    """Models that have learned a little. To be read, not changed."""
    bench = Bench()
    batches = bench.walk(12)
    for model in bench.models.values():
        for batch in batches:
            model.learn(batch)
    return bench, batches


def fresh(name: str, batches: list[MicroBatch], bench: Bench) -> Model:
    """The model of this name, having learned these batches."""
    model = alone(name, bench.table)
    for batch in batches:
        model.learn(batch)
    return model


def equal(first: Mapping[str, Array], second: Mapping[str, Array]) -> bool:
    return first.keys() == second.keys() and all(
        first[name].dtype == second[name].dtype and first[name].tobytes() == second[name].tobytes() for name in first
    )


def everything(rows: int) -> Array:
    """Every item, known or not, and an empty place, for each row."""
    return np.tile(np.array([*range(ITEMS), CAPACITY - 1, NOTHING], np.int32), (rows, 1))


@pytest.mark.parametrize("name", NAMES)
def test_scoring_changes_nothing(name: str, taught: tuple[Bench, list[MicroBatch]]) -> None:
    bench, _ = taught
    model = bench.models[name]
    queries = bench.questions(range(QUERIES + 8), BEGAN + 10**7)  # the last eight are new
    before = model.state()
    first = model.score(queries, slice(0, 40), everything(40)).copy()
    assert first.shape == (40, ITEMS + 2)
    assert first.dtype == np.float32
    assert equal(model.state(), before)
    assert first.tobytes() == model.score(queries, slice(0, 40), everything(40)).tobytes()


@pytest.mark.parametrize("name", NAMES)
def test_a_score_does_not_depend_on_the_company_it_is_asked_in(
    name: str, taught: tuple[Bench, list[MicroBatch]]
) -> None:
    bench, _ = taught
    model = bench.models[name]
    queries = bench.questions(range(QUERIES), BEGAN + 10**7)
    together = model.score(queries, slice(0, QUERIES), everything(QUERIES)).copy()
    for row in (0, 5, QUERIES - 1):
        assert model.score(queries, slice(row, row + 1), everything(1)).tobytes() == together[row].tobytes()


@pytest.mark.parametrize("name", NAMES)
def test_what_is_unknown_is_unlikely_or_nothing_but_never_nonsense(
    name: str, taught: tuple[Bench, list[MicroBatch]]
) -> None:
    bench, _ = taught
    queries = bench.questions(range(QUERIES, QUERIES + 4), BEGAN + 10**7)
    queries.items[1, 0] = CAPACITY - 1  # a past of unknown items
    queries.session[1] = 1
    for model in (bench.models[name], alone(name, ItemTable(CAPACITY))):
        scores = model.score(queries, slice(0, 4), everything(4))
        assert not np.isnan(scores).any()
        assert not np.isposinf(scores).any()
        assert np.isneginf(scores[:, -1]).all()  # an empty place


@pytest.mark.parametrize("name", NAMES)
def test_learning_moves_the_model_and_only_reads_the_batch(name: str, taught: tuple[Bench, list[MicroBatch]]) -> None:
    bench, batches = taught
    before = [batch.state() for batch in batches[:3]]
    model = fresh(name, [], bench)
    untaught = model.state()
    for batch, was in zip(batches[:3], before, strict=True):
        model.learn(batch)
        assert equal(batch.state(), was)
    assert not equal(model.state(), untaught)


@pytest.mark.parametrize("name", NAMES)
def test_two_that_learned_the_same_are_the_same(name: str, taught: tuple[Bench, list[MicroBatch]]) -> None:
    bench, batches = taught
    assert equal(fresh(name, batches, bench).state(), bench.models[name].state())


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_batch_teaches_nothing(name: str, taught: tuple[Bench, list[MicroBatch]]) -> None:
    bench, batches = taught
    model = fresh(name, batches[:3], bench)
    before = model.state()
    model.learn(MicroBatch.empty(4, 4, len(NAMES), 4))
    dropped = bench.batch([(1, BEGAN, 5)])
    dropped.examples.label[:] = -1  # a repeat that counts once
    model.learn(dropped)
    assert equal(model.state(), before)


@pytest.mark.parametrize("name", NAMES)
def test_a_restored_model_scores_and_learns_as_the_first_one_would(
    name: str, taught: tuple[Bench, list[MicroBatch]]
) -> None:
    bench, batches = taught
    first = fresh(name, batches[:8], bench)
    saved = first.state()
    second = alone(name, bench.table)
    second.restore(saved)
    assert equal(second.state(), saved)
    queries = bench.questions(range(QUERIES), BEGAN + 10**7)
    for batch in [None, *batches[8:]]:
        if batch is not None:
            first.learn(batch)
            second.learn(batch)
        scores = [model.score(queries, slice(0, QUERIES), everything(QUERIES)).tobytes() for model in (first, second)]
        assert scores[0] == scores[1]
    assert equal(first.state(), second.state())


@pytest.mark.parametrize("name", NAMES)
def test_a_model_that_is_brought_back_is_as_one_that_learned_nothing_since(
    name: str, taught: tuple[Bench, list[MicroBatch]]
) -> None:
    bench, batches = taught
    first, second = fresh(name, batches[:4], bench), fresh(name, batches[:4], bench)
    untaught, saved = fresh(name, [], bench).state(), first.state()
    for batch in batches[4:]:
        second.learn(batch)
    for goal, again in ((saved, batches[8:]), (untaught, batches)):
        second.restore(goal)
        assert equal(second.state(), goal)
        other = fresh(name, batches[:4] if goal is saved else [], bench)
        queries = bench.questions(range(QUERIES), BEGAN + 10**7)
        for batch in [None, *again]:
            for model in (other, second):
                if batch is not None:
                    model.learn(batch)
            said = [model.score(queries, slice(0, QUERIES), everything(QUERIES)).tobytes() for model in (other, second)]
            assert said[0] == said[1]
        assert equal(other.state(), second.state())


@pytest.mark.parametrize("name", NAMES)
def test_the_state_is_owned_by_who_asked_for_it(name: str, taught: tuple[Bench, list[MicroBatch]]) -> None:
    bench, batches = taught
    model = fresh(name, batches[:3], bench)
    before = model.state()
    for array in model.state().values():
        array[...] = 0
    assert equal(model.state(), before)


@pytest.mark.parametrize("name", NAMES)
def test_a_forgotten_item_is_as_good_as_new(name: str, taught: tuple[Bench, list[MicroBatch]]) -> None:
    bench, batches = taught
    model, gone = fresh(name, batches, bench), np.array([7, 8, 20], np.int32)
    queries = bench.questions(range(QUERIES), BEGAN + 10**7)
    known = model.score(queries, slice(0, QUERIES), everything(QUERIES)).copy()
    model.forget(gone)
    queries.items[np.isin(queries.items, gone)] = NOTHING
    queries.seed += 10_000
    scores = model.score(queries, slice(0, QUERIES), everything(QUERIES))
    assert not np.isnan(scores).any()
    if name == "clicks":
        return  # features are hashes that several items share
    if name == "factors":  # the row begins anew when the next item takes it
        assert (scores[:, gone] == 0).all()
        return
    if name == "sequence":
        assert (known[:, gone] != scores[:, gone]).all()
        arrays = model.state()
        assert (arrays["rows.bias"][gone] == 0).all()
        assert np.abs(arrays["rows.vectors"][gone]).max() <= 0.1
        return
    if name == "content":
        return  # what an item is about is the table's to forget
    assert np.isneginf(scores[:, gone]).all()


@pytest.mark.parametrize("name", NAMES)
def test_memory_stays_bounded_however_much_is_learned(name: str) -> None:
    bench = Bench()
    model, sizes = bench.models[name], []
    bound = sum(array.nbytes for array in fresh(name, [], bench).state().values()) + 80_000_000
    for start in range(0, 40, 10):
        for batch in bench.walk(10, BEGAN + 10**8 * start):
            batch.queries.user[:] = bench.rng.integers(0, 2**63, QUERIES)  # always somebody new
            model.learn(batch)
        sizes.append(sum(array.nbytes for array in model.state().values()))
    assert max(sizes) < bound
    assert sizes[3] - sizes[2] <= max(sizes[1] - sizes[0], 1_000) * 1.5


# Planted patterns


def hits(model: Model, bench: Bench, batches: list[MicroBatch], warm: int) -> float:
    """Share of the wanted items that the model puts first to third among all, each asked for before it is learned."""
    found = total = 0
    size = len(bench.table)
    for at, batch in enumerate(batches):
        rows = batch.learned
        if at >= warm:
            items = np.tile(np.arange(size, dtype=np.int32), (rows, 1))
            scores = model.score(batch.queries, slice(0, rows), items)
            wanted = scores[np.arange(rows), batch.examples.item[:rows]]
            better = (scores > wanted[:, None]).sum(1)
            found += int(((better < 3) & (wanted > -np.inf)).sum())
            total += rows
        model.learn(batch)
    return found / total


def successors(bench: Bench) -> list[MicroBatch]:
    """After each item comes one certain other, nine times out of ten, in strolls of six; all are equally popular."""
    after = np.roll(np.random.default_rng(4).permutation(ITEMS), 1)
    batches, user = [], 0
    for step in range(70):
        visits = []
        for _ in range(6):
            item = int(bench.rng.integers(ITEMS))
            for place in range(5):
                visits.append((user, BEGAN + 300_000 * step + 1_000 * place, item))
                item = int(after[item]) if bench.rng.random() < 0.9 else int(bench.rng.integers(ITEMS))
            user += 1
        batches += [bench.batch(visits)]
    return batches


def companions(bench: Bench) -> list[MicroBatch]:
    """Items go in groups of four, in any order."""
    batches, user = [], 0
    for step in range(70):
        visits = []
        for _ in range(8):
            group = 4 * int(bench.rng.integers(ITEMS // 4))
            visits += [
                (user, BEGAN + 300_000 * step + 1_000 * place, int(group + item))
                for place, item in enumerate(bench.rng.permutation(4))
            ]
            user += 1
        batches += [bench.batch(visits)]
    return batches


def returns(bench: Bench) -> list[MicroBatch]:
    """Each user has three things and comes back to them."""
    own = {user: bench.rng.permutation(ITEMS)[:3] for user in range(20)}
    return [
        bench.batch([(user, BEGAN + 300_000 * step, int(bench.rng.choice(own[user]))) for user in range(20)])
        for step in range(40)
    ]


def tastes(bench: Bench) -> list[MicroBatch]:
    """Each user stays within one category of six items, and no item is more popular than another."""
    return [
        bench.batch(
            [
                (user, BEGAN + 300_000 * step, user % 10 + 10 * int(bench.rng.integers(ITEMS // 10)))
                for user in range(30)
            ]
        )
        for step in range(60)
    ]


def kinds(bench: Bench) -> list[MicroBatch]:
    """Who touched one kind of item wants the next kind; half-way, all items are replaced by new ones."""
    batches = []
    for step in range(80):
        first, many = (0, 3) if step < 40 else (30, 3)
        visits = [
            (1_000 * step + user, BEGAN + 300_000 * step + 1_000 * place, first + (user + place) % 10 + 10 * item)
            for user in range(8)
            for place, item in enumerate(bench.rng.integers(0, many, 4).tolist())
        ]
        batches.append(bench.batch(visits))
    return batches


def favourites(bench: Bench) -> list[MicroBatch]:
    """Four times out of five, everybody wants one of the same three items."""
    return [
        bench.batch(
            [
                (
                    1_000 * step + n,
                    BEGAN + 300_000 * step,
                    int(bench.rng.integers(3 if bench.rng.random() < 0.8 else ITEMS)),
                )
                for n in range(20)
            ]
        )
        for step in range(24)
    ]


def fashions(bench: Bench) -> list[MicroBatch]:
    """Everybody wants the same three items, for an hour, and then three others."""
    return [
        bench.batch(
            [
                (1_000 * step + n, BEGAN + 300_000 * step, 3 * (step // 12) + int(bench.rng.integers(3)))
                for n in range(20)
            ]
        )
        for step in range(48)
    ]


def crazes(bench: Bench) -> list[MicroBatch]:
    """Everybody wants the same three items, for five minutes, and then three others: what was wanted most just now is
    over."""
    return [
        bench.batch(
            [
                (1_000 * step + n, BEGAN + 30_000 * step, 3 * (step // 10) % ITEMS + int(bench.rng.integers(3)))
                for n in range(20)
            ]
        )
        for step in range(160)
    ]


PATTERNS: Mapping[str, Callable[[Bench], list[MicroBatch]]] = {
    "transitions": successors,
    "sequence": successors,
    "factors": successors,
    "covisit": companions,
    "covisit_recent": companions,
    "sessions": companions,
    "repeats": returns,
    "clicks": tastes,
    "content": kinds,
}


def test_every_model_has_a_pattern_to_find() -> None:
    assert set(PATTERNS) | set(HALF_LIVES_S) | {"trends"} == set(NAMES)


@pytest.mark.parametrize("name", PATTERNS)
def test_a_model_beats_popularity_on_the_pattern_it_is_meant_for(name: str) -> None:
    bench = Bench()
    batches = PATTERNS[name](bench)
    warm = len(batches) // 2
    own = hits(bench.models[name], bench, batches, warm)
    popular = max(hits(bench.models[baseline], bench, batches, warm) for baseline in HALF_LIVES_S)
    print(f"{name}: {own:.3f} in the first three, popularity {popular:.3f}")
    assert own > max(2 * popular, 0.15)


@pytest.mark.parametrize("name", HALF_LIVES_S)
def test_popularity_finds_what_everybody_wants(name: str) -> None:
    bench = Bench()
    assert hits(bench.models[name], bench, favourites(bench), 12) > 0.75


def test_the_shorter_its_half_life_the_sooner_popularity_follows_the_fashion() -> None:
    bench = Bench()
    batches = fashions(bench)
    found = {name: hits(bench.models[name], bench, batches, 12) for name in HALF_LIVES_S}
    assert found["popularity_minutes"] > 0.8
    assert found["popularity_minutes"] > found["popularity"] >= found["popularity_days"]


def test_trends_follow_a_craze_sooner_than_any_popularity() -> None:
    bench = Bench()
    batches = crazes(bench)
    found = {name: hits(bench.models[name], bench, batches, 80) for name in (*HALF_LIVES_S, "trends")}
    print(found)
    assert found["trends"] > 0.5
    assert found["trends"] > 1.4 * max(found[name] for name in HALF_LIVES_S)


# Careless learning rates


class Trusting(StepGuard):
    """Lets everything pass."""

    wary = False

    def allow(self, loss: float, norm: float = 0.0) -> float:
        return 1.0


def careless(name: str, guard: StepGuard) -> Model:
    """A model at a hundred times its learning rate."""
    if name == "factors":
        return Factorisation(name, CAPACITY, learning_rate=8.0, guard=guard)
    return SequenceModel(name, CAPACITY, training=Training(learning_rate=0.3, row_learning_rate=30.0), guard=guard)


@pytest.mark.parametrize("name", ["factors", "sequence"])
def test_at_a_hundred_times_the_step_a_guarded_model_does_not_collapse(name: str) -> None:
    found = []
    for guard in (None, StepGuard(), Trusting()):
        bench = Bench()
        batches = [batch for _ in range(2) for batch in successors(bench)]
        model = bench.models[name] if guard is None else careless(name, guard)
        found.append(hits(model, bench, batches, 100))
    print(f"{name}: {found[0]:.3f}, careless and guarded {found[1]:.3f}, careless {found[2]:.3f}")
    assert found[1] > 0.5 * found[0]
    assert found[2] < 0.25 * found[0]


# Bad numbers


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", NAMES)
def test_a_bad_number_in_an_example_or_its_context_never_reaches_a_model(
    name: str, bad: float, taught: tuple[Bench, list[MicroBatch]]
) -> None:
    bench, batches = taught
    model = fresh(name, batches[:6], bench)
    broken = Bench().walk(1)[0]
    broken.examples.weight[3] = bad
    broken.queries.activity[:] = broken.queries.affinity[:, 0] = bad
    broken.candidates.scores[:] = broken.candidates.features[:] = broken.candidates.utility[:] = bad
    with np.errstate(all="ignore"):
        model.learn(broken)
    queries = bench.questions(range(QUERIES), BEGAN + 10**7)
    scores = model.score(queries, slice(0, QUERIES), everything(QUERIES))
    assert unsound({name: model.state()}, [name]) == []
    assert not np.isnan(scores).any()
    assert not np.isposinf(scores).any()


def test_a_weight_of_the_click_model_that_is_none_does_not_spread() -> None:
    bench = Bench()
    batches = tastes(bench)
    model = alone("clicks", bench.table)
    assert isinstance(model, ClickModel)
    for batch in batches[:10]:
        model.learn(batch)
    hit = np.flatnonzero(model._weights)[::50]
    model._weights[hit] = np.nan
    for feature in hit.tolist():
        model._learned[feature] = np.nan
    for batch in batches[10:20]:
        model.learn(batch)
    assert np.isnan(model._weights).sum() == len(hit)
    assert model.refused > 0
    assert unsound({"clicks": model.state()}, ["clicks"]) == ["clicks"]


def test_what_a_lesson_counts_for_must_be_a_number_for_the_click_model() -> None:
    bench = Bench()
    model = ClickModel("clicks", bench.table, weighted=True)
    queries = bench.questions(range(1), BEGAN + 10**7)
    traces = {"clicks": model.trace(queries, 0, np.arange(3, dtype=np.int32))}
    for chance in (np.nan, 0.2):
        slate_feedback = SlateFeedback(
            "p", 0, np.zeros((3, 4), np.float32), np.full(3, chance), np.array([0.0, 1.0, 0.0]), 9, 0, traces
        )
        model.learn_outcomes([slate_feedback])
        assert np.isfinite(model._weights).all()
    assert model.refused == 2  # the answered one and the one above it, once
    assert np.count_nonzero(model._weights) > 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", ["loss", "gradient"])
def test_a_loss_or_gradient_that_is_no_number_never_reaches_the_weights(
    place: str, bad: float, monkeypatch: pytest.MonkeyPatch, taught: tuple[Bench, list[MicroBatch]]
) -> None:
    import torch
    from torch.nn import functional

    bench, batches = taught
    model = fresh("sequence", batches[:6], bench)
    before = model.state()
    plain = functional.cross_entropy

    def broken(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        loss = plain(logits, targets)
        if place == "loss":
            return loss * bad
        loss.register_hook(lambda gradient: gradient * bad)
        return loss

    monkeypatch.setattr(functional, "cross_entropy", broken)
    for batch in batches[6:9]:
        model.learn(batch)
    monkeypatch.undo()
    after = model.state()
    weights = [name for name in before if name.startswith(("module.", "moments.", "rows."))]
    assert len(weights) > 5
    for name in weights:  # items that came new have rows of their own, at the end
        then, now = np.atleast_1d(before[name]), np.atleast_1d(after[name])
        assert then.tobytes() == now[: len(then)].tobytes()
        assert np.isfinite(after[name]).all()
    assert after["guard.counts"][1] > before["guard.counts"][1]  # refused, and counted
    for batch in batches[9:]:
        model.learn(batch)
    moved = model.state()
    assert any(moved[name].tobytes() != before[name].tobytes() for name in weights)
    assert all(np.isfinite(moved[name]).all() for name in weights)
