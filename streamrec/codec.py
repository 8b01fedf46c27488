"""Encodes and decodes messages as JSON and msgpack, with limits on size, depth and time for hostile input.

Knows nothing of topics or Kafka: headers are pairs, a message is bytes.
"""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from collections.abc import Iterable
from typing import Annotated, Any, NamedTuple, TypeVar
from unicodedata import category

import msgspec

from streamrec.errors import BadEvent, did_you_mean
from streamrec.events import CONTROL_CHARACTERS, Event, EventType, Filters, Item, Outcome, Slate, Timestamp, Trend

CONTENT_TYPE = "content-type"
JSON = "application/json"
MSGPACK = "application/msgpack"
JSON_HEADERS = ((CONTENT_TYPE, JSON.encode()),)
MSGPACK_HEADERS = ((CONTENT_TYPE, MSGPACK.encode()),)
"""Of a record whose value is of that type."""

_MSGPACK_NAMES = frozenset({MSGPACK, "application/x-msgpack", "application/vnd.msgpack"})
_USUAL_NAMES = {JSON.encode(): False, MSGPACK.encode(): True}
_EVENT_DEPTH = 2  # of an event with a context
_MOST_PARTS = 1_024  # how many values are walked to find the depth: an event has far fewer
_JSON_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"?', re.DOTALL)  # one without an end runs to the end: never read twice
_NO_BRACKETS = bytes(set(range(256)) - set(b"{}[]"))
_MSGPACK_CONTAINERS = bytes([*range(0x80, 0xA0), 0xDC, 0xDD, 0xDE, 0xDF])
_FIELD = re.compile(r"`\$\.?(\w+)|field `(\w+)`|^`(\w+)` is")
_EXPECTED = re.compile(r"Expected `([^`]+)`(.*?)(?:, got `([^`]+)`)?(?: - at `.*)?$", re.DOTALL)
_PLACE = re.compile(r" - at `\$\.?([^`]+)`")
_IN_WORDS = {
    "array": "a list", "bool": "true or false", "bytes": "bytes", "float": "a number", "int": "a whole number",
    "object": "an object", "str": "text", "null": "nothing",
}  # fmt: skip
_BOUNDS = (
    (" of length >= 1", ", not empty"),
    (" of length <= ", ", no longer than "),
    (" >= ", " of at least "),
    (" <= ", " of at most "),
)
_FIELD_CHARS = 64
_SHOWN_CHARS = 60
_DETAIL_CHARS = 300
_EXPLAINED_BYTES = 16_384  # of a longer message the wrong value is named, but not shown: that takes decoding it anew

Message = Event | Slate | Outcome | Item | Trend
Published = TypeVar("Published", Slate, Outcome, Item, Trend)


_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=256, pattern=f"(?s)^(?!.*{CONTROL_CHARACTERS})")]


class _Dated(msgspec.Struct):
    ts: Timestamp


class Sender(NamedTuple):
    """Who sent a message, and as what; None for what is absent or cannot be read."""

    type: EventType
    user_id: str
    event_id: str | None
    session_id: str | None
    scenario: str | None


_json_event = msgspec.json.Decoder(Event)
_msgpack_event = msgspec.msgpack.Decoder(Event)
_json_dated = msgspec.json.Decoder(_Dated)
_msgpack_dated = msgspec.msgpack.Decoder(_Dated)
_json_item = msgspec.json.Decoder(Item)
_msgpack_item = msgspec.msgpack.Decoder(Item)
_json_encoder = msgspec.json.Encoder()
_msgpack_encoder = msgspec.msgpack.Encoder()


def decode_event(
    value: bytes | None, headers: Iterable[tuple[str, bytes]] = (), *, max_bytes: int = 65_536, max_depth: int = 8
) -> Event:
    """One event from a message's value; JSON unless the `content-type` header says msgpack.

    Whatever the bytes are, the answer comes within milliseconds and takes memory in proportion to `max_bytes`. An event
    has finite numbers of at most 64 bits and names that can be keys; encoded in either format, it comes back as it was.

    Raises:
        BadEvent: it is empty, too large, too deeply nested, malformed or not an event. What it says of the message is
            short, and holds none of its control characters.
    """
    if not value:
        raise BadEvent("empty", "the message has no value, expected an event in JSON or msgpack")
    packed = _format_of(value, headers, max_bytes, max_depth)
    try:
        return (_msgpack_event if packed else _json_event).decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _refusal(error, value, packed, max_depth, Event) from None


def event_time(
    value: bytes | None, headers: Iterable[tuple[str, bytes]] = (), *, max_bytes: int = 65_536
) -> int | None:
    """The `ts` of the event in a message's value, nothing else of which is looked at; None where there is none."""
    if not value or len(value) > max_bytes:
        return None
    try:
        return (_msgpack_dated if _is_msgpack(headers) else _json_dated).decode(value).ts
    except (BadEvent, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def sender_of(
    value: bytes | None, headers: Iterable[tuple[str, bytes]] = (), *, max_bytes: int = 65_536
) -> Sender | None:
    """Who sent a message that may be no event: each field is read by itself. None where type or user cannot be told."""
    if not value or len(value) > max_bytes:
        return None
    try:
        packed = _is_msgpack(headers)
        raw = value if packed else value.removeprefix(BOM_UTF8)
        fields = _decoded(raw, dict[str, msgspec.Raw], packed)
    except (BadEvent, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None

    def read(field: str, kind: Any = _Name) -> Any:
        try:
            return _decoded(fields[field], kind, packed)
        except (KeyError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None

    kind, user_id = read("type", EventType), read("user_id")
    if kind is None or user_id is None:
        return None
    return Sender(kind, user_id, read("event_id"), read("session_id"), read("scenario"))


def _decoded(value: bytes | msgspec.Raw, kind: Any, packed: bool) -> Any:
    return msgspec.msgpack.decode(value, type=kind) if packed else msgspec.json.decode(value, type=kind)


def decode_item(
    value: bytes, headers: Iterable[tuple[str, bytes]] = (), *, max_bytes: int = 65_536, max_depth: int = 8
) -> Item:
    """One item of the catalogue from a message's value, with the care that `decode_event` takes.

    Raises:
        BadEvent: it is empty, too large, too deeply nested, malformed or not an item.
    """
    if not value:
        raise BadEvent("empty", "the message has no value, expected an item in JSON or msgpack")
    packed = _format_of(value, headers, max_bytes, max_depth)
    try:
        return (_msgpack_item if packed else _json_item).decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _refusal(error, value, packed, max_depth, Item) from None


def _format_of(value: bytes, headers: Iterable[tuple[str, bytes]], max_bytes: int, max_depth: int) -> bool:
    """Whether a message is msgpack; raises BadEvent for one that is not to be decoded at all."""
    refuse_size(value, max_bytes)
    packed = _is_msgpack(headers)
    if max_depth < _EVENT_DEPTH:
        _refuse_depth(value, packed, max_depth)
    return packed


def refuse_size(value: bytes, max_bytes: int) -> None:
    """Raise BadEvent for a message that is larger than messages may be."""
    if len(value) > max_bytes:
        raise BadEvent("too_large", f"the message has {len(value)} bytes, expected at most {max_bytes}")


def _refusal(error: Exception, value: bytes, packed: bool, max_depth: int, kind: type[Event | Item]) -> BadEvent:
    """The error for a message that the decoder refused: too deep, not the type expected, or malformed.

    The decoder stops at the first unexpected value, so it never goes deeper than an event; depth is checked only here.
    """
    try:
        _refuse_depth(value, packed, max_depth)
    except BadEvent as deeper:
        return deeper
    if isinstance(error, msgspec.ValidationError):
        return _invalid(error, value, packed, kind)
    if not packed and value.startswith(BOM_UTF8):
        return BadEvent("malformed", "the message begins with a byte order mark, which JSON has not; send it without")
    form = "msgpack" if packed else "JSON"
    return BadEvent("malformed", brief(f"the message is not {form}: {error}", _DETAIL_CHARS))


def encode_event(event: Event, content_type: str = JSON) -> bytes:
    """An event as JSON or msgpack; send the same `content_type` in the header."""
    return encode(event, content_type)


def encode(message: Message, content_type: str = JSON) -> bytes:
    """Any message as JSON or msgpack."""
    return (_msgpack_encoder if content_type in _MSGPACK_NAMES else _json_encoder).encode(message)


def decode_slate(value: bytes, headers: Iterable[tuple[str, bytes]] = ()) -> Slate:
    """A slate from a record of `recommendations`.

    Raises:
        BadEvent: it is not a slate.
    """
    return decode(value, headers, Slate)


def decode(value: bytes, headers: Iterable[tuple[str, bytes]], kind: type[Published]) -> Published:
    """A published message of the given kind.

    Raises:
        BadEvent: it is something else.
    """
    try:
        if _is_msgpack(headers):
            return msgspec.msgpack.decode(value, type=kind)
        return msgspec.json.decode(value, type=kind)
    except msgspec.DecodeError as error:
        raise BadEvent("malformed", f"the message is not a {kind.__name__}: {error}") from None


def _is_msgpack(headers: Iterable[tuple[str, bytes]]) -> bool:
    """Raises BadEvent for a content type that is neither JSON nor msgpack."""
    for name, content in headers:
        if name.lower() == CONTENT_TYPE:
            usual = _USUAL_NAMES.get(content)
            if usual is not None:
                return usual
            media = (content or b"").decode("ascii", "replace").partition(";")[0].strip().lower()
            if media in _MSGPACK_NAMES:
                return True
            if media in ("", JSON, "text/json"):
                return False
            came = brief(repr(media), _SHOWN_CHARS)
            raise BadEvent("content_type", f"the content-type is {came}, expected {JSON} or {MSGPACK}", CONTENT_TYPE)
    return False


def _refuse_depth(value: bytes, packed: bool, limit: int) -> None:
    if (_msgpack_depth_exceeds if packed else _json_depth_exceeds)(value, limit):
        raise BadEvent("too_deep", f"the message is nested more than {limit} deep")


def _json_depth_exceeds(value: bytes, limit: int) -> bool:
    # Opening brackets bound the depth from above, and counting them costs nothing; only odd messages are walked.
    if value.count(b"{") + value.count(b"[") <= limit:
        return False
    depth = opened = 0
    for byte in _JSON_STRING.sub(b"", value).translate(None, _NO_BRACKETS):
        if byte in b"{[":
            depth += 1
            opened += 1
            if depth > limit:
                return True
            if opened > _MOST_PARTS:
                return False
        else:
            depth -= 1
    return False


def _msgpack_depth_exceeds(value: bytes, limit: int) -> bool:
    # As above: bytes that could open a container bound the depth. Other scripts have such bytes: hence the walk.
    if len(value) - len(value.translate(None, _MSGPACK_CONTAINERS)) <= limit:
        return False
    open_counts: list[int] = []  # how many values each open container still waits for
    at = parts = 0
    while at < len(value):
        children, at = _msgpack_element(value, at)
        parts += 1
        if parts > _MOST_PARTS:
            return False
        if open_counts:
            open_counts[-1] -= 1
        if children:
            open_counts.append(children)
            if len(open_counts) > limit:
                return True
        while open_counts and open_counts[-1] <= 0:
            open_counts.pop()
    return False


_FIXED_SIZES = {0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}
_FIXED_SIZES |= {0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8, 0xD4: 2, 0xD5: 3, 0xD6: 5, 0xD7: 9, 0xD8: 17}
_SIZED = {0xC4: (1, 0), 0xC5: (2, 0), 0xC6: (4, 0), 0xD9: (1, 0), 0xDA: (2, 0), 0xDB: (4, 0)}
_SIZED |= {0xC7: (1, 1), 0xC8: (2, 1), 0xC9: (4, 1)}  # extension types carry one more byte
_COUNTED = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}


def _msgpack_element(value: bytes, at: int) -> tuple[int, int]:
    """How many values the element at `at` contains, and where the next element starts (msgpack specification)."""
    head = value[at]
    if head <= 0x7F or head >= 0xE0:
        return 0, at + 1
    if head <= 0x8F:
        return 2 * (head & 0x0F), at + 1
    if head <= 0x9F:
        return head & 0x0F, at + 1
    if head <= 0xBF:
        return 0, at + 1 + (head & 0x1F)
    if head in _SIZED:
        width, extra = _SIZED[head]
        return 0, at + 1 + width + extra + int.from_bytes(value[at + 1 : at + 1 + width], "big")
    if head in _COUNTED:
        width, each = _COUNTED[head]
        return each * int.from_bytes(value[at + 1 : at + 1 + width], "big"), at + 1 + width
    return 0, at + 1 + _FIXED_SIZES.get(head, 0)


def _invalid(error: msgspec.ValidationError, value: bytes, packed: bool, kind: type[Event | Item]) -> BadEvent:
    field = _field_of(str(error))
    came = _value_of(field, value, packed) if field is not None else None
    return BadEvent("invalid", _fault(error, field, came, kind), None if field is None else brief(field, _FIELD_CHARS))


def fault(error: msgspec.ValidationError, given: Any, kind: type[msgspec.Struct]) -> str:
    """What is wrong with fields that make no message of a kind: the field, the value seen, what was expected."""
    field = _field_of(str(error))
    came = brief(repr(given[field]), _SHOWN_CHARS) if isinstance(given, dict) and field in given else None
    return _fault(error, field, came, kind)


def _field_of(detail: str) -> str | None:
    found = _FIELD.search(detail)
    field = next((name for name in found.groups() if name), None) if found else None
    return "item_id" if field is None and "item_id" in detail else field


def _fault(error: msgspec.ValidationError, field: str | None, came: str | None, kind: type[msgspec.Struct]) -> str:
    """The decoder's message in words of people, which say the value too."""
    detail = str(error)
    named = "the message" if field is None else f"field {brief(field, _FIELD_CHARS)!r}"
    if "missing required field" in detail:
        return f"{named} is missing: every {kind.__name__.lower()} needs it"
    place = _PLACE.search(detail)  # of what is wrong inside a field, as `basket[1]`
    inside = f", at {brief(place[1], _FIELD_CHARS)}" if place and place[1] != field else ""
    if "unknown field" in detail:
        known = msgspec.structs.fields(Filters if inside else kind)
        near = did_you_mean(field or "", (one.name for one in known))
        value = "" if came is None else f", with the value {came}"
        own = "; what is your own goes under context" if kind is Event and not inside else ""
        return f"{named} is unknown{inside}{value}{near or own}"
    value = f"{named} is {came}" if came is not None else named
    if "Invalid enum value" in detail:
        near = did_you_mean((came or "").strip("'"), EventType)
        return f"{value}, expected one of {', '.join(EventType)}{near}"
    expected = _EXPECTED.match(detail)
    if expected is None:
        return f"{value}, out of range" if "out of range" in detail else brief(detail, _DETAIL_CHARS)
    kinds, bounds, got = expected.groups()
    if came is None:
        value += f" is {_IN_WORDS.get(got or '', 'out of bounds')}"
    elif got == "str":
        value += " (text)"
    for sign, words in _BOUNDS:
        bounds = bounds.replace(sign, words)
    wanted = " or ".join(_IN_WORDS.get(name, name) for name in kinds.split(" | ") if name != "null")
    unit = ": milliseconds since 1970" if field == "ts" else ""
    return brief(f"{value}, expected {wanted}{bounds}{unit}{inside}", _DETAIL_CHARS)


def _value_of(field: str, value: bytes, packed: bool) -> str | None:
    if len(value) > _EXPLAINED_BYTES:
        return None
    try:
        message: Any = msgspec.msgpack.decode(value) if packed else msgspec.json.decode(value)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, TypeError):  # the last: a map as a map's key
        return None
    if not isinstance(message, dict) or field not in message:
        return None
    return brief(repr(message[field]), _SHOWN_CHARS)


def brief(text: str, most: int) -> str:
    """At most `most` characters and an ellipsis; unprintable characters are escaped, so none can control a terminal."""
    cut = text if len(text) <= most else text[:most] + "..."
    return cut if cut.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in cut)


JOINERS = "\u200c\u200d"
"""Unprintable, and needed to write Hindi, Persian and many emoji."""


def harmless(text: str, keep: str = JOINERS + "\n\t") -> str:
    r"""The text with what could command a terminal or reorder a line as \\uXXXX, as JSON writes it.

    That is all that is unprintable: controls, marks and overrides of direction, lone surrogates, what is no character.
    Spaces of all kinds stay, and what is in `keep`.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep or category(c) == "Zs" else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at] << 8 | units[at + 1]:04x}" for at in range(0, len(units), 2))
