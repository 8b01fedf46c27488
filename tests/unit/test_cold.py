"""Useful from the first minute: strangers, first clicks and items that nobody touched, through the real recommender."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from streamrec.config.groups import FusionSettings, Learning, Limits, Serving
from streamrec.config.settings import Settings
from streamrec.engine.pipeline import Pipeline
from streamrec.engine.policies import Components
from streamrec.engine.policies.plackett_luce import PlackettLuce
from streamrec.engine.policies.plackett_luce_sampling import SamplingTerms, propensities
from streamrec.events import Event, EventType, Item, Slate
from streamrec.replay.catalogue_file import CatalogueItems
from streamrec.wiring import answers, build_pipeline

BEGAN = 1_700_000_000_000
AISLES = ("garden", "kitchen", "office", "travel")
ITEMS = 25
"""Of an aisle."""
POPULAR = "garden"
"""Every second visit is to this aisle."""
K = 12
MODELS = ("popularity_minutes", "popularity", "covisit_recent", "transitions", "sessions", "repeats", "content")


def aisle_of(item_id: str) -> str:
    return item_id.split("-")[0]


def listed(aisle: str, name: str) -> Item:
    return Item(item_id=f"{aisle}-{name}", title=f"{aisle} things {name}", categories=(aisle,))


CATALOGUE = tuple(listed(aisle, str(n)) for aisle in AISLES for n in range(ITEMS))


class Shop:
    """A recommender and the time in its shop."""

    def __init__(self, catalogue: Sequence[Item] = (), policy: str = "plackett-luce", **fusion: object) -> None:
        self.pipeline: Pipeline = build_pipeline(
            Settings(
                limits=Limits(max_items=500, max_users=2_000),
                learning=Learning(models=MODELS, device="cpu"),
                fusion=FusionSettings(policy=policy, form="linear", **fusion),  # type: ignore[arg-type]
                serving=Serving(k=K),
            ),
            CatalogueItems(catalogue),
        )
        self.now_ms, self._offset = BEGAN, 0

    def handle(self, *events: Event) -> list[Slate]:
        self._offset += len(events)
        return answers(self.pipeline, events, first=self._offset - len(events))

    def event(self, kind: EventType, user: str, item: str | None = None) -> Event:
        self.now_ms += 2_000
        return Event(type=kind, user_id=user, item_id=item, ts=self.now_ms, session_id=f"{user} {self.now_ms // 10**7}")

    def ask(self, user: str) -> Slate:
        (slate,) = self.handle(self.event(EventType.REQUEST, user))
        return slate

    def visited(self, visits: int, seed: int = 0) -> Shop:
        """People walk along one aisle a visit."""
        rng = np.random.default_rng(seed)
        for visit in range(visits):
            aisle = POPULAR if visit % 2 else str(rng.choice(AISLES[1:]))
            user, at = f"u{rng.integers(60)}", int(rng.integers(ITEMS))
            steps = [f"{aisle}-{(at + step) % ITEMS}" for step in range(4)]
            self.handle(*(self.event(EventType.CLICK, user, item) for item in steps))
        return self


@pytest.fixture(scope="module")
def shop() -> Shop:
    """Two items of each aisle are in the catalogue alone."""
    untouched = tuple(listed(aisle, f"new{n}") for aisle in AISLES for n in range(2))
    return Shop((*CATALOGUE, *untouched), policy="greedy").visited(300)


def names(slate: Slate) -> list[str]:
    return [place.item_id for place in slate.items]


def share_of(aisle: str, slate: Slate) -> float:
    return float(np.mean([aisle_of(name) == aisle for name in names(slate)]))


def test_before_the_first_event_the_catalogue_fills_the_slate() -> None:
    slate = Shop(CATALOGUE).ask("somebody")
    assert len(set(names(slate))) == K
    assert all(0 < place.propensity <= 1 for place in slate.items)


def test_when_nothing_is_known_at_all_the_slate_is_empty_until_the_cut_after_the_first_click() -> None:
    shop = Shop()
    assert shop.ask("somebody").items == ()
    shop.handle(shop.event(EventType.CLICK, "somebody", "garden-0"))
    shop.now_ms += 30_000
    assert names(shop.ask("somebody else")) == ["garden-0"]


def test_who_has_no_history_gets_a_full_slate_of_what_is_popular(shop: Shop) -> None:
    slate = shop.ask("stranger")
    assert len(set(names(slate))) == K
    assert share_of(POPULAR, slate) >= 0.5


@pytest.mark.parametrize("aisle", AISLES[1:])
def test_the_slate_after_the_first_click_is_about_it(shop: Shop, aisle: str) -> None:
    user = f"first seen in {aisle}"
    before = shop.ask(user)
    shop.handle(shop.event(EventType.CLICK, user, f"{aisle}-7"))
    after = shop.ask(user)
    assert len(set(names(after))) == K
    assert share_of(aisle, before) < 0.5
    assert share_of(aisle, after) > share_of(aisle, before) + 0.3
    assert set(names(after)[:3]) & {f"{aisle}-{n}" for n in (8, 9, 10)}  # where those who were there went on to


def test_a_first_click_on_an_item_that_nobody_touched_is_understood_by_what_the_item_is_about(shop: Shop) -> None:
    user = "likes new things"
    before = shop.ask(user)
    shop.handle(shop.event(EventType.CLICK, user, "travel-new0"))
    after = shop.ask(user)
    assert len(set(names(after))) == K
    assert share_of("travel", after) > share_of("travel", before)


def test_an_item_that_nobody_touched_is_a_candidate_for_those_who_like_its_kind(shop: Shop) -> None:
    user = "works"
    shop.handle(*(shop.event(EventType.CLICK, user, f"office-{n}") for n in range(5)))
    shop.ask(user)
    batch, ids = shop.pipeline.batch, shop.pipeline.features.items.ids
    proposed = {ids[item] for item in batch.candidates.items[batch.asked - 1].tolist() if item >= 0}
    assert {"office-new0", "office-new1"} <= proposed


def first_places(shop: Shop, users: Sequence[str]) -> np.ndarray:
    """The probability that the default policy puts each candidate first, for each user, (users, candidates)."""
    pipeline, rows = shop.pipeline, []
    for user in users:
        shop.ask(user)
        rows.append(pipeline.batch.asked - 1)
        assert rows == sorted(set(rows))  # no learning cut in between
    queries, candidates = pipeline.batch.queries, pipeline.batch.candidates
    items = candidates.items[rows]
    uncertainty = pipeline.features.uncertainty.of(items, queries.ts[rows])
    asked = pipeline.fusion.asked(
        queries, np.array(rows), candidates, np.zeros(items.shape), uncertainty, [None] * len(rows)
    )
    whole = PlackettLuce("plackett-luce", FusionSettings().temperature, FusionSettings().explore)
    made = whole.components(asked, pipeline.fusion.posterior)
    places = np.arange(asked.items.shape[1])
    chances = []
    for row in range(len(rows)):
        same = np.repeat(row, len(places))
        repeated = Components(made.weights[same], made.scores[same], made.hard, made.explore)
        terms = SamplingTerms(asked.uncertainty[same], [None] * len(places))
        chances.append(np.where(asked.items[row] >= 0, propensities(repeated, places[:, None], terms)[:, 0], 0.0))
    return np.array(chances)


def entropy(chances: np.ndarray) -> float:
    """Mean over the rows, in nats."""
    return float(-(chances * np.log(np.maximum(chances, 1e-300))).sum(1).mean())


def test_the_less_is_known_of_somebody_the_more_their_slates_are_left_to_chance(shop: Shop) -> None:
    shop.handle(*(shop.event(EventType.CLICK, f"once {n}", f"office-{n}") for n in range(5)))
    for step in range(6):
        shop.handle(*(shop.event(EventType.CLICK, f"often {n}", f"office-{n + step}") for n in range(5)))
    shop.now_ms += 60_000  # a learning cut, so that there is room for what is asked next
    asked = [f"{known} {n}" for known in ("never", "once", "often") for n in range(5)]
    chances = first_places(shop, asked)
    assert chances.sum(1) == pytest.approx(np.ones(15))
    never, once, often = (entropy(chances[start : start + 5]) for start in (0, 5, 10))
    assert never > once + 0.5
    assert never > often + 0.5
