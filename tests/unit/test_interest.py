"""Rules that say what counts as wanting."""

from __future__ import annotations

import pytest

from streamrec.config.groups import Learning
from streamrec.engine.arrays.labels import GAINS, REFUSED, WANTED, Interest
from streamrec.errors import ConfigError
from streamrec.events import EVENT_TYPES, ITEMLESS_TYPES, TYPE_CODES, Event, EventType


def label(rules: list[str], kind: str, value: float | None = None) -> int | None:
    return Interest(rules).label(Event(type=EventType(kind), user_id="u", ts=1, item_id="a", value=value))


@pytest.mark.parametrize(
    ("rules", "kind", "value", "expected"),
    [
        (["click"], "click", None, WANTED),
        (["click"], "click", -3.0, WANTED),
        (["click"], "view", None, None),
        (["click"], "rating", 5.0, None),
        (["rating>=4"], "rating", 4.0, WANTED),
        (["rating>=4"], "rating", 3.9, REFUSED),
        (["rating>=4"], "rating", None, None),
        (["rating"], "rating", None, WANTED),
        (["purchase>=0"], "purchase", None, None),
        ([" rating >= 2.5 "], "rating", 2.5, WANTED),
        (["rating>=-1"], "rating", -1.0, WANTED),
        (["rating>=-1"], "rating", -1.5, REFUSED),
        (["click"], "skip", None, REFUSED),
        (["click"], "dislike", None, REFUSED),
        (["skip"], "skip", None, WANTED),
        ([], "click", None, None),
        (["click"], "impression", None, None),
    ],
)
def test_an_event_says_wanted_refused_or_nothing(
    rules: list[str], kind: str, value: float | None, expected: int | None
) -> None:
    assert label(rules, kind, value) == expected


@pytest.mark.parametrize("kind", sorted(ITEMLESS_TYPES))
def test_an_event_without_an_item_says_nothing(kind: EventType) -> None:
    rules = Interest([kind.value])
    assert rules.label(Event(type=kind, user_id="u", ts=1)) is None
    assert rules.label(Event(type=kind, user_id="u", ts=1, item_id="a")) == WANTED


@pytest.mark.parametrize("rule", ["glance", "rating>4", "rating>=four", "rating>=", ">=4", "", "click,view", "Click"])
def test_a_rule_that_is_none_is_refused_with_what_was_expected(rule: str) -> None:
    with pytest.raises(ConfigError, match="expected TYPE or TYPE>=VALUE with TYPE one of view, click") as caught:
        Interest(["click", rule])
    assert repr(rule) in str(caught.value)


def test_the_defaults_are_rules_and_name_what_they_may_want() -> None:
    codes = Interest(Learning().positives).codes()
    assert codes == {
        TYPE_CODES[EventType(name)] for name in ("view", "click", "add_to_cart", "purchase", "like", "rating")
    }


def test_every_type_has_a_gain_and_refusals_have_none() -> None:
    gains = dict(zip(EVENT_TYPES, GAINS, strict=True))
    assert gains[EventType.PURCHASE] > gains[EventType.VIEW] > 0
    assert {kind for kind, gain in gains.items() if gain == 0} == {
        EventType.DISLIKE, EventType.SKIP, EventType.IMPRESSION, EventType.SEARCH, EventType.REQUEST,
    }  # fmt: skip
