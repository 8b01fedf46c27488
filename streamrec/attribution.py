"""Slates and what came later: which shown item a click, a cart or a purchase is owed to.

An event is credited to a slate by its `rec_id`, else to the user's latest slate that showed the item no longer than the
window before, in the log's own time. Every credited event becomes one outcome, named by its place in the log, so that a
repeat after a crash is the same outcome again.

Items that were shown and left alone give no outcome here: only what was wanted or refused is credited.

Knows nothing of stores: it says of whom it lacks the latest slate, takes stored bytes, and hands over what changed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from streamrec.arrivals import Arrival
from streamrec.events import EventType, Outcome, Slate

REWARDS: Mapping[EventType, float] = {
    EventType.VIEW: 0.1,
    EventType.CLICK: 0.2,
    EventType.ADD_TO_CART: 0.5,
    EventType.LIKE: 0.5,
    EventType.PURCHASE: 1.0,
    EventType.DISLIKE: 0.0,
    EventType.SKIP: 0.0,
}
"""Value of an event that follows a slate, in [0, 1]."""

User = tuple[int, str]


class Attribution:
    """Keeps the latest slate of at most `capacity` users, those asked for longest ago leaving first."""

    def __init__(self, window_s: float, capacity: int) -> None:
        self.window_ms = int(window_s * 1000)
        self.capacity = capacity
        self._slates: OrderedDict[User, bytes | None] = OrderedDict()  # None: the store has none either
        self._changed: dict[User, None] = {}
        self._decoder = msgspec.msgpack.Decoder(Slate)
        self._encoder = msgspec.msgpack.Encoder()

    @property
    def changed(self) -> int:
        """Slates that are new since they were last handed over."""
        return len(self._changed)

    def missing(self, users: Iterable[User]) -> list[User]:
        """Those of whom it is not known here whether they have a slate, each once, in order. The others stay longer."""
        lacking = []
        for user in dict.fromkeys(users):
            if user in self._slates:
                self._slates.move_to_end(user)
            else:
                lacking.append(user)
        return lacking

    def admit(self, users: Sequence[User], slates: Sequence[bytes | None]) -> None:
        """Take stored slates, as `take_changes` gave them; None for a user without one."""
        for user, slate in zip(users, slates, strict=True):
            self._keep(user, slate)

    def shown(self, partition: int, slate: Slate) -> None:
        """This slate is now the user's latest."""
        user = partition, slate.user_id
        self._keep(user, self._encoder.encode(slate))
        self._changed[user] = None

    def outcome(self, arrival: Arrival) -> Outcome | None:
        """What the event says of a slate, None when it is owed to none."""
        event = arrival.event
        reward = REWARDS.get(event.type)
        stored = self._slates.get((arrival.partition, event.user_id))
        if reward is None or stored is None or event.item_id is None:
            return None
        if event.item_id.encode() not in stored:  # most events are about something else, and decoding costs more
            return None
        slate = self._decoder.decode(stored)
        if event.rec_id not in (None, slate.rec_id) or not 0 <= event.ts - slate.ts <= self.window_ms:
            return None
        shown = next((item for item in slate.items if item.item_id == event.item_id), None)
        if shown is None:
            return None
        return Outcome(
            outcome_id=arrival.place,
            rec_id=slate.rec_id,
            user_id=event.user_id,
            item_id=event.item_id,
            position=shown.position,
            propensity=shown.propensity,
            reward=reward,
            type=event.type,
            ts=event.ts,
        )

    def take_changes(self, partition: int) -> dict[str, bytes]:
        """The latest slates of a partition's users that are new since the last time, by user id."""
        taken = {}
        for user in [user for user in self._changed if user[0] == partition]:
            slate = self._slates[user]
            assert slate is not None  # only what was shown has changed, and what has changed is kept
            taken[user[1]] = slate
            del self._changed[user]
        return taken

    def drop(self, partitions: Sequence[int]) -> None:
        """Forget partitions that belong to somebody else now."""
        leaving = set(partitions)
        for user in [user for user in self._slates if user[0] in leaving]:
            del self._slates[user]
            self._changed.pop(user, None)

    def crowded(self, wanted: int) -> bool:
        """True when room for so many could only be made by losing slates not yet stored: hand them over first."""
        return len(self._changed) + wanted > self.capacity

    def _keep(self, user: User, slate: bytes | None) -> None:
        self._slates[user] = slate
        self._slates.move_to_end(user)
        while len(self._slates) > self.capacity:
            oldest = next((user for user in self._slates if user not in self._changed), user)
            if oldest == user:
                break
            del self._slates[oldest]
