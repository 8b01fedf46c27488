"""Every hostile message is refused for the right reason, in few words and no time; none harms whoever reads it."""

from __future__ import annotations

import importlib.util
import math
import re
import sys
import tracemalloc
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamrec.codec import CONTENT_TYPE, JSON, MSGPACK, decode_event, encode_event, sender_of
from streamrec.errors import BadEvent
from streamrec.events import CONTROL_CHARACTERS, LARGEST_NUMBER, NAMES, Event
from streamrec.transport import Headers
from tests.support.effort import least_cpu_s

LIMIT_S = 0.05  # of the processor; each takes below 5 ms on a core of 2020
LIMIT_BYTES = 4 * 1024 * 1024
HEADERS = {JSON: ((CONTENT_TYPE, JSON.encode()),), MSGPACK: ((CONTENT_TYPE, MSGPACK.encode()),)}


def corpus() -> ModuleType:
    """The messages, which other suites share: a file without a package around it."""
    path = Path(__file__).parents[1] / "chaos" / "hostile.py"
    spec = importlib.util.spec_from_file_location("hostile", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # data classes look their module up
    spec.loader.exec_module(module)
    return module


hostile = corpus()


def refusal(message) -> BadEvent:  # type: ignore[no-untyped-def]
    with pytest.raises(BadEvent) as caught:
        decode_event(message.value, message.headers)
    sender_of(message.value, message.headers)  # as a worker does next, to tell whoever asked
    return caught.value


def test_names_are_told_apart() -> None:
    names = [message.name for message in [*hostile.HOSTILE, *hostile.JUDGED_BY_WORKER]]
    assert len(names) == len(set(names)) > 200


@pytest.mark.parametrize("message", hostile.HOSTILE, ids=lambda message: message.name)
def test_a_hostile_message_is_refused_for_its_reason_in_few_printable_words(message) -> None:  # type: ignore[no-untyped-def]
    error = refusal(message)
    assert (error.reason, error.field) == (message.reason, message.field)
    assert error.detail.isprintable()
    assert len(error.detail) <= 500
    assert len((error.field or "").encode()) <= 256


def test_a_hostile_message_takes_next_to_no_time() -> None:
    took = {message.name: least_cpu_s(lambda message=message: refusal(message)) for message in hostile.HOSTILE}
    assert {name: cpu_s for name, cpu_s in took.items() if cpu_s > LIMIT_S} == {}


def test_a_hostile_message_takes_next_to_no_memory() -> None:
    greedy = {}
    for message in hostile.HOSTILE:
        tracemalloc.start()
        refusal(message)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        if peak > LIMIT_BYTES:
            greedy[message.name] = peak
    assert greedy == {}


def test_what_a_longer_limit_lets_in_is_still_judged_in_bounded_time() -> None:
    def refuse(value: bytes, headers: Headers) -> None:
        with pytest.raises(BadEvent):
            decode_event(value, headers, max_bytes=10_000_000)

    for value, headers in (
        (b"[" + b"[]," * 3_000_000, ()),
        (b"\xdd\x00\xff\xff\xff" + b"\x90" * 9_000_000, HEADERS[MSGPACK]),
    ):
        assert least_cpu_s(lambda value=value, headers=headers: refuse(value, headers)) < 2.0  # type: ignore[misc]


@pytest.mark.parametrize("judged", hostile.JUDGED_BY_WORKER, ids=lambda judged: judged.name)
def test_what_the_worker_has_to_judge_decodes(judged) -> None:  # type: ignore[no-untyped-def]
    sent = judged.build(1_750_000_000_000)
    event = decode_event(sent.value, sent.headers)
    late_or_early = abs(event.ts - sent.timestamp_ms) > hostile.DAY_MS
    assert late_or_early == (judged.reason in ("future", "past"))
    assert (not sent.key) == (judged.reason == "keyless")


# Nothing that gets in does harm later


def judge(value: bytes, content_type: str) -> None:
    """An event that can be stored, keyed, computed with and sent on, or a refusal; nothing else ever."""
    try:
        event = decode_event(value, HEADERS[content_type])
    except BadEvent as error:
        refused = error
    else:
        refused = None
    if refused is not None:
        assert refused.reason
        assert refused.detail.isprintable()
        assert len(refused.detail) <= 500
        names = [name for name in sender_of(value, HEADERS[content_type]) or () if name is not None]
        assert all(0 < len(name.encode()) <= 1_024 and not re.search(CONTROL_CHARACTERS, name) for name in names)
        return
    for again in (JSON, MSGPACK):
        assert decode_event(encode_event(event, again), HEADERS[again]) == event
    names = [name for name in (getattr(event, field) for field in NAMES) if name is not None]
    assert all(0 < len(name.encode()) <= 1_024 for name in names)
    numbers = [event.value, *(event.context or {}).values()]
    assert all(math.isfinite(n) and abs(n) <= float(LARGEST_NUMBER) for n in numbers if isinstance(n, int | float))


GOOD = Event(
    type="request", user_id="u-1", ts=1_700_000_000_000, item_id="i-1", event_id="e-1", session_id="s", value=2.5,
    rec_id="user-events-0-7", position=3, context={"price": 3.5, "n": 7, "new": True, "category": "mugs"}, query="mug",
    k=5, scenario="cart", explain=True,
)  # fmt: skip
ENCODED = {content_type: encode_event(GOOD, content_type) for content_type in (JSON, MSGPACK)}
DANGEROUS = [b"\xff", b"\0", b'"', b"\\", b"{", b"[", b"\xdf\xff\xff\xff\xff", b"\xdd\xff\xff\xff\xff", b"\xc1",
             b"\xcb\x7f\xf8" + bytes(6), b"\xcb\x7f\xf0" + bytes(6), b"\\ud800", b"\\u0000", b"1e999", b"NaN", b"null",
             b"\xed\xa0\x80", b"9" * 25, b"\xcf" + b"\xff" * 8, b"\xd6\xff" + bytes(4)]  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn) -> tuple[bytes, str]:
    """A good event with a few bytes put in, written over, taken out or doubled."""
    content_type = draw(st.sampled_from([JSON, MSGPACK]))
    value = ENCODED[content_type]
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(value)))
        length = draw(st.integers(0, 8))
        put = draw(st.sampled_from(DANGEROUS) | st.binary(max_size=6) | st.just(value[at : at + length] * 2))
        value = value[:at] + put + value[at + length :]
    return value, content_type


@given(mutated())
@settings(max_examples=1_500)
def test_a_good_event_gone_bad_is_either_harmless_or_refused(sent: tuple[bytes, str]) -> None:
    judge(*sent)


@given(st.binary(max_size=400), st.sampled_from([JSON, MSGPACK]))
@settings(max_examples=500)
def test_bytes_out_of_nowhere_are_refused(value: bytes, content_type: str) -> None:
    judge(value, content_type)


def test_what_is_only_unusual_is_let_in() -> None:
    kept = decode_event(hostile.as_json(user_id="наталья\u200d\u00a0小", query="a\nb", explain=None, value=-0.0, k=100))
    assert kept.user_id == "наталья\u200d\u00a0小"
    twice = hostile.as_json()[:-1] + b',"user_id":"the-last-one-counts"}'
    assert decode_event(twice).user_id == "the-last-one-counts"
    padded = b" " * 60_000 + hostile.as_json()
    assert decode_event(padded).user_id == "hostile"
