"""The bench of scenarios: what it asks is not known yet, and everybody compared is asked the same."""

from __future__ import annotations

import random
from pathlib import Path

import polars as pl
import pytest

from streamrec.demo.sample import sample_items, sample_log
from streamrec.events import Event
from streamrec.replay.catalogue_file import CatalogueItems, read_catalogue
from streamrec.replay.logs import open_log
from tools.benchmarks.scenario_tasks import TASKS, Asking, Task, after_each_item, by_title, in_each_basket, moments
from tools.benchmarks.scenarios import Figures, measure, table

ROWS = 900


@pytest.fixture(scope="module")
def events() -> list[Event]:
    return [event for _, event in open_log(sample_log(), rows=(0, ROWS)).events()]


@pytest.fixture(scope="module")
def catalogue() -> CatalogueItems:
    return read_catalogue(sample_items())


@pytest.mark.parametrize("asking", [after_each_item, in_each_basket(2, "basket"), by_title])
def test_what_is_right_comes_after_the_moment_of_asking(
    asking: Asking, events: list[Event], catalogue: CatalogueItems
) -> None:
    every = moments(events, catalogue, asking, 10_000, random.Random(1))
    assert len(every) > 10
    for asked in every:
        assert asked.targets <= {event.item_id for event in events[asked.before :]}
        assert asked.request.ts <= events[asked.before].ts
        named = {asked.request.item_id, *(asked.request.basket or ())}
        assert not named & asked.targets


def test_a_basket_is_asked_about_before_any_of_it(events: list[Event], catalogue: CatalogueItems) -> None:
    for asked in moments(events, catalogue, in_each_basket(1, "item_id"), 10_000, random.Random(1)):
        first = events[asked.before]
        assert first.session_id != events[asked.before - 1].session_id
        assert asked.request.user_id == first.user_id


def test_a_slate_is_judged_by_what_it_could_have_found() -> None:
    figures = Figures()
    figures.add(["a", "b", "c"], frozenset("bcz"))
    figures.add(["a"], frozenset("x"))
    assert figures.found == [pytest.approx(2 / 3), 0.0]
    assert figures.reciprocal == [0.5, 0.0]


def test_everybody_compared_is_asked_the_same(tmp_path: Path) -> None:
    place = tmp_path / "shop"
    place.mkdir()
    pl.read_parquet(sample_log()).rename({"type": "event"}).write_parquet(place / "events.parquet")
    pl.read_parquet(sample_items()).write_parquet(place / "items.parquet")
    whole = TASKS["search/online_retail"]
    task = Task(
        "search", "shop", whole.about, by_title, (0, ROWS), (0, ROWS), ("text", "popularity"), listed=whole.listed
    )
    figures = measure(task, tmp_path, (0, ROWS), 20)
    assert {len(one.found) for one in figures.values()} == {20}
    assert sum(figures["search"].found) > sum(figures["popularity"].found)
    assert [line.split("|")[2].strip() for line in table(task, figures)] == [
        "**search**",
        "`text` alone",
        "`popularity` alone",
    ]
