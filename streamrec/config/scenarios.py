"""Settings of scenarios: the built-in ones, and how a configuration changes them or adds its own.

    [scenarios.home.slates]
    most_per_category = 3

changes one rule of a built-in scenario; a name that is not built in is a new one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from streamrec.config import parts
from streamrec.config.groups import Group
from streamrec.config.parts import Finds
from streamrec.engine.scenarios.scenario import Kinship, LeftOut, Needs, Scenario, SlateMix, Worth
from streamrec.events import Filters

Share = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0)]
DAY_S = 86_400.0


class LeaveOut(Group):
    """What a scenario does not show."""

    bought_within_s: NotNegative = 0.0
    """What the user bought within so long; 0 shows it again at once."""
    shown_at_most: NotNegative = 0.0
    """What was on the user's slates so often since it was last touched, halved every day; 0 for any number."""
    older_than_s: NotNegative = 0.0
    """What came longer ago; 0 for however old."""
    kinship: Kinship = Kinship.ANY
    """any, same or other: categories beside those of what the request names, or else of what was touched last."""
    categories: tuple[str, ...] = ()
    """Everything outside these categories, unless there are none."""
    without_categories: tuple[str, ...] = ()
    """Everything in these categories."""
    tags: tuple[str, ...] = ()
    """Everything that lacks one of these tags."""
    price_min: float | None = None
    """What is cheaper."""
    price_max: float | None = None
    """What is dearer."""


class Slates(Group):
    """What a scenario's slates are made of."""

    diversity: NotNegative = 0.0
    """Taken from an item's score, in log-odds, where one of its category or one just like it stands above."""
    most_per_category: Annotated[int, Field(ge=0)] = 0
    """Items of one category at most; 0 for any number."""
    fresh_share: Share = 0.0
    """Of the first n places at least this share goes to fresh items, for every n..."""
    fresh_s: NotNegative = DAY_S
    """...that came within so long."""


class ScenarioSettings(Group):
    """One way to ask, and the rules by which it is answered."""

    needs: Needs = Needs.NOTHING
    """nothing, item, basket or query: what a request must bring."""
    worth: Worth = Worth.WANTED
    """wanted, or bid: rank by the probability of a click times the item's bid."""
    retrievers: tuple[str, ...] = ()
    """Retrievers by name; none: the usual ones."""
    lean: Mapping[str, float] = Field(default_factory=dict)
    """By model, or text, meaning: the weight that its log share has beside what the fusion gives it."""
    boosts: Mapping[str, Annotated[float, Field(gt=0, le=100)]] = Field(default_factory=dict)
    """By category: a factor, whose logarithm is added to the score."""
    leave_out: LeaveOut = LeaveOut()
    """What it does not show."""
    slates: Slates = Slates()
    """What its slates are made of."""

    def scenario(self, name: str) -> Scenario:
        """The rules, as the engine takes them."""
        out, mix = self.leave_out, self.slates
        filters = Filters(
            categories=out.categories,
            without_categories=out.without_categories,
            tags=out.tags,
            price_min=out.price_min,
            price_max=out.price_max,
        )
        return Scenario(
            name=name,
            needs=self.needs,
            worth=self.worth,
            retrievers=self.retrievers,
            lean=dict(self.lean),
            boosts=dict(self.boosts),
            left_out=LeftOut(out.bought_within_s, out.shown_at_most, out.older_than_s, out.kinship, filters),
            mix=SlateMix(mix.diversity, mix.most_per_category, mix.fresh_share, mix.fresh_s),
        )


BUILT_IN: Mapping[str, Mapping[str, Any]] = {
    "home": {},
    "similar": {
        "needs": "item",
        "retrievers": (Finds.NEIGHBOURS, "alike", Finds.POPULAR),
        "lean": {"covisit_recent": 1.0, "alike": 1.0},
    },
    "bundle": {
        "needs": "basket",
        "retrievers": (Finds.NEIGHBOURS, "alike", Finds.POPULAR),
        "lean": {"covisit_recent": 2.0, "alike": 1.0},
        "slates": {"diversity": 0.5},
    },
    "cross_category": {
        "lean": {"covisit_recent": 1.0},
        "leave_out": {"kinship": "other"},
        "slates": {"most_per_category": 3},
    },
    "new_items": {
        "retrievers": ("newest", "fresh", Finds.NEIGHBOURS, Finds.POPULAR),
        "leave_out": {"older_than_s": 7 * DAY_S},
    },
    "trending": {"retrievers": ("trends", "popularity_minutes"), "lean": {"trends": 0.5, "popularity_minutes": 1.0}},
    "search": {"needs": "query", "retrievers": ("text", "meaning"), "lean": {"text": 4.0, "meaning": 1.0}},
    "ads": {"worth": "bid", "retrievers": ("ads",)},
}
"""What every scenario is unless a configuration changes it; of a family, all retrievers that are listed in it propose.

Weights were chosen by `tools/bench scenarios --part choose`, the same for all logs.
"""


def merged(given: Any) -> Any:
    """The built-in scenarios with what is given laid over them, name by name and rule by rule."""
    if not isinstance(given, Mapping):
        return given  # for the settings' own check to refuse
    below = {name: _listed(rules) for name, rules in BUILT_IN.items()}
    return {name: _laid_over(below.get(name, {}), given.get(name, {})) for name in dict.fromkeys([*below, *given])}


def _listed(rules: Mapping[str, Any]) -> Mapping[str, Any]:
    """The rules, families of retrievers replaced by those that are listed in them."""
    if "retrievers" not in rules:
        return rules
    names: list[str] = []
    for one in rules["retrievers"]:
        family = [name for name, entry in parts.retrievers().items() if entry.finds is one]
        names += family if isinstance(one, Finds) else [one]
    return {**rules, "retrievers": tuple(names)}


def _laid_over(below: Any, above: Any) -> Any:
    if isinstance(below, Mapping) and isinstance(above, Mapping):
        return {**below, **{name: _laid_over(below.get(name, {}), value) for name, value in above.items()}}
    return above
