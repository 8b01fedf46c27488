"""Entries of the lists of parts: those of other packages, their code, and their names.

Knows nothing of what an entry is for: `parts.py` and `user_features.py` have the lists.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterable
from importlib.metadata import entry_points
from typing import Any, Protocol, TypeVar

from streamrec.errors import ConfigError


class Listed(Protocol):
    """What every entry has."""

    @property
    def name(self) -> str: ...
    @property
    def build(self) -> str | Callable[..., Any]: ...


E = TypeVar("E", bound=Listed)


def from_packages(group: str, kind: type[E]) -> list[E]:
    """The entries that installed packages name in a group of entry points, in the order of their names.

    Raises:
        ConfigError: one cannot be loaded, or names no entry of that kind.
    """
    found: list[E] = []
    for point in entry_points(group=group):
        package = f" of package {point.dist.name}" if point.dist is not None else ""
        place = f"entry point {point.name!r} ({point.value}){package} in group {group}"
        try:
            entry = point.load()
        except Exception as error:
            raise ConfigError(f"{place} cannot be loaded: {error!r}; mend that package or remove it") from error
        if not isinstance(entry, kind):
            raise ConfigError(f"{place} is of type {type(entry).__name__}, expected streamrec's {kind.__name__}")
        found.append(entry)
    return sorted(found, key=lambda entry: entry.name)  # the order must not depend on what was installed first


def by_name(kind: str, entries: Iterable[E]) -> dict[str, E]:
    """The entries by name, in their order.

    Raises:
        ConfigError: two have one name.
    """
    found: dict[str, E] = {}
    for entry in entries:
        if entry.name in found:
            raise ConfigError(
                f"two {kind} entries are called {entry.name!r}, built by {found[entry.name].build} and {entry.build}; "
                "each needs a name of its own"
            )
        found[entry.name] = entry
    return found


def code_of(entry: Listed) -> Callable[..., Any]:
    """The function that builds what is listed.

    Raises:
        ConfigError: there is no such code.
    """
    if not isinstance(entry.build, str):
        return entry.build
    try:
        found: Callable[..., Any] = pkgutil.resolve_name(entry.build)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"{entry.name!r} is listed as {entry.build!r}, which cannot be loaded ({error}); "
            "expected module:attribute, a function of its parts"
        ) from error
    return found
