"""What must be true after any fault, told from the log alone: an offline recount, and one answer to each request.

Knows nothing of how a worker does it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec

from streamrec.events import Event, EventType, Outcome, Slate
from streamrec.state import Kind, Store
from streamrec.testing import recount, requests


def by_id(slates: Sequence[Slate]) -> dict[str, Slate]:
    """Slates by what they answer; none has come out twice."""
    named = {slate.rec_id: slate for slate in slates}
    assert len(named) == len(slates)
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
    """Every request has one slate, and every `rec_id` belongs to one request."""
    answers = Counter(slate.rec_id for slate in slates)
    assert {slate.request_id for slate in slates} == {event.event_id for event in requests(log)}
    assert len({slate.rec_id for slate in slates}) == len(requests(log))
    again = [slate.rec_id for slate in slates if answers[slate.rec_id] > 1]
    assert not again, f"{len(again)} slates of requests that were answered more than once: {again[:10]}"


def assert_each_item_shown_has_one_outcome(outcomes: Sequence[Outcome], slates: Sequence[Slate]) -> None:
    """No outcome comes twice, and each is of an item of the one slate there is."""
    shown = {(slate.rec_id, item.position): item.item_id for slate in slates for item in slate.items}
    assert all(shown[outcome.rec_id, outcome.position] == outcome.item_id for outcome in outcomes)
    times = Counter(outcome.outcome_id for outcome in outcomes)
    again = [outcome_id for outcome_id, count in times.items() if count > 1]
    assert not again, f"{len(again)} of {len(times)} outcomes came more than once: {again[:10]}"
