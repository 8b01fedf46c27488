"""What kind of user somebody is, of what is stored: plain rules with the thresholds below.

Knows nothing of stores or the wall clock: now is the newest moment of the log.
"""

from __future__ import annotations

from enum import StrEnum

from streamrec.events import EventType
from streamrec.state.inspection import Known

DAY_MS, WEEK_MS = 86_400_000, 604_800_000
NEW_ACTS = 5
"""Who did less than that is new."""
REGULAR_PER_WEEK, HEAVY_PER_WEEK = 1.0, 20.0
"""Acts per week between the first event and the last, a shorter time counting as a week."""
BROWSER_LOOKS = 10
"""Who viewed, clicked or put into the cart as often, and never bought, is a browser."""
ACTIVE_DAYS, GONE_DAYS = 7, 30
"""Last seen so long before the newest event of the log: still active; no longer there; between them, lapsing."""
LEANING = 5.0
"""Weight of all affinities below which nothing is said of taste: a purchase weighs 3, a view 1, half after 14 days."""
FAN_SHARE = 0.6
"""The largest category's share of a fan."""
EXPLORER_SHARE, EXPLORER_CATEGORIES = 0.3, 5
"""An explorer has at least so many categories, and none has a larger share."""
_NOT_ACTS = frozenset({EventType.IMPRESSION, EventType.REQUEST})
_LOOKS = (EventType.VIEW, EventType.CLICK, EventType.ADD_TO_CART)


class Segment(StrEnum):
    """What kind of user this is. One of the first four, and of each of the others one or none."""

    NEW = "new"
    OCCASIONAL = "occasional"
    REGULAR = "regular"
    HEAVY = "heavy"
    BUYER = "buyer"
    BROWSER = "browser"
    ACTIVE = "active"
    LAPSING = "lapsing"
    GONE = "gone"
    FAN = "one-category fan"
    EXPLORER = "explorer"


def segments(known: Known) -> tuple[Segment, ...]:
    """The segments of a user as `inspect.user` knows one, in the order above."""
    found = [_habit(known), _purpose(known), _presence(known), _taste(known)]
    return tuple(segment for segment in found if segment is not None)


def _habit(known: Known) -> Segment:
    acts = sum(count for kind, count in known["counts"].items() if kind not in _NOT_ACTS)
    if acts < NEW_ACTS:
        return Segment.NEW
    per_week = acts / max(1.0, (known["last_ts"] - known["first_ts"]) / WEEK_MS)
    if per_week >= HEAVY_PER_WEEK:
        return Segment.HEAVY
    return Segment.REGULAR if per_week >= REGULAR_PER_WEEK else Segment.OCCASIONAL


def _purpose(known: Known) -> Segment | None:
    counts = known["counts"]
    if counts.get(EventType.PURCHASE):
        return Segment.BUYER
    return Segment.BROWSER if sum(counts.get(kind, 0) for kind in _LOOKS) >= BROWSER_LOOKS else None


def _presence(known: Known) -> Segment | None:
    if known["log_ts"] is None:
        return None
    absent_days = (known["log_ts"] - known["last_ts"]) / DAY_MS
    if absent_days <= ACTIVE_DAYS:
        return Segment.ACTIVE
    return Segment.LAPSING if absent_days <= GONE_DAYS else Segment.GONE


def _taste(known: Known) -> Segment | None:
    shares = list(shares_of(known).values())
    if not shares or sum(known["affinities"].values()) < LEANING:
        return None
    if shares[0] >= FAN_SHARE:
        return Segment.FAN
    wide = len(shares) >= EXPLORER_CATEGORIES and shares[0] <= EXPLORER_SHARE
    return Segment.EXPLORER if wide else None


def shares_of(known: Known) -> dict[str, float]:
    """Of the categories that are kept, strongest first."""
    together = sum(known["affinities"].values())
    return {name: weight / together for name, weight in known["affinities"].items()} if together > 0 else {}
