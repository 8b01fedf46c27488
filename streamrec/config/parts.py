"""The lists of what a configuration can name: models, retrievers and policies, ours and those of other packages.

A new one is one file and one line: the file holds the class and its `build`, the line here names them. The line enrols
it in the settings and presets, in the fusion, snapshots and metrics, in the tables of the documentation, and in the
checks of `streamrec.testing`, which our contract tests run over everything listed. Another package adds its own through
an entry point in the group `streamrec.models`, `streamrec.retrievers` or `streamrec.policies`, which names an entry:

    [project.entry-points."streamrec.models"]
    weekdays = "acme.weekdays:ENTRY"

The lists stand here and not beside the classes because what is on by default and in which preset is configuration, and
because settings are checked by name in many commands that run no model: an entry says where the code is as
"module:attribute", and nothing of it is imported (nor torch, river or numba with it) before it is built.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from streamrec.config.entries import by_name, code_of, from_packages
from streamrec.errors import ConfigError

if TYPE_CHECKING:
    from streamrec.engine.models import Model
    from streamrec.engine.policies import Policy, PolicyParts
    from streamrec.engine.retrieval import Retriever, RetrieverParts

MINUTE_S, HOUR_S, DAY_S = 60.0, 3_600.0, 86_400.0
BASELINE = "popularity"
"""The popularity that every list is filled up with and compared to: it is always among the models."""


class ModelNeed(StrEnum):
    """What a model reads that is kept only where something reads it."""

    TEXTS = "texts"
    """Content vectors of the catalogue's words."""
    TRENDS = "trends"
    """Windowed counts of what gains."""


class Finds(StrEnum):
    """What a retriever looks for; built-in scenarios choose by this."""

    OWN = "own"
    """What the user had before."""
    NEIGHBOURS = "neighbours"
    """What goes with the items touched last."""
    GAINING = "gaining"
    POPULAR = "popular"
    NEW = "new"
    ADS = "ads"


@dataclass(frozen=True, slots=True)
class RetrieverEntry:
    """A retriever: its name, and how `build(RetrieverParts)` is reached."""

    name: str
    build: str | Callable[[RetrieverParts], Retriever]
    finds: Finds = Finds.NEIGHBOURS
    reads: str | None = None
    """The model that it searches, without which it is left out; None: it searches none."""
    turn: int = 75
    """Candidates are taken in turns, the best of each first: the lower this is, the sooner comes its turn."""
    everywhere: bool = True
    """False: it proposes only where a scenario names it."""
    about: str = ""
    """One line for the documentation."""


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model: its name, and how `build(ModelParts, **options)` is reached."""

    name: str
    build: str | Callable[..., Model]
    options: Mapping[str, Any] = field(default_factory=dict)
    """Passed to `build`, where one class is listed more than once."""
    default: bool = False
    """Among `learning.models` unless they are set."""
    presets: Sequence[str] = ()
    """Presets, beside the default, whose `learning.models` it is among."""
    proposes: RetrieverEntry | None = None
    """The retriever that searches it, if it proposes candidates and does not only score them."""
    needs: frozenset[ModelNeed] = frozenset()
    prior_weight: float | None = None
    """What the fusion trusts it at first, beside the fusion's own default."""
    meant_for: str | None = None
    """The pattern by which `streamrec.testing` knows that it learns: a name there, or "module:attribute"."""
    forgets: bool = True
    """Whether a forgotten item is unknown to it, -inf; False: it has a score for items that it never learned."""
    about: str = ""
    """One line for the documentation."""


@dataclass(frozen=True, slots=True)
class PolicyEntry:
    """A policy: its name, and how `build(PolicyParts)` is reached."""

    name: str
    build: str | Callable[[PolicyParts], Policy]
    about: str = ""
    """One line for the documentation."""


Entry = ModelEntry | RetrieverEntry | PolicyEntry
_M, _R, _P = "streamrec.engine.models", "streamrec.engine.retrieval", "streamrec.engine.policies"


def _neighbours(name: str, turn: int) -> RetrieverEntry:
    return RetrieverEntry(name, f"{_R}.neighbours:Neighbours.build", turn=turn, about="the strongest of its table")


def _popular(name: str, finds: Finds = Finds.POPULAR, turn: int = 90) -> RetrieverEntry:
    return RetrieverEntry(name, f"{_R}.popular:Popular.build", finds, turn=turn, about="its top")


def _popularity(name: str, half_life_s: float, said: str, prior_weight: float | None = None) -> ModelEntry:
    return ModelEntry(
        name,
        f"{_M}.popularity:Popularity.build",
        {"half_life_s": half_life_s},
        default=True,
        presets=("fast",),
        proposes=_popular(name),
        prior_weight=prior_weight,
        meant_for="favourites",
        about=f"what is wanted by many, with a half-life of {said}",
    )


MODELS = (
    _popularity("popularity_minutes", 5 * MINUTE_S, "five minutes"),
    _popularity(BASELINE, 6 * HOUR_S, "six hours"),
    # While little is learned, what sells anyway is the safest answer.
    _popularity("popularity_days", 14 * DAY_S, "fourteen days", prior_weight=2.0),
    ModelEntry(
        "covisit",
        f"{_M}.covisit:CoVisitation.build",
        default=True,
        proposes=_neighbours("covisit", 30),
        meant_for="companions",
        about="what the same people touched, by their whole history",
    ),
    ModelEntry(
        "covisit_recent",
        f"{_M}.covisit:build_recent",
        default=True,
        presets=("fast",),
        proposes=_neighbours("covisit_recent", 30),
        meant_for="companions",
        about="the same, by the last few items",
    ),
    ModelEntry(
        "transitions",
        f"{_M}.transitions:Transitions.build",
        default=True,
        presets=("fast",),
        proposes=_neighbours("transitions", 20),
        meant_for="successors",
        about="what comes next after what, within a session",
    ),
    ModelEntry(
        "sessions",
        f"{_M}.sessions:SessionNeighbours.build",
        default=True,
        proposes=_neighbours("sessions", 40),
        meant_for="companions",
        about="what was touched in the sessions that are most like this one",
    ),
    ModelEntry(
        "repeats",
        f"{_M}.repeats:Repeats.build",
        default=True,
        presets=("fast",),
        proposes=RetrieverEntry(
            "repeats", f"{_R}.neighbours:Neighbours.build", Finds.OWN, turn=10, about="the user's own past"
        ),
        meant_for="returns",
        about="what the user had, the sooner the likelier",
    ),
    ModelEntry(
        "content",
        f"{_M}.content:ContentModel.build",
        proposes=RetrieverEntry("content", f"{_M}.content:build_retriever", turn=60, about="the nearest by content"),
        needs=frozenset({ModelNeed.TEXTS}),
        meant_for="kinds",
        forgets=False,
        about="what is about the same, by the catalogue's texts",
    ),
    ModelEntry(
        "clicks",
        f"{_M}.clicks:ClickModel.build",
        default=True,
        meant_for="tastes",
        forgets=False,
        about="logistic regression on crossed features",
    ),
    ModelEntry(
        "factors",
        f"{_M}.factors:Factorisation.build",
        meant_for="successors",
        forgets=False,
        about="a factorisation machine over user, last item and item",
    ),
    ModelEntry(
        "sequence",
        f"{_M}.sequence:SequenceModel.build",
        default=True,
        proposes=RetrieverEntry("nearest", f"{_M}.sequence:build_retriever", turn=50, about="the nearest by vectors"),
        meant_for="successors",
        forgets=False,
        about="two towers in torch, with attention over the last items",
    ),
    ModelEntry(
        "trends",
        f"{_M}.trends:TrendModel.build",
        proposes=_popular("trends", Finds.GAINING, turn=70),
        needs=frozenset({ModelNeed.TRENDS}),
        meant_for="crazes",
        about="what gains, by windowed counts",
    ),
)
"""In the order of the fusion's features, and of building: a model finds those before it in `ModelParts.models`."""

RETRIEVERS = (
    RetrieverEntry(
        "fresh", f"{_R}.fresh:Fresh.build", Finds.NEW, turn=80, about="the catalogue's latest, shown seldom so far"
    ),
    RetrieverEntry(
        "newest", f"{_R}.newest:Newest.build", Finds.NEW, turn=61, everywhere=False, about="the items that came last"
    ),
    RetrieverEntry(
        "ads", f"{_R}.ads:AdRetriever.build", Finds.ADS, turn=62, everywhere=False, about="the ads that bring most"
    ),
)
"""Those that search no model; the others stand beside their models."""

POLICIES = (
    PolicyEntry(
        "plackett-luce",
        f"{_P}.plackett_luce:PlackettLuce.build",
        "a weight vector drawn from the posterior, and Plackett and Luce's order by its scores",
    ),
    PolicyEntry("greedy", f"{_P}.deterministic:Greedy.build", "the best by the fusion's mean first, always"),
    PolicyEntry("thompson", f"{_P}.linear:Thompson.build", "weights drawn afresh for every slate"),
    PolicyEntry("linucb", f"{_P}.linear:UpperConfidence.build", "the mean and a standard deviation on top"),
    PolicyEntry("exp3", f"{_P}.exp3:Exp3.build", "one model for each slate, chosen by what came of its choices"),
    PolicyEntry("uniform", f"{_P}.deterministic:Uniform.build", "every order as likely as any other"),
)
"""Beside `model:NAME` for each model, which ranks by that one alone."""

GROUPS: Mapping[str, type[Entry]] = {
    "streamrec.models": ModelEntry,
    "streamrec.retrievers": RetrieverEntry,
    "streamrec.policies": PolicyEntry,
}
"""Entry points, and what they name."""
_NAME = re.compile(r"[a-z][a-z0-9_-]*")
_TAKEN = frozenset({"fused", "residual", "site", "oracle", "shuffle"})
"""Words that stand beside the names in reports and settings."""
_added: list[Entry] = []


def models() -> Mapping[str, ModelEntry]:
    """Every model by name: ours, then those of other packages in the order of their names.

    Raises:
        ConfigError: an entry point cannot be loaded or names no entry, or a name stands twice. So do all of these.
    """
    return _listed()[0]


def retrievers() -> Mapping[str, RetrieverEntry]:
    """Every retriever by name, in the order of their turns; of those of models `reads` names the model."""
    return _listed()[1]


def policies() -> Mapping[str, PolicyEntry]:
    """Every policy by name, beside `model:NAME` for each model."""
    return _listed()[2]


def default_models(preset: str = "default") -> tuple[str, ...]:
    """The models of a preset."""
    return tuple(
        name for name, entry in models().items() if (entry.default if preset == "default" else preset in entry.presets)
    )


def needed(chosen: Sequence[str], need: ModelNeed) -> bool:
    """Whether one of these models needs it."""
    return any(need in entry.needs for name, entry in models().items() if name in chosen)


def built(entry: Entry, parts: Any) -> Any:
    """What the entry's `build` makes of the parts.

    Raises:
        ConfigError: there is no such code, or what it made has another name.
    """
    one = code_of(entry)(parts, **(entry.options if isinstance(entry, ModelEntry) else {}))
    if one.name != parts.name:
        raise ConfigError(f"{entry.name!r} was built under the name {one.name!r}, expected {parts.name!r}")
    return one


@contextmanager
def listing(*entries: Entry) -> Iterator[None]:
    """Lists more entries for a while: in a notebook or a test, without a package.

    Raises:
        ConfigError: a name stands twice.
    """
    before = list(_added)
    _added.extend(entries)
    _listed.cache_clear()
    try:
        _listed()
        yield
    finally:
        _added[:] = before
        _listed.cache_clear()


@cache
def _listed() -> tuple[Mapping[str, ModelEntry], Mapping[str, RetrieverEntry], Mapping[str, PolicyEntry]]:
    found: list[Entry] = [*MODELS, *RETRIEVERS, *POLICIES]
    for group, kind in GROUPS.items():
        found += from_packages(group, kind)
    found += _added
    all_models = [entry for entry in found if isinstance(entry, ModelEntry)]
    proposing = [replace(one.proposes, reads=one.name) for one in all_models if one.proposes is not None]
    proposing += [entry for entry in found if isinstance(entry, RetrieverEntry)]
    return (
        _by_name("model", all_models),
        _by_name("retriever", sorted(proposing, key=lambda entry: entry.turn)),
        _by_name("policy", [entry for entry in found if isinstance(entry, PolicyEntry)]),
    )


_E = TypeVar("_E", ModelEntry, RetrieverEntry, PolicyEntry)


def _by_name(kind: str, entries: Sequence[_E]) -> Mapping[str, _E]:
    for entry in entries:
        if not _NAME.fullmatch(entry.name) or entry.name in _TAKEN:
            raise ConfigError(
                f"a {kind} cannot be called {entry.name!r}: expected small letters, digits, _ and -, a letter first, "
                f"and none of {', '.join(sorted(_TAKEN))}"
            )
    return by_name(kind, entries)
