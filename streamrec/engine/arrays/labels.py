"""What an event says: that something was wanted, refused, or neither."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from streamrec.errors import ConfigError
from streamrec.events import EVENT_TYPES, TYPE_CODES, Event, EventType

WANTED = 1
REFUSED = 0
IMITATED = 2
"""Not the user's wish, but what another policy chose to show: an apprentice imitates it."""

_RULE = re.compile(r"^\s*(\w+)\s*(?:>=\s*(-?\d+(?:\.\d+)?))?\s*$")
_REFUSALS = frozenset({EventType.DISLIKE, EventType.SKIP})

_GAINS = {
    EventType.VIEW: 1.0,
    EventType.CLICK: 1.0,
    EventType.ADD_TO_CART: 2.0,
    EventType.PURCHASE: 3.0,
    EventType.LIKE: 2.0,
    EventType.RATING: 1.0,
}
GAINS = tuple(_GAINS.get(kind, 0.0) for kind in EVENT_TYPES)
"""How much one event of each type says of a liking, by type code."""


class Interest:
    """Rules like `purchase` or `rating>=4`: the event types that count as wanting, with a least value."""

    def __init__(self, rules: Iterable[str]) -> None:
        self._least: dict[EventType, float] = {}
        for rule in rules:
            found = _RULE.match(rule)
            if found is None or found[1] not in EVENT_TYPES:
                known = ", ".join(EVENT_TYPES)
                raise ConfigError(
                    f"positives: {rule!r} is not a rule; expected TYPE or TYPE>=VALUE with TYPE one of {known}"
                )
            self._least[EventType(found[1])] = -math.inf if found[2] is None else float(found[2])

    def label(self, event: Event) -> int | None:
        """WANTED, REFUSED, or None when the event says neither."""
        if event.item_id is None:
            return None
        least = self._least.get(event.type)
        if least is None:
            return REFUSED if event.type in _REFUSALS else None
        if event.value is None:  # nobody knows whether it is enough
            return WANTED if least == -math.inf else None
        return WANTED if event.value >= least else REFUSED

    def codes(self) -> frozenset[int]:
        """Type codes that can count as wanting."""
        return frozenset(TYPE_CODES[kind] for kind in self._least)
