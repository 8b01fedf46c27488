"""The slates of late: followed as they are published, and kept within bounds for whoever asks.

Everything happens in the event loop, but for reading. Knows nothing of HTTP.
"""

from __future__ import annotations

import heapq
import time
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Iterator, Sequence

import msgspec

from streamrec.codec import decode_slate, encode
from streamrec.events import RequestRefusal, Slate
from streamrec.transport import Record

MOST_SLATES, MOST_BYTES = 10_000, 64 * 2**20
"""Kept; the oldest leave. A slate of 20 places is some 10 kB."""
SINCE_S = 600.0
"""At the start, the topic is read from so long ago."""
_POPULAR_S = 1.0


class KeptSlate(msgspec.Struct, frozen=True, kw_only=True):
    """A slate as it is kept: as JSON, with what it is found by."""

    rec_id: str
    user_id: str
    request_id: str | None
    scenario: str
    items: tuple[str, ...]
    refused: RequestRefusal | None
    json: bytes

    @classmethod
    def read(cls, record: Record) -> KeptSlate:
        """The slate in a record.

        Raises:
            BadEvent: it holds none.
        """
        return cls.of(decode_slate(record.value or b"", record.headers))

    @classmethod
    def of(cls, slate: Slate) -> KeptSlate:
        """A slate, to be kept."""
        return cls(
            rec_id=slate.rec_id,
            user_id=slate.user_id,
            request_id=slate.request_id,
            scenario=slate.scenario,
            items=tuple(place.item_id for place in slate.items),
            refused=slate.refused,
            json=encode(slate),
        )

    def first(self, k: int) -> KeptSlate:
        """The slate down to place `k`."""
        if k >= len(self.items):
            return self
        slate = msgspec.json.decode(self.json, type=Slate)
        return KeptSlate.of(
            msgspec.structs.replace(slate, items=slate.items[:k], reasons=slate.reasons[:k], alternatives={})
        )


class RecentSlates:
    """The newest slates, by id, by request, by user; and what stands on them."""

    def __init__(self, most: int = MOST_SLATES, max_bytes: int = MOST_BYTES) -> None:
        self._most, self._max_bytes, self._bytes = most, max_bytes, 0
        self._slates: OrderedDict[str, KeptSlate] = OrderedDict()  # by rec_id, the oldest first
        self._by_request: dict[tuple[str, str], str] = {}
        self._latest: dict[tuple[str, str], str] = {}  # by user and scenario
        self._shown: defaultdict[str, Counter[str]] = defaultdict(Counter)  # by scenario, whose rules they passed
        self._popular: dict[str, tuple[float, list[tuple[str, int]]]] = {}

    def __len__(self) -> int:
        return len(self._slates)

    def take(self, slate: KeptSlate) -> None:
        """Keep a slate; what there is no room for any more is dropped."""
        if slate.rec_id in self._slates:
            self._drop(slate.rec_id)
        self._slates[slate.rec_id] = slate
        self._bytes += len(slate.json)
        self._shown[slate.scenario].update(slate.items)
        if slate.request_id is not None:
            self._by_request[slate.user_id, slate.request_id] = slate.rec_id
        if slate.items:
            self._latest[slate.user_id, slate.scenario] = slate.rec_id
        while len(self._slates) > self._most or self._bytes > self._max_bytes:
            self._drop(next(iter(self._slates)))

    def by_id(self, rec_id: str) -> KeptSlate | None:
        """The slate of this id."""
        return self._slates.get(rec_id)

    def answer_to(self, user_id: str, request_id: str) -> KeptSlate | None:
        """The slate that answers a request."""
        return self._slates.get(self._by_request.get((user_id, request_id), ""))

    def latest(self, user_id: str, scenario: str) -> KeptSlate | None:
        """The user's newest slate of a scenario that holds something."""
        return self._slates.get(self._latest.get((user_id, scenario), ""))

    def users(self) -> Iterator[str]:
        """Whose slates are kept, the newest first; one may come more than once."""
        return (slate.user_id for slate in reversed(self._slates.values()))

    def popular(self, scenario: str, k: int, among: Sequence[str] | None = None) -> list[tuple[str, int]]:
        """The items that stand on most slates of a scenario, and on how many, a second old at most; or `among` some."""
        shown = self._shown.get(scenario, Counter())
        if among is not None:
            counted = ((item_id, shown[item_id]) for item_id in dict.fromkeys(among))
            return sorted(counted, key=lambda pair: -pair[1])[:k]
        at, found = self._popular.get(scenario, (float("-inf"), []))
        if time.monotonic() - at > _POPULAR_S:
            found = heapq.nlargest(100, shown.items(), key=lambda pair: (pair[1], pair[0]))
            self._popular[scenario] = time.monotonic(), found
        return found[:k]

    def _drop(self, rec_id: str) -> None:
        slate = self._slates.pop(rec_id)
        self._bytes -= len(slate.json)
        shown = self._shown[slate.scenario]
        shown.subtract(slate.items)
        for item_id in slate.items:
            if not shown[item_id]:
                del shown[item_id]
        for index, key in (
            (self._by_request, (slate.user_id, slate.request_id or "")),
            (self._latest, (slate.user_id, slate.scenario)),
        ):
            if index.get(key) == rec_id:
                del index[key]
