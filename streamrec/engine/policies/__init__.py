"""Policies: each is a distribution over ordered slates of the candidates.

Every policy is a mixture of rankings. A component ranks by scores of its own: hard (the best first) or by Plackett and
Luce, where the next item is drawn with probability proportional to exp(score). A policy first draws a component by its
weight, keeps to it for the whole slate, and with probability `explore` gives a position to a candidate drawn in
proportion to the uncertainty about it instead. `plackett_luce_sampling` draws from such mixtures and knows the
probability of everything it draws.

Knows nothing of events, users' names, topics or stores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from streamrec.engine.arrays.batch import Array, Bool, Float32, Float64, Int32, Int64, Uint64
from streamrec.engine.arrays.feedback import SlateFeedback
from streamrec.engine.following.served import Served

CONTEXTS = 3
"""How much is known of the user: nothing, little, more."""


@dataclass(frozen=True, slots=True)
class Constraints:
    """What one slate must be made of, whoever makes it.

    An item above takes `weight` times its similarity, at most 1, from the score of those below, where the most similar
    item above counts (maximal marginal relevance: Carbonell, Goldstein: The use of MMR, SIGIR 1998). At most
    `most_per_group` places go to one group (0: any number), and of the first n places at least floor(n * `young_share`)
    to young items; where only other items are left, these bounds give way.
    """

    similar: Float32  # (candidates, candidates) in [0, 1]; (0, 0) where `weight` is 0
    group: Int32  # (candidates,) NOTHING: of none
    young: Bool  # (candidates,)
    weight: float = 0.0  # in units of the utility
    most_per_group: int = 0
    young_share: float = 0.0


@dataclass(frozen=True, slots=True)
class PolicyInput:
    """What a policy sees of some queries."""

    seeds: Uint64  # (rows,) every random draw for a row follows from it
    items: Int32  # (rows, candidates) NOTHING where there are fewer
    features: Float32  # (rows, candidates, features) what the fusion sees
    utility: Float64  # (rows, candidates) the fusion's mean score, -inf where there is no item
    scores: Float32  # (models, rows, candidates) each model's log mass, -inf where it knows nothing
    context: Int64  # (rows,) below CONTEXTS
    boost: Float64  # (rows, candidates) what is added to every score by rule, and has been added to the utility
    uncertainty: Float64  # (rows, candidates) above 0: in proportion to this, places reserved for exploration are given
    constraints: tuple[Constraints | None, ...]  # (rows,)


@dataclass(frozen=True, slots=True)
class Posterior:
    """What the fusion believes of its weights: N(mean, precision^-1)."""

    mean: Float64  # (features,)
    precision: Float64  # (features, features)
    particles: Float64  # (particles, features) drawn from it after the last update
    version: int  # updates so far


@dataclass(frozen=True, slots=True)
class Components:
    """A mixture of rankings of the same candidates."""

    weights: Float64  # (rows, components) sum to one
    scores: Float64  # (rows, candidates, components) -inf where there is no item
    hard: bool = False
    explore: float = 0.0
    scale: float = 1.0  # what one unit of the utility is in these scores


@dataclass(frozen=True, slots=True)
class Choice:
    """The slates chosen for some queries."""

    places: Int64  # (rows, k) place among the candidates, NOTHING where there were fewer
    propensity: Float64  # (rows, k) given the places before


class Policy(Served, Protocol):
    """What every policy does; `served` and `serve` are for processes that answer by what another one learns.

    `estimated_from` is 0 when propensities are exact. Otherwise its components are so many draws of its own
    randomness, made anew for every slate, and each propensity is an average over them.
    """

    name: str
    estimated_from: int

    def components(self, asked: PolicyInput, posterior: Posterior) -> Components:
        """The policy's distribution over slates for each of some queries."""

    def learn(self, feedback: Sequence[SlateFeedback]) -> None:
        """Take what came of slates, of whichever policy, in log order."""

    def state(self) -> dict[str, Array]:
        """What a snapshot holds: named arrays, owned by the caller. Empty when nothing is learned."""

    def restore(self, arrays: Mapping[str, Array]) -> None:
        """The inverse of `state`."""


@runtime_checkable
class ByModel(Protocol):
    """A policy that remembers something of each model, and so keeps it where the list of models is another.

    One that learns and is none begins anew then. `by_model` names every array of its state that has a place for each
    model, and says along which axis; they are in the models' order.
    """

    by_model: ClassVar[Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class PolicyParts:
    """What a policy may be built of."""

    name: str
    models: tuple[str, ...]
    """In the order of `PolicyInput.scores`, and of the features that are their log shares."""
    temperature: float = 0.25
    """Of Plackett and Luce's draw: lower is closer to the plain order."""
    explore: float = 0.02
    """Share of places that are given to a candidate drawn by the doubt about it."""
