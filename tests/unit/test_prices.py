"""What a user usually pays equals a recount in plain Python, however the log is cut, and outlives the user's row."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrec.config.groups import FusionSettings, Learning, Limits
from streamrec.config.settings import Settings
from streamrec.engine.arrays.batch import NOTHING, Examples, Queries
from streamrec.engine.arrays.labels import GAINS
from streamrec.engine.arrays.timeline import REMEMBER, Timeline, TimelineStep
from streamrec.engine.users.price_level import HALF_LIFE_S, PriceLevel, price_named
from streamrec.events import EVENT_TYPES, TYPE_CODES, Event, EventType, Item
from streamrec.replay.catalogue_file import CatalogueItems
from streamrec.wiring import build_pipeline, run_engine

USERS, ITEMS = 2, 6
Visit = tuple[int, int, EventType, int, float | None]
"""(user, ms since the visit before, type, item, what it costs)"""

visits = st.lists(
    st.tuples(
        st.integers(0, USERS - 1),
        st.sampled_from([0, 1_000, 86_400_000, 40 * 86_400_000, -5_000]),
        st.sampled_from(EVENT_TYPES),
        st.integers(NOTHING, ITEMS - 1),
        st.none() | st.sampled_from([1.25, 900.0, 0.01, 0.0, -3.0, math.nan]),
    ),
    max_size=60,
)


def folded(log: list[Visit], size: int) -> PriceLevel:
    family, now = PriceLevel(0, GAINS), 1_700_000_000_000
    family.grow(USERS)
    for start in range(0, len(log), size):
        steps: list[TimelineStep] = []
        named: dict[int, float] = {}
        for user, gap, kind, item, price in log[start : start + size]:
            now += gap
            if price is not None:
                named[len(steps)] = price
            steps.append((REMEMBER, user, 0, now, 0, item, TYPE_CODES[kind], NOTHING))
        family.fold(Timeline.of(steps, named), Queries.empty(1), Examples.empty(1))
    return family


@given(visits, st.integers(1, 20))
def test_prices_equal_a_recount(log: list[Visit], size: int) -> None:
    family = folded(log, size)
    for row in range(USERS):
        paid: list[tuple[float, float, int]] = []  # (log price, gain, ms)
        now = 0
        for user, gap, kind, item, price in log:
            now += gap
            gain = GAINS[TYPE_CODES[kind]]
            if user == row and item != NOTHING and gain and price is not None and price > 0:
                paid.append((math.log(price), gain, now))
        assert family.events[row] == len(paid)
        if paid:
            latest = [max(ts for _, _, ts in paid[: place + 1]) for place in range(len(paid))]
            ages_s = [(latest[-1] - at) / 1000 for at in latest]
            weights = [gain * 0.5 ** (age / HALF_LIFE_S) for (_, gain, _), age in zip(paid, ages_s, strict=True)]
            mean = np.average([x for x, _, _ in paid], weights=weights)
            squares = sum(w * (x - mean) ** 2 for (x, _, _), w in zip(paid, weights, strict=True))
            assert family.weight[row] == pytest.approx(sum(weights))
            assert family.mean[row] == pytest.approx(mean)
            assert family.squares[row] == pytest.approx(squares, abs=1e-9)


@given(visits, st.integers(1, 20), st.integers(1, 20))
def test_portions_change_nothing_and_what_is_stored_comes_back_as_it_was(log: list[Visit], a: int, b: int) -> None:
    one, other, back = folded(log, a), folded(log, b), PriceLevel(USERS, GAINS)
    for row in range(USERS):
        assert one.pack(row, []) == other.pack(row, [])
        back.unpack(row, one.pack(row, []), {})
        assert back.pack(row, []) == one.pack(row, [])


def test_users_stored_before_prices_were_known_come_back_without() -> None:
    family = PriceLevel(1, GAINS)
    family.unpack(0, {"counts": {"view": 3}}, {})
    assert family.pack(0, []) == {}


@pytest.mark.parametrize(
    ("said", "price"),
    [(2, 2.0), (0.5, 0.5), (0, None), (-1.0, None), (True, None), ("2.50", None), (math.nan, None), (math.inf, None)],
)
def test_a_price_is_a_number_above_zero(said: Any, price: float | None) -> None:
    assert price_named({"price": said}) == price


def test_nothing_is_named_without_a_context() -> None:
    assert price_named(None) is None
    assert price_named({"colour": "red"}) is None


def test_the_catalogues_price_of_the_moment_goes_before_the_one_that_an_event_names() -> None:
    chosen = Settings.model_validate({"preset": "fast"}).model_copy(
        update={
            "limits": Limits(max_items=512, max_users=50),
            "learning": Learning(models=("popularity", "repeats")),
            "fusion": FusionSettings(form="linear"),
        }
    )
    pipeline = build_pipeline(chosen, CatalogueItems([Item(item_id="mug", price=4.0)]))
    users = pipeline.features.users
    [prices] = [one for one in pipeline.features.user_features if isinstance(one, PriceLevel)]
    offset = 0

    def paid(item: str, named: float) -> float:
        nonlocal offset
        offset += 1
        event = Event(type=EventType.PURCHASE, user_id=f"u{offset}", ts=1_000, item_id=item, context={"price": named})
        list(run_engine(pipeline, [event], first=offset))
        return math.exp(prices.mean[users.touch((0, event.user_id))])

    assert paid("mug", 9.0) == pytest.approx(4.0)
    assert paid("unlisted", 9.0) == pytest.approx(9.0)
    pipeline.features.catalogue.take(Item(item_id="mug", price=5.0))
    assert paid("mug", 9.0) == pytest.approx(5.0)
    pipeline.features.catalogue.take(Item(item_id="mug"))
    assert paid("mug", 9.0) == pytest.approx(9.0)
