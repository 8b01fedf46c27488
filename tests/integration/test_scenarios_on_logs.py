"""Every scenario on a real log: a shop's baskets, films with genres, and news."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from streamrec.config.settings import Settings, load_settings
from streamrec.demo.sample import sample_items, sample_log
from streamrec.engine.pipeline import Pipeline
from streamrec.events import Event, EventType, Filters, Item, Slate
from streamrec.replay.catalogue_file import CatalogueItems, read_catalogue
from streamrec.replay.logs import Log, open_log
from streamrec.wiring import answers, build_pipeline
from tools.benchmarks.scenario_tasks import TASKS

HOUR_MS = 3_600_000
REGENCY = {"22697", "22698", "22699"}
"""Three tea cups of one set: green, pink, with roses."""


class Taught:
    """A recommender that has learned a log, and is asked at its end."""

    def __init__(self, log: Log, catalogue: CatalogueItems, **more: Any) -> None:
        fast = load_settings(preset="fast").learning.models
        learning = {"models": fast, **more.pop("learning", {})}
        fusion = {"policy": "greedy", "explore": 0.0}
        settings = Settings.model_validate({"learning": learning, "fusion": fusion, **more})
        self.catalogue = catalogue
        self.pipeline: Pipeline = build_pipeline(settings, catalogue, eager=False)
        self._offset = 0
        self.events = [event for _, event in log.events()]
        self._handle(self.events)
        self.now = self.events[-1].ts

    def asked(self, scenario: str | None, user: str = "visitor", **more: Any) -> Slate:
        """The slate for a request a moment after the log's end."""
        request = Event(
            type=EventType.REQUEST, user_id=user, ts=self.now + 1, scenario=scenario, k=10, explain=True, **more
        )
        [slate] = self._handle([request])
        return slate

    def _handle(self, events: Sequence[Event]) -> list[Slate]:
        self._offset += len(events)
        return answers(self.pipeline, events, first=self._offset - len(events))

    def titles(self, slate: Slate) -> list[str]:
        return [self.catalogue.title(place.item_id).lower() for place in slate.items]


def ids(slate: Slate) -> list[str]:
    return [place.item_id for place in slate.items]


def rules(slate: Slate) -> str:
    return "\n".join(rule for reason in slate.reasons for rule in reason.rules)


def real(name: str, rows: tuple[int, int], changed: Mapping[str, Any]) -> Taught:
    folder = os.environ.get("STREAMREC_DATA")
    if not folder:
        pytest.skip(f"STREAMREC_DATA names no folder of real logs: {name} is not here")
    task = next(task for task in TASKS.values() if task.log == name)
    return Taught(task.open(Path(folder), rows), task.catalogue(Path(folder)), **{**task.settings, **changed})


@pytest.fixture(scope="module")
def shop() -> Taught:
    def priced(item: Item) -> Item:
        bid = {"22697": 0.2, "22698": 0.2, "23245": 0.4}.get(item.item_id)
        return msgspec.structs.replace(item, bid=bid, budget=None if bid is None else 1_000.0)

    catalogue = CatalogueItems(map(priced, read_catalogue(sample_items()).values()))
    return Taught(open_log(sample_log(), rows=(0, 8_000)), catalogue)


@pytest.fixture(scope="module")
def films() -> Taught:
    return real("ml100k", (0, 6_000), {})


@pytest.fixture(scope="module")
def news() -> Taught:
    rules = {"new_items": {"leave_out": {"older_than_s": 2 * 3_600}}}
    return real("globo", (0, 8_000), {"scenarios": rules, "trends": {"rehearse": True}})


def test_home_is_what_is_answered_to_whoever_asks_for_nothing_in_particular(shop: Taught) -> None:
    customer = next(event.user_id for event in reversed(shop.events) if not event.user_id.startswith("guest"))
    slate = shop.asked(None, customer)
    assert slate.scenario == "home"
    assert len(slate.items) == 10
    assert ids(slate) != ids(shop.asked("home"))  # a customer is no visitor


def test_similar_to_a_tea_cup_are_the_other_cups_of_the_set(shop: Taught) -> None:
    slate = shop.asked("similar", item_id="22699")
    assert set(ids(slate)[:2]) == REGENCY - {"22699"}
    assert "similar leans on" in rules(slate)


def test_two_cups_of_a_set_make_a_bundle_with_the_third(shop: Taught) -> None:
    slate = shop.asked("bundle", basket=("22699", "22697"))
    assert "22698" in ids(slate)[:3]
    assert not {"22699", "22697"} & set(ids(slate))


def test_a_search_shows_what_has_every_word_before_what_has_one(shop: Taught) -> None:
    words = [
        ("regency" in title) + ("teacup" in title)
        for title in shop.titles(shop.asked("search", query="regency teacup"))
    ]
    assert words == sorted(words, reverse=True)
    assert words[:3] == [2, 2, 2]
    assert min(words) >= 1


def test_ads_are_those_with_a_bid_and_the_highest_goes_first_among_equals(shop: Taught) -> None:
    slate = shop.asked("ads")
    assert set(ids(slate)) == {"22697", "22698", "23245"}
    assert slate.items[0].item_id == "23245"
    assert "ranked by what it earns" in rules(slate)


def test_across_categories_a_thriller_leads_to_no_thriller(films: Taught) -> None:
    genre = films.catalogue.category
    thriller = next(str(event.item_id) for event in reversed(films.events) if genre(str(event.item_id)) == "Thriller")
    slate = films.asked("cross_category", item_id=thriller)
    genres = [genre(item) for item in ids(slate)]
    assert len(genres) == 10
    assert "Thriller" not in genres
    assert max(map(genres.count, genres)) <= 3


def test_filters_hold_for_every_genre_of_a_film(films: Taught) -> None:
    filters = Filters(categories=("Drama",), without_categories=("Romance",))
    slate = films.asked("home", filters=filters)
    assert len(slate.items) == 10
    for item in ids(slate):
        assert "Drama" in (films.catalogue[item].categories or ())
        assert "Romance" not in (films.catalogue[item].categories or ())


def test_new_articles_are_new(news: Taught) -> None:
    slate = news.asked("new_items")
    items = news.pipeline.features.items
    assert len(slate.items) == 10
    assert min(items.first_ts[[items.lookup(item) for item in ids(slate)]]) >= news.now - 2 * HOUR_MS
    assert min(items.first_ts[: len(items)]) < news.now - 2 * HOUR_MS  # though others are not


def test_what_is_trending_is_clicked_more_now_than_before(news: Taught) -> None:
    slate = news.asked("trending")
    assert "trending leans on trends" in rules(slate)
    shown = set(ids(slate)[:5])
    clicks = np.array([(event.ts, event.item_id in shown) for event in news.events])
    late = clicks[:, 0] > news.now - HOUR_MS
    assert clicks[late, 1].mean() > 1.2 * clicks[~late, 1].mean()
