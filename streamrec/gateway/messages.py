"""What is said over HTTP, beside the events, items and slates that the topics have. Knows nothing of HTTP."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from streamrec.events import (
    MAX_CANDIDATES,
    ContextKey,
    ContextValue,
    EventType,
    Filters,
    Identifier,
    Number,
    Slate,
    Timestamp,
)

LONGEST_DEADLINE_MS = 10_000
MOST_EVENTS = 10_000
"""Events or items of one batch."""

DeadlineMs = Annotated[
    int, Meta(ge=1, le=LONGEST_DEADLINE_MS, description="when an answer has to be there, ms from now")
]


class Terms(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a request says to the gateway itself."""

    request_id: Identifier | None = None
    deadline_ms: DeadlineMs | None = None


class RecommendationRequest(Terms, frozen=True, kw_only=True, omit_defaults=True):
    """Asks for a slate: the fields of an event of type `request`, and how long to wait for the answer.

    `request_id` is the event's `event_id`: a request that is sent again under it is answered by the same slate.
    """

    user_id: Identifier
    scenario: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    item_id: Identifier | None = None
    basket: Annotated[tuple[Identifier, ...], Meta(max_length=32)] | None = None
    query: Annotated[str, Meta(max_length=1024)] | None = None
    filters: Filters | None = None
    k: Annotated[int, Meta(ge=1, le=100)] | None = None
    explain: bool | None = False
    session_id: Identifier | None = None
    context: Annotated[dict[ContextKey, ContextValue], Meta(max_length=64)] | None = None
    ts: Timestamp | None = None


class RankRequest(RecommendationRequest, frozen=True, kw_only=True, omit_defaults=True):
    """Asks for an order of these items; `k` is all of them where it is left out."""

    candidates: Annotated[tuple[Identifier, ...], Meta(min_length=1, max_length=MAX_CANDIDATES)]


class PostedFeedback(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a user did with an item of a slate. `user_id` may be left out while the slate is among the recent ones."""

    rec_id: Identifier
    type: EventType
    item_id: Identifier
    user_id: Identifier | None = None
    value: Number | None = None
    position: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    session_id: Identifier | None = None
    ts: Timestamp | None = None
    event_id: Identifier | None = None


class Degraded(StrEnum):
    """Why an answer is not the slate that was asked for."""

    LATE = "late"
    """The slate did not come within the deadline."""
    WORKER_AWAY = "worker_away"
    """No slate has come for some time, whoever asked."""
    KAFKA_AWAY = "kafka_away"
    """The request could not be stored in the log."""


class Recommendation(Slate, frozen=True, kw_only=True, omit_defaults=True):
    """A slate as its topic has it. `degraded`: why it is another than was asked for, the user's latest or what is
    popular; the latter has an empty `rec_id`, and nothing can be credited to it.
    """

    degraded: Degraded | None = None


class Ranking(Recommendation, frozen=True, kw_only=True, omit_defaults=True):
    """The items that were brought, best first. `unranked` are those that are unknown, ruled out or beyond `k`."""

    unranked: tuple[str, ...] = ()


class ApiProblem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why something was refused: a short word, a sentence, and the field where there is one."""

    reason: str
    detail: str
    field: str | None = None


class Refused(ApiProblem, frozen=True, kw_only=True, omit_defaults=True):
    """Why one of a batch was refused; `index` is its place, from 0."""

    index: int


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """How many of a batch the log has now, and why the others were refused."""

    accepted: int
    refused: list[Refused] = []
