"""Examples: what an event teaches, as a record on its way from the part that knows users to the part that learns.

One record per event: what was known of the user before it (the query, frozen), what it says of an item, what its user
was shown in answer, and what came of slates that it brought to an end. Items and categories go by name, arrays as they
lie in memory, so that whoever reads a record back ranks and learns the very same numbers. A record is named by its
place in the source log, by which a repeat is recognised.

Knows nothing of how records travel, nor of models.
"""

from __future__ import annotations

import msgspec
import numpy as np

from streamrec.engine.arrays.feedback import ShownAds, SlateFeedback
from streamrec.errors import BadEvent
from streamrec.events import EventType

SCHEMA = 1
"""Version of the records; a reader refuses what is newer."""
FLOAT16, FLOAT32, FLOAT64, INT32, INT64 = "<f2", "<f4", "<f8", "<i4", "<i8"
"""Types of the arrays in records, little-endian."""


class Query(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What was known of a user, newest item first. An item or category that is not known any more is ""."""

    items: tuple[str, ...]
    ages_s: bytes  # (items,) float32, seconds before the event
    steps: bytes  # (items,) one byte each, moments back: items of one moment share a step, 0 is the newest
    session: int  # how many of the newest items belong to this session
    activity: float  # decayed number of events
    categories: tuple[str, ...]
    affinity: bytes  # (categories,) float32, decayed weight of each
    columns: dict[str, bytes]  # what further user features add, by name
    excluded: tuple[str, ...] | None = None  # no item above must be shown, nor these; None: any may be


class Ads(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What came of the ads of a slate, (seen,) each."""

    bids: bytes  # int64, millionths, 0 for what is no ad
    limits: bytes  # int64, millionths
    utilities: bytes  # float64
    clicked: bytes  # one byte each, 1 or 0


class Feedback(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What came of a slate: its items that were seen, from the top."""

    policy: str
    context: int
    ts: int  # of the slate, ms
    items: tuple[str, ...]  # (seen,)
    features: bytes  # (seen, any) float16, as the slate was made
    propensity: bytes  # (seen,) float64
    reward: bytes  # (seen,) float64, in [-1, 1]
    candidates: int  # that there were to choose from
    traces: dict[str, bytes]  # (seen, any) int32, by model
    schema: int  # names the features
    ads: Ads | None = None

    @classmethod
    def of(cls, came: SlateFeedback) -> Feedback:
        """Feedback as the engine knows it; its features are of half precision already."""
        return cls(
            policy=came.policy,
            context=came.context,
            ts=came.ts,
            items=came.items,
            features=came.features.astype(FLOAT16).tobytes(),
            propensity=came.propensity.astype(FLOAT64).tobytes(),
            reward=came.reward.astype(FLOAT64).tobytes(),
            candidates=came.candidates,
            traces={name: trace.astype(INT32).tobytes() for name, trace in came.traces.items()},
            schema=came.schema,
            ads=None if came.ads is None else _ads_of(came.ads),
        )

    def slate_feedback(self, user_id: str) -> SlateFeedback:
        """The inverse of `of`, for the user whose slate it was.

        Raises:
            ValueError: the arrays are not as long as the items are many.
        """
        seen = len(self.items)
        return SlateFeedback(
            policy=self.policy,
            context=self.context,
            features=np.frombuffer(self.features, FLOAT16).reshape(seen, -1).astype(np.float32),
            propensity=np.frombuffer(self.propensity, FLOAT64).reshape(seen),
            reward=np.frombuffer(self.reward, FLOAT64).reshape(seen),
            candidates=self.candidates,
            ts=self.ts,
            traces={name: np.frombuffer(trace, INT32).reshape(seen, -1) for name, trace in self.traces.items()},
            schema=self.schema,
            user_id=user_id,
            items=self.items,
            ads=None if self.ads is None else _shown_ads(self.ads, seen),
        )


class Offer(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What another policy chose of what it was offered: an apprentice imitates it."""

    query: Query  # of the request
    chosen: str
    items: tuple[str, ...]  # the candidates
    boost: bytes  # (items,) float32, what rules added to the score of each


class Ended(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The feedback on a slate that came to its end with this event, and whose it was."""

    user_id: str
    rec_id: str
    feedback: Feedback


class Example(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What one event teaches."""

    schema: int
    partition: int  # of the source
    offset: int
    epoch: int  # under which the partition was held by whoever sends this
    ts: int  # of the event, ms
    user_id: str
    type: EventType
    item_id: str | None = None
    category: str | None = None  # of the item, as far as it is known where this comes from
    label: int | None = None  # 1 wanted, 0 refused, 2 shown by what is imitated, -1 a repeat; None: says nothing
    query: Query | None = None  # with a label
    of_slate: bool = False  # it names the slate that it is about
    shown: tuple[str, ...] = ()  # the slate that answered it
    ended: tuple[Ended, ...] = ()
    offer: Offer | None = None
    apprentice: bool = False  # the fusion learns to imitate
    ruled: bool = False  # and what it imitates obeys the same rules

    @property
    def empty(self) -> bool:
        """Whether nothing follows from it."""
        return self.item_id is None and not self.shown and not self.ended and self.offer is None


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Example)


def encoded(example: Example) -> bytes:
    """The record that says it."""
    return _ENCODER.encode(example)


def decoded(record: bytes) -> Example:
    """The inverse of `encoded`.

    Raises:
        BadEvent: it is no example, or one of a newer schema.
    """
    try:
        [first, *_] = msgspec.msgpack.decode(record, type=list[msgspec.Raw])
        number = msgspec.msgpack.decode(first, type=int)
        if number <= SCHEMA:
            return _DECODER.decode(record)
    except (msgspec.MsgspecError, ValueError) as error:
        raise BadEvent("malformed", f"the record is no example: {error}") from error
    raise BadEvent("invalid", f"the record is an example of schema {number}, expected {SCHEMA} at most: update this end")


def _ads_of(ads: ShownAds) -> Ads:
    return Ads(
        ads.bids.astype(INT64).tobytes(),
        ads.limits.astype(INT64).tobytes(),
        ads.utilities.astype(FLOAT64).tobytes(),
        ads.clicked.astype(np.uint8).tobytes(),
    )


def _shown_ads(ads: Ads, seen: int) -> ShownAds:
    return ShownAds(
        bids=np.frombuffer(ads.bids, INT64).reshape(seen),
        limits=np.frombuffer(ads.limits, INT64).reshape(seen),
        utilities=np.frombuffer(ads.utilities, FLOAT64).reshape(seen),
        clicked=np.frombuffer(ads.clicked, np.uint8).reshape(seen).astype(np.bool_),
    )
