"""What must be true after any fault, told from the log alone: an offline recount, and one answer to each request.

Knows nothing of how a worker does it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec

from streamrec.events import Event, EventType, Slate
from streamrec.state import Kind, Store
from streamrec.testing import recount, requests


def by_id(slates: Sequence[Slate]) -> dict[str, Slate]:
    """Slates by what they answer; the same one may have come out twice, but never another under its id."""
    named: dict[str, Slate] = {}
    for slate in slates:
        assert named.setdefault(slate.rec_id, slate) == slate
    return named


def counted(store: Store, kind: Kind, names: Sequence[str]) -> dict[str, dict[str, int]]:
    """What the store has of each name, summed over partitions."""
    found: dict[str, dict[str, int]] = {}
    for name in names:
        total: Counter[str] = Counter()
        for value in store.find(kind, name).values():
            total.update(msgspec.msgpack.decode(value)["counts"])
        found[name] = dict(total)
    return found


def assert_counts_equal_a_recount(store: Store, log: Sequence[Event]) -> None:
    expected = recount(log)
    assert counted(store, Kind.USER, list(expected.users)) == expected.users
    assert counted(store, Kind.ITEM, list(expected.items)) == expected.items


def wanted(log: Sequence[Event]) -> int:
    positives = {EventType.VIEW, EventType.CLICK, EventType.ADD_TO_CART, EventType.PURCHASE, EventType.LIKE}
    return sum(event.type in positives or (event.type is EventType.RATING and (event.value or 0) >= 4) for event in log)


def assert_each_request_has_its_answer(slates: Sequence[Slate], log: Sequence[Event]) -> None:
    """Every request has a slate, and every `rec_id` belongs to one request; repeats may be as many as they like."""
    answered = {(slate.rec_id, slate.user_id, slate.request_id) for slate in slates}
    assert {request_id for _, _, request_id in answered} == {event.event_id for event in requests(log)}
    assert len({rec_id for rec_id, _, _ in answered}) == len(answered) == len(requests(log))
