"""About how many more users, and days, a canary takes until it is known to be not worse than its control by a margin.

The interval of their difference is as wide as users differ; how far it has to shrink depends on how much better the
canary is, which is what nobody knows yet. So there are two answers: for the difference as it was found, and for none;
while nothing is known of the width, the least that the gate asks for. Days are told by the users who were counted in
the last 24 hours of the log.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from streamrec.evaluation.experiments.arms import DAY_MS, Arm, Comparison, Experiment
from streamrec.evaluation.experiments.significance import rounded, times_needed

Case = Literal["as_found", "alike", "at_least"]


@dataclass(frozen=True, slots=True)
class UsersNeeded:
    """What more is needed if the difference is `supposed`, in reward per slate."""

    case: Case
    supposed: float
    users: int | None  # of both arms together; None: no number of users is enough
    days: float | None  # None: no number, or nobody knows how many come in a day

    def __str__(self) -> str:
        cases = {
            "as_found": f"if the difference stays {self.supposed:+.4g}",
            "alike": "if there is no difference",
            "at_least": "before anything can be said",
        }
        if self.users is None:
            return f"{cases[self.case]}: no number of users is enough"
        about = f"{cases[self.case]}: about {self.users:,} more users in both arms"
        if self.days is None:
            return about
        return f"{about}, {self.days:,.{0 if self.days >= 10 else 1}f} days at the last day's rate"


def users_needed(
    experiment: Experiment, compared: Comparison, min_users: float, margin: float
) -> tuple[UsersNeeded, ...]:
    """For the difference as it was found, and for none; nothing where there is nothing to tell it by.

    Args:
        experiment: its arms.
        compared: the canary with its control.
        min_users: in each of the two arms, at least.
        margin: the lower bound of the difference has to be above minus this.
    """
    arms = [arm for arm in experiment.arms if arm.name in (compared.arm, compared.control)]
    fewest = min(arm.users for arm in arms)
    if fewest == 0:
        return ()
    users, rate = sum(arm.users for arm in arms), _users_a_day(arms)

    def need(case: Case, supposed: float, times: float) -> UsersNeeded:
        times = max(times, min_users / fewest)
        if not math.isfinite(times):
            return UsersNeeded(case, supposed, None, None)
        more = rounded((times - 1) * users)
        return UsersNeeded(case, supposed, more, None if rate is None else more / rate)

    if not math.isfinite(compared.margin(1.0)):
        return (need("at_least", 0.0, 1.0),) if fewest < min_users else ()
    found = compared.difference.mean
    return (
        need("as_found", found, times_needed(compared.margin, found + margin)),
        need("alike", 0.0, times_needed(compared.margin, margin)),
    )


def _users_a_day(arms: list[Arm]) -> float | None:
    """Users counted in the last 24 hours, or in less where there is less; None where all came at once."""
    ts = np.concatenate([arm.trace.ts for arm in arms])
    newest = int(ts.max())
    since = max(newest - DAY_MS, int(ts.min()))
    return float((ts > since).sum() * DAY_MS / (newest - since)) if newest > since else None
