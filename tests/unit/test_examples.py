"""What learns from examples alone ends with the very arrays of a process that knows the users too."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrec.config.settings import Settings
from streamrec.engine.answering import Answering
from streamrec.engine.arrays.batch import CATEGORIES, HISTORY, Array
from streamrec.engine.arrays.logged_event import LoggedEvent
from streamrec.engine.attribution.attribution import AttributionRules, OpenSlate, RewardRule, SeenRule, closed
from streamrec.engine.example_learning import ExampleLearning
from streamrec.engine.examples import (
    FLOAT16,
    FLOAT32,
    FLOAT64,
    INT32,
    INT64,
    SCHEMA,
    AdFeedback,
    Ended,
    Example,
    Feedback,
    Offer,
    Query,
    decoded,
    encoded,
)
from streamrec.engine.following.changes import FollowedArrays
from streamrec.engine.learning.trial import Trial
from streamrec.engine.pipeline import Pipeline
from streamrec.errors import BadEvent
from streamrec.events import LATEST_TS_MS, Event, EventType, Item, Slate
from streamrec.wiring import bring_in, build_pipeline

CUT = 32
WARM, TOLD, COUNT = 4 * CUT, 8 * CUT, 14 * CUT
ITEMS, USERS, PARTITIONS = 60, 16, 2
DUE_AFTER = 40
"""Events from a slate to its end: more than a micro-batch."""
STARTED_MS = 1_700_000_000_000
KINDS: Mapping[str, int] = {"view": 30, "click": 25, "purchase": 12, "skip": 5, "rating": 8, "impression": 10}
RULES = AttributionRules(3_600_000, SeenRule.ALL, RewardRule.SUM, {EventType.CLICK: 1.0, EventType.SKIP: -0.5})


def log_of(*, drifting: bool = False, seed: int = 3) -> list[LoggedEvent]:
    """Events of two partitions, in baskets and sessions.

    Every item is clicked at once; or, `drifting`, new ones come all the time, and the old ones are touched no more.
    """
    items = 0 if drifting else ITEMS
    draw, ts, user = random.Random(seed), STARTED_MS, "u0"
    ends = [0] * PARTITIONS
    log: list[LoggedEvent] = []
    for number in range(COUNT):
        if draw.random() > 0.2:  # else another one of the same basket
            user, ts = f"u{draw.randrange(USERS)}", ts + draw.randrange(90_000)
        kind = draw.choices([*KINDS, "request"], [*KINDS.values(), 20])[0]
        item = number if number < items else wished(draw, number, items)
        event = Event(
            type=EventType("click" if number < items else kind),
            user_id=user,
            ts=ts,
            item_id=None if kind == "request" and number >= items else f"i{item}",
            session_id=f"{user}-{ts // 1_000_000}" if int(user[1:]) % 3 else None,
            value=float(draw.randrange(1, 6)) if kind == "rating" else None,
            rec_id="r" if kind in ("click", "impression") and draw.random() < 0.5 else None,
            position=draw.choice([1, 2]) if kind == "impression" and number >= items else None,
            context={"category": f"kind {item % 7}", "price": 1.0 + item} if draw.random() < 0.9 else None,
        )
        partition = int(user[1:]) % PARTITIONS
        log.append(LoggedEvent(event, partition, ends[partition]))
        ends[partition] += 1
    return log


def wished(draw: random.Random, number: int, items: int) -> int:
    return min(int(draw.expovariate(6 / items)), items - 1) if items else max(number // 2 - draw.randrange(12), 0)


def listed(number: int, *pipelines: Pipeline) -> None:
    """What the catalogue says before the event of that number."""
    for pipeline in pipelines:
        catalogue = pipeline.features.catalogue
        if number == 0:
            for item in range(0, ITEMS, 3):
                price = 10.0 + item if item % 2 else None
                catalogue.take(Item(item_id=f"i{item}", categories=(f"kind {item % 5}",), price=price))
        if number == TOLD:
            catalogue.withdraw("i1")
            catalogue.take(Item(item_id="new", categories=("kind 1",), price=2.0))
            catalogue.take(Item(item_id="i4", categories=("kind 6",), boost=1.5))


class Fold(NamedTuple):
    """What came of a log."""

    arrays: Mapping[str, Mapping[str, Array]]
    slates: Sequence[Slate]
    trials: Sequence[Trial]

    @property
    def ranks(self) -> bytes:
        return np.concatenate([trial.ranks for trial in self.trials], 1).tobytes()


def asked(pipeline: Pipeline, number: int) -> None:
    """Requests are answered from WARM on, and not where items come that models meet only with that portion."""
    pipeline.recommend_on = frozenset() if number < WARM or number == TOLD else pipeline.batching.recommend_on


Ends = dict[int, tuple[Ended, ...]]
"""Slates that come to their end, by the number of the event with which they do."""


def in_one_process(settings: Settings, log: Sequence[LoggedEvent]) -> tuple[Fold, Ends]:
    pipeline = build_pipeline(settings)
    slates: list[Slate] = []
    trials: list[Trial] = []
    ends: Ends = {}
    number = 0
    came: list[Ended] = []

    def feedback() -> list[Any]:
        taken = [ended.feedback.slate_feedback(ended.user_id) for ended in came]
        came.clear()
        return taken

    for start in range(0, len(log), CUT):
        portion = log[start : start + CUT]
        listed(start, pipeline)
        asked(pipeline, start)
        bring_in(pipeline, portion)
        for result in pipeline.process(portion, feedback):
            slates += result.slates.values()
            trials.append(result.trial)
            for logged in result.logged_events:
                came += ends.get(number, ())
                place = logged.partition, logged.offset
                if place in result.slates:
                    slate = result.slates[place]
                    waiting = OpenSlate.of(slate, result.served_slates[place])
                    for kind, item in zip((EventType.CLICK, EventType.SKIP), waiting.items, strict=False):
                        waiting.credit(Event(type=kind, user_id=slate.user_id, ts=slate.ts, item_id=item), RULES)
                    came_of = closed(waiting, RULES).slate_feedback
                    if came_of is not None:
                        ends[number + DUE_AFTER] = (Ended(slate.user_id, slate.rec_id, Feedback.of(came_of)),)
                number += 1
    pipeline.learn(feedback())
    return Fold(pipeline.state(), slates, trials), ends


def in_two(settings: Settings, log: Sequence[LoggedEvent], ends: Ends) -> tuple[Fold, list[bytes]]:
    """A part that knows users, and one that learns from the records of the other, which follows it at each cut."""
    follower, taught = build_pipeline(settings, serving=True), build_pipeline(settings)
    answering, learning = Answering(follower), ExampleLearning(taught)
    slates: list[Slate] = []
    trials: list[Trial] = []
    sent: list[bytes] = []
    for start in range(0, len(log), CUT):
        portion = log[start : start + CUT]
        listed(start, follower, taught)
        asked(follower, start)
        bring_in(follower, portion)
        records = []
        for result in answering.process(portion):
            slates += result.slates.values()
            for example in result.examples.values():
                came = ends.get(len(sent) + len(records), ())
                records.append(encoded(msgspec.structs.replace(example, ended=came)))
        sent += records
        trials += [result.trial for result in learning.process([learning.read(record) for record in records])]
        follow(follower, taught)
    learning._learn()
    return Fold(taught.state(), slates, trials), sent


def follow(follower: Pipeline, taught: Pipeline) -> None:
    """It answers by what the other one has learned."""
    state, arrays = taught.state(), FollowedArrays()
    parts = follower.parts(state)
    arrays.take(state, parts)
    arrays.serve(parts)
    follower.follow(0)
    follower.answers.model_version = None  # as in one process


def learned_from(settings: Settings, records: Sequence[bytes], poll: int) -> Mapping[str, Mapping[str, Array]]:
    """The arrays after so many records at a time."""
    pipeline = build_pipeline(settings)
    learning = ExampleLearning(pipeline)
    told = {0, TOLD}
    at = 0
    while at < len(records):
        listed(at, pipeline)
        stop = min([at + poll, len(records), *(number for number in told if number > at)])
        for _ in learning.process([learning.read(record) for record in records[at:stop]]):
            pass
        at = stop
    learning._learn()
    return pipeline.state()


def differing(one: Mapping[str, Mapping[str, Array]], other: Mapping[str, Mapping[str, Array]]) -> list[str]:
    """The arrays that are not the same, bit for bit."""
    assert one.keys() == other.keys()
    return [
        f"{component}.{name}"
        for component, arrays in one.items()
        for name, array in arrays.items()
        if array.shape != other[component][name].shape or array.tobytes() != other[component][name].tobytes()
    ]


def settings_of(**chosen: Any) -> Settings:
    chosen["learning"] = {"micro_batch": CUT, "micro_batch_s": 1e6, **chosen.get("learning", {})}
    chosen["limits"] = {"max_items": 512, "max_users": 100, **chosen.get("limits", {})}
    return Settings.model_validate(chosen)


FEW = {"models": ["popularity", "covisit_recent", "repeats", "clicks"]}
PLAIN = {"form": "linear"}
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "all models": {},
    "once": {"learning": {**FEW, "exclude_seen": True, "collapse_repeats": True}, "fusion": PLAIN},
    "views": {"learning": FEW, "serving": {"recommend_on": ["view", "request"]}, "fusion": PLAIN},
    "rules": {
        "learning": FEW,
        "scenarios": {"home": {"leave_out": {"bought_within_s": 86_400.0, "shown_at_most": 2}}},
        "fusion": PLAIN,
    },
    "site": {"learning": FEW, "rollout": {"mode": "apprentice"}},
    "policy": {"learning": FEW, "rollout": {"mode": "apprentice", "imitate": "model:popularity"}},
}
OF_SLATES = {"listing.shown", "doubt.told", "doubt.as_of"}
"""What is learned of slates alone. A slate may name an item only once the models that made it know the item: in one
process they do with its first event, else from the next cut on."""


@cache
def folded(variant: str) -> tuple[Fold, Fold, list[bytes]]:
    """A log in one process and in two, and the records that went from the one to the other."""
    settings, log = settings_of(**VARIANTS[variant]), log_of()
    together, ends = in_one_process(settings, log)
    return together, *in_two(settings, log, ends)


@pytest.mark.parametrize("variant", VARIANTS)
def test_examples_teach_what_events_teach_in_one_process(variant: str) -> None:
    together, apart, _ = folded(variant)
    assert len(together.slates) > 30
    assert apart.slates == together.slates
    assert apart.ranks == together.ranks
    assert differing(together.arrays, apart.arrays) == []


@pytest.mark.parametrize(
    "chosen",
    [{"limits": {"max_items": 2 * CUT}}, {"learning": {"micro_batch_s": 700.0}}],
    ids=["items are forgotten", "cut by time"],
)
def test_where_new_items_come_all_the_time_models_learn_the_same(chosen: dict[str, Any]) -> None:
    chosen = {**chosen, "learning": {**FEW, **chosen.get("learning", {})}, "fusion": PLAIN}
    settings, log = settings_of(**chosen), log_of(drifting=True)
    together, ends = in_one_process(settings, log)
    apart, records = in_two(settings, log, ends)
    assert len({logged.event.item_id for logged in log}) > 2 * CUT
    assert apart.ranks == together.ranks
    assert set(differing(together.arrays, apart.arrays)) <= OF_SLATES
    assert differing(apart.arrays, learned_from(settings, records, 7)) == []


@pytest.mark.parametrize("poll", [1, 7, 500])
def test_how_records_are_cut_into_polls_changes_nothing(poll: int) -> None:
    _, apart, records = folded("once")
    assert differing(apart.arrays, learned_from(settings_of(**VARIANTS["once"]), records, poll)) == []


# Records

names, wholes = st.text(max_size=8), st.integers(0, 2**63 - 1)
numbers = st.floats(0, 1, width=32)
ids = st.text(min_size=1, max_size=8)


def arrays(kind: str, *shape: int) -> st.SearchStrategy[bytes]:
    size = math.prod(shape)
    return st.lists(numbers, min_size=size, max_size=size).map(lambda some: np.array(some, kind).tobytes())


@st.composite
def queries(draw: st.DrawFn) -> Query:
    items = tuple(draw(st.lists(names, max_size=HISTORY)))
    return Query(
        items=items,
        ages_s=draw(arrays(FLOAT32, len(items))),
        steps=bytes(draw(st.lists(st.integers(0, HISTORY), min_size=len(items), max_size=len(items)))),
        session=draw(st.integers(0, HISTORY)),
        activity=draw(numbers),
        categories=tuple(draw(st.lists(names, min_size=CATEGORIES, max_size=CATEGORIES))),
        affinity=draw(arrays(FLOAT32, CATEGORIES)),
        columns=draw(st.dictionaries(names, st.binary(max_size=8), max_size=2)),
        excluded=draw(st.none() | st.lists(names, max_size=4).map(tuple)),
    )


@st.composite
def feedbacks(draw: st.DrawFn) -> Feedback:
    items = tuple(draw(st.lists(names, min_size=1, max_size=5)))
    seen = len(items)
    ads = AdFeedback(*(draw(arrays(kind, seen)) for kind in (INT64, INT64, FLOAT64, "u1")))
    return Feedback(
        policy=draw(names),
        context=draw(st.integers(-(2**63), 2**63 - 1)),
        ts=draw(st.integers(0, LATEST_TS_MS)),
        items=items,
        features=draw(arrays(FLOAT16, seen, 3)),
        propensity=draw(arrays(FLOAT64, seen)),
        reward=draw(arrays(FLOAT64, seen)),
        candidates=draw(st.integers(0, 1_000)),
        traces=draw(st.dictionaries(names, arrays(INT32, seen, 2), max_size=2)),
        schema=draw(st.integers(0, 2**32 - 1)),
        ads=draw(st.none() | st.just(ads)),
    )


@st.composite
def offers(draw: st.DrawFn) -> Offer:
    items = tuple(draw(st.lists(names, min_size=1, max_size=5)))
    return Offer(draw(queries()), draw(st.sampled_from(items)), items, draw(arrays(FLOAT32, len(items))))


examples = st.builds(
    Example,
    schema=st.just(SCHEMA),
    partition=st.integers(0, 2**31 - 1),
    offset=wholes,
    epoch=wholes,
    ts=st.integers(0, LATEST_TS_MS),
    user_id=ids,
    type=st.sampled_from(EventType),
    item_id=ids,
    category=st.none() | names,
    label=st.sampled_from([None, -1, 0, 1, 2]),
    query=queries(),
    of_slate=st.booleans(),
    shown=st.lists(names, max_size=4).map(tuple),
    ended=st.lists(st.builds(Ended, ids, ids, feedbacks()), max_size=2).map(tuple),
    offer=st.none() | offers(),
    apprentice=st.booleans(),
    ruled=st.booleans(),
)


@given(examples)
def test_a_record_says_all_of_an_example(example: Example) -> None:
    assert decoded(encoded(example)) == example


def refusal(record: bytes) -> str:
    """Why it is no example, "" for one."""
    try:
        decoded(record)
    except BadEvent as error:
        return error.detail
    return ""


@given(st.binary(max_size=200) | examples.map(encoded), st.data())
def test_whatever_the_bytes_they_are_an_example_or_refused_in_few_words(record: bytes, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(record)))
    for broken in (record[:cut], record[:cut] + bytes([data.draw(st.integers(0, 255))]) + record[cut + 1 :]):
        assert len(refusal(broken)) < 400
        assert refusal(broken).isprintable()


QUERY = Query(("a", "b"), bytes(8), bytes(2), 1, 0.5, ("",) * CATEGORIES, bytes(4 * CATEGORIES), {})
CAME = Feedback("p", 1, 1, ("a",), bytes(6), bytes(8), bytes(8), 9, {"clicks": bytes(8)}, 7)
TAUGHT = Example(SCHEMA, 0, 5, 0, 9, "u", EventType.CLICK, "a", None, 1, QUERY)
NAN = np.array([np.nan], FLOAT64).tobytes()


def queried(**changed: Any) -> dict[str, Any]:
    return {"query": msgspec.structs.replace(QUERY, **changed)}


def ended(**changed: Any) -> dict[str, Any]:
    return {"ended": (Ended("u", "r", msgspec.structs.replace(CAME, **changed)),)}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"schema": SCHEMA + 1}, "schema 2, expected 1 at most: update"),
        ({"schema": 2**64 - 1}, "update this end"),
        ({"schema": 0}, "`int` >= 1"),
        ({"partition": -1}, "`int` >= 0"),
        ({"offset": -1}, "`int` >= 0"),
        ({"ts": "yesterday"}, "Expected `int`, got `str`"),
        ({"user_id": ""}, "`str` of length >= 1"),
        ({"label": 3}, "`int` <= 2"),
        ({"label": -2}, "`int` >= -1"),
        ({"query": None}, "expected an item and a query with it"),
        ({"item_id": None}, "expected an item and a query with it"),
        ({"shown": ("a",) * 101}, "of length <= 100"),
        (queried(items=("a",) * 65, ages_s=bytes(260), steps=bytes(65)), "of length <= 64"),
        (queried(ages_s=bytes(4)), "not as long as its 2 items"),
        (queried(steps=bytes(3)), "not as long as its 2 items"),
        (queried(steps=b"\xff\x00"), "a step 255, expected 64 at most"),
        (queried(affinity=bytes(4)), "not as long"),
        (queried(categories=("",)), "of length >= 8"),
        (queried(ages_s=np.array([1, np.inf], FLOAT32).tobytes()), "not finite"),
        (queried(activity=math.nan), "Expected `float`"),
        (queried(activity=math.inf), "Expected `float`"),
        (queried(columns={"visits": 3}), "Expected `bytes`"),
        (ended(items=()), "0 items"),
        (ended(propensity=bytes(4)), "not as long as its 1 items"),
        (ended(traces={"clicks": bytes(3)}), "not as long as its 1 items"),
        (ended(ads=AdFeedback(bytes(8), bytes(8), bytes(8), b"")), "not as long as its 1 items"),
        (ended(propensity=NAN), "not finite"),
        (ended(reward=NAN), "not in [-1, 1]"),
        (ended(reward=np.array([2.0]).tobytes()), "not in [-1, 1]"),
        ({"offer": Offer(QUERY, "b", ("a",), bytes(4))}, "expected the chosen among them"),
        ({"offer": Offer(QUERY, "a", ("a",), bytes(8))}, "a boost for each"),
    ],
)
def test_an_example_that_does_not_fit_together_is_refused(changed: dict[str, Any], said: str) -> None:
    assert decoded(encoded(TAUGHT)) == TAUGHT
    with pytest.raises(BadEvent, match=re.escape(said)):
        decoded(encoded(msgspec.structs.replace(TAUGHT, **changed)))


@pytest.mark.parametrize(
    "record",
    [b"", b"\x91" * 100_000, b"\xdd\xff\xff\xff\xff", encoded(TAUGHT)[:-1], encoded(TAUGHT) + b"\x00", b"{}"],
    ids=["empty", "deep", "huge", "truncated", "trailing", "JSON"],
)
def test_bytes_that_are_no_example_are_refused(record: bytes) -> None:
    with pytest.raises(BadEvent, match="the record is no example"):
        decoded(record)


def test_what_these_models_cannot_learn_is_refused_and_changes_nothing() -> None:
    pipeline = build_pipeline(settings_of(learning=FEW, fusion=PLAIN))
    learning, before = ExampleLearning(pipeline), pipeline.state()
    schema = pipeline.fusion.schema
    for changed, said in (
        (queried(columns={"visits": bytes(4)}), "columns ['visits'], expected []"),
        ({"offer": Offer(queried(columns={"x": b""})["query"], "a", ("a",), bytes(4))}, "columns ['x']"),
        (ended(schema=schema), f"not the {pipeline.fusion.width} features of its schema"),
    ):
        with pytest.raises(BadEvent, match=re.escape(said)):
            learning.read(encoded(msgspec.structs.replace(TAUGHT, **changed)))
    assert learning.read(encoded(TAUGHT)) == TAUGHT
    assert differing(before, pipeline.state()) == []
