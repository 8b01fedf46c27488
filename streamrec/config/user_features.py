"""The list of user features: ours, and those of other packages.

A new one is one file, which holds the class, and one line here. Another package adds its own through an entry point in
the group `streamrec.user_features`, which names an entry:

    [project.entry-points."streamrec.user_features"]
    weekday = "acme.weekday:ENTRY"
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from streamrec.config.entries import by_name, code_of, from_packages

if TYPE_CHECKING:
    from streamrec.config.settings import Settings
    from streamrec.engine.scenarios.scenario import Scenario
    from streamrec.engine.users.user_feature import UserFeature, UserFeatureParts

GROUP = "streamrec.user_features"
Wanted = Callable[["Settings", Sequence["Scenario"]], bool]


def always(settings: Settings, scenarios: Sequence[Scenario]) -> bool:
    """Whatever the configuration."""
    return True


def _once_only(settings: Settings, scenarios: Sequence[Scenario]) -> bool:
    return settings.learning.exclude_seen


def _not_again(settings: Settings, scenarios: Sequence[Scenario]) -> bool:
    return any(scenario.left_out.bought_within_s for scenario in scenarios)


def _not_for_ever(settings: Settings, scenarios: Sequence[Scenario]) -> bool:
    return any(scenario.left_out.shown_at_most for scenario in scenarios)


@dataclass(frozen=True, slots=True)
class UserFeatureEntry:
    """A user feature: its name, and how it is made of `UserFeatureParts`."""

    name: str
    build: str | Callable[[UserFeatureParts], UserFeature]
    """A class or function, or where one is: "module:attribute"."""
    on: Wanted = always
    """Whether a configuration asks for it; what is not asked for is not remembered."""


_U = "streamrec.engine.users"
USER_FEATURES = (
    UserFeatureEntry("history", f"{_U}.history:build"),
    UserFeatureEntry("counts", f"{_U}.counts:build"),
    UserFeatureEntry("affinity", f"{_U}.affinity:build"),
    UserFeatureEntry("prices", f"{_U}.price_level:build"),
    UserFeatureEntry("duplicates", f"{_U}.deduplication:build"),
    UserFeatureEntry("seen", f"{_U}.seen:build", _once_only),
    UserFeatureEntry("bought", f"{_U}.purchases:build", _not_again),
    UserFeatureEntry("shown", f"{_U}.fatigue:build", _not_for_ever),
    UserFeatureEntry("pace", f"{_U}.request_pace:build"),
)
"""In the order in which they are stored and in which the fusion sees them."""


def user_features() -> Mapping[str, UserFeatureEntry]:
    """Every user feature by name: ours, then those of other packages in the order of their names.

    Raises:
        ConfigError: an entry point cannot be loaded or names no entry, or a name stands twice.
    """
    return by_name("user feature", (*USER_FEATURES, *_from_packages()))


def built(entry: UserFeatureEntry, parts: UserFeatureParts) -> UserFeature:
    """The feature of an entry, without any user yet.

    Raises:
        ConfigError: there is no such code.
    """
    feature: UserFeature = code_of(entry)(parts)
    return feature


@cache
def _from_packages() -> tuple[UserFeatureEntry, ...]:
    return tuple(from_packages(GROUP, UserFeatureEntry))
