"""Messages made to break whoever reads them, each with the reason for which it must be put aside.

Two lists, because two judge. `HOSTILE` is refused for its bytes alone, by the decoder, with the default limits.
`JUDGED_BY_WORKER` decodes; the worker refuses it for its key, or for its date beside the moment when it was sent.
"""

from __future__ import annotations

import gzip
import json
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass

import msgpack

from streamrec.codec import CONTENT_TYPE, JSON, MSGPACK
from streamrec.config.groups import Limits
from streamrec.events import LATEST_TS_MS

KEY = b"hostile"
TS_MS = 1_700_000_000_000
DAY_MS = 24 * 3_600_000
VIEW = {"type": "view", "user_id": "hostile", "item_id": "item-1", "ts": TS_MS}
MAX_BYTES = Limits().max_message_bytes
Headers = tuple[tuple[str, bytes], ...]
AS_JSON: Headers = ((CONTENT_TYPE, JSON.encode()),)
AS_MSGPACK: Headers = ((CONTENT_TYPE, MSGPACK.encode()),)
NAMES = ("user_id", "item_id", "event_id", "session_id", "rec_id", "scenario")


@dataclass(frozen=True, slots=True)
class Hostile:
    """One message as it is sent, and what a dead letter must say of it."""

    name: str
    key: bytes | None
    value: bytes | None
    headers: Headers
    reason: str
    field: str | None = None


@dataclass(frozen=True, slots=True)
class Fields:
    """What a producer is given."""

    key: bytes | None
    value: bytes
    headers: Headers
    timestamp_ms: int


@dataclass(frozen=True, slots=True)
class Judged:
    """A message that decodes, made for the moment when it is sent."""

    name: str
    build: Callable[[int], Fields]
    reason: str


def with_fields(**changes: object) -> dict[str, object]:
    return {name: value for name, value in {**VIEW, **changes}.items() if value is not ...}


def as_json(**changes: object) -> bytes:
    """The view in JSON with other fields; `...` leaves one out."""
    return json.dumps(with_fields(**changes)).encode()


def as_msgpack(**changes: object) -> bytes:
    return bytes(msgpack.packb(with_fields(**changes), unicode_errors="surrogatepass"))


def raw_json(field: str, text: bytes) -> bytes:
    """The view with one field written as it stands, for what no encoder would write."""
    return as_json(**{field: "@"}).replace(b'"@"', text)


def raw_msgpack(field: str, element: bytes) -> bytes:
    return as_msgpack(**{field: "@"}).replace(b"\xa1@", element)


def of_json(name: str, value: bytes, reason: str, field: str | None = None) -> Hostile:
    return Hostile(f"{name}, JSON", KEY, value, (), reason, field)


def of_msgpack(name: str, value: bytes, reason: str, field: str | None = None) -> Hostile:
    return Hostile(f"{name}, msgpack", KEY, value, AS_MSGPACK, reason, field)


def in_both(name: str, reason: str, field: str, **changes: object) -> list[Hostile]:
    return [
        of_json(name, as_json(**changes), reason, field),
        of_msgpack(name, as_msgpack(**changes), reason, field),
    ]


BYTES = [
    Hostile("no value", KEY, None, (), "empty"),
    Hostile("a value of no bytes", KEY, b"", AS_MSGPACK, "empty"),
    of_json("ten megabytes are too much", b"{" * 10_000_000, "too_large"),
    of_json("one byte more than allowed", as_json(query="q" * MAX_BYTES)[: MAX_BYTES + 1], "too_large"),
    of_json("cut short", as_json()[:-1], "malformed"),
    of_msgpack("cut short", as_msgpack()[:-1], "malformed"),
    of_json("two events in one", as_json() + b"\n" + as_json(), "malformed"),
    of_msgpack("two events in one", as_msgpack() * 2, "malformed"),
    of_json("a byte order mark", b"\xef\xbb\xbf" + as_json(), "malformed"),
    of_json("UTF-16", as_json().decode().encode("utf-16"), "malformed"),
    of_json("gzip", gzip.compress(as_json()), "malformed"),
    of_msgpack("gzip", gzip.compress(as_msgpack()), "invalid"),
    of_json("msgpack that is said to be JSON", as_msgpack(), "malformed"),
    of_msgpack("JSON that is said to be msgpack", as_json(), "invalid"),
    of_json("zeroes", bytes(100), "malformed"),
    of_json("not a number, bare", raw_json("value", b"NaN"), "malformed"),
    of_json("a quote that never ends", b"[" * 9 + b'"' + b'\\"' * 30_000, "too_deep"),
    of_json("nothing but quotes", b"[" * 9 + b'"' * 60_001, "too_deep"),
    Hostile("another content type", KEY, as_json(), ((CONTENT_TYPE, b"text/xml"),), "content_type", CONTENT_TYPE),
    Hostile("a bad content type", KEY, as_json(), ((CONTENT_TYPE, b"\xff\x00\x1b"),), "content_type", CONTENT_TYPE),
    Hostile("an endless content type", KEY, as_json(), ((CONTENT_TYPE, b"x" * 9_000),), "content_type", CONTENT_TYPE),
]

DEPTHS = [
    of_json("lists in lists", b"[" * 30_000 + b"]" * 30_000, "too_deep"),
    of_json("lists in lists without an end", b"[" * 60_000, "too_deep"),
    of_json("maps in maps", b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "too_deep"),
    of_json("a deep context", raw_json("context", b'{"a":' * 10 + b"1" + b"}" * 10), "too_deep"),
    of_msgpack("lists in lists", b"\x91" * 60_000 + b"\x01", "too_deep"),
    of_msgpack("maps in maps", b"\x81\xa1a" * 20_000 + b"\x01", "too_deep"),
    of_msgpack("maps as keys of maps", b"\x81" * 60_000, "too_deep"),
    of_msgpack("a deep context", raw_msgpack("context", b"\x81\xa1a" * 10 + b"\x01"), "too_deep"),
]

BOMBS = [
    of_msgpack("a list that claims 2^32 values", b"\xdd\xff\xff\xff\xff", "invalid"),
    of_msgpack("a map that claims 2^32 entries", b"\xdf\xff\xff\xff\xff", "malformed"),
    of_msgpack("lists that claim 2^32 lists", b"\xdd\xff\xff\xff\xff" * 10_000, "too_deep"),
    of_msgpack(
        "a context that claims 2^32 entries", raw_msgpack("context", b"\xdf\xff\xff\xff\xff"), "invalid", "context"
    ),
    of_msgpack("an id that claims 2^32 bytes", raw_msgpack("user_id", b"\xdb\xff\xff\xff\xff"), "malformed"),
    of_msgpack("bytes that claim 2^32", raw_msgpack("user_id", b"\xc6\xff\xff\xff\xff"), "malformed"),
    of_msgpack("an extension that claims 2^32 bytes", b"\xc9\xff\xff\xff\xff\x05", "malformed"),
    of_msgpack("an extension", raw_msgpack("item_id", b"\xd4\x05\x01"), "invalid", "item_id"),
    of_msgpack("a moment as an extension", raw_msgpack("ts", b"\xd6\xff\x00\x00\x00\x01"), "invalid", "ts"),
    of_msgpack("a byte that msgpack never uses", b"\xc1", "malformed"),
    of_msgpack("a map as the key of a map", raw_msgpack("context", b"\x81\x80\x01"), "invalid", "context"),
    of_msgpack("a number as a field's name", b"\x81\x01\x02", "invalid"),
    of_msgpack("60,000 empty lists", b"\xdc\xff\xff" + b"\x90" * 60_000, "invalid"),
    of_msgpack("empty lists at the bottom of lists", b"\xdc\x00\x02\x90" * 7 + b"\x90" * 60_000, "invalid"),
    of_json("20,000 empty lists", b"[" + b"[]," * 20_000 + b"[]]", "invalid"),
    of_json("20,000 empty maps in a field", raw_json("query", b"[" + b"{}," * 20_000 + b"{}]"), "invalid", "query"),
    *in_both("thousands of entries of context", "invalid", "context", context={str(n): n for n in range(4_000)}),
    *in_both("thousands of unknown fields", "invalid", "f0", **{f"f{n}": n for n in range(4_000)}),
]

NUMBERS = [
    *(
        of_msgpack(f"{field} is {number}", as_msgpack(**{field: number}), "invalid", field)
        for field in ("value", "ts", "k", "position")
        for number in (math.nan, math.inf, -math.inf)
    ),
    *(
        of_msgpack(f"context has {number}", as_msgpack(context={"price": number}), "invalid", "context")
        for number in (math.nan, math.inf, -math.inf)
    ),
    of_msgpack("value is not a number of 32 bits", raw_msgpack("value", b"\xca\x7f\xc0\x00\x00"), "invalid", "value"),
    of_msgpack("a signalling not a number", raw_msgpack("value", b"\xcb\x7f\xf4" + bytes(6)), "invalid", "value"),
    *in_both("value beyond 64 bits", "invalid", "value", value=1e300),
    *in_both("context has a number beyond 64 bits", "invalid", "context", context={"price": -1e300}),
    *in_both("context has 2^64-1", "invalid", "context", context={"n": 2**64 - 1}),
    of_json("value that rounds to infinity", raw_json("value", b"1e999"), "invalid", "value"),
    of_json("context that rounds to infinity", raw_json("context", b'{"a":-1e999}'), "invalid", "context"),
    *(
        of_json(f"{field} has {digits:,} digits", raw_json(field, b"9" * digits), "invalid", field)
        for field in ("ts", "k", "position", "value")
        for digits in (20, 400, 4_300, 60_000)
    ),
    of_json("context has 4,000 digits", raw_json("context", b'{"n":' + b"9" * 4_000 + b"}"), "invalid", "context"),
    *in_both("ts is negative", "invalid", "ts", ts=-1),
    *in_both("ts is in microseconds", "invalid", "ts", ts=LATEST_TS_MS * 1_000),
    of_msgpack("ts of 64 bits", raw_msgpack("ts", b"\xcf" + b"\xff" * 8), "invalid", "ts"),
    of_msgpack("ts is the lowest of all", raw_msgpack("ts", b"\xd3" + struct.pack(">q", -(2**63))), "invalid", "ts"),
    of_json("ts is a power", raw_json("ts", b"1.7e12"), "invalid", "ts"),
    *(in_both("k is 0", "invalid", "k", k=0) + in_both("k is negative", "invalid", "k", k=-5)),
    *in_both("k is a million", "invalid", "k", k=1_000_000),
    *in_both("position is 0", "invalid", "position", position=0),
    *in_both("position is huge", "invalid", "position", position=2**31),
]

TEXTS = [
    *(in_both(f"{field} is empty", "invalid", field, **{field: ""})[0] for field in NAMES),
    *(of_msgpack(f"{field} of 60,000", as_msgpack(**{field: "x" * 60_000}), "invalid", field) for field in NAMES),
    *(in_both(f"{field} has a zero in it", "invalid", field, **{field: "a\0b"})[1] for field in NAMES),
    *(in_both(f"{field} commands a terminal", "invalid", field, **{field: "\x1b]0;owned\x07"})[0] for field in NAMES),
    of_json("an id of one byte that commands", raw_json("user_id", '"\x9b2J"'.encode()), "invalid", "user_id"),
    of_json("an id that deletes", raw_json("item_id", b'"\x7f"'), "invalid", "item_id"),
    *in_both("an id with a line break", "invalid", "item_id", item_id="a\n"),
    *(of_json(f"half a character {half.decode()}", raw_json("user_id", b'"' + half + b'"'), "malformed")
      for half in (b"\\ud800", b"\\udc00", b"\\ud800\\u0041", b"\\udc00\\ud800", b"\\ud800\\ud800")),
    of_json("half a character in bytes", raw_json("user_id", b'"\xed\xa0\x80"'), "malformed"),
    of_json("half a character in the context", raw_json("context", b'{"category":"\\udfff"}'), "malformed"),
    *(of_msgpack(f"half a character in {field}", as_msgpack(**{field: "\ud800"}), "malformed") for field in NAMES),
    of_json("bytes that are no text", raw_json("user_id", b'"\xff\xfe"'), "malformed"),
    of_msgpack("bytes that are no text", raw_msgpack("user_id", b"\xa2\xff\xfe"), "malformed"),
    of_json("a zero byte inside an id", raw_json("user_id", b'"a\0b"'), "malformed"),
    of_json("a character in too many bytes", raw_json("user_id", b'"\xc0\xaf"'), "malformed"),
    *in_both("a long query", "invalid", "query", query="q" * 60_000),
    *in_both("a context of one long text", "invalid", "context", context={"category": "c" * 60_000}),
    *in_both("a context under one long name", "invalid", "context", context={"c" * 60_000: 1}),
    *in_both("a field with a long name", "invalid", "x" * 64 + "...", **{"x" * 60_000: 1}),
    of_json("a field that commands a terminal", as_json(**{"\x1b[2J": 1}), "invalid"),
    *in_both("a type of 60,000 letters", "invalid", "type", type="x" * 60_000),
]  # fmt: skip

SHAPES = [
    *(of_json(f"the whole is {text}", text.encode(), "invalid") for text in ("[]", "1", '"x"', "null", "true", "[{}]")),
    *(of_msgpack(f"the whole is {top!r}", bytes(msgpack.packb(top)), "invalid") for top in ([], 1, "x", None, b"x")),
    of_json("nothing in it", b"{}", "invalid", "type"),
    *(
        sent
        for field in ("type", "user_id", "ts", "item_id")
        for sent in (*in_both(f"{field} is null", "invalid", field, **{field: None}),
                     *in_both(f"{field} is missing", "invalid", field, **{field: ...}))
    ),
    *(
        sent
        for field in (*NAMES, "type", "ts", "value", "position", "context", "query", "k", "explain")
        for wrong in ([1], [[]], {"a": {}})
        for sent in in_both(f"{field} is {wrong}", "invalid", field, **{field: wrong})
    ),
    *(sent for field in (*NAMES, "type", "query") for sent in in_both(f"{field} is 7", "invalid", field, **{field: 7})),
    *(
        sent
        for field in ("ts", "value", "position", "k")
        for wrong in ("1", True)
        for sent in in_both(f"{field} is {wrong!r}", "invalid", field, **{field: wrong})
    ),
    *(of_msgpack(f"{field} is bytes", as_msgpack(**{field: b"abc"}), "invalid", field) for field in (*NAMES, "type")),
    *in_both("explain is 1", "invalid", "explain", explain=1),
    *in_both("a field nobody knows", "invalid", "admin", admin=True),
    *in_both("a type nobody knows", "invalid", "type", type="stare"),
    *in_both("a type with a wrong case", "invalid", "type", type="View"),
    of_json("an id given twice, once well", as_json()[:-1] + b',"user_id":7}', "invalid", "user_id"),
    of_json("an id given twice, then well", b'{"user_id":[],' + as_json()[1:], "invalid", "user_id"),
]  # fmt: skip

HOSTILE: list[Hostile] = [*BYTES, *DEPTHS, *BOMBS, *NUMBERS, *TEXTS, *SHAPES]
"""Each is refused by `streamrec.codec.decode_event`."""


def _dated(now_ms: int, ahead_ms: int) -> Fields:
    return Fields(KEY, as_json(ts=now_ms + ahead_ms), AS_JSON, now_ms)


JUDGED_BY_WORKER: list[Judged] = [
    Judged("without a key", lambda now_ms: Fields(None, as_json(ts=now_ms), AS_JSON, now_ms), "keyless"),
    Judged("with an empty key", lambda now_ms: Fields(b"", as_json(ts=now_ms), AS_JSON, now_ms), "keyless"),
    Judged("dated ten years ahead", lambda now_ms: _dated(now_ms, 3_650 * DAY_MS), "future"),
    Judged("dated two days ahead", lambda now_ms: _dated(now_ms, 2 * DAY_MS), "future"),
    Judged("dated at the end of time", lambda now_ms: _dated(now_ms, LATEST_TS_MS - now_ms), "future"),
    Judged("dated ten years back", lambda now_ms: _dated(now_ms, -3_650 * DAY_MS), "past"),
    Judged("dated 1970", lambda now_ms: _dated(now_ms, -now_ms), "past"),
]
"""Each decodes. What `keyless` and `past` need is set by `limits.require_key` and `limits.max_late_s`."""
