"""A contest: several policies, each alone in an equal world, and an episode of every one.

A contender is a policy by its name (`fusion.policy`), `vw:EXPLORER` for Vowpal Wabbit over the same candidates and
features, `uncapped:POLICY` for a policy without rate limits on what one user can teach, or one of two references:
`oracle` shows the best slate there is, `shuffle` draws uniformly from the items on sale. The rollout of the settings is
set aside: in its own world a contender answers every request.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from streamrec.config import parts
from streamrec.config.settings import Settings
from streamrec.engine.learning.rate_limits import RateLimits
from streamrec.errors import ConfigError, did_you_mean
from streamrec.evaluation.simulation.loop import Episode, System, simulate
from streamrec.evaluation.simulation.standings import ORACLE
from streamrec.evaluation.simulation.systems import Oracle, Shuffle, WorkerSystem
from streamrec.evaluation.simulation.world import World, WorldSettings
from streamrec.worker.loop import Worker

SHUFFLE, VW, UNCAPPED = "shuffle", "vw:", "uncapped:"
DEFAULT = (*(entry.name for entry in parts.POLICIES), "model:popularity", ORACLE, SHUFFLE)

Episodes = dict[str, list[Episode]]


def contest(
    contenders: Sequence[str],
    world: WorldSettings,
    seeds: Sequence[int],
    settings: Settings,
    on_episode: Callable[[str, int, Episode], None] | None = None,
) -> Episodes:
    """Simulate every contender in the world of every seed, one after the other.

    Raises:
        ConfigError: there is no such contender.
    """
    found: Episodes = {name: [] for name in contenders}
    for seed in seeds:
        for name in contenders:
            episode = simulate(World(replace(world, seed=seed)), system_of(name, settings, seed))
            found[name].append(episode)
            if on_episode is not None:
                on_episode(name, seed, episode)
    return found


def system_of(name: str, settings: Settings, seed: int) -> System:
    """The contender of this name; `seed` is for its own random draws.

    Raises:
        ConfigError: there is no such contender.
    """
    if name == ORACLE:
        return Oracle()
    if name == SHUFFLE:
        return Shuffle()
    seeded = alone(settings).model_copy(update={"learning": settings.learning.model_copy(update={"seed": seed})})
    if name.startswith(VW):
        from streamrec.evaluation.simulation.vowpal_wabbit import vw_system

        return vw_system(name.removeprefix(VW), seeded)
    if name.startswith(UNCAPPED):
        return WorkerSystem(with_policy(seeded, name.removeprefix(UNCAPPED)), _uncap)
    return WorkerSystem(with_policy(seeded, name))


def alone(settings: Settings) -> Settings:
    """The settings without their rollout: the policy is online, for everybody."""
    return settings.model_copy(update={"rollout": type(settings.rollout)()})


def _uncap(worker: Worker) -> None:
    pipeline = worker.pipeline
    pipeline.rate_limits = RateLimits.unlimited(pipeline.features.items.capacity)


def with_policy(settings: Settings, name: str) -> Settings:
    """The settings with another policy.

    Raises:
        ConfigError: there is no policy of this name.
    """
    from pydantic import ValidationError

    try:
        fusion = type(settings.fusion).model_validate({**settings.fusion.model_dump(), "policy": name})
    except ValidationError as error:
        raise ConfigError(
            f"no contender is called {name!r}; expected a policy ({', '.join(parts.policies())}, "
            f"model:NAME), {VW}EXPLORER, {UNCAPPED}POLICY, {ORACLE} or {SHUFFLE}"
            + did_you_mean(name, (*parts.policies(), *(f"model:{model}" for model in parts.models()), ORACLE, SHUFFLE))
        ) from error
    return settings.model_copy(update={"fusion": fusion})
