"""Why an item is on a slate: the events without which it would fall, and the rules."""

from __future__ import annotations

import io
from collections.abc import Sequence

import msgpack
import msgspec
import numpy as np
import pytest
from rich.console import Console

from streamrec.cli.shared.explanation import Explanation, print_words
from streamrec.cli.shared.hindsight import as_of
from streamrec.config.groups import FusionSettings, Learning, Limits
from streamrec.config.settings import Settings
from streamrec.engine.arrays.batch import CANDIDATES, HISTORY, NOTHING, Array, Queries
from streamrec.engine.arrays.logged_event import LoggedEvent
from streamrec.engine.pipeline import Pipeline
from streamrec.engine.scenarios.rules import RequestRules
from streamrec.engine.scenarios.scenario import Scenario
from streamrec.engine.slates.explanations import (
    FALL_FLOOR,
    LOOKED_AT,
    NAMED,
    Applied,
    Scorers,
    explored,
    falls,
    without_each,
)
from streamrec.engine.slates.explanations import reasons_of as explained
from streamrec.engine.slates.responder import Request
from streamrec.engine.slates.wording import ordinal, placed, wanted
from streamrec.events import Event, EventType, Reason, Slate, SlateItem
from streamrec.replay.catalogue_file import CatalogueItems
from streamrec.wiring import bring_in, build_pipeline, run_engine

NO_RULES = RequestRules(Scenario(), Event(type=EventType.REQUEST, user_id="u", ts=1), 0, np.empty(0, np.int32))
BEGAN = 1_700_000_000_000
PAIRS = 12


def untaught(**learning: object) -> Pipeline:
    return build_pipeline(
        Settings(
            limits=Limits(max_items=2_000, max_users=2_000),
            learning=Learning(device="cpu", **learning),
            fusion=FusionSettings(policy="greedy"),
        )
    )


def event(user: str, item: str | None, ts: int, kind: EventType = EventType.CLICK, **more: object) -> Event:
    return Event(type=kind, user_id=user, item_id=item, ts=ts, **more)


def request(user: str, ts: int, **more: object) -> Event:
    return event(user, None, ts, EventType.REQUEST, **{"k": 5, "explain": True, **more})


def handle(pipeline: Pipeline, events: Sequence[Event], first: int = 0) -> dict[int, Slate]:
    """Slates by offset."""
    portions = list(run_engine(pipeline, events, first=first))
    return {offset: slate for batch_result in portions for (_, offset), slate in batch_result.slates.items()}


def planted(count: int = 500) -> list[Event]:
    """After left-N always comes right-N; what came before says nothing."""
    rng = np.random.default_rng(3)
    log = []
    for visit in range(count):
        user, pair, ts = f"visitor{visit}", int(rng.integers(PAIRS)), BEGAN + 60_000 * visit
        for step, item in enumerate((f"other{rng.integers(40)}", f"left{pair}", f"right{pair}")):
            log.append(event(user, item, ts + 5_000 * step))
    return log


@pytest.fixture(scope="module")
def taught() -> Pipeline:
    pipeline = untaught()
    handle(pipeline, planted())
    pipeline.learn()
    return pipeline


LATER = BEGAN + 10**8
State = dict[str, dict[str, Array]]


def bits(state: State) -> dict[str, bytes]:
    return {f"{part}.{name}": array.tobytes() for part, arrays in state.items() for name, array in arrays.items()}


def ranked(pipeline: Pipeline, events: Sequence[Event], first: int = 10_000) -> tuple[int, LoggedEvent]:
    """The query row of the last event, a request, ranked and not yet answered."""
    logged_events = [LoggedEvent(event, 0, first + at, learned=True) for at, event in enumerate(events)]
    bring_in(pipeline, logged_events)
    begin = pipeline.batch.asked
    requests, _, _ = pipeline.remember(logged_events)
    pipeline.rank(slice(begin, pipeline.batch.asked))
    return requests[-1]


def answered(pipeline: Pipeline, query: int, logged: LoggedEvent) -> Slate:
    slates, _ = pipeline.answers.slates(pipeline.batch, [Request(query, logged)], pipeline.rules_by_query)
    return slates[0, logged.offset]


def test_what_always_follows_an_item_is_there_because_of_it(taught: Pipeline) -> None:
    named = 0
    for pair in range(PAIRS):
        ts = LATER + 100_000 * pair
        visit = [event(f"new{pair}", f"other{pair}", ts), event(f"new{pair}", f"left{pair}", ts + 9_000)]
        slate = handle(taught, [*visit, request(f"new{pair}", ts + 12_000)], 5_000 + 10 * pair)[5_002 + 10 * pair]
        assert slate.items[0].item_id == f"right{pair}"
        assert len(slate.reasons) == len(slate.items)
        assert slate.reasons[0].because[0][0] == f"left{pair}"
        fell = dict(slate.reasons[0].because)
        named += fell[f"left{pair}"] > 3 * fell.get(f"other{pair}", FALL_FLOOR)
    assert named == PAIRS


def test_only_who_asks_why_is_told(taught: Pipeline) -> None:
    slates = handle(taught, [event("a", "left1", LATER), request("a", LATER + 1, explain=False)], 6_000)
    assert slates[6_001].items
    assert slates[6_001].reasons == ()


def test_a_user_without_a_past_has_no_reasons_of_their_own(taught: Pipeline) -> None:
    slate = handle(taught, [request("stranger", LATER)], 6_100)[6_100]
    assert slate.reasons == (Reason(),) * 5


def test_the_item_a_request_names_is_a_reason_like_an_event(taught: Pipeline) -> None:
    asked = request("stranger too", LATER + 10**6)
    slate = handle(taught, [msgspec.structs.replace(asked, item_id="left4")], 6_200)[6_200]
    assert slate.items[0].item_id == "right4"
    assert slate.reasons[0].because[0][0] == "left4"


def test_explaining_changes_nothing_and_comes_out_the_same_however_the_log_is_cut() -> None:
    def run(explain: bool, poll: int) -> tuple[list[Slate], State]:
        pipeline, slates = untaught(), []
        log = planted(60)
        for at in range(9, len(log), 10):
            log[at] = request(log[at].user_id, log[at].ts, explain=explain)
        for start in range(0, len(log), poll):
            slates += handle(pipeline, log[start : start + poll], start).values()
        return slates, pipeline.state()

    asked, state = run(True, poll=7)
    again, _ = run(True, poll=50)
    plain, untouched = run(False, poll=7)
    assert asked == again
    assert sum(bool(reason.because) for slate in asked for reason in slate.reasons) > 10
    assert [msgspec.structs.replace(slate, reasons=()) for slate in asked] == plain
    assert bits(state) == bits(untouched)


def test_explaining_leaves_the_micro_batch_alone(taught: Pipeline) -> None:
    query, logged = ranked(taught, [event("b", "left2", LATER), request("b", LATER + 1)])
    batch, before = taught.batch, bits(taught.state())
    shown = answered(taught, query, logged)
    scorers = Scorers(taught.models, taught.fusion, taught.features.items)
    candidates = batch.candidates.items[query]
    applied = Applied(taught.rules_by_query[query])
    reasons = [explained(shown, batch.queries, query, candidates, scorers, applied) for _ in range(3)]
    assert reasons[0] == reasons[1] == reasons[2] == shown.reasons
    assert bits(taught.state()) == before


def test_of_a_long_past_a_bounded_part_is_looked_at(taught: Pipeline) -> None:
    past = [event("c", f"other{n % 30}", LATER + 1_000 * n) for n in range(90)]
    query, logged = ranked(taught, [*past, request("c", LATER + 10**6)], 20_000)
    queries, candidates = taught.batch.queries, taught.batch.candidates.items[query]
    left_out, fall = falls(queries, query, candidates, Scorers(taught.models, taught.fusion, taught.features.items))
    assert len(left_out) == LOOKED_AT
    assert fall.shape == (LOOKED_AT, int((candidates != NOTHING).sum()))
    assert left_out == queries.items[query, :LOOKED_AT].tolist()
    for reason in answered(taught, query, logged).reasons:
        assert len(reason.because) <= NAMED
        assert all(fell > FALL_FLOOR for _, fell in reason.because)
        assert list(reason.because) == sorted(reason.because, key=lambda pair: -pair[1])


def asked(items: Sequence[int], steps: Sequence[int], session: int) -> Queries:
    queries = Queries.empty(1)
    queries.items[0, : len(items)], queries.steps[0] = items, steps[-1]
    queries.steps[0, : len(items)] = steps
    queries.ages_s[0, : len(items)] = np.arange(1, len(items) + 1)
    queries.session[0] = session
    return queries


def test_a_history_closes_over_what_is_left_out() -> None:
    # Moments, newest first: 7 | 5 6 | 7 | 8, the first three items in this session.
    left_out, rows = without_each(asked([7, 5, 6, 7, 8], [0, 1, 1, 2, 3], session=3), 0)
    assert left_out == [7, 5, 6, 8]
    length = [5, 3, 4, 4, 4]
    items = [rows.items[at, : length[at]].tolist() for at in range(5)]
    assert items == [[7, 5, 6, 7, 8], [5, 6, 8], [7, 6, 7, 8], [7, 5, 7, 8], [7, 5, 6, 7]]
    steps = [rows.steps[at, : length[at]].tolist() for at in range(5)]
    assert steps == [[0, 1, 1, 2, 3], [0, 0, 1], [0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 1, 2]]
    assert rows.ages_s[1, :4].tolist() == [2, 3, 5, 0]
    assert rows.session[:5].tolist() == [3, 2, 2, 2, 3]
    assert all((rows.items[at, length[at] :] == NOTHING).all() for at in range(5))
    assert len(set(rows.seed[:5].tolist())) == 5


def test_a_history_of_one_item_alone_can_be_left_out_whole() -> None:
    _, rows = without_each(asked([9] * HISTORY, list(range(HISTORY)), session=HISTORY), 0)
    assert (rows.items[1] == NOTHING).all()
    assert rows.session[1] == 0


def test_a_query_without_one_event_is_as_if_it_had_never_been(taught: Pipeline) -> None:
    """Up to what is counted of users, which is not rewound."""
    ts = LATER + 10**7
    first, left, last = event("d", "left3", ts), event("d", "other1", ts + 1_000), event("d", "left5", ts + 2_000)
    query, _ = ranked(taught, [first, left, last, request("d", ts + 3_000)], 30_000)
    left_out, rows = without_each(taught.batch.queries, query)
    at = 1 + left_out.index(taught.features.items.lookup("other1"))
    never = [msgspec.structs.replace(event, user_id="e") for event in (first, last, request("d", ts + 3_000))]
    lacking, _ = ranked(taught, never, 31_000)
    for name in ("items", "ages_s", "steps", "session"):
        assert np.array_equal(getattr(rows, name)[at], getattr(taught.batch.queries, name)[lacking]), name


def test_rules_say_how_many_items_were_left_out() -> None:
    pipeline = untaught(exclude_seen=True)
    handle(pipeline, planted(40))
    ts = LATER + 5_000
    visit = [event("f", "left1", ts), event("f", "left1", ts + 1), event("f", "left2", ts + 2)]
    slate = handle(pipeline, [*visit, request("f", ts + 3)], 9_000)[9_003]
    assert {rule for reason in slate.reasons for rule in reason.rules} == {
        "2 items left out: the user has touched them before"
    }


@pytest.mark.parametrize(
    ("propensity", "explore", "chance"),
    [(0.0003, 0.02, "0.83"), (0.0002 * 1.25, 0.02, "1.00"), (0.3, 0.02, None), (0.0003, 0.0, None), (1.0, 1.0, None)],
)
def test_an_explored_place_is_named_where_it_is_likelier_than_merit(
    propensity: float, explore: float, chance: str | None
) -> None:
    item = SlateItem(item_id="i", position=3, score=0.1, propensity=propensity, shares={})
    slate = Slate(rec_id="e-0-1", user_id="u", ts=1, items=(item,), policy="p", version="1", candidates=82)
    said = list(explored(item, slate, Applied(NO_RULES, explore)))
    assert said == (
        []
        if chance is None
        else [
            f"explored: with probability {chance} drawn by uncertainty among the 80 candidates left, "
            "as 1 place in 50 is"
        ]
    )


def test_what_is_doubted_more_was_likelier_explored() -> None:
    item = SlateItem(item_id="i", position=1, score=0.1, propensity=0.002, shares={})
    slate = Slate(rec_id="e-0-1", user_id="u", ts=1, items=(item,), policy="p", version="1", candidates=100)
    uncertainty = np.full(CANDIDATES, 0.5)
    uncertainty[7] = 3.0
    known, new = (explored(item, slate, Applied(NO_RULES, 0.02, uncertainty, np.array([place]))) for place in (3, 7))
    assert list(known) == []
    assert "with probability 0.57 drawn by uncertainty" in next(iter(new))  # 0.02 * 3 / (99 * 0.5 + 3) / 0.002


# In words


def place(position: int, **more: object) -> SlateItem:
    return SlateItem(**{"item_id": "i", "position": position, "score": 0.1, "propensity": 0.3, "shares": {}, **more})


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (place(1, propensity=1.0, rank=1), "put here for certain: 1st by the mean score"),
        (place(2, rank=2), "put here with probability 0.3: 2nd by the mean score"),
        (place(2), "put here with probability 0.3"),
        (place(2, team="greedy"), "put here with probability 0.3, picked by greedy"),
        (
            place(3, propensity=0.0004, rank=14),
            "put here with probability 0.0004: would stand 14th by the mean score, "
            "the draw (temperature 0.25) put it 3rd",
        ),
    ],
)
def test_an_item_above_its_rank_is_said_to_be_put_there_by_the_draw(item: SlateItem, words: str) -> None:
    assert placed(item, "plackett-luce", 0.25) == words


@pytest.mark.parametrize(
    ("policy", "propensity", "line"),
    [
        # One in a hundred, fifty times what exploration gives: the draw has put 57th first.
        ("plackett-luce", 0.01, "57th by the mean score, the draw (temperature 0.5) put it 1st"),
        ("plackett-luce", 0.00025, "57th by the mean score, exploration likely put it 1st"),
        ("linucb", 0.98, "57th by the mean score, the order of linucb put it 1st"),
        ("linucb", 0.0002, "57th by the mean score, exploration likely put it 1st"),
    ],
)
def test_exploration_is_named_where_it_gave_the_place_and_the_draw_or_order_elsewhere(
    policy: str, propensity: float, line: str
) -> None:
    item = place(1, rank=57, propensity=propensity)
    slate = Slate(rec_id="e-0-1", user_id="u", ts=1, items=(item,), policy=policy, version="1", candidates=100)
    rules = tuple(explored(item, slate, Applied(NO_RULES, 0.02)))
    told = Console(record=True, width=200, file=io.StringIO())
    slate = msgspec.structs.replace(slate, reasons=(Reason(rules=rules),))
    request = Event(type=EventType.REQUEST, user_id="u", ts=1)
    print_words(told, Explanation(slate, request, None, CatalogueItems(), 0.5, derived=False))
    text = told.export_text()
    assert f"put here with probability {propensity:.3g}: would stand {line}\n" in text
    assert text.count("explor") == (2 if "exploration" in line else 0)


def test_who_wanted_an_item_most_is_named_first_and_not_everybody_is() -> None:
    shares = {"covisit": 1.2, "clicks": -2.0, "popularity": 0.3} | {f"m{n}": 0.01 for n in range(9)}
    words = wanted(place(1, shares=shares))
    assert words.startswith("clicks -2, covisit +1.2, popularity +0.3, ")
    assert words.count(",") == 4


def test_numbers_and_lengths_of_time_are_told_as_people_do() -> None:
    assert [ordinal(n) for n in (1, 2, 3, 4, 11, 12, 13, 21, 102, 111)] == [
        *("1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "102nd", "111th"),
    ]


def test_a_stored_user_is_taken_back_to_an_earlier_time() -> None:
    touches = [["a", "click", 40], ["b", "click", 30], [None, "view", 20], ["a", "view", 10]]
    bought, shown = [["a", 10], ["c", 26]], [["a", 1.5, 24], ["b", 1.0, 25], ["c", 1.0, 30]]
    user = {"recent": touches, "session": {"items": 3}, "seen": ["a", "b"], "bought": bought, "shown": shown}
    past = msgpack.unpackb(as_of(msgpack.packb(user), ts=25))
    kept = {"recent": touches[2:], "session": {"items": 1}, "seen": ["a"]}
    assert past == {**kept, "bought": bought[:1], "shown": shown[:1]}
