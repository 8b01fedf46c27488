"""What is said over HTTP, beside the events, items and slates that the topics have. Knows nothing of HTTP."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from streamrec.events import Event, Identifier, Slate

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


_FIELDS = {field.name: field.type for field in msgspec.structs.fields(Event)}
_OF_A_REQUEST = ("scenario", "item_id", "basket", "query", "filters", "k", "explain", "session_id", "context", "ts")


def _shaped(name: str, said: str, needed: tuple[str, ...], others: tuple[str, ...], **options: Any) -> type[Any]:
    """A type of fields of an event, as an event has them; all but those `needed` may be left out."""
    fields: list[Any] = [(field, _FIELDS[field]) for field in needed]
    fields += [(field, _FIELDS[field] | None, None) for field in others]
    return msgspec.defstruct(
        name, fields, namespace={"__doc__": said}, module=__name__, frozen=True, kw_only=True, **options
    )


RecommendationRequest = _shaped(
    "RecommendationRequest",
    "Asks for a slate. Under the same `request_id`, a request that is sent again is answered by the same slate.",
    ("user_id",),
    _OF_A_REQUEST,
    bases=(Terms,),
)
RankRequest = _shaped(
    "RankRequest",
    "Asks for an order of `candidates`; `k` is all of them where it is left out.",
    ("user_id", "candidates"),
    _OF_A_REQUEST,
    bases=(Terms,),
)
PostedFeedback = _shaped(
    "PostedFeedback",
    "What a user did with an item of a slate; `user_id` may be left out while the slate is among the recent ones.",
    ("rec_id", "type", "item_id"),
    ("user_id", "value", "position", "session_id", "ts", "event_id"),
)


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
