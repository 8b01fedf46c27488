"""Peers learn in batches, find what is there to be found, and know nothing of what comes after their training."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from streamrec.config.groups import Learning, Limits
from streamrec.config.parts import BASELINE
from streamrec.config.settings import Settings
from streamrec.engine.arrays.batch import NOTHING, Excluded, Float32, Int32, MicroBatch, Queries
from streamrec.errors import ConfigError
from streamrec.evaluation.backtest.backtest import backtest
from streamrec.evaluation.backtest.slates import model_ranks, read_slates
from streamrec.events import Event, EventType
from streamrec.replay.logs import Log, open_log
from tools.benchmarks.peers import FADE, Method, Past, Wanted
from tools.benchmarks.peers.ease import RIDGE, Ease
from tools.benchmarks.peers.itemknn import NEIGHBOURS, SHRINKAGE, ItemNeighbours
from tools.benchmarks.peers.peer import Peer
from tools.benchmarks.rivals import PEERS, Trials, run_rival, try_out

BEGAN = 1_700_000_000_000
ITEMS, USERS, TASTES = 80, 60, 4
ROWS, FIRST = 2_400, 1_200
LIBRARY = importlib.util.find_spec("implicit") is not None
NAMES = [
    pytest.param(name, marks=pytest.mark.skipif(name in ("als", "bpr") and not LIBRARY, reason="implicit is missing"))
    for name in PEERS
]


def settings(**learning: object) -> Settings:
    limits = Limits(max_items=512, max_users=512)
    return Settings(limits=limits, learning=Learning.model_validate({"device": "cpu", **learning}))


def planted() -> list[tuple[int, Event]]:
    """Everybody strolls among the items of a taste, mostly from one to the next; now and then two at a time."""
    rng, events, ts = np.random.default_rng(5), [], BEGAN
    last = {user: int(rng.integers(ITEMS // TASTES)) for user in range(USERS)}
    while len(events) < ROWS:
        user = int(rng.integers(USERS))
        ts += 40_000
        for _ in range(1 + int(rng.random() < 0.2)):
            last[user] = (last[user] + int(rng.choice([1, 2, 3], p=[0.7, 0.2, 0.1]))) % (ITEMS // TASTES)
            item = last[user] * TASTES + user % TASTES
            events.append(Event(type=EventType.CLICK, user_id=f"u{user}", item_id=f"i{item}", ts=ts))
    return list(enumerate(events[:ROWS]))


EVENTS = planted()


@pytest.fixture(scope="module", params=NAMES)
def tried(request: pytest.FixtureRequest) -> tuple[str, Trials]:
    """A peer's name, and its trials when it is trained after half of the events and again later."""
    name: str = request.param
    return name, try_out(PEERS[name](0), EVENTS, [FIRST, FIRST + 600], settings())


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Log:
    path = tmp_path_factory.mktemp("log") / "events.parquet"
    columns = ("type", "user_id", "item_id", "ts")
    pl.DataFrame([{name: getattr(event, name) for name in columns} for _, event in EVENTS]).write_parquet(path)
    return open_log(path)


def hit_rate(ranks: np.ndarray) -> float:
    return float(((ranks >= 1) & (ranks <= 10)).mean())


def test_before_its_first_training_a_peer_shows_what_is_popular(tried: tuple[str, Trials]) -> None:
    _, trials = tried
    assert trials.rows.tolist() == list(range(ROWS))
    assert (trials.peer[:FIRST] == trials.popularity[:FIRST]).all()
    assert hit_rate(trials.popularity) < 0.3


def test_after_it_it_finds_the_pattern_that_popularity_misses(tried: tuple[str, Trials]) -> None:
    name, trials = tried
    found, popular = hit_rate(trials.peer[FIRST:]), hit_rate(trials.popularity[FIRST:])
    print(name, found, popular)
    assert found > 4 * popular


def test_what_comes_later_changes_nothing_before_it(tried: tuple[str, Trials]) -> None:
    name, whole = tried
    end = FIRST + 350
    cut = try_out(PEERS[name](0), EVENTS[:end], [FIRST, FIRST + 600], settings())
    assert (cut.peer == whole.peer[:end]).all()
    assert (cut.popularity == whole.popularity[:end]).all()


class Recorder:
    """A method that writes down what it is trained on and knows nothing."""

    def __init__(self) -> None:
        self.trainings: list[Wanted] = []

    def fit(self, wanted: Wanted) -> None:
        self.trainings.append(wanted)

    def scores(self, users: Int32, past: Past) -> Float32:
        return np.full((len(users), self.trainings[-1].items), -np.inf, np.float32)


def test_a_peer_is_trained_at_every_tenth_on_what_came_before(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    monkeypatch.setitem(PEERS, "recorder", lambda seed: recorder)  # type: ignore[arg-type]
    run_rival("recorder", log, settings())
    assert len(recorder.trainings) == 9
    for tenth, wanted in enumerate(recorder.trainings, 1):
        row = tenth * ROWS // 10
        assert row - 32 < len(wanted.item) <= row
        came = iter([event.ts for _, event in EVENTS[:row]])
        assert all(ts in came for ts in wanted.ts.tolist())  # in this order; a few repeats are held back


@pytest.mark.parametrize("exclude_seen", [False, True])
def test_lists_are_filled_up_ranked_and_counted_as_in_a_backtest(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exclude_seen: bool
) -> None:
    asked = settings(exclude_seen=exclude_seen, models=(BASELINE, "repeats"))
    monkeypatch.setitem(PEERS, "recorder", lambda seed: Recorder())  # type: ignore[arg-type]
    live = backtest(log, asked, tmp_path, warmup=0.3)
    trials = try_out(Recorder(), log.events(), [FIRST], asked)
    assert trials.popularity.tolist() == model_ranks(read_slates(tmp_path / "slates.parquet"))[BASELINE].tolist()
    assert trials.peer.tolist() == trials.popularity.tolist()
    popular = run_rival("recorder", log, asked, warmup=0.3)
    scored = live.scored
    assert popular.targets == scored.sum() == ROWS - round(0.3 * ROWS)
    assert popular.recall_10 == pytest.approx(hit_rate(trials.popularity[scored]))


@pytest.mark.parametrize("name", ["als", "bpr"])
def test_a_missing_library_is_named(name: str, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, f"implicit.cpu.{name}", None)
    with pytest.raises(ConfigError, match=r"need the library implicit.*\.\[dev\]"):
        run_rival(name, log, settings())


# The methods


def wanted_by(*users: list[int]) -> Wanted:
    pairs = [(user, item) for user, items in enumerate(users) for item in items]
    user, item = (np.array(column, np.int32) for column in zip(*pairs, strict=True))
    return Wanted(user, item, np.arange(len(pairs)), len(users), int(item.max()) + 1)


def past(*users: list[int]) -> Past:
    """Each user's items, newest first, a step apart."""
    places = max(map(len, users))
    items = np.array([[*items, *[NOTHING] * (places - len(items))] for items in users], np.int32)
    return Past(items, np.tile(np.arange(places, dtype=np.int32), (len(users), 1)))


NOBODY = np.full(2, NOTHING, np.int32)
BASKETS = wanted_by([0, 1, 2], [0, 1], [1, 2, 3], [3, 4], [0, 1, 4], [2, 2, 3])


def test_a_past_counts_each_item_once_and_less_the_further_back() -> None:
    items = np.array([[3, 1, 3, NOTHING], [NOTHING] * 4], np.int32)
    steps = np.array([[0, 0, 1, 1], [0, 0, 0, 0]], np.int32)
    assert Past(items, steps).bags(5).toarray() == pytest.approx(np.array([[0, 1, 0, 1, 0], [0] * 5]))
    assert Past(items[:, 2:], steps[:, 2:]).bags(5).toarray()[0] == pytest.approx(np.array([0, 0, 0, FADE, 0]))


def test_ease_is_ridge_regression_of_each_item_on_the_others() -> None:
    ease, x = Ease(), BASKETS.matrix().toarray().astype(np.float64)
    ease.fit(BASKETS)
    weights = np.zeros((5, 5))
    for item in range(5):
        others = [other for other in range(5) if other != item]
        normal = x[:, others].T @ x[:, others] + RIDGE * np.eye(4)
        weights[others, item] = np.linalg.solve(normal, x[:, others].T @ x[:, item])
    scores = ease.scores(NOBODY, past([2, 0], []))
    assert scores[0] == pytest.approx(weights[2] + FADE * weights[0], rel=1e-4)
    assert np.isneginf(scores[1]).all()


def test_item_neighbours_are_similar_by_shrunk_cosine() -> None:
    neighbours, baskets = ItemNeighbours(), [{0, 1, 2}, {0, 1}, {1, 2, 3}, {3, 4}, {0, 1, 4}, {2, 3}]
    neighbours.fit(BASKETS)

    def together(one: int, other: int) -> float:
        return sum(1 / len(basket) for basket in baskets if {one, other} <= basket)

    def similar(one: int, other: int) -> float:
        size = (together(one, one) * together(other, other)) ** 0.5
        return together(one, other) / (size + SHRINKAGE) if one != other else 0.0

    scores = neighbours.scores(NOBODY, past([2, 0], []))
    expected = [similar(2, item) + FADE * similar(0, item) for item in range(5)]
    assert np.exp(np.log(scores[0])) == pytest.approx(expected)
    assert np.isneginf(scores[1]).all()


def test_an_item_has_so_many_neighbours_and_no_more() -> None:
    neighbours, crowd = ItemNeighbours(), NEIGHBOURS + 50
    neighbours.fit(wanted_by(*([0, item] for item in range(1, crowd)), [0, 7]))
    scores = neighbours.scores(NOBODY[:1], past([0]))
    assert np.isfinite(scores).sum() == NEIGHBOURS
    assert scores[0].argmax() == 7


@pytest.mark.skipif(not LIBRARY, reason="implicit is missing")
def test_als_knows_newcomers_by_their_past_and_bpr_does_not() -> None:
    halves = [[half * 8 + (user + step) % 8 for step in range(5)] for user in range(20) for half in (0, 1)]
    wanted, came_later = wanted_by(*halves), NOBODY[:1]
    known = np.zeros(1, np.int32)
    for name in ("als", "bpr"):
        method = PEERS[name](0)
        method.fit(wanted)
        scores = method.scores(known, past([0, 3]))[0]
        assert np.isneginf(scores[0])
        assert scores[1:8].mean() > scores[8:].mean()
        of_newcomer = method.scores(came_later, past([9, 12]))[0]
        if name == "als":
            assert of_newcomer[[8, 10, 11]].min() > of_newcomer[:8].max()
        else:
            assert np.isneginf(of_newcomer).all()


def test_the_network_reads_the_past_in_order_and_over_gaps() -> None:
    method = PEERS["gru4rec"](0)
    method.fit(wanted_by(*([(user + step) % 9 for step in range(9)] for user in range(200))))
    forth, back, gap, nothing = method.scores(np.full(4, NOTHING, np.int32), past([4, 3], [3, 4], [4, NOTHING, 3], []))
    assert forth.argmax() == 5
    assert not np.allclose(forth, back)
    assert gap == pytest.approx(forth, abs=1e-5)
    assert np.isneginf(nothing).all()


# The seat


def batches(count: int) -> Iterator[MicroBatch]:
    """The first micro-batches of the planted events, item n with index n, one in ten refused."""
    seen: dict[int, list[int]] = {}
    for first in range(0, 32 * count, 32):
        batch = MicroBatch.empty(32, 32, 1, 4)
        for row, (_, event) in enumerate(EVENTS[first : first + 32]):
            user, item = int(event.user_id[1:]), int((event.item_id or "")[1:])
            ask(batch.queries, row, user, seen.get(user, []), first + row)
            batch.examples.query[row], batch.examples.item[row] = row, item
            batch.examples.ts[row], batch.examples.label[row] = event.ts, int(row % 10 > 0)
            seen.setdefault(user, []).insert(0, item)
        batch.asked = batch.learned = 32
        yield batch


def ask(queries: Queries, row: int, user: int, items: list[int], seed: int) -> None:
    items = items[: queries.items.shape[1]]
    queries.user[row], queries.seed[row] = user, seed
    queries.items[row, : len(items)], queries.steps[row, : len(items)] = items, range(len(items))


def seated(method: Method, count: int = 20) -> Peer:
    peer = Peer("peer", method, ITEMS)
    for batch in batches(count):
        peer.learn(batch)
    peer.train()
    return peer


def questions() -> Queries:
    queries = Queries.empty(3)
    for row, items in enumerate([[8, 4, 0], [9, 5], []]):
        ask(queries, row, row, items, 10_000 + row)
    return queries


EVERYTHING = slice(0, 3)


def test_the_strongest_are_those_that_score_best_and_are_not_excluded() -> None:
    peer, queries = seated(Ease()), questions()
    items = np.tile(np.array([*range(ITEMS), NOTHING], np.int32), (3, 1))
    scores = peer.score(queries, EVERYTHING, items)
    best = peer.strongest(queries, EVERYTHING, 6, Excluded.nothing(3))
    assert best[:2].tolist() == np.argsort(-scores[:2], axis=1, kind="stable")[:, :6].tolist()
    assert (best[2] == NOTHING).all()
    assert np.isneginf(scores[2]).all()
    without = peer.strongest(queries, EVERYTHING, 4, Excluded.of([best[0, :2], best[1, :0], best[2, :0]]))
    assert without.tolist() == [best[0, 2:].tolist(), best[1, :4].tolist(), [NOTHING] * 4]


def test_what_a_user_refused_is_no_part_of_the_past() -> None:
    peer, queries = seated(Ease()), questions()
    before = peer.strongest(queries, slice(0, 1), 6, Excluded.nothing(1))
    batch = MicroBatch.empty(1, 1, 1, 4)
    ask(batch.queries, 0, int(queries.user[0]), [], 20_000)
    batch.examples.query[0], batch.examples.item[0], batch.examples.label[0] = 0, 8, 0
    batch.asked = batch.learned = 1
    peer.learn(batch)
    queries.seed[0] += 1_000  # another moment
    after = peer.strongest(queries, slice(0, 1), 6, Excluded.nothing(1))
    queries.items[0, 0] = NOTHING
    queries.seed[0] += 1_000
    assert after.tolist() == peer.strongest(queries, slice(0, 1), 6, Excluded.nothing(1)).tolist() != before.tolist()


def test_a_restored_peer_answers_alike_and_goes_on() -> None:
    peer, other, queries = seated(Ease()), Peer("peer", Ease(), ITEMS), questions()
    *_, later = batches(21)
    peer.learn(later)  # after the training
    other.restore(peer.state())
    for _ in range(2):
        mine, others = (one.strongest(queries, EVERYTHING, 9, Excluded.nothing(3)) for one in (peer, other))
        assert mine.tolist() == others.tolist()
        peer.train()
        other.train()
    assert peer.trained == other.trained == 21 * 32


def test_what_is_forgotten_is_neither_shown_nor_learned_again() -> None:
    peer, queries = seated(Ease()), questions()
    gone = peer.strongest(queries, EVERYTHING, 3, Excluded.nothing(3))[0]
    peer.forget(gone)
    queries.seed += 1_000
    assert not np.isin(peer.strongest(queries, EVERYTHING, 20, Excluded.nothing(3)), gone).any()
    peer.train()
    assert not np.isin(peer.strongest(queries, EVERYTHING, 20, Excluded.nothing(3)), gone).any()
