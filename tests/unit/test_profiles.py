"""A user in words: every segment by its rule, and not a word of what is not known."""

from __future__ import annotations

from typing import Any

import pytest

from streamrec.engine.rollout.plan import Decision
from streamrec.engine.rollout.revisions import Mode
from streamrec.state.segments import DAY_MS, Segment, segments
from streamrec.state.user_profile import span, words

MARCH_2 = 1_299_024_000_000


def known(**changes: Any) -> dict[str, Any]:
    """A user as `inspect.user` says; of the optional things nothing is known."""
    user = {
        "user_id": "anna",
        "events": 143,
        "counts": {"purchase": 23, "view": 120},
        "first_ts": MARCH_2,
        "last_ts": MARCH_2 + 91 * DAY_MS,
        "recent": [],
        "affinities": {},
        "session": None,
        "slate": None,
        "prices": None,
        "log_ts": None,
    }
    return {**user, **changes}


def said(user: dict[str, Any], decision: Decision | None = None, **titles: str) -> list[str]:
    return list(words(user, decision, lambda item: titles.get(item, item)))


@pytest.mark.parametrize(
    ("counts", "days", "habit"),
    [
        ({"view": 4, "request": 90, "impression": 90}, 60, Segment.NEW),
        ({"view": 5}, 60, Segment.OCCASIONAL),
        ({"view": 9}, 63, Segment.REGULAR),
        ({"view": 19}, 1, Segment.REGULAR),
        ({"view": 20}, 1, Segment.HEAVY),
        ({"view": 200, "search": 20}, 77, Segment.HEAVY),
    ],
)
def test_habits_are_told_by_acts_a_week(counts: dict[str, int], days: int, habit: Segment) -> None:
    assert segments(known(counts=counts, last_ts=MARCH_2 + days * DAY_MS))[0] is habit


@pytest.mark.parametrize(
    ("counts", "purpose"),
    [
        ({"view": 9}, set()),
        ({"view": 9, "click": 1}, {Segment.BROWSER}),
        ({"view": 500, "purchase": 1}, {Segment.BUYER}),
        ({"rating": 50}, set()),
    ],
)
def test_who_never_bought_is_a_browser_once_there_were_looks_enough(counts: dict[str, int], purpose: set[str]) -> None:
    assert set(segments(known(counts=counts))) & {Segment.BUYER, Segment.BROWSER} == purpose


@pytest.mark.parametrize(
    ("days", "presence"), [(0, Segment.ACTIVE), (7, Segment.ACTIVE), (8, Segment.LAPSING), (31, Segment.GONE)]
)
def test_presence_is_told_by_the_time_of_the_log(days: int, presence: Segment) -> None:
    user = known()
    assert presence in segments(user | {"log_ts": user["last_ts"] + days * DAY_MS})
    assert not {Segment.ACTIVE, Segment.LAPSING, Segment.GONE} & set(segments(user))


@pytest.mark.parametrize(
    ("affinities", "taste"),
    [
        ({"Bag": 4.0}, set()),
        ({"Bag": 6.0, "Mug": 4.0}, {Segment.FAN}),
        ({"Bag": 5.0, "Mug": 5.0}, set()),
        (dict.fromkeys("abcde", 2.0), {Segment.EXPLORER}),
        (dict.fromkeys("abcd", 2.0), set()),
    ],
)
def test_taste_is_told_once_there_is_enough_of_it(affinities: dict[str, float], taste: set[str]) -> None:
    assert set(segments(known(affinities=affinities))) & {Segment.FAN, Segment.EXPLORER} == taste


def test_of_what_is_not_known_there_is_no_word() -> None:
    assert said(known()) == [
        "anna: regular, buyer",
        "since 2011-03-02 00:00Z, 143 events (120 views, 23 purchases)",
        "last seen 2011-06-01 00:00Z",
    ]


def test_everything_that_is_known_is_said() -> None:
    shares = {"covisit": 0.5, "popularity": 0.2}
    places = [{"position": at, "item_id": f"i{at}", "score": 1.0, "propensity": 0.5, "shares": shares} for at in (1, 2)]
    user = known(
        log_ts=MARCH_2 + 91 * DAY_MS + 3 * 3_600_000,
        recent=[{"item_id": "85123A", "type": "purchase", "ts": MARCH_2 + 91 * DAY_MS}],
        affinities={"Bag": 6.0, "Mug": 2.0, "Lamp": 0.0},
        session={"id": None, "started": MARCH_2 + 91 * DAY_MS, "items": 1},
        prices={"events": 37, "low": 1.25, "typical": 2.1, "high": 4.95},
        slate={
            "ts": MARCH_2 + 91 * DAY_MS,
            "policy": "thompson",
            "version": "7",
            "candidates": 100,
            "arm": "b",
            "items": places,
        },
    )
    titled = {"85123A": "White hanging heart (85123A)", "i1": "A mug (i1)"}
    assert said(user, Decision("thompson", Mode.ONLINE, "b"), **titled) == [
        "anna: regular, buyer, active, one-category fan",
        "since 2011-03-02 00:00Z, 143 events (120 views, 23 purchases)",
        "last seen 2011-06-01 00:00Z, 3 h before the newest event of the log",
        "latest session since 2011-06-01 00:00Z, 1 item",
        "leans to Bag (75%), Mug (25%)",
        "usually pays 1.25 to 4.95, about 2.10 (37 events with a price)",
        "is answered by thompson (online, arm b)",
        "the latest 1 of 1 remembered:",
        "  2011-06-01 00:00Z  purchase  White hanging heart (85123A)",
        "latest slate 2011-06-01 00:00Z for home: 2 items out of 100, by thompson version 7, arm b",
        "   1. A mug (i1), wanted most by covisit",
        "   2. i2, wanted most by covisit",
    ]


def test_events_are_counted_in_words() -> None:
    counts = {"add_to_cart": 1, "search": 2, "request": 3, "view": 1_000}
    assert "since 2011-03-02 00:00Z, 1,006 events (1,000 views, 3 requests, 2 searches, 1 add to cart)" in said(
        known(counts=counts, events=1_006)
    )


def test_long_lists_are_cut_and_counted() -> None:
    touches = [{"item_id": f"i{at}", "type": "view", "ts": MARCH_2} for at in range(64)]
    lines = said(known(recent=touches, affinities=dict.fromkeys("abcdefgh", 1.0)))
    assert "leans to a (12%), b (12%), c (12%), d (12%), e (12%) and 3 more" in lines
    assert "the latest 10 of 64 remembered:" in lines
    assert len([line for line in lines if line.startswith("  2011")]) == 10


def test_two_interleaved_policies_are_both_named() -> None:
    decision = Decision("greedy+thompson", Mode.ONLINE, None, ("greedy", "thompson"))
    assert "is answered by greedy and thompson, interleaved" in said(known(), decision)


def test_a_length_of_time_is_said_in_its_largest_unit() -> None:
    assert [span(ms) for ms in (0, 999, 3_000, 185_000, 7_300_000, 200_000_000)] == [
        *("0 s", "0 s", "3 s", "3 min", "2 h", "2 d"),
    ]
