"""Bodies to events and items, each with the care and the rules that a worker applies: what is taken here, it takes.

Knows nothing of HTTP or Kafka.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from streamrec.codec import brief, decode_event, decode_item, refuse_size
from streamrec.errors import BadEvent
from streamrec.events import Event, Item
from streamrec.gateway.messages import MOST_EVENTS
from streamrec.worker.validation import ValidationLimits, refuse_unfit

Fields = dict[str, msgspec.Raw]
_EVENT_FIELDS = frozenset(Event.__struct_fields__)
_ITEM_FIELDS = frozenset(Item.__struct_fields__)
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Intake:
    """What is taken. `ignore_unknown` leaves fields out that nobody knows; otherwise they are refused."""

    limits: ValidationLimits
    ignore_unknown: bool = False

    def event(self, raw: msgspec.Raw | bytes, fallback: Mapping[str, Any]) -> Event:
        """One event; `fallback` has what is used for fields that are not there, beside the time, which is now.

        Raises:
            BadEvent: a worker would put it aside.
        """
        fields = self.fields(raw, _EVENT_FIELDS)
        now_ms = time.time_ns() // 1_000_000
        body = _encode({"ts": now_ms, **fallback, **fields})
        event = decode_event(body, max_bytes=self.limits.max_message_bytes, max_depth=self.limits.max_depth)
        refuse_unfit(event, self.limits, now_ms)
        return event

    def item(self, raw: msgspec.Raw | bytes, item_id: str | None = None) -> Item:
        """One item of the catalogue; `item_id` is the one that it must have, if any.

        Raises:
            BadEvent: a worker would put it aside, or it is another.
        """
        fields: dict[str, Any] = {**self.fields(raw, _ITEM_FIELDS)}
        if item_id is not None:
            fields.setdefault("item_id", item_id)
        item = decode_item(_encode(fields), max_bytes=self.limits.max_message_bytes, max_depth=self.limits.max_depth)
        if item_id is not None and item.item_id != item_id:
            came = brief(repr(item.item_id), 60)
            raise BadEvent("invalid", f"field 'item_id' is {came}, expected the one of the path", "item_id")
        return item

    def fields(self, raw: msgspec.Raw | bytes, known: frozenset[str]) -> Fields:
        """The fields of an object, undecoded; those that are not `known` as the settings say.

        Raises:
            BadEvent: it is too large or no object, or has fields that are not taken.
        """
        refuse_size(bytes(raw), self.limits.max_message_bytes)
        fields: Fields = _decoded(raw, Fields, "an object")
        if unknown := fields.keys() - known:
            if not self.ignore_unknown:
                name = brief(min(unknown), 60)
                raise BadEvent(
                    "invalid", f"field {name!r} is unknown, expected some of {', '.join(sorted(known))}", name
                )
            fields = {name: value for name, value in fields.items() if name in known}
        return fields


def parts(body: bytes) -> list[msgspec.Raw]:
    """The objects of a body: one, or a list of them, undecoded.

    Raises:
        BadEvent: it is no JSON, empty, or too long a list.
    """
    if not body.lstrip().startswith(b"["):
        return [_decoded(body, msgspec.Raw, "JSON")]
    found: list[msgspec.Raw] = _decoded(body, list[msgspec.Raw], "a list")
    if not found:
        raise BadEvent("empty", "the list is empty, expected one or more")
    if len(found) > MOST_EVENTS:
        raise BadEvent("too_large", f"the list has {len(found)} parts, expected at most {MOST_EVENTS}")
    return found


def _decoded(raw: msgspec.Raw | bytes, kind: Any, expected: str) -> Any:
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError as error:
        raise BadEvent("invalid", f"expected {expected}: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadEvent("malformed", brief(f"the body is not JSON: {error}", 300)) from None
