"""What a policy in the shadow is worth by the slates of its baseline: the estimate that its gate asks for."""

from __future__ import annotations

import math
from collections.abc import Sequence

from streamrec.evaluation.experiments.gates import OffPolicyEstimate
from streamrec.evaluation.ope.evaluation import EvaluationOptions, evaluate
from streamrec.evaluation.ope.outcomes import OutcomeFilter, OutcomeLog
from streamrec.events import Outcome

FIRST = 1


def appraise(outcomes: Sequence[Outcome], policy: str) -> OffPolicyEstimate | None:
    """By self-normalised inverse propensities over users; None where no outcome speaks of the policy.

    Of each slate the first place counts: a choice given nothing before it, so that one ratio weighs it. Products of
    ratios over a whole slate would leave a few slates to decide. Support is the mean weight, cut at one: where the
    policy does what the baseline never does, weights fall short of their mean of one by that much.
    """
    log = OutcomeLog(OutcomeFilter(), len(outcomes) or 1)
    for outcome in outcomes:
        if outcome.position == FIRST:
            log.add(outcome)
    if policy not in log.targets:
        return None
    found = evaluate(log.logged(policy), EvaluationOptions())
    estimate = next(value for value in found.values if value.name == "snips")
    return OffPolicyEstimate(
        policy=policy,
        estimate=estimate.value,
        lower=math.nan if estimate.interval is None else estimate.interval.low,
        baseline=found.logged.value,
        rewarded=found.rewarded,
        support=min(1.0, min(step.mean for step in found.steps)),
        slates=found.rounds.slates,
    )
