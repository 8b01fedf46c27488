"""Promotes the policy on trial: asks the gate that belongs to the step, and writes the revision that follows.

The gate looks at the outcomes of slates shown since the revision in force, by the log's clock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, fields

import msgspec

from streamrec.cli.shared import outcomes
from streamrec.cli.shared.console import PlainConsole
from streamrec.cli.shared.outcomes import ROLLOUT, OutcomeRange, OutcomesLeftOut
from streamrec.cli.shared.revisions import described, moment, named, say, written_now
from streamrec.config.settings import Settings
from streamrec.engine.rollout.plan import CONTROL
from streamrec.engine.rollout.revisions import Mode, Revision
from streamrec.errors import ConfigError, PromotionRefused, did_you_mean
from streamrec.evaluation.experiments.arms import DEFAULT_DESIGN, ExperimentDesign, analyse
from streamrec.evaluation.experiments.gates import (
    LADDER,
    Gate,
    OffPolicyEstimate,
    Thresholds,
    apprentice_gate,
    canary_gate,
    larger_canary_gate,
    shadow_gate,
)
from streamrec.evaluation.experiments.imitation import imitation
from streamrec.evaluation.experiments.slates import SettledSlates
from streamrec.events import Outcome
from streamrec.wiring import build_plan, build_rollout_store, settled_revision

Appraisal = Callable[[Sequence[Outcome], str], OffPolicyEstimate | None]
"""What the policy of this name is worth by these outcomes; None where nothing can be said."""


@dataclass(frozen=True, slots=True)
class Promotion:
    """What is asked for. Without `to`, the next step of the ladder."""

    to: Mode | None = None
    share: float | None = None
    force: bool = False
    only_check: bool = False
    why: str = ""
    since: str | None = None
    required: Mapping[str, float] | None = None  # thresholds in place of the defaults
    terms: ExperimentDesign = DEFAULT_DESIGN


def run(settings: Settings, asked: Promotion, appraise: Appraisal, *, as_json: bool) -> None:
    """Ask the gate, and write the revision that follows.

    As JSON one object is printed, also where the gate is shut: the gate, or none where it was not asked, and the
    revision that was written, or none.

    Raises:
        PromotionRefused: the gate is shut; the message has the figures. Nothing was changed.
        ConfigError: there is no such step, or it needs to be forced.
        StateError: Redis does not answer, or somebody else changed the rollout meanwhile.
        TransportError: the outcomes cannot be read.
    """
    # As JSON the words are notes.
    console = PlainConsole(stderr=as_json)
    with closing(build_rollout_store(settings)) as rollouts:
        current = rollouts.latest() or settled_revision(settings)
        to = _step(current, asked)
        following = _following(settings, current, to, asked)
        build_plan(settings, following)  # before anything is written
        gate = None if asked.force and _skips(current.mode, to) else _gate(settings, current, to, asked, appraise)
        if gate is not None:
            _print_gate(console, gate)
            following = msgspec.structs.replace(following, figures=gate.figures)
            if not gate.passed and not asked.force:
                _print_json(gate, None, as_json)
                reasons = "; ".join(map(str, gate.refusals))
                raise PromotionRefused(
                    f"{current.policy} stays {current.mode.value}, not {to.value}: {reasons}. Wait for more, or --force"
                )
        if asked.only_check:
            say(console, "nothing was changed: --check")
            _print_json(gate, None, as_json)
            return
        following = msgspec.structs.replace(following, forced=gate is None or not gate.passed)
        rollouts.append(following)
    _print_json(gate, following, as_json)
    say(console, f"{named(following)}: {described(following)}; workers follow at their next checkpoint")


def thresholds(required: Mapping[str, float] | None) -> Thresholds:
    """The thresholds of gates, some of them set by hand.

    Raises:
        ConfigError: there is no such threshold.
    """
    known = [field.name for field in fields(Thresholds)]
    for name in required or ():
        if name not in known:
            raise ConfigError(
                f"--require {name}: there is no such threshold; there are {', '.join(known)}{did_you_mean(name, known)}"
            )
    return Thresholds().with_changes(dict(required or {}))


def _step(current: Revision, asked: Promotion) -> Mode:
    """The mode that follows, if there is a way to it."""
    if asked.to is None:
        if current.mode is Mode.CANARY and asked.share is not None:
            return Mode.CANARY
        if current.mode is Mode.ONLINE:
            raise ConfigError(
                f"{current.policy} is online: there is no step further; a new trial starts in the settings"
            )
        return LADDER[LADDER.index(current.mode) + 1]
    steps = LADDER.index(asked.to) - LADDER.index(current.mode)
    if steps < 0:
        back = f"{asked.to.value} is a step back from {current.mode.value}; use `streamrec rollback`"
        raise ConfigError(f"{back}, or start a new trial with rollout.mode and rollout.baseline in the settings")
    if steps == 0 and not (asked.to is Mode.CANARY and asked.share is not None):
        raise ConfigError(f"the rollout is {current.mode.value} already")
    if steps > 1 and not asked.force:
        between = LADDER[LADDER.index(current.mode) + 1]
        raise ConfigError(f"between {current.mode.value} and {asked.to.value} is {between.value}; --force skips it")
    return asked.to


def _skips(before: Mode, after: Mode) -> bool:
    return LADDER.index(after) - LADDER.index(before) > 1


def _following(settings: Settings, current: Revision, to: Mode, asked: Promotion) -> Revision:
    if asked.share is not None and to is not Mode.CANARY:
        raise ConfigError(f"--share is for a canary; {to.value} has none")
    share = current.share if asked.share is None else asked.share
    if current.mode is to is Mode.CANARY and share <= current.share:
        raise ConfigError(f"--share is {share:g} and the canary's share {current.share:g}: not larger")
    return msgspec.structs.replace(
        current,
        number=current.number + 1,
        **written_now(settings),
        mode=to,
        share=share,
        why=asked.why or f"promoted from {current.mode.value}",
        figures={},
        restores=None,
    )


def _gate(settings: Settings, current: Revision, to: Mode, asked: Promotion, appraise: Appraisal) -> Gate:
    needed = thresholds(asked.required)
    in_force = asked.since in (None, ROLLOUT)
    since = (current.first_shown_ts or None) if in_force else outcomes.time_of(asked.since, "--since")
    settlement, kept = SettledSlates(asked.terms.bound), list[Outcome]()

    def take(partition: int, outcome: Outcome) -> None:
        if outcome.mode != current.mode:
            return
        if settlement.add(outcome, partition) and current.mode is Mode.SHADOW:
            kept.append(outcome)

    _note(settings, outcomes.read(settings, OutcomeRange(since), take), since, current if in_force else None)
    match current.mode:
        case Mode.APPRENTICE:
            return apprentice_gate(imitation(settlement, current.policy, asked.terms.alpha), needed)
        case Mode.SHADOW:
            return shadow_gate(appraise(kept, current.policy), needed)
    experiment = analyse(settlement, asked.terms, (CONTROL,))
    return larger_canary_gate(experiment, needed) if to is Mode.CANARY else canary_gate(experiment, needed)


def _note(settings: Settings, left_out: OutcomesLeftOut, since: int | None, current: Revision | None) -> None:
    """Say what was left out; `current` where its outcomes alone count, without `--since`."""
    console = PlainConsole(stderr=True)
    if left_out.unreadable:
        messages = f"{left_out.unreadable:,} messages of {settings.topics.outcomes}"
        say(console, f"note: {messages} are no outcomes and were left out")
    if since is not None and left_out.by_time:
        why = "as --since says"
        if current is not None:
            clock = "the wall clock" if current.log_ts is None else "the log's clock"
            why = f"then {named(current)} came, by {clock}; name another time with --since"
        words = f"note: {left_out.by_time:,} outcomes of slates shown before {moment(since)} were left out: {why}"
        say(console, words)


def _print_json(gate: Gate | None, revision: Revision | None, as_json: bool) -> None:
    if not as_json:
        return
    asked = gate and {
        "from": gate.before.value,
        "to": gate.after.value,
        "passed": gate.passed,
        "checks": [
            {"name": c.name, "what": c.what, "found": c.found, "least": c.least, "passed": c.passed}
            for c in gate.checks
        ],
        "needs": {need.case: {"users": need.users, "days": need.days} for need in gate.needs},
    }
    print(msgspec.json.encode({"gate": asked, "revision": revision}).decode())


def _print_gate(console: PlainConsole, gate: Gate) -> None:
    say(console, f"gate from {gate.before.value} to {gate.after.value}:")
    for check in gate.checks:
        say(console, f"  {'passed' if check.passed else 'failed'}  {check}")
    for need in gate.needs:
        say(console, f"  {need}")
