"""What a slate is owed: which later events count for which of its items, what was seen of it, and what that is worth.

    credit    an event that names the slate, or the item and its user within the window, counts for the item
    seen      by impressions to the lowest place that was seen; else by a stated rule
    reward    of the events that an item was credited: the first, the sum or the one that says most

A slate stays open for a window in the log's own time. Then each of its items that was seen gives one outcome, and the
slate one piece of feedback; a slate that was not seen gives neither. Credits add up to the same whatever order events
come in: amounts are whole millionths, and equals are ordered by time and type.

A click on an ad costs its bid as of the slate, once for each slate and item (`features.accounts`).

Knows nothing of how open slates are held (`open_slates`), nor of topics and stores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import msgspec
import numpy as np

from streamrec.engine.ads.accounts import Due
from streamrec.engine.arrays.batch import Float32, Int32
from streamrec.engine.arrays.feedback import ShownAds, SlateFeedback
from streamrec.engine.items.bids import MILLION
from streamrec.events import EVENT_TYPES, TYPE_CODES, Counterfactual, Event, EventType, Evidence, Outcome, Slate


class SeenRule(StrEnum):
    """What was seen of a slate that no impression tells of."""

    IMPRESSIONS = "impressions"
    """Nothing: the site says what was seen."""
    RESPONSES = "responses"
    """Everything down to the lowest item that was answered: people look from the top."""
    ALL = "all"
    """All of it."""


class RewardRule(StrEnum):
    """Which of the events that followed an item count."""

    FIRST = "first"
    SUM = "sum"
    MAX = "max"


@dataclass(frozen=True, slots=True)
class AttributionRules:
    """How slates are judged."""

    window_ms: int
    seen: SeenRule
    reward: RewardRule
    values: Mapping[EventType, float]
    """Of an event of each type, in [-1, 1]; other types are worth nothing and are no answer."""


FITS_NOTHING = -1
"""The schema of a served slate from which nothing can be learned: it is no hash."""


@dataclass(frozen=True, slots=True)
class ServedSlate:
    """What must be kept of a slate, beside what is published, to learn from what comes of it."""

    context: int
    schema: int  # a hash of what the features are
    features: Float32  # (items, features) what the fusion saw of each place
    traces: Mapping[str, Int32]  # by model: what it gets back with the feedback, (items, any)
    ads: ShownAds | None = None  # of a slate with ads


class Credit(msgspec.Struct, array_like=True):
    """What an item was credited so far. Amounts in millionths, times in ms, types by their codes."""

    total: int = 0
    first: tuple[int, int, int] | None = None  # (time, type, amount) of the earliest
    most: tuple[int, int, int] | None = None  # (time, type, amount) of the one that says most

    def add(self, ts: int, kind: EventType, value: float) -> None:
        """Count one event."""
        entry = ts, TYPE_CODES[kind], round(value * MILLION)
        self.total += entry[2]
        if self.first is None or entry < tuple(self.first):
            self.first = entry
        if self.most is None or _says_more(entry, self.most):
            self.most = entry


def _says_more(one: tuple[int, int, int], other: Sequence[int]) -> bool:
    """Further from nothing; of equals a refusal, then the earlier, then by type."""
    return (abs(one[2]), -one[2], -one[0], -one[1]) > (abs(other[2]), -other[2], -other[0], -other[1])


class OpenSlate(msgspec.Struct, array_like=True):
    """A slate that waits for what comes of it."""

    rec_id: str
    ts: int
    items: tuple[str, ...]
    slate: bytes  # as published, msgpack
    context: int
    schema: int
    features: bytes  # (items, features) float16
    traces: dict[str, bytes]  # (items, any) int32
    seen_to: int = 0  # the lowest place that an impression tells of
    answered_to: int = 0  # the lowest place that was answered
    credits: dict[int, Credit] = {}  # by position
    bids: tuple[int, ...] = ()  # of a slate with ads: of each item, millionths
    limits: tuple[int, ...] = ()  # likewise, of what may be spent on each
    utilities: bytes = b""  # likewise, (items,) float64
    clicked: list[int] = []  # positions of ads that were clicked, and have been charged

    @classmethod
    def of(cls, slate: Slate, served: ServedSlate) -> OpenSlate:
        """A slate as it was just shown."""
        plain = msgspec.structs.replace(
            slate, items=tuple(msgspec.structs.replace(item, shares={}) for item in slate.items), reasons=()
        )
        return cls(
            rec_id=slate.rec_id,
            ts=slate.ts,
            items=tuple(item.item_id for item in slate.items),
            slate=_ENCODER.encode(plain),
            context=served.context,
            schema=served.schema,
            features=served.features.astype(np.float16).tobytes(),
            traces={name: trace.astype(np.int32).tobytes() for name, trace in served.traces.items()},
            bids=() if served.ads is None else tuple(served.ads.bids.tolist()),
            limits=() if served.ads is None else tuple(served.ads.limits.tolist()),
            utilities=b"" if served.ads is None else served.ads.utilities.tobytes(),
        )

    def concerned(self, event: Event, rules: AttributionRules) -> bool:
        """Whether the event is about this slate: it comes within the window, and names it or an item of it."""
        if event.rec_id not in (None, self.rec_id) or not 0 <= event.ts - self.ts <= rules.window_ms:
            return False
        return event.item_id in self.items

    def credit(self, event: Event, rules: AttributionRules) -> bool:
        """Take an event that concerns this slate; False when it says nothing of it."""
        assert event.item_id is not None
        position = self.items.index(event.item_id) + 1
        if event.type is EventType.IMPRESSION:
            self.seen_to = min(max(self.seen_to, event.position or position), len(self.items))
            return True
        if event.type not in rules.values:
            return False
        self.answered_to = max(self.answered_to, position)
        self.credits.setdefault(position, Credit()).add(event.ts, event.type, rules.values[event.type])
        return True

    def charge(self, event: Event) -> Due | None:
        """What an event that concerns this slate costs: a click on an ad its bid, the first time."""
        if event.type is not EventType.CLICK or not self.bids:
            return None
        assert event.item_id is not None
        position = self.items.index(event.item_id) + 1
        if position in self.clicked or not self.bids[position - 1]:
            return None
        self.clicked.append(position)
        return Due(event.item_id, self.ts, self.bids[position - 1], self.limits[position - 1])

    def depth(self, rules: AttributionRules) -> int:
        """How many of its places were seen, from the top."""
        if self.seen_to > 0:
            return max(self.seen_to, self.answered_to)
        match rules.seen:
            case SeenRule.IMPRESSIONS:
                return 0
            case SeenRule.RESPONSES:
                return self.answered_to
            case SeenRule.ALL:
                return len(self.items)

    def evidence(self, position: int) -> Evidence:
        """How it is known that this place was seen."""
        if position <= self.seen_to:
            return Evidence.IMPRESSION
        return Evidence.RESPONSE if position <= self.answered_to else Evidence.ASSUMED


@dataclass(frozen=True, slots=True)
class Closed:
    """A slate's outcomes, one for each item that was seen, and its feedback, None when it was not seen."""

    outcomes: tuple[Outcome, ...]
    slate_feedback: SlateFeedback | None


def closed(waiting: OpenSlate, rules: AttributionRules) -> Closed:
    """The last word on a slate."""
    depth = waiting.depth(rules)
    if depth == 0:
        return Closed((), None)
    slate = _DECODER.decode(waiting.slate)
    outcomes = tuple(_outcome(waiting, slate, position, rules) for position in range(1, depth + 1))
    count = len(waiting.items)
    slate_feedback = SlateFeedback(
        policy=slate.policy,
        context=waiting.context,
        features=np.frombuffer(waiting.features, np.float16).reshape(count, -1)[:depth].astype(np.float32),
        propensity=np.array([outcome.propensity for outcome in outcomes]),
        reward=np.array([outcome.reward for outcome in outcomes]),
        candidates=slate.candidates,
        ts=slate.ts,
        traces={
            name: np.frombuffer(trace, np.int32).reshape(count, -1)[:depth] for name, trace in waiting.traces.items()
        },
        schema=waiting.schema,
        user_id=slate.user_id,
        items=waiting.items[:depth],
        ads=_ads(waiting, depth),
    )
    return Closed(outcomes, slate_feedback)


def _ads(waiting: OpenSlate, depth: int) -> ShownAds | None:
    if not waiting.bids:
        return None
    return ShownAds(
        bids=np.array(waiting.bids[:depth], np.int64),
        limits=np.array(waiting.limits[:depth], np.int64),
        utilities=np.frombuffer(waiting.utilities, np.float64)[:depth],
        clicked=np.isin(np.arange(1, depth + 1), waiting.clicked),
    )


def _outcome(waiting: OpenSlate, slate: Slate, position: int, rules: AttributionRules) -> Outcome:
    shown = slate.items[position - 1]
    reward, ts, kind = _worth(waiting.credits.get(position), rules.reward, slate.ts)
    return Outcome(
        outcome_id=f"{slate.rec_id}-{position}",
        rec_id=slate.rec_id,
        user_id=slate.user_id,
        item_id=shown.item_id,
        position=position,
        propensity=shown.propensity,
        reward=reward,
        ts=ts,
        type=kind,
        shown_ts=slate.ts,
        seen=waiting.evidence(position),
        policy=slate.policy,
        version=slate.version,
        scenario=slate.scenario,
        mode=slate.mode,
        arm=slate.arm,
        team=shown.team,
        estimated_from=slate.estimated_from,
        candidates=slate.candidates,
        score=shown.score,
        scores=shown.scores,
        alternatives={
            name: Counterfactual(
                propensity=other.propensities[position - 1],
                proposal=other.proposals[position - 1] if position <= len(other.proposals) else None,
            )
            for name, other in slate.alternatives.items()
        },
    )


def _worth(credit: Credit | None, rule: RewardRule, shown_ts: int) -> tuple[float, int, EventType | None]:
    """The reward in [-1, 1], and the time and type of the event it is for."""
    if credit is None or credit.first is None or credit.most is None:
        return 0.0, shown_ts, None
    ts, code, amount = credit.first if rule is RewardRule.FIRST else credit.most
    if rule is RewardRule.SUM:
        amount = min(max(credit.total, -MILLION), MILLION)
    return amount / MILLION, ts, EVENT_TYPES[code]


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Slate)
