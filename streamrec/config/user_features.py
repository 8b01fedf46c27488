"""The list of user features: ours, and those of other packages.

A new one is one file, which holds the class, and one line here. Another package adds its own through an entry point in
the group `streamrec.user_features`, which names an entry:

    [project.entry-points."streamrec.user_features"]
    weekday = "acme.weekday:ENTRY"
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from streamrec.errors import ConfigError

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
    """Whether a configuration asks for it; what nobody asks for is not remembered."""


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
)
"""In the order in which they are stored and in which the fusion sees them."""


def user_features() -> Mapping[str, UserFeatureEntry]:
    """Every user feature by name: ours, then those of other packages in the order of their names.

    Raises:
        ConfigError: an entry point cannot be loaded or names no entry, or a name stands twice.
    """
    found: dict[str, UserFeatureEntry] = {}
    for entry in (*USER_FEATURES, *_from_packages()):
        if entry.name in found:
            raise ConfigError(
                f"two user features are called {entry.name!r}, built by {found[entry.name].build} and {entry.build}; "
                "each needs a name of its own"
            )
        found[entry.name] = entry
    return found


def built(entry: UserFeatureEntry, parts: UserFeatureParts) -> UserFeature:
    """The feature of an entry, of nobody yet.

    Raises:
        ConfigError: there is no such code.
    """
    build = entry.build
    if isinstance(build, str):
        try:
            build = pkgutil.resolve_name(build)
        except (ImportError, AttributeError, ValueError) as error:
            raise ConfigError(
                f"user feature {entry.name!r} is listed as {entry.build!r}, which cannot be loaded ({error}); "
                "expected module:attribute, a function of its parts"
            ) from error
    feature: UserFeature = build(parts)
    return feature


@cache
def _from_packages() -> tuple[UserFeatureEntry, ...]:
    found = []
    for point in entry_points(group=GROUP):
        place = f"entry point {point.name!r} ({point.value}) in group {GROUP}"
        try:
            entry = point.load()
        except Exception as error:
            raise ConfigError(f"{place} cannot be loaded: {error!r}; mend its package or remove it") from error
        if not isinstance(entry, UserFeatureEntry):
            raise ConfigError(f"{place} is of type {type(entry).__name__}, expected streamrec's UserFeatureEntry")
        found.append(entry)
    return tuple(sorted(found, key=lambda entry: entry.name))  # the order must not depend on what was installed first
