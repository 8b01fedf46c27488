"""Bytes to events and back: nothing is lost on the way, and no bytes from outside do harm."""

from __future__ import annotations

import re

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamrec.codec import CONTENT_TYPE, JSON, MSGPACK, decode, decode_event, decode_slate, encode, encode_event
from streamrec.errors import BadEvent
from streamrec.events import (
    ITEMLESS_TYPES,
    LARGEST_NUMBER,
    LATEST_TS_MS,
    Event,
    EventType,
    Item,
    Outcome,
    Slate,
    SlateItem,
)
from tests.support.effort import least_cpu_s

HEADERS = {JSON: ((CONTENT_TYPE, JSON.encode()),), MSGPACK: ((CONTENT_TYPE, MSGPACK.encode()),)}
VIEW = {"type": "view", "user_id": "u", "ts": 1, "item_id": "a"}

names = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=256)
numbers = st.floats(-float(LARGEST_NUMBER), float(LARGEST_NUMBER))
whole = st.integers(-LARGEST_NUMBER, LARGEST_NUMBER)
any_integer = st.integers(-(2**63), 2**64 - 1)


def maybe(values: st.SearchStrategy) -> st.SearchStrategy:
    return st.none() | values


events = st.builds(
    Event,
    type=st.sampled_from(sorted(set(EventType) - ITEMLESS_TYPES)),
    user_id=names,
    ts=st.integers(0, LATEST_TS_MS),
    item_id=names,
    event_id=maybe(names),
    session_id=maybe(names),
    value=maybe(numbers),
    rec_id=maybe(names),
    position=maybe(st.integers(1, 10_000)),
    context=maybe(
        st.dictionaries(st.text(max_size=8), st.text(max_size=8) | st.booleans() | whole | numbers, max_size=8)
    ),
    query=maybe(st.text(max_size=64)),
    k=maybe(st.integers(1, 100)),
    scenario=maybe(names.map(lambda name: name[:64])),
)
requests = st.builds(
    Event, type=st.sampled_from(sorted(ITEMLESS_TYPES)), user_id=names, ts=st.integers(0, LATEST_TS_MS)
)


def refusal(value: bytes | None, content_type: str = JSON, **limits: int) -> BadEvent:
    with pytest.raises(BadEvent) as caught:
        decode_event(value, HEADERS[content_type], **limits)
    return caught.value


def as_json(**changes: object) -> bytes:
    import json

    return json.dumps({key: value for key, value in {**VIEW, **changes}.items() if value is not ...}).encode()


@pytest.mark.parametrize("content_type", [JSON, MSGPACK])
@given(event=events | requests)
def test_an_event_comes_back_as_it_was(content_type: str, event: Event) -> None:
    assert decode_event(encode_event(event, content_type), HEADERS[content_type]) == event


@pytest.mark.parametrize("content_type", [JSON, MSGPACK])
def test_what_is_published_comes_back_as_it_was(content_type: str) -> None:
    place = SlateItem(item_id="a", position=1, score=0.5, propensity=0.25, shares={"covisit": 0.125})
    slate = Slate(rec_id="0-1", user_id="u", ts=2, items=(place,), policy="greedy", version="3", candidates=4)
    outcome = Outcome(
        outcome_id="0-2", rec_id="0-1", user_id="u", item_id="a", position=1, propensity=0.25, reward=1.0,
        type=EventType.PURCHASE, ts=3,
    )  # fmt: skip
    item = Item(item_id="a", title="Mug", categories=("kitchen",), price=2.5)
    for message in (slate, outcome, item):
        assert decode(encode(message, content_type), HEADERS[content_type], type(message)) == message
    assert decode_slate(encode(slate, content_type), HEADERS[content_type]) == slate


@pytest.mark.parametrize("named", ["application/json", "application/json; charset=utf-8", "", "Text/JSON"])
def test_json_is_read_under_all_its_names_and_without_a_header(named: str) -> None:
    assert decode_event(as_json(), [("Content-Type", named.encode())]) == decode_event(as_json())


@pytest.mark.parametrize("named", ["application/msgpack", "application/x-msgpack", "application/vnd.msgpack"])
def test_msgpack_is_read_under_all_its_names(named: str) -> None:
    assert decode_event(msgpack.packb(VIEW), [(CONTENT_TYPE, named.encode())]).item_id == "a"


def test_another_content_type_is_refused_by_name() -> None:
    with pytest.raises(BadEvent, match="'text/xml', expected application/json or application/msgpack") as caught:
        decode_event(b"<view/>", [(CONTENT_TYPE, b"text/xml")])
    assert (caught.value.reason, caught.value.field) == ("content_type", CONTENT_TYPE)


@pytest.mark.parametrize(
    ("changes", "field", "shown"),
    [
        ({"ts": "yesterday"}, "ts", "'yesterday'"),
        ({"ts": -1}, "ts", "-1"),
        ({"ts": LATEST_TS_MS + 1}, "ts", str(LATEST_TS_MS + 1)),
        ({"ts": 1.5}, "ts", "1.5"),
        ({"type": "glance"}, "type", "'glance'"),
        ({"user_id": ""}, "user_id", "''"),
        ({"user_id": "u" * 257}, "user_id", "'uuu"),
        ({"item_id": 7}, "item_id", "7"),
        ({"value": "dear"}, "value", "'dear'"),
        ({"position": 0}, "position", "0"),
        ({"k": 101}, "k", "101"),
        ({"context": {"a": [1]}}, "context", "[1]"),
        ({"context": {str(n): n for n in range(65)}}, "context", "'0': 0"),
        ({"query": "q" * 1025}, "query", "'qqq"),
        ({"scenario": ""}, "scenario", "''"),
        ({"colour": "red"}, "colour", "'red'"),
        ({"ts": ...}, "ts", "is missing: every event needs it"),
        ({"user_id": ...}, "user_id", "is missing"),
        ({"type": ...}, "type", "is missing"),
        ({"item_id": ...}, "item_id", "'view' event needs"),
        ({"ts": "yesterday"}, "ts", "is 'yesterday' (text), expected a whole number: milliseconds since 1970"),
        ({"type": "clik"}, "type", "did you mean click?"),
        ({"itemid": "x"}, "itemid", "is unknown, with the value 'x'; did you mean item_id?"),
        ({"price": 3}, "price", "what is your own goes under context"),
        ({"filters": {"tag": ["a"]}}, "tag", "is unknown, at filters; did you mean tags?"),
        ({"basket": ["a", 3]}, "basket", "expected text, at basket["),
        ({"k": 0}, "k", "is 0, expected a whole number of at least 1"),
        ({"user_id": ""}, "user_id", "expected text, not empty"),
    ],
)
@pytest.mark.parametrize("content_type", [JSON, MSGPACK])
def test_a_field_that_does_not_fit_is_named_with_what_came(
    changes: dict[str, object], field: str, shown: str, content_type: str
) -> None:
    value = {key: came for key, came in {**VIEW, **changes}.items() if came is not ...}
    error = refusal(as_json(**changes) if content_type == JSON else msgpack.packb(value), content_type)
    assert (error.reason, error.field) == ("invalid", field)
    assert shown in error.detail
    assert len(error.detail) < 300
    assert not re.search(r"Expected `|\$|Object contains", error.detail)  # the decoder's own words


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_no_finite_number_is_refused(value: float) -> None:
    error = refusal(msgpack.packb({**VIEW, "value": value}), MSGPACK)
    assert (error.reason, error.field) == ("invalid", "value")


@pytest.mark.parametrize("value", [None, b""])
def test_a_message_without_a_value_is_refused(value: bytes | None) -> None:
    assert refusal(value).reason == "empty"


@pytest.mark.parametrize("value", [b"{", b"view", b"\xff\xfe", b'{"type": NaN}', as_json() + b"x", b"\xc1"])
def test_what_is_not_json_is_called_malformed(value: bytes) -> None:
    assert refusal(value).reason == "malformed"


def test_a_byte_order_mark_is_called_by_its_name() -> None:
    refused = refusal(b"\xef\xbb\xbf" + as_json())
    assert (refused.reason, "byte order mark" in str(refused)) == ("malformed", True)


def test_size_is_checked_before_anything_is_decoded() -> None:
    assert decode_event(as_json(), max_bytes=len(as_json())).item_id == "a"
    assert refusal(b"\xff" * 101, max_bytes=100).reason == "too_large"


def nested_msgpack(depth: int) -> bytes:
    return b"\x91" * depth + b"\x01"


@pytest.mark.parametrize(
    ("nested", "content_type"), [(lambda n: b"[" * n + b"]" * n, JSON), (nested_msgpack, MSGPACK)], ids=[JSON, MSGPACK]
)
def test_depth_is_checked_before_anything_is_decoded(nested, content_type: str) -> None:  # type: ignore[no-untyped-def]
    assert refusal(nested(8), content_type, max_depth=8).reason == "invalid"
    assert refusal(nested(9), content_type, max_depth=8).reason == "too_deep"
    assert refusal(nested(30_000), content_type).reason == "too_deep"


def test_brackets_inside_text_are_not_depth() -> None:
    assert decode_event(as_json(query='[[[["\\"[[[[{{{{{{{{')).query == '[[[["\\"[[[[{{{{{{{{'
    assert decode_event(as_json(query="äöü" * 100)).query == "äöü" * 100
    scripts = {**VIEW, "query": "тестдругиеписьмена" * 20}  # its bytes look like containers to msgpack
    assert decode_event(msgpack.packb(scripts), HEADERS[MSGPACK]).query == scripts["query"]


def refused(value: bytes, content_type: str) -> BadEvent | None:
    """How it is refused, None when it is an event."""
    try:
        event = decode_event(value, HEADERS[content_type])
    except BadEvent as error:
        return error
    assert isinstance(event, Event)
    return None


@given(value=st.binary(max_size=200), content_type=st.sampled_from([JSON, MSGPACK]))
@settings(max_examples=300)
def test_any_bytes_are_an_event_or_are_refused(value: bytes, content_type: str) -> None:
    error = refused(value, content_type)
    assert error is None or (error.reason and error.detail)


plain = st.recursive(
    st.none() | st.booleans() | any_integer | st.floats() | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | any_integer, inner, max_size=3),
    max_leaves=8,
)


@given(fields=st.dictionaries(st.sampled_from([*Event.__struct_fields__, "other"]), plain), cut=st.integers(0, 40))
@settings(max_examples=300)
def test_any_values_in_the_fields_are_an_event_or_are_refused_in_few_words(fields: dict[str, object], cut: int) -> None:
    packed = msgpack.packb({**VIEW, **fields})
    for value in (packed, packed[:cut]):
        error = refused(value, MSGPACK)
        assert error is None or error.reason in {"invalid", "malformed", "too_deep", "empty"}
        assert error is None or len(error.detail) < 500


@pytest.mark.parametrize(
    ("value", "content_type"),
    [
        (b"[" * 9 + b'"' + b'\\"' * 32_000, JSON),  # text that never ends, full of escaped quotes
        (b"[" * 9 + b'"' * 65_000, JSON),
        (b"{" * 9 + b"\\" * 65_000, JSON),
        (b"\xdf\xff\xff\xff\xff" * 13_000, MSGPACK),  # each says that four billion pairs follow
        (b"\xdd\x00\x00\xff\xff" + b"\x90" * 65_000, MSGPACK),
        (b"\xc6\xff\xff\xff\xff" + b"\x90" * 65_000, MSGPACK),
        (b'{"type":"glance","ts":' + b"9" * 65_000 + b"}", JSON),
    ],
)
def test_hostile_messages_are_refused_in_no_time(value: bytes, content_type: str) -> None:
    assert least_cpu_s(lambda: refusal(value, content_type, max_bytes=100_000)) < 0.5  # 3 ms on a core of 2020


def test_a_slate_that_is_none_is_refused() -> None:
    with pytest.raises(BadEvent, match="not a Slate"):
        decode_slate(as_json())
