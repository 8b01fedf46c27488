"""Why an item is on a slate: which of the user's events weighed most, and which rules applied.

    fall(c | e) = (u_c - mean_d u_d) - (u'_c - mean_d u'_d)

u is the fusion's mean score of a query's candidates, u' the same when the query's history lacks e and every model has
scored the candidates anew; both are taken beside the average candidate, as the shares are, in log-odds. To leave a part
of the input out and look at what the output loses is occlusion (Zeiler, Fergus: Visualizing and understanding
convolutional networks, ECCV 2014); to explain an item by the user's own actions, without which it would not stand
there, is PRINCE's idea (Ghazimatin et al., WSDM 2020). Any model can be asked so, for it is only asked to score.

Only the history is rewound: what an event has taught the models, and the user's decayed counts, stay as they are. An
item touched several times is left out with all its visits. Knows nothing of events, topics or stores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from streamrec.engine.arrays.batch import CANDIDATES, NOTHING, Candidates, Float64, Int32, Int64, Queries, arrays_of
from streamrec.engine.arrays.compiled import compiled, mixed
from streamrec.engine.fusion.fusion import Fusion
from streamrec.engine.items.item_table import ItemTable
from streamrec.engine.models import Model
from streamrec.engine.scenarios.rules import RequestRules
from streamrec.engine.scenarios.scenario import Kinship
from streamrec.events import EXPLORED, Filters, Reason, Slate, SlateItem

LOOKED_AT = 15
"""The newest items of the history that are left out in turn; with the query itself, two blocks of eight rows."""
NAMED = 3
"""Events named per item of a slate, at most."""
FALL_FLOOR = 0.05
"""A smaller fall, of 5% in the odds, is not worth naming."""
LIKELY = 0.5
LEAST_RAISE = 0.005
"""A smaller change of a score, of half a percent in the odds, is not worth naming."""
_PLURAL = {"them": "them", "they": "they", "were": "were"}


@dataclass(frozen=True, slots=True)
class Scorers:
    """The parts that ranked the slate, to score again without some events."""

    models: Sequence[Model]
    fusion: Fusion
    items: ItemTable


@dataclass(frozen=True, slots=True)
class Applied:
    """What was decided by rule when the slate was made."""

    request_rules: RequestRules
    explore: float = 0.0  # the policy's share of places that are reserved for exploration
    uncertainty: Float64 = field(default_factory=lambda: np.ones(CANDIDATES))  # (candidates,)
    places: Int64 = field(default_factory=lambda: np.empty(0, np.int64))  # of the slate's items among the candidates


def reasons_of(
    slate: Slate, queries: Queries, row: int, candidates: Int32, scorers: Scorers, applied: Applied
) -> tuple[Reason, ...]:
    """Why each item of a slate is on it, in the slate's order. Changes nothing.

    Args:
        slate: what was chosen.
        queries: of which the slate answers the one in `row`.
        row: see queries.
        candidates: (candidates,) item indices it was chosen from, NOTHING past the last. An item of the slate that is
            not among them has no events to its name.
        scorers: score the candidates anew.
        applied: which rules were in force.
    """
    without, fall = falls(queries, row, candidates, scorers)
    names = [scorers.items.ids[item] for item in without]
    of_all = [words for rule in (left_out, filtered) for words in rule(applied)]
    reasons = []
    for item in slate.items:
        place = np.flatnonzero(candidates == scorers.items.lookup(item.item_id))
        because = _heaviest(names, fall[:, place[0]]) if len(place) and candidates[place[0]] != NOTHING else ()
        of_one = [words for rule in RULES for words in rule(item, slate, applied)]
        reasons.append(Reason(because=because, rules=(*of_all, *of_one)))
    return tuple(reasons)


def falls(queries: Queries, row: int, candidates: Int32, scorers: Scorers) -> tuple[list[int], Float64]:
    """The newest items of a query's history, and how far each candidate falls without each: (left out, candidates).

    One micro-batch of the same shape for every query: at most LOOKED_AT are looked at, whatever the history's length.
    """
    left_out, asked = without_each(queries, row)
    used = int((candidates != NOTHING).sum())
    if not left_out or not used:
        return left_out, np.zeros((len(left_out), used))
    rows = slice(0, 1 + len(left_out))
    weighed = Candidates.empty(len(asked.ts), len(scorers.models), scorers.fusion.width)
    weighed.items[rows] = candidates
    for place, model in enumerate(scorers.models):
        weighed.scores[place, rows] = model.score(asked, rows, weighed.items[rows])
    scorers.fusion.describe(asked, rows, weighed, scorers.items.first_ts, scorers.items.last_ts)
    utility = weighed.utility[rows, :used].astype(np.float64)  # (1 + left out, candidates)
    beside_average = utility - utility.mean(1, keepdims=True)
    return left_out, beside_average[0] - beside_average[1:]


def without_each(queries: Queries, row: int) -> tuple[list[int], Queries]:
    """The query in `row` once as it is, then without each of the newest items of its history, in 1 + LOOKED_AT rows."""
    past = queries.items[row]
    newest = list(dict.fromkeys(past[past != NOTHING].tolist()))[:LOOKED_AT]
    copies, known = queries.blank(1 + LOOKED_AT), arrays_of(queries)
    for name, array in arrays_of(copies).items():
        array[:] = known[name][row]
    for at in range(1, len(newest) + 1):
        # A query's seed is its name to models that encode it once: another history needs another name.
        copies.seed[at] = int(mixed(int(queries.seed[row]) % 2**62, at)) % 2**62
    _leave_out(np.array(newest, np.int32), copies.items, copies.ages_s, copies.steps, copies.session)
    return newest, copies


@compiled
def _leave_out(items, past, ages_s, steps, session):  # type: ignore[no-untyped-def]
    """Item i out of history i + 1: what is left moves up, and moments that are left empty are no steps."""
    for at in range(len(items)):
        row = at + 1
        kept, begun, step, before = 0, 0, 0, 0
        for place in range(past.shape[1]):
            if past[row, place] == items[at]:
                continue
            begun += place < session[row]
            step += kept > 0 and steps[row, place] != before
            before = steps[row, place]
            past[row, kept], ages_s[row, kept], steps[row, kept] = past[row, place], ages_s[row, place], step
            kept += 1
        session[row] = begun
        past[row, kept:], ages_s[row, kept:], steps[row, kept:] = NOTHING, 0.0, step


def _heaviest(names: Sequence[str], fall: Float64) -> tuple[tuple[str, float], ...]:
    """The events without which the score falls most; equals stay in order, newest first."""
    order = np.argsort(-fall, kind="stable")[:NAMED]
    return tuple((names[at], round(float(fall[at]), 3)) for at in order.tolist() if fall[at] > FALL_FLOOR)


# Rules: what has nothing to do with scores, in words

Rule = Callable[[SlateItem, Slate, Applied], Iterable[str]]
"""What a rule did to an item of a slate; nothing where it did nothing."""


def left_out(applied: Applied) -> Iterable[str]:
    """What was bought, seen, tired of or named in the request, and is not on the slate for it: the same for all."""
    for why, items in applied.request_rules.left_out.items():
        count = len(np.unique(items[items != NOTHING]))
        if count:
            words = {"them": "it", "they": "it", "were": "was"} if count == 1 else _PLURAL
            yield f"{count} item{'' if count == 1 else 's'} left out: {why.format(**words)}"


def filtered(applied: Applied) -> Iterable[str]:
    """Filters of the request and of its scenario, and how many items they let through: the same for all."""
    request_rules = applied.request_rules
    asked = [words for filters in request_rules.filters for words in filters_in_words(filters)]
    rules = request_rules.scenario.left_out
    if rules.kinship is not Kinship.ANY:
        asked.append(f"{rules.kinship.value} categories")
    if rules.older_than_s:
        asked.append(f"at most {rules.older_than_s / 3600:g} h old")
    if asked and request_rules.passed is not None:
        yield f"filtered: {request_rules.passed:,} items are {', '.join(asked)}"


def raised(item: SlateItem, slate: Slate, applied: Applied) -> Iterable[str]:
    """What a scenario's leaning, a boost or a bid did to the score, beside the average candidate."""
    place = applied.places[item.position - 1] if item.position <= len(applied.places) else NOTHING
    for why, added in applied.request_rules.raised.items():
        beside_average = added[place] - added[: slate.candidates].mean()
        if place != NOTHING and abs(beside_average) >= LEAST_RAISE:
            yield f"{why}, {beside_average:+.2f}"


def mixed_in(item: SlateItem, slate: Slate, applied: Applied) -> Iterable[str]:
    """What the slate must be made of."""
    bound, place = applied.request_rules.constraints, item.position - 1
    if bound is None or place >= len(applied.places):
        return
    above, own = applied.places[:place], applied.places[place]
    if bound.weight and len(above):
        like = float(bound.similar[own, above].max())
        if like * bound.weight >= LEAST_RAISE:
            yield f"diversity: {-like * bound.weight:+.2f}, like an item above"
    if bound.young_share and bound.young[own]:
        yield f"fresh: at least {bound.young_share:.0%} of the places are for items as new as this one"
    if bound.most_per_group:
        yield f"at most {bound.most_per_group} items of a category"


def explored(item: SlateItem, slate: Slate, applied: Applied) -> Iterable[str]:
    """`fusion.explore`: named where the place was more likely given by that draw than earned.

    The probability follows from the propensity, by Bayes' rule: the draw puts a candidate there with the explored
    share, times the candidate's part of the uncertainty about all that are left.
    """
    left = slate.candidates - item.position + 1
    if applied.explore <= 0 or left <= 0 or item.propensity <= 0:
        return
    part = 1.0 / left
    if item.position <= len(applied.places):
        uncertainty = applied.uncertainty[: slate.candidates].copy()
        uncertainty[applied.places[: item.position - 1]] = 0.0
        part = float(uncertainty[applied.places[item.position - 1]] / uncertainty.sum())
    chance = min(applied.explore * part / item.propensity, 1.0)
    if chance >= LIKELY:
        yield (
            f"{EXPLORED} with probability {chance:.2f} drawn by uncertainty among the {left} candidates left, "
            f"as 1 place in {1 / applied.explore:.0f} is"
        )


RULES: tuple[Rule, ...] = (raised, mixed_in, explored)
"""Every rule that has to do with a place."""


def filters_in_words(filters: Filters) -> Iterable[str]:
    """What a filter asks for, piece by piece."""
    if filters.categories:
        yield f"in {' or '.join(filters.categories)}"
    if filters.without_categories:
        yield f"not in {' or '.join(filters.without_categories)}"
    if filters.tags:
        yield f"tagged {' and '.join(filters.tags)}"
    if filters.price_min is not None:
        yield f"{filters.price_min:g} or dearer"
    if filters.price_max is not None:
        yield f"{filters.price_max:g} or cheaper"
