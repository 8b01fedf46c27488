"""A user in words: what kind of visitor, what was liked, what it usually costs, who answers and with what.

Every word comes from what is stored (`streamrec.state.inspection`); where nothing is known, nothing is said. Knows
nothing of stores, topics or the wall clock: now is the newest moment of the log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime

from streamrec.engine.rollout.plan import Decision
from streamrec.events import EventType
from streamrec.state.inspection import Known
from streamrec.state.segments import DAY_MS, segments, shares_of

MINUTE_MS, HOUR_MS = 60_000, 3_600_000
NAMED_CATEGORIES, NAMED_TOUCHES, NAMED_PLACES = 5, 10, 5
"""How many are named; of the others it is said how many there are."""

_UNITS = ((DAY_MS, "d"), (HOUR_MS, "h"), (MINUTE_MS, "min"), (1_000, "s"))
_NOUNS = {EventType.ADD_TO_CART: ("add to cart", "adds to cart"), EventType.SEARCH: ("search", "searches")}

Title = Callable[[str], str]
"""Says how an item is called: its title and its id, or its id alone."""


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
        leanings = [f"{category} ({share:.0%})" for category, share in shares_of(known).items() if share > 0]
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
