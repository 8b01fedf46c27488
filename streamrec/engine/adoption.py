"""A snapshot of another list of models, as a pipeline would have saved it: what both have is kept, by name.

    models       those that both have keep their arrays; new ones are untaught, those that are gone are left out
    fusion       weights by the names of its features; a new one is at its prior, and goes with no other. Where some are
                 gone, the others take over what they shared with them: the posterior, given that those weigh nothing
    network      of the fusion: inputs by name, a new one counts nothing until it has learned to
    micro-batch  what each model said of the candidates, by name; a new one had said nothing
    progress     by list; a new one has not been tried yet
    policies     those that remember something of each model keep it by name, others that learn begin anew

What is new is taken from the pipeline's own untaught state. A pure function of the snapshot and of what the pipeline is
made of: whoever adopts the same snapshot for the same list comes to the same arrays. Everything else (items, catalogue,
clock, what others add to a snapshot) does not depend on the list, and is passed on as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass

import numpy as np
import numpy.typing as npt
import scipy.linalg

from streamrec.engine.arrays.batch import Array, Columns, Int64
from streamrec.engine.arrays.packing import packed_strings, unpacked_strings
from streamrec.engine.fusion.features import names
from streamrec.engine.fusion.fusion import RESIDUAL, RESPONSES
from streamrec.engine.fusion.residual import CONTEXT, FIRST
from streamrec.engine.learning.page_hinkley import PageHinkley
from streamrec.engine.learning.quarantine import FUSION, MODEL, POLICY
from streamrec.engine.learning.rollback import QUARANTINE
from streamrec.engine.models import Twin
from streamrec.engine.pipeline import LAYOUT, Pipeline
from streamrec.engine.policies import ByModel
from streamrec.errors import StateError

BATCH, PROGRESS = "batch", "progress"
SHARE = " share"
"""After a model's name: its first feature, by which the models of a snapshot are told."""
COLUMN = "queries.columns."
NETWORK_INPUTS = tuple(f"{RESIDUAL}.{name}" for name in (FIRST, "moments.0.exp_avg", "moments.0.exp_avg_sq", "inputs"))
"""Arrays with a place for each input of the residual network on their last axis: the first layer's weights, what their
optimiser remembers, and the queries that are kept for learning."""
BY_LIST = frozenset({"sums", "previous", "jumps", "usual", "since"})
"""Arrays of the progress with a place for each list on their last axis; `tests` have it on their first."""

Arrays = dict[str, Array]
Components = Mapping[str, Mapping[str, Array]]


@dataclass(frozen=True, slots=True)
class Adoption:
    """What a snapshot is to a pipeline. `kept`, `begun` and `dropped` name what depends on the list of models."""

    arrays: Components
    kept: tuple[str, ...] = ()
    begun: tuple[str, ...] = ()
    """Untaught: the snapshot knows nothing of them that could be used."""
    dropped: tuple[str, ...] = ()
    """There is no place for them here."""
    translated: frozenset[str] = frozenset()
    """Components whose arrays are not in the snapshot, under whatever name."""


def adopted(arrays: Components, schema: str, pipeline: Pipeline) -> Adoption:
    """What was saved under a schema, as the pipeline is to restore it; as it is, where the schema is its own.

    Raises:
        StateError: the snapshot is of another layout, or is not what its schema says.
    """
    if schema == pipeline.schema:
        return Adoption(arrays)
    then, now = Named.saved(schema, arrays), Named.of(pipeline)
    models, features = Order(then.models, now.models), Order(then.features, now.features)
    columns = Order(then.columns, now.columns)
    untaught = pipeline.rollback.untaught
    found = {name: _found(name, arrays, untaught[name], pipeline) for name in untaught if name != FUSION}
    learning, begun = _policies(arrays, models, pipeline)
    begun += [name for name, own in found.items() if own is None]
    taken = [own for own in found.values() if own is not None]
    dropped = [name for name in arrays if name.startswith(MODEL) and not any(own is arrays[name] for own in taken)]
    out: dict[str, Mapping[str, Array]] = {
        **{name: own for name, own in arrays.items() if not name.startswith(MODEL)},
        **{name: _copies(untaught[name]) if own is None else own for name, own in found.items()},
        **learning,
        FUSION: _fusion(arrays[FUSION], untaught[FUSION], features),
        BATCH: _batch(arrays[BATCH], models, features, pipeline.features.columns, columns),
        PROGRESS: _progress(arrays[PROGRESS], Order(("fused", *then.models), pipeline.progress.lists)),
    }
    if QUARANTINE in arrays:
        out[QUARANTINE] = _quarantine(arrays[QUARANTINE], {*dropped, *begun})
    beside = Order(then.beside_models(), now.beside_models())
    return Adoption(
        out,
        kept=tuple(name for name in (*found, *learning) if name not in begun),
        begun=(*begun, *beside.new, *columns.new),
        dropped=(*dropped, *beside.gone, *columns.gone),
        translated=frozenset(name for name, own in out.items() if not any(own is held for held in arrays.values())),
    )


@dataclass(frozen=True, slots=True)
class Named:
    """What a schema names."""

    models: tuple[str, ...]
    features: tuple[str, ...]  # inputs of the fusion
    columns: tuple[str, ...]  # of queries, with their widths

    @classmethod
    def saved(cls, schema: str, arrays: Components) -> Named:
        """By a schema and the arrays saved under it, which tell how many it names of each kind.

        Raises:
            StateError: it is of another layout, or the arrays do not go with it.
        """
        layout, *named = schema.split("/")
        if layout != f"v{LAYOUT}":
            raise StateError(
                f"it is of layout {layout!r}, expected 'v{LAYOUT}': another version wrote it; go back to that version, "
                "or warm up anew with another snapshots.url"
            )
        features, models = len(arrays[FUSION]["mean"]), len(arrays[BATCH]["candidates.scores"])
        if len(named) != features + sum(name.startswith(COLUMN) for name in arrays[BATCH]):
            raise StateError(f"its arrays do not go with its schema {schema!r}; use another one")
        shares = (name.removesuffix(SHARE) for name in named[:models])
        return cls(tuple(shares), tuple(named[:features]), tuple(named[features:]))

    @classmethod
    def of(cls, pipeline: Pipeline) -> Named:
        """What the schema of this pipeline names."""
        features = pipeline.fusion.names
        _, *others = pipeline.schema.split("/")
        return cls(pipeline.fusion.models, features, tuple(others[len(features) :]))

    def beside_models(self) -> list[str]:
        """The inputs of the fusion that are no model's."""
        of_models = set(names(self.models))
        return [name for name in self.features if name not in of_models]


class Order:
    """Some names in the order that a snapshot has them in, and in the order that they have here."""

    def __init__(self, then: Sequence[str], now: Sequence[str]) -> None:
        self.then, self.now = tuple(then), tuple(now)
        self.new = tuple(name for name in now if name not in then)
        self.gone = tuple(name for name in then if name not in now)
        both = [name for name in now if name in then]
        self.here: Int64 = np.array([self.now.index(name) for name in both], np.int64)
        self.there: Int64 = np.array([self.then.index(name) for name in both], np.int64)

    def moved(self, array: Array, axis: int, blank: npt.ArrayLike = 0) -> Array:
        """The same with one axis in the order of here; where a name is new it is `blank`, which is broadcast."""
        at = axis % array.ndim
        moved = np.full((*array.shape[:at], len(self.now), *array.shape[at + 1 :]), blank, array.dtype)
        np.moveaxis(moved, at, 0)[self.here] = np.moveaxis(array, at, 0)[self.there]
        return moved


def _found(
    component: str, arrays: Components, untaught: Mapping[str, Array], pipeline: Pipeline
) -> Mapping[str, Array] | None:
    """What a snapshot has of a model, else of a twin of it; None for nothing."""
    model = next(one for one in (*pipeline.models, *pipeline.unranked) if MODEL + one.name == component)
    twins = model.twins if isinstance(model, Twin) else ()
    named = (component, *(MODEL + name for name in twins))
    whole = (arrays[name] for name in named if name in arrays and untaught.keys() <= arrays[name].keys())
    return next(whole, arrays.get(component))


def _policies(arrays: Components, models: Order, pipeline: Pipeline) -> tuple[dict[str, Arrays], list[str]]:
    """What policies learned, by component, and which of them begin anew."""
    learning, begun = dict[str, Arrays](), list[str]()
    for name in (name for name in arrays if name.startswith(POLICY)):
        policy = pipeline.answers.policies.untaught(name[len(POLICY) :])
        if isinstance(policy, ByModel):
            axes = policy.by_model
            learning[name] = {
                own: models.moved(array, axes[own]) if own in axes else array for own, array in arrays[name].items()
            }
        else:
            learning[name] = policy.state()
            begun.append(name)
    return learning, begun


def _fusion(saved: Mapping[str, Array], untaught: Mapping[str, Array], features: Order) -> Arrays:
    network = {name: array for name, array in saved.items() if name.startswith(f"{RESIDUAL}.")}
    fusion = {name: array for name, array in saved.items() if name not in network}
    precision = saved["precision"]
    for name in ("mean", "particles"):
        fusion[name] = features.moved(_without(saved[name], precision, features), -1, untaught["mean"])
    fusion["precision"] = untaught["precision"].copy()
    fusion["precision"][np.ix_(features.here, features.here)] = precision[np.ix_(features.there, features.there)]
    usual = f"{RESPONSES}.usual"
    if len(saved[usual]):  # else nothing came of any slate yet
        fusion[usual] = features.moved(saved[usual], -1)
    if RESIDUAL in features.new:
        fusion |= _copies({name: array for name, array in untaught.items() if name.startswith(f"{RESIDUAL}.")})
    elif RESIDUAL in features.now:
        fusion |= _network(network, features)
    return fusion


def _without(weights: Array, precision: Array, features: Order) -> Array:
    """Weights (..., features) of before, those of features that are gone known to be 0, which changes the others.

        w_kept + P_kept,kept^-1 P_kept,gone w_gone        exact of a Gaussian of precision P

    Applied to the mean and to draws alike. Without it, scores would lack what was said by those that are gone alone.
    """
    kept, gone = features.there, np.setdiff1d(np.arange(len(features.then)), features.there)
    if len(gone) == 0:
        return weights
    moved = np.array(weights, np.float64)
    shared = np.asarray(precision[np.ix_(kept, gone)], np.float64)
    try:
        factor = scipy.linalg.cho_factor(precision[np.ix_(kept, kept)], lower=True)
        moved[..., kept] += scipy.linalg.cho_solve(factor, shared @ moved[..., gone].T).T
    except (ValueError, scipy.linalg.LinAlgError):  # a number that is none, or no precision: quarantine sees to it
        return weights
    return moved


def _network(saved: Mapping[str, Array], features: Order) -> Arrays:
    context = [f"{name} of the query" for name in CONTEXT]
    then, now = ([*(name for name in order if name != RESIDUAL), *context] for order in (features.then, features.now))
    inputs = Order(then, now)
    return {name: inputs.moved(array, -1) if name in NETWORK_INPUTS else array for name, array in saved.items()}


def _batch(saved: Mapping[str, Array], models: Order, features: Order, columns: Columns, named: Order) -> Arrays:
    batch = {name: array for name, array in saved.items() if not name.startswith(COLUMN)}
    for name, (width, dtype) in columns.items():
        new = f"{name}[{width}]" in named.new
        batch[COLUMN + name] = np.zeros((len(saved["queries.user"]), width), dtype) if new else saved[COLUMN + name]
    batch["candidates.scores"] = models.moved(saved["candidates.scores"], 0, -np.inf)
    batch["candidates.features"] = features.moved(saved["candidates.features"], 2)
    return batch


def _progress(saved: Mapping[str, Array], lists: Order) -> Arrays:
    progress = dict(saved)
    for name, array in saved.items():
        kind = name.rpartition(".")[2]
        if kind in BY_LIST:
            progress[name] = lists.moved(array, -1)
        elif kind == "tests":
            progress[name] = lists.moved(array, 0, astuple(PageHinkley()))
    return progress


def _quarantine(saved: Mapping[str, Array], without: set[str]) -> Arrays:
    """The record of those that go on."""
    parties, back_at = unpacked_strings("names", saved), unpacked_strings("back_at", saved)
    stay = [at for at, name in enumerate(parties) if name not in without]
    return {
        "phases": saved["phases"][stay],
        "cases": saved["cases"][stay],
        **packed_strings("names", [parties[at] for at in stay]),
        **packed_strings("back_at", [back_at[at] for at in stay]),
    }


def _copies(arrays: Mapping[str, Array]) -> Arrays:
    return {name: array.copy() for name, array in arrays.items()}
