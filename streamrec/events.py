"""The vocabulary: what users do, what is recommended to them, and what came of it.

Frozen types, validated as they are decoded. This module knows nothing of Kafka, Redis, models or clocks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

LATEST_TS_MS = 4_102_444_800_000
"""2100-01-01: a later timestamp is a unit mistake (microseconds sent as milliseconds), never a visit."""

Identifier = Annotated[str, Meta(min_length=1, max_length=256)]
Timestamp = Annotated[int, Meta(ge=0, le=LATEST_TS_MS, description="milliseconds since 1970-01-01T00:00Z")]
ContextValue = str | bool | int | float


class EventType(StrEnum):
    """What a user did."""

    VIEW = "view"
    CLICK = "click"
    ADD_TO_CART = "add_to_cart"
    PURCHASE = "purchase"
    RATING = "rating"
    LIKE = "like"
    DISLIKE = "dislike"
    SKIP = "skip"
    IMPRESSION = "impression"
    SEARCH = "search"
    REQUEST = "request"


EVENT_TYPES = tuple(EventType)
"""In declaration order: an event type's place here is its code in every array."""

TYPE_CODES: Mapping[EventType, int] = {kind: code for code, kind in enumerate(EVENT_TYPES)}
ITEMLESS_TYPES = frozenset({EventType.REQUEST, EventType.SEARCH})
"""The types that may come without an item; a request that names one asks for what goes with it (its seed)."""


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One thing a user did, or a request for a slate."""

    type: EventType
    user_id: Identifier
    ts: Timestamp
    item_id: Identifier | None = None
    event_id: Identifier | None = None
    session_id: Identifier | None = None
    value: float | None = None
    rec_id: Identifier | None = None
    position: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    context: Annotated[dict[str, ContextValue], Meta(max_length=64)] | None = None
    query: Annotated[str, Meta(max_length=1024)] | None = None
    k: Annotated[int, Meta(ge=1, le=100)] | None = None
    scenario: Annotated[str, Meta(min_length=1, max_length=64)] | None = None

    def __post_init__(self) -> None:
        if self.item_id is None and self.type not in ITEMLESS_TYPES:
            raise ValueError(f"a {self.type.value!r} event needs `item_id`")
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError(f"`value` is {self.value}, expected a finite number")


class SlateItem(msgspec.Struct, frozen=True, kw_only=True):
    """One place of a slate.

    `propensity` is the probability with which the policy put the item here, given the positions before it.
    `shares` says which model wanted it: each model's part of the score, in log-odds.
    """

    item_id: str
    position: int
    score: float
    propensity: float
    shares: dict[str, float]


class Slate(msgspec.Struct, frozen=True, kw_only=True):
    """The ordered list published for one request."""

    rec_id: str
    user_id: str
    ts: int
    items: tuple[SlateItem, ...]
    policy: str
    version: str
    candidates: int
    scenario: str = "home"
    session_id: str | None = None
    request_id: str | None = None


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one shown item: `reward` in [0, 1], beside the propensity of its having been shown."""

    outcome_id: str
    rec_id: str
    user_id: str
    item_id: str
    position: int
    propensity: float
    reward: float
    type: EventType
    ts: int


class Item(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the catalogue says of an item."""

    item_id: Identifier
    title: str | None = None
    text: str | None = None
    categories: tuple[str, ...] = ()
    price: float | None = None
    tags: tuple[str, ...] = ()
