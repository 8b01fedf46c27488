"""Refused requests: who asked for what cannot be answered, or too often, gets a slate with the reason and no items.

Its name follows from the message's place alone, as every slate's does: a repeat after a crash has the same one. No
outcome is waited for, and nothing is learned from it.
"""

from __future__ import annotations

from collections.abc import Collection

from streamrec.codec import brief, sender_of
from streamrec.engine.scenarios.scenario import HOME, SEARCH
from streamrec.engine.users.request_pace import RequestPace
from streamrec.errors import BadEvent
from streamrec.events import EventType, RequestRefusal, Slate
from streamrec.transport import Record
from streamrec.worker.dead_letters import DETAIL_CHARS, MessagePlace
from streamrec.worker.validation import log_time


def refused_slate(record: Record, error: BadEvent, answered: Collection[EventType], max_bytes: int) -> Slate | None:
    """The slate for a message that was refused; None where it is no request, or does not say whose.

    Args:
        record: as it came; anything in it may be wrong.
        error: why it was refused.
        answered: the types of events that get slates.
        max_bytes: a longer message is not read at all.
    """
    sender = sender_of(record.value, record.headers, max_bytes=max_bytes)
    if sender is None or sender.type not in answered:
        return None
    return Slate(
        rec_id=str(MessagePlace(record.topic, record.partition, record.offset)),
        user_id=sender.user_id,
        ts=log_time(record, max_bytes),
        items=(),
        policy="",
        version="",
        candidates=0,
        scenario=sender.scenario or (SEARCH if sender.type is EventType.SEARCH else HOME),
        session_id=sender.session_id,
        request_id=sender.event_id,
        refused=RequestRefusal(reason=error.reason, detail=brief(error.detail, DETAIL_CHARS), field=error.field),
    )


def too_many(pace: RequestPace) -> BadEvent:
    """Why somebody who asks too often gets no items. The request itself is in order: it is no dead letter."""
    return BadEvent(
        "too_many_requests",
        f"the user sent more than {pace.at_once:,} requests at once, and then more than {pace.per_s:g} a second; wait, "
        "or raise serving.requests_at_once and serving.requests_per_s",
    )
