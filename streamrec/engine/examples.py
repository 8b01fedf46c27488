"""Examples: what an event teaches, as a record on its way from the part that knows users to the part that learns.

One record per event: what was known of the user before it (the query, frozen), what it says of an item, what its user
was shown in answer, and what came of slates that it brought to an end. Items and categories go by name, arrays as they
lie in memory, so that whoever reads a record back ranks and learns the very same numbers. A record is named by its
place in the source log, by which a repeat is recognised.

Knows nothing of how records travel, nor of models.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from streamrec.codec import brief
from streamrec.engine.arrays.batch import CANDIDATES, CATEGORIES, HISTORY
from streamrec.engine.arrays.feedback import ShownAds, SlateFeedback
from streamrec.errors import BadEvent
from streamrec.events import EventType, Identifier, Timestamp

SCHEMA = 1
"""Version of the records; a reader refuses what is newer."""
EXAMPLES_PARTITION = 0
"""The one partition of them, under which snapshots keep the offset that they stand for."""
FLOAT16, FLOAT32, FLOAT64, INT32, INT64 = "<f2", "<f4", "<f8", "<i4", "<i8"
"""Types of the arrays in records, little-endian."""
DETAIL_CHARS = 300
"""Of a refusal at most."""

Name = Annotated[str, Meta(max_length=1024)]
Whole = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Partition = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Label = Annotated[int, Meta(ge=-1, le=2)]
Items = Annotated[tuple[Name, ...], Meta(max_length=CANDIDATES)]


class Query(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What was known of a user, newest item first. An item or category that is not known any more is ""."""

    items: Annotated[tuple[Name, ...], Meta(max_length=HISTORY)]
    ages_s: bytes  # (items,) float32, seconds before the event
    steps: bytes  # (items,) one byte each, moments back: items of one moment share a step, 0 is the newest
    session: Annotated[int, Meta(ge=0, le=2 * HISTORY)]  # so many of the newest items belong to this session
    activity: Annotated[float, Meta(ge=0.0, le=1e30)]  # decayed number of events
    categories: Annotated[tuple[Name, ...], Meta(min_length=CATEGORIES, max_length=CATEGORIES)]
    affinity: bytes  # (categories,) float32, decayed weight of each
    columns: dict[str, bytes]  # what further user features add, by name
    excluded: tuple[Name, ...] | None = None  # no item above must be shown, nor these; None: any may be


class AdFeedback(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What came of the ads of a slate, (seen,) each."""

    bids: bytes  # int64, millionths, 0 for what is no ad
    limits: bytes  # int64, millionths
    utilities: bytes  # float64
    clicked: bytes  # one byte each, 1 or 0


class Feedback(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What came of a slate: its items that were seen, from the top."""

    policy: Name
    context: int
    ts: Timestamp  # of the slate, ms
    items: Items  # (seen,)
    features: bytes  # (seen, any) float16, as the slate was made
    propensity: bytes  # (seen,) float64
    reward: bytes  # (seen,) float64, in [-1, 1]
    candidates: Partition  # that there were to choose from
    traces: dict[str, bytes]  # (seen, any) int32, by model
    schema: int  # names the features
    ads: AdFeedback | None = None

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
    chosen: Name
    items: Items  # the candidates
    boost: bytes  # (items,) float32, what rules added to the score of each


class Ended(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The feedback on a slate that came to its end with this event, and whose it was."""

    user_id: Identifier
    rec_id: Identifier
    feedback: Feedback


class Example(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What one event teaches."""

    schema: Annotated[int, Meta(ge=1)]
    partition: Partition  # of the source
    offset: Whole
    epoch: Whole  # under which the partition was held by whoever sends this
    ts: Timestamp  # of the event, ms
    user_id: Identifier
    type: EventType
    item_id: Identifier | None = None
    category: Name | None = None  # of the item, as far as it is known where this comes from
    label: Label | None = None  # 1 wanted, 0 refused, 2 shown by what is imitated, -1 a repeat; None: says nothing
    query: Query | None = None  # with a label
    of_slate: bool = False  # it names the slate that it is about
    shown: Items = ()  # the slate that answered it
    ended: tuple[Ended, ...] = ()
    offer: Offer | None = None
    apprentice: bool = False  # the fusion learns to imitate
    ruled: bool = False  # and what it imitates obeys the same rules
    source: Whole = 0  # of which topic ever made the offsets are, a hash of its id; 0: not known

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
    """The inverse of `encoded`: an example of which everything fits together.

    Raises:
        BadEvent: it is none, or one of a newer schema.
    """
    try:
        example = _DECODER.decode(record)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        _refuse_newer(_schema_of(record))
        reason = "invalid" if isinstance(error, msgspec.ValidationError) else "malformed"
        raise BadEvent(reason, brief(f"the record is no example: {error}", DETAIL_CHARS)) from None
    _refuse_newer(example.schema)
    if example.label is not None and (example.query is None or example.item_id is None):
        raise BadEvent("invalid", "the example has a label, expected an item and a query with it", "label")
    if example.query is not None:
        _refuse_unsound(example.query)
    if example.offer is not None:
        _refuse_unsound_offer(example.offer)
    for ended in example.ended:
        _refuse_unsound_feedback(ended.feedback)
    return example


def _schema_of(record: bytes) -> int:
    """What the record says first, 0 where that is no number."""
    try:
        [first, *_] = msgspec.msgpack.decode(record, type=list[msgspec.Raw])
        return msgspec.msgpack.decode(first, type=int)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return 0


def _refuse_newer(schema: int) -> None:
    if schema > SCHEMA:
        detail = f"the record is an example of schema {schema}, expected {SCHEMA} at most: update this end"
        raise BadEvent("invalid", detail, "schema")


def _refuse_unsound(query: Query) -> None:
    count = len(query.items)
    if len(query.ages_s) != 4 * count or len(query.steps) != count or len(query.affinity) != 4 * CATEGORIES:
        raise BadEvent("invalid", f"the arrays of the query are not as long as its {count} items ask for", "query")
    if max(query.steps, default=0) > HISTORY:
        raise BadEvent("invalid", f"the query has a step {max(query.steps)}, expected {HISTORY} at most", "steps")
    _refuse_infinite(query.ages_s + query.affinity, FLOAT32, "query")


def _refuse_unsound_offer(offer: Offer) -> None:
    _refuse_unsound(offer.query)
    if offer.chosen not in offer.items or len(offer.boost) != 4 * len(offer.items):
        detail = f"the offer has {len(offer.items)} items, expected the chosen among them and a boost for each"
        raise BadEvent("invalid", detail, "offer")
    _refuse_infinite(offer.boost, FLOAT32, "boost")


def _refuse_unsound_feedback(feedback: Feedback) -> None:
    seen, ads = len(feedback.items), feedback.ads
    lengths = [len(feedback.propensity) - 8 * seen, len(feedback.reward) - 8 * seen]
    if seen:
        lengths += [
            len(feedback.features) % (2 * seen),
            *(len(trace) % (4 * seen) for trace in feedback.traces.values()),
        ]
    if ads is not None:
        lengths += [len(each) - 8 * seen for each in (ads.bids, ads.limits, ads.utilities)]
        lengths.append(len(ads.clicked) - seen)
    if not seen or any(lengths):
        detail = f"the arrays of the feedback are not as long as its {seen} items ask for, expected one item at least"
        raise BadEvent("invalid", detail, "feedback")
    _refuse_infinite(feedback.propensity, FLOAT64, "propensity")
    if not np.abs(np.frombuffer(feedback.reward, FLOAT64)).max() <= 1.0:  # so written, NaN is refused too
        raise BadEvent("invalid", "the feedback has a reward that is not in [-1, 1]", "reward")


def _refuse_infinite(numbers: bytes, kind: str, field: str) -> None:
    if not np.isfinite(np.frombuffer(numbers, kind)).all():
        raise BadEvent("invalid", f"the {field} has a number that is not finite", field)


def _ads_of(ads: ShownAds) -> AdFeedback:
    return AdFeedback(
        ads.bids.astype(INT64).tobytes(),
        ads.limits.astype(INT64).tobytes(),
        ads.utilities.astype(FLOAT64).tobytes(),
        ads.clicked.astype(np.uint8).tobytes(),
    )


def _shown_ads(ads: AdFeedback, seen: int) -> ShownAds:
    return ShownAds(
        bids=np.frombuffer(ads.bids, INT64).reshape(seen),
        limits=np.frombuffer(ads.limits, INT64).reshape(seen),
        utilities=np.frombuffer(ads.utilities, FLOAT64).reshape(seen),
        clicked=np.frombuffer(ads.clicked, np.uint8).reshape(seen).astype(np.bool_),
    )
