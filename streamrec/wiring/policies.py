"""The policies by name, and the plan of which policy answers which user."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from streamrec.config import parts as listed
from streamrec.config.groups import ALONE
from streamrec.config.parts import BASELINE
from streamrec.engine.rollout.revisions import Mode, Revision
from streamrec.errors import ConfigError

if TYPE_CHECKING:
    from streamrec.config.settings import Settings
    from streamrec.engine.policies import Policy
    from streamrec.engine.rollout.plan import Plan
    from streamrec.engine.rollout.revisions import RolloutStore


def build_policy(settings: Settings, name: str) -> Policy:
    """The policy of that name, untaught.

    Raises:
        ConfigError: it ranks by a model that is not among `learning.models`, or it cannot be built.
    """
    from streamrec.engine.policies import PolicyParts
    from streamrec.engine.policies.deterministic import ModelAlone

    fusion, models = settings.fusion, tuple(name for name in listed.models() if name in settings.learning.models)
    if name in listed.policies():
        policy: Policy = listed.built(
            listed.policies()[name], PolicyParts(name, models, fusion.temperature, fusion.explore)
        )
        return policy
    alone = name.removeprefix(ALONE)
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
