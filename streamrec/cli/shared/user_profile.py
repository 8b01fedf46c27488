"""A user in words: what kind of visitor, what was liked, what it usually costs, who answers and with what.

Every word comes from what is stored (`streamrec.state.inspection`); where nothing is known, nothing is said. Segments
are plain rules with the thresholds below. Knows nothing of stores, topics or the wall clock: now is the newest moment
of the log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from enum import StrEnum

from streamrec.engine.rollout.plan import Decision
from streamrec.events import EventType
from streamrec.state.inspection import Known

MINUTE_MS, HOUR_MS, DAY_MS, WEEK_MS = 60_000, 3_600_000, 86_400_000, 604_800_000
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
NAMED_CATEGORIES, NAMED_TOUCHES, NAMED_PLACES = 5, 10, 5
"""How many are named; of the others it is said how many there are."""

_UNITS = ((DAY_MS, "d"), (HOUR_MS, "h"), (MINUTE_MS, "min"), (1_000, "s"))
_NOT_ACTS = frozenset({EventType.IMPRESSION, EventType.REQUEST})
_LOOKS = (EventType.VIEW, EventType.CLICK, EventType.ADD_TO_CART)
_NOUNS = {EventType.ADD_TO_CART: ("add to cart", "adds to cart"), EventType.SEARCH: ("search", "searches")}

Title = Callable[[str], str]
"""Says how an item is called: its title and its id, or its id alone."""


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
    shares = list(_shares(known).values())
    if not shares or sum(known["affinities"].values()) < LEANING:
        return None
    if shares[0] >= FAN_SHARE:
        return Segment.FAN
    wide = len(shares) >= EXPLORER_CATEGORIES and shares[0] <= EXPLORER_SHARE
    return Segment.EXPLORER if wide else None


def words(known: Known, decision: Decision | None, title: Title) -> Iterator[str]:
    """Line by line. `decision` is who answers the user as of now, None where that is not known."""
    most_first = sorted(known["counts"].items(), key=lambda pair: -pair[1])
    counts = ", ".join(_many(count, *_NOUNS.get(kind, (kind,))) for kind, count in most_first)
    yield f"{known['user_id']}: {', '.join(segments(known))}"
    yield f"since {moment(known['first_ts'])}, {_many(known['events'], 'event')} ({counts})"
    yield f"last seen {moment(known['last_ts'])}{_before_the_newest(known)}"
    session = known["session"]
    if session is not None and session["items"]:
        yield f"latest session since {moment(session['started'])}, {_many(session['items'], 'item')}"
    if known["affinities"]:
        leanings = [f"{category} ({share:.0%})" for category, share in _shares(known).items() if share > 0]
        yield f"leans to {_listed(leanings, NAMED_CATEGORIES)}"
    if known["prices"] is not None:
        yield _paying(known["prices"])
    if decision is not None:
        yield _answering(decision)
    yield from _touches(known["recent"], title)
    if known["slate"] is not None:
        yield from _slate(known["slate"], title)


def _before_the_newest(known: Known) -> str:
    if known["log_ts"] is None or known["log_ts"] <= known["last_ts"]:
        return ""
    return f", {span(known['log_ts'] - known['last_ts'])} before the newest event of the log"


def _shares(known: Known) -> dict[str, float]:
    """Of the categories that are kept, strongest first."""
    together = sum(known["affinities"].values())
    return {name: weight / together for name, weight in known["affinities"].items()} if together > 0 else {}


def _paying(prices: Known) -> str:
    low, typical, high = (f"{prices[name]:,.2f}" for name in ("low", "typical", "high"))
    around = f"about {typical}" if low == high else f"{low} to {high}, about {typical}"
    return f"usually pays {around} ({_many(prices['events'], 'event')} with a price)"


def _answering(decision: Decision) -> str:
    if decision.interleaved is not None:
        return f"is answered by {' and '.join(decision.interleaved)}, interleaved"
    arm = "" if decision.arm is None else f", arm {decision.arm}"
    return f"is answered by {decision.publish} ({decision.mode.value}{arm})"


def _touches(touches: Sequence[Known], title: Title) -> Iterator[str]:
    if touches:
        yield f"the latest {min(NAMED_TOUCHES, len(touches))} of {len(touches)} remembered:"
    for touch in touches[:NAMED_TOUCHES]:
        yield f"  {moment(touch['ts'])}  {touch['type']}  {title(touch['item_id'])}"


def _slate(slate: Known, title: Title) -> Iterator[str]:
    places = slate["items"]
    scenario = slate.get("scenario", "home")
    by = f"{slate['policy']} version {slate['version']}"
    arm = f", arm {slate['arm']}" if slate.get("arm") else ""
    yield (
        f"latest slate {moment(slate['ts'])} for {scenario}: {_many(len(places), 'item')} "
        f"out of {slate['candidates']:,}, by {by}{arm}"
    )
    for place in places[:NAMED_PLACES]:
        shares = place["shares"]
        wanted = f", wanted most by {max(shares, key=shares.__getitem__)}" if shares else ""
        yield f"  {place['position']:>2}. {title(place['item_id'])}{wanted}"
    if len(places) > NAMED_PLACES:
        yield f"  and {len(places) - NAMED_PLACES} more"


def _listed(names: Sequence[str], most: int) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _many(count: int, thing: str, things: str = "") -> str:
    return f"{count:,} {thing if count == 1 else things or thing + 's'}"


def moment(ts: int) -> str:
    """A time in ms, to the minute."""
    return f"{datetime.fromtimestamp(ts / 1000, UTC):%Y-%m-%d %H:%MZ}"


def span(ms: int) -> str:
    """A length of time in its largest unit."""
    size, unit = next(((size, unit) for size, unit in _UNITS if ms >= size), _UNITS[-1])
    return f"{ms // size} {unit}"
