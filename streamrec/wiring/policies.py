"""The policies by name, and the plan of which policy answers which user."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from streamrec.config.groups import MODELS
from streamrec.engine.rollout.revisions import Mode, Revision
from streamrec.errors import ConfigError
from streamrec.wiring.models import BASELINE

if TYPE_CHECKING:
    from streamrec.config.settings import Settings
    from streamrec.engine.policies import Policy
    from streamrec.engine.rollout.plan import Plan
    from streamrec.engine.rollout.revisions import RolloutStore


def build_policy(settings: Settings, name: str) -> Policy:
    """The policy of that name, untaught.

    Raises:
        ConfigError: it ranks by a model that is not among `learning.models`.
    """
    from streamrec.engine.policies.deterministic import Greedy, ModelAlone, Uniform
    from streamrec.engine.policies.exp3 import Exp3
    from streamrec.engine.policies.linear import Thompson, UpperConfidence
    from streamrec.engine.policies.plackett_luce import PlackettLuce

    fusion, models = settings.fusion, [name for name in MODELS if name in settings.learning.models]
    makers: dict[str, Callable[[str], Policy]] = {
        "plackett-luce": lambda name: PlackettLuce(name, fusion.temperature, fusion.explore),
        "greedy": Greedy,
        "thompson": lambda name: Thompson(name, fusion.temperature, fusion.explore),
        "linucb": lambda name: UpperConfidence(name, fusion.explore),
        "exp3": lambda name: Exp3(name, len(models), fusion.explore),
        "uniform": Uniform,
    }
    if name in makers:
        return makers[name](name)
    alone = name.removeprefix("model:")
    if alone not in models:
        raise ConfigError(
            f"policy {name!r} ranks by a model that is not there; learning.models are {', '.join(models)}"
        )
    return ModelAlone(name, models.index(alone), models.index(BASELINE))


def build_plan(settings: Settings, revision: Revision | None = None) -> Plan:
    """Which user gets which policy: by a revision, or as the settings say.

    Raises:
        ConfigError: the parts of the rollout do not fit together, or a policy's model is not there.
    """
    from streamrec.engine.rollout.plan import Plan

    plan = Plan.of(revision or settled_revision(settings), settings.rollout.evaluate)
    for name in plan.policies():
        build_policy(settings, name)
    return plan


def settled_revision(settings: Settings) -> Revision:
    """Revision 0: the rollout as the settings say."""
    rollout = settings.rollout
    return Revision(
        number=0,
        ts=0,
        mode=Mode(rollout.mode),
        policy=settings.fusion.policy,
        baseline=rollout.baseline,
        share=rollout.share,
        arms=dict(rollout.arms),
        interleave=rollout.interleave,
        salt=rollout.salt,
        why="the settings",
    )


def following(settings: Settings, rollouts: RolloutStore) -> Callable[[], Plan | None]:
    """Looks into the rollout store: the plan of its newest revision if that is new since the last call, else None."""
    known: list[int] = []

    def revised() -> Plan | None:
        revision = rollouts.latest()
        if revision is None or known == [revision.number]:
            return None
        known[:] = [revision.number]
        return build_plan(settings, revision)

    return revised
