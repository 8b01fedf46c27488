"""Scenarios: what a request asks for, and by which rules it is answered. One engine answers all.

A scenario says which retrievers propose, what is left out, what is added to a score, and what a slate must be made of.
Everything else, the models, their fusion, the policies and what is learned, is the same for all of them.

    a = u + sum over leans l of w_l s_l + log of every boost        the score that policies rank by

u is the fused utility, s_l what a leaning says of the item: the log of its share of a model's mass, or of how well it
matches what was asked for. Knows nothing of how any of these come to be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from streamrec.codec import brief
from streamrec.errors import BadEvent, did_you_mean
from streamrec.events import Event, EventType, Filters

HOME, SEARCH = "home", "search"


class Needs(StrEnum):
    """What a request of a scenario must bring."""

    NOTHING = "nothing"
    ITEM = "item"
    """`item_id`: the item that others are to go with."""
    BASKET = "basket"
    """`basket`, or `item_id` for a basket of one."""
    QUERY = "query"
    """`query`: the text to search for."""


class Kinship(StrEnum):
    """Which categories an item may be of, beside those of what the request names, or else of what was touched last."""

    ANY = "any"
    SAME = "same"
    OTHER = "other"


class Worth(StrEnum):
    """What a score stands for."""

    WANTED = "wanted"
    """How likely the item is wanted."""
    BID = "bid"
    """What showing it earns: the probability of a click, times the bid, as pacing allows."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What must not be shown, beside what is not available and what the request itself names."""

    bought_within_s: float = 0.0  # 0: may be shown again at once
    shown_at_most: float = 0.0  # times since it was last touched, halved every day; 0: any number
    older_than_s: float = 0.0  # 0: however old
    kinship: Kinship = Kinship.ANY
    filters: Filters = field(default_factory=Filters)


@dataclass(frozen=True, slots=True)
class SlateMix:
    """What a slate must be made of: see `policies.Constraints`."""

    diversity: float = 0.0  # taken from an item's score where one of its category, or one just like it, stands above
    most_per_category: int = 0
    fresh_share: float = 0.0
    fresh_s: float = 86_400.0

    @property
    def free(self) -> bool:
        """Whether anything goes."""
        return self.diversity == 0.0 and self.most_per_category == 0 and self.fresh_share == 0.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """One way to ask. `retrievers` are names (none: the usual ones); `boosts` are factors by category."""

    name: str = HOME
    needs: Needs = Needs.NOTHING
    worth: Worth = Worth.WANTED
    retrievers: tuple[str, ...] = ()
    lean: Mapping[str, float] = field(default_factory=dict)
    boosts: Mapping[str, float] = field(default_factory=dict)
    left_out: LeftOut = field(default_factory=LeftOut)
    mix: SlateMix = field(default_factory=SlateMix)


def scenario_of(event: Event) -> str:
    """The name of the scenario that an event asks for; a search with a text is one."""
    if event.scenario is not None:
        return event.scenario
    return SEARCH if event.type is EventType.SEARCH and event.query else HOME


def lacking(event: Event, needs: Needs) -> str | None:
    """The field that a request of a scenario lacks, None where it has all."""
    match needs:
        case Needs.ITEM if event.item_id is None:
            return "item_id"
        case Needs.BASKET if event.item_id is None and not event.basket:
            return "basket"
        case Needs.QUERY if not event.query:
            return "query"
        case _:
            return None


def hold_to(event: Event, scenarios: Mapping[str, Needs]) -> None:
    """See that an event names a scenario there is, and that a request brings what its scenario is about.

    Args:
        event: of any type.
        scenarios: what a request of each must bring; none named: any name is taken.

    Raises:
        BadEvent: it does not.
    """
    if event.scenario is not None and scenarios and event.scenario not in scenarios:
        given, known = brief(repr(event.scenario), 60), ", ".join(scenarios)
        near = did_you_mean(event.scenario, scenarios)
        raise BadEvent("invalid", f"field 'scenario' is {given}, expected one of {known}{near}", "scenario")
    if event.type is not EventType.REQUEST:
        return
    name = scenario_of(event)
    lacks = lacking(event, scenarios.get(name, Needs.NOTHING))
    if lacks is not None:
        raise BadEvent("invalid", f"field {lacks!r} is missing: a request of scenario {name!r} needs it", lacks)


def seeds_of(event: Event) -> tuple[str, ...]:
    """The items that a request names, each once."""
    named = (*(() if event.item_id is None else (event.item_id,)), *(event.basket or ()))
    return tuple(dict.fromkeys(named))
