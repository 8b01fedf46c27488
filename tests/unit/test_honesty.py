"""Nothing is known before it happened: figures of a backtest are what a live system would have seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import pytest

from streamrec.config.groups import Learning, Limits
from streamrec.config.settings import Settings
from streamrec.engine.arrays.batch import CANDIDATES
from streamrec.engine.arrays.top_k import ranked
from streamrec.events import Event, EventType
from streamrec.wiring import build_pipeline, run_engine

BEGAN = 1_700_000_000_000
ITEMS = 200
HASHED = ("clicks",)
"""Models that tell users apart by a hash of their names."""


class Ranking(NamedTuple):
    """What stood in the fused list before one example, and where each ranker had the example."""

    items: tuple[str, ...]
    scores: bytes
    ranks: dict[str, int]


def rankings(events: Sequence[Event], poll: int = 512) -> dict[int, Ranking]:
    """By the place of the example in the log."""
    settings = Settings(limits=Limits(max_items=4_096, max_users=4_096), learning=Learning(device="cpu"))
    pipeline, found = build_pipeline(settings), {}
    names = ("fused", *pipeline.fusion.models)
    ids = pipeline.features.items.ids
    for batch_result in run_engine(pipeline, events, poll=poll):
        trial, candidates = batch_result.trial, pipeline.batch.candidates
        for at, (logged, row) in enumerate(zip(trial.logged_events, trial.rows, strict=True)):
            best = ranked(candidates.utility[row][None], CANDIDATES)[0]
            best = best[best >= 0]
            found[logged.offset] = Ranking(
                tuple(ids[index] for index in candidates.items[row, best].tolist()),
                candidates.utility[row, best].tobytes(),
                dict(zip(names, trial.ranks[:, at].tolist(), strict=True)),
            )
    return found


def planted(count: int = 2_400) -> list[Event]:
    """Short walks along a ring of items; many users come back; ties and baskets among them."""
    rng, events, ts = np.random.default_rng(3), [], BEGAN
    while len(events) < count:
        user, item = int(rng.integers(150)), int(rng.integers(ITEMS))
        for _ in range(int(rng.integers(2, 7))):
            ts += int(rng.choice([0, 2_000, 20_000]))
            item = (item + int(rng.choice([1, 2, 3], p=[0.8, 0.1, 0.1]))) % ITEMS
            events.append(Event(type=EventType.CLICK, user_id=f"u{user}", item_id=f"i{item}", ts=ts))
        ts += 60_000
    return events[:count]


def yoochoose(folder: Path) -> list[Event]:
    import polars as pl

    table = pl.read_parquet(folder / "yoochoose100k" / "events.parquet").head(3_000)
    return [
        Event(type=EventType.CLICK, user_id=row["user_id"], item_id=row["item_id"], ts=row["ts"])
        for row in table.iter_rows(named=True)
    ]


@pytest.fixture(scope="module", params=["planted", "yoochoose100k"])
def log(request: pytest.FixtureRequest) -> list[Event]:
    if request.param == "planted":
        return planted()
    return yoochoose(request.getfixturevalue("streamrec_data"))


@pytest.fixture(scope="module")
def whole(log: list[Event]) -> dict[int, Ranking]:
    return rankings(log)


def hit_rate(found: dict[int, Ranking], ranker: str = "fused", skip: float = 0.3) -> float:
    """Share of the examples past the first ones that stood in the first ten places."""
    ranks = np.array([ranking.ranks[ranker] for ranking in found.values()])[int(skip * len(found)) :]
    return float(((ranks > 0) & (ranks <= 10)).mean())


def test_there_is_something_to_be_honest_about(log: list[Event], whole: dict[int, Ranking]) -> None:
    assert len(whole) == len(log)
    rates = {name: round(hit_rate(whole, name), 3) for name in whole[0].ranks}
    print(rates)
    assert rates["fused"] > 2 * rates["popularity"]
    assert rates["fused"] > 0.2


def test_a_log_cut_short_gives_the_same_slates_as_far_as_it_goes(log: list[Event], whole: dict[int, Ranking]) -> None:
    end = int(0.6 * len(log)) + 5
    assert rankings(log[:end]) == {at: ranking for at, ranking in whole.items() if at < end}


def test_another_future_changes_nothing_before_it(log: list[Event], whole: dict[int, Ranking]) -> None:
    now, end = len(log) // 3 + 3, len(log) // 3 + 500
    order = now + np.random.default_rng(1).permutation(end - now)
    future = [
        msgspec.structs.replace(log[at], ts=then.ts) for at, then in zip(order.tolist(), log[now:end], strict=True)
    ]
    changed = rankings([*log[:now], *future], poll=100)
    assert {at: changed[at] for at in range(now)} == {at: whole[at] for at in range(now)}
    assert any(changed[at] != whole[at] for at in range(now, end))


def test_the_target_itself_is_not_in_its_ranking(log: list[Event], whole: dict[int, Ranking]) -> None:
    # One event becomes another one: what was ranked for it must not notice.
    at = 1_234
    changed = rankings([*log[:at], msgspec.structs.replace(log[at], item_id="never seen before")])
    assert (changed[at].items, changed[at].scores) == (whole[at].items, whole[at].scores)
    assert len(whole[at].items) > 20


def renamed(log: list[Event], item: Callable[[str], str], user: Callable[[str], str]) -> list[Event]:
    return [msgspec.structs.replace(e, item_id=item(e.item_id or ""), user_id=user(e.user_id)) for e in log]


def test_items_by_other_names_are_ranked_alike(log: list[Event], whole: dict[int, Ranking]) -> None:
    other = rankings(renamed(log, lambda item: f"{item[::-1]}/x", lambda user: user))
    for at, ranking in whole.items():
        assert other[at].scores == ranking.scores
        assert other[at].ranks == ranking.ranks
        assert other[at].items == tuple(f"{item[::-1]}/x" for item in ranking.items)


def test_users_by_other_names_are_ranked_alike(log: list[Event], whole: dict[int, Ranking]) -> None:
    other = rankings(renamed(log, lambda item: item, lambda user: f"{user[::-1]}/x"))
    for at, ranking in whole.items():
        assert set(other[at].items) == set(ranking.items)
        for name in ranking.ranks.keys() - {"fused", *HASHED}:
            assert other[at].ranks[name] == ranking.ranks[name]
    # A hash of another name begins at another place, so these agree in the large only.
    for name in ("fused", *HASHED):
        assert hit_rate(other, name) == pytest.approx(hit_rate(whole, name), abs=0.04)


def test_shuffled_targets_are_found_no_better_than_by_chance() -> None:
    log = planted()
    items = np.random.default_rng(9).permutation([event.item_id for event in log]).tolist()
    shuffled = rankings([msgspec.structs.replace(e, item_id=item) for e, item in zip(log, items, strict=True)])
    counted = len(shuffled) * 0.7
    chance = 10 / ITEMS
    spread = 4 * (chance * (1 - chance) / counted) ** 0.5
    rates = {name: round(hit_rate(shuffled, name), 3) for name in shuffled[0].ranks}
    print(rates, f"chance {chance} and four deviations {spread:.3f}")
    for rate in rates.values():
        assert rate < chance + spread
