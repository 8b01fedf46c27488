"""The slates of late: followed as they are published, and kept within bounds for whoever asks.

One thread follows the topic for all; everything else happens in the event loop. Knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import heapq
import threading
import time
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Sequence

import msgspec

from streamrec.codec import decode_slate, encode
from streamrec.config.log_lines import get_logger
from streamrec.errors import BadEvent, TransportError
from streamrec.events import RequestRefusal, Slate
from streamrec.transport import Follower

LOG = get_logger("streamrec.gateway")
MOST_SLATES, MOST_BYTES = 10_000, 64 * 2**20
"""Kept; the oldest leave. A slate of 20 places is some 10 kB."""
SINCE_S = 600.0
"""At the start, the topic is read from so long ago."""
_LOOK_RECORDS, _LOOK_S = 256, 0.2
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

    def popular(self, scenario: str, k: int, among: Sequence[str] | None = None) -> list[tuple[str, int]]:
        """The items that stand on most slates of a scenario, and on how many, a second old at most; or `among` some."""
        shown = self._shown.get(scenario, Counter())
        if among is not None:
            return sorted(((item_id, shown[item_id]) for item_id in dict.fromkeys(among)), key=lambda pair: -pair[1])[
            counted = ((item_id, shown[item_id]) for item_id in dict.fromkeys(among))
            return sorted(counted, key=lambda pair: -pair[1])[:k]
            ]
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


class SlateReader:
    """Follows the topic of slates in a thread, and tells each to `hear`, in the event loop it was made in."""

    def __init__(self, follower: Follower, hear: Callable[[Sequence[KeptSlate]], None]) -> None:
        self._follower = follower
        self._hear = hear
        self._loop = asyncio.get_running_loop()
        self._stopping = threading.Event()
        self._failure: str | None = None
        self._thread = threading.Thread(target=self._run, name="streamrec-slates", daemon=True)
        self._thread.start()

    @property
    def failure(self) -> str | None:
        """Why nothing is read any more, None while it is."""
        return self._failure if self._failure or self._thread.is_alive() else "the thread that reads slates has ended"

    @property
    def whole(self) -> bool:
        """Whether the topic was read up to where it ended at the start."""
        return self._follower.whole()

    def close(self) -> None:
        """Stop reading."""
        self._stopping.set()
        self._thread.join(5.0)

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                found = []
                for record in self._follower.look(_LOOK_RECORDS, _LOOK_S):
                    try:
                        found.append(KeptSlate.of(decode_slate(record.value or b"", record.headers)))
                    except BadEvent as error:
                        LOG.warning("a message is no slate", offset=record.offset, error=str(error))
                if found:
                    self._loop.call_soon_threadsafe(self._hear, found)
        except TransportError as error:
            self._failure = str(error)
            LOG.error("slates cannot be read any more", error=str(error))
        finally:
            self._follower.close()
