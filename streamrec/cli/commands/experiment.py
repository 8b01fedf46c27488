"""Judges an experiment by a range of the outcomes topic, for people or as JSON."""

from __future__ import annotations

import json
import math
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from streamrec.cli.shared import outcomes
from streamrec.cli.shared.console import PlainConsole, made, print_records
from streamrec.cli.shared.outcomes import ROLLOUT, OutcomeRange, OutcomesLeftOut
from streamrec.config.settings import Settings
from streamrec.engine.rollout.revisions import Revision
from streamrec.errors import ConfigError, did_you_mean
from streamrec.evaluation import pages
from streamrec.evaluation.experiments.arms import DEFAULT_DESIGN, Experiment, ExperimentDesign, analyse
from streamrec.evaluation.experiments.confidence import MANY, MeanInterval
from streamrec.evaluation.experiments.imitation import Imitation, imitation
from streamrec.evaluation.experiments.interleaving import InterleavingResult, compare_interleaved
from streamrec.evaluation.experiments.report import figures
from streamrec.evaluation.experiments.significance import Verdict
from streamrec.evaluation.experiments.slates import SettledSlates
from streamrec.events import Outcome
from streamrec.wiring import build_rollout_store, settled_revision

COLUMNS = ("arm", "policy", "users", "slates", "reward per slate", "compared by", "difference")


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: of which outcomes, on which terms, against which arm."""

    since: str | None = None
    until: str | None = None
    file: Path | None = None
    terms: ExperimentDesign = DEFAULT_DESIGN
    control: str | None = None


def run(settings: Settings, question: Question, *, as_json: bool, out: Path | None) -> None:
    """Read, judge, print; with `out`, also write report.json and the plots there.

    Raises:
        ConfigError: a time that is none, or nothing that was read is an outcome.
        TransportError, TableError: the outcomes cannot be read.
        StateError: `--since rollout`, and Redis does not answer.
    """
    current = _current(settings, question.since)
    since = current.first_shown_ts if question.since == ROLLOUT else outcomes.time_of(question.since, "--since")
    part = OutcomeRange(since, outcomes.time_of(question.until, "--until"), question.file)
    settlement = SettledSlates(question.terms.bound)

    def take(partition: int, outcome: Outcome) -> None:
        settlement.add(outcome, partition)

    left_out = outcomes.read(settings, part, take)
    unreadable = left_out.unreadable
    if unreadable and not settlement.outcomes:
        where = f"topic {settings.topics.outcomes!r}" if question.file is None else str(question.file)
        raise ConfigError(
            f"{where}: nothing to judge: none of {unreadable:,} messages is an outcome; give the right one"
        )
    experiment = analyse(settlement, question.terms, _preferred(question, current))
    _see_that_there_is(question.control, experiment)
    pair = compare_interleaved(settlement, question.terms.alpha, current.interleave)
    alike = _apprentice(settlement, current, question.terms.alpha)
    report = {**figures(settlement, question.terms, experiment, pair, alike), **left_out._asdict()}
    if out is not None:
        from streamrec.evaluation.experiments.plots import pictures  # matplotlib, needed with --out alone
        from streamrec.evaluation.plotting import standalone

        out.mkdir(parents=True, exist_ok=True)
        (out / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        drawn = pictures(experiment, pair)
        for name, picture in drawn.items():
            (out / name).write_text(standalone(picture), encoding="utf-8")
        meaning = pages.escaped(_meaning(question.terms))
        body = f"<h2>The arms</h2>{pages.table_of(COLUMNS, _rows(experiment))}<p>{meaning}</p>"
        body += "".join(f"<h2>Over time</h2><figure>{picture}</figure>" for picture in drawn.values())
        found = [*verdict(experiment), *_of_pair(pair), *_of_apprentice(alike), _read(settlement, left_out)]
        page = pages.page("Experiment", found, body, made())
        (out / "report.html").write_text(page, encoding="utf-8")
    if as_json:
        print(json.dumps(report, ensure_ascii=False))
        return
    console = PlainConsole()
    for said in verdict(experiment):
        _say(console, said)
    _say(console, _read(settlement, left_out))
    if settlement.outcomes == 0:
        _say(console, f"nothing to judge yet: {outcomes.NONE_YET}")
    _print_arms(console, experiment, question.terms)
    for said in (*_of_pair(pair), *_of_apprentice(alike)):
        _say(console, said)
    if out is not None:
        print(f"report.html, report.json and plots in {out}")


def _current(settings: Settings, since: str | None) -> Revision:
    """The revision in force. Redis is only asked where the answer depends on it."""
    if since != ROLLOUT:
        return settled_revision(settings)
    with closing(build_rollout_store(settings)) as rollouts:
        latest = rollouts.latest()
    if latest is None:
        raise ConfigError("--since rollout: the rollout was never changed, the settings alone count; give a time")
    return latest


def _preferred(question: Question, current: Revision) -> list[str]:
    """Who may be the control, in order: who was named, the policy that is not on trial, the first arm."""
    named = [] if question.control is None else [question.control]
    return [*named, current.policy, *current.arms] if current.arms else named


def _see_that_there_is(control: str | None, experiment: Experiment) -> None:
    arms = [arm.name for arm in experiment.arms]
    if control is not None and arms and control not in arms:
        near = did_you_mean(control, arms)
        raise ConfigError(f"--control {control}: there is no such arm; there are {', '.join(arms)}{near}")


def _apprentice(settlement: SettledSlates, current: Revision, alpha: float) -> Imitation | None:
    proposing = {policy for slate in settlement.slates() for policy in slate.proposed}
    if not proposing:
        return None
    return imitation(settlement, current.policy if current.policy in proposing else min(proposing), alpha)


def _left_out(settlement: SettledSlates, left_out: OutcomesLeftOut) -> str:
    words = [f"{settlement.duplicates:,} repeats left out"] if settlement.duplicates else []
    words += [f"{left_out.unreadable:,} messages were no outcomes"] if left_out.unreadable else []
    words += [f"{left_out.by_time:,} of slates shown at other times left out"] if left_out.by_time else []
    return "".join(f"; {word}" for word in words)


def verdict(experiment: Experiment) -> list[str]:
    """What is known by now, in sentences."""
    if len(experiment.arms) > 1 and not experiment.comparisons:
        return ["Not compared: these policies were not shown at the same time to users chosen by chance."]
    said = []
    for compared in experiment.comparisons:
        known, pair = compared.significance.decision, f"{compared.arm} is %s than {compared.control}"
        if known is Verdict.UNKNOWN:
            need = str(compared.significance).partition(": ")[2]
            found = f"Whether {pair % 'better'} is {known.value}: {need}"
        else:
            found = pair % known.value
        apart = compared.difference
        said.append(f"{found} (difference {apart.mean:+.4f}, {_between(apart)}).")
    return said or ["There is one arm, and nothing to compare it to."] * bool(experiment.arms)


def _print_arms(console: Console, experiment: Experiment, terms: ExperimentDesign) -> None:
    if not experiment.arms:
        return
    print_records(console, COLUMNS, _rows(experiment), f"control: {experiment.arms[0].name}")
    _say(console, _meaning(terms))
    if experiment.moved_slates:
        _say(console, f"{experiment.moved_slates:,} slates of users who had been in another arm are left out")
    waiting = sum(arm.waiting for arm in experiment.arms)
    if waiting and not any(arm.users for arm in experiment.arms):
        hours = terms.window_ms / 3_600_000
        _say(console, f"no user's window of {hours:g} h is over: wait, or ask with a shorter --window")


def _rows(experiment: Experiment) -> list[list[str]]:
    apart = {compared.arm: compared.difference for compared in experiment.comparisons}
    return [
        [
            arm.name,
            ", ".join(arm.policies),
            f"{arm.users:,}" + (f" (+{arm.waiting:,} waiting)" if arm.waiting else ""),
            f"{arm.slates:,}",
            _figure(arm.reward_per_slate),
            f"{_figure(arm.reward.mean)}, {_between(arm.reward)}",
            "" if arm.name not in apart else f"{apart[arm.name].mean:+.4f}, {_between(apart[arm.name])}",
        ]
        for arm in experiment.arms
    ]


def _meaning(terms: ExperimentDesign) -> str:
    share, hours = f"{100 * (1 - terms.alpha):g}%", terms.window_ms / 3_600_000
    return (
        "reward per slate: the sum over its items, as `streamrec ope` has it. Compared are users' means over "
        f"{hours:g} h each, no slate counting for more than {terms.bound:g}, with {share} sequences; "
        f"?: fewer than {MANY} users"
    )


def _read(settlement: SettledSlates, left_out: OutcomesLeftOut) -> str:
    slates = len(settlement.slates())
    return f"{settlement.outcomes:,} outcomes of {slates:,} slates{_left_out(settlement, left_out)}"


def _of_pair(pair: InterleavingResult | None) -> list[str]:
    if pair is None:
        return []
    wins = f"{pair.wins:,} won, {pair.losses:,} lost, {pair.ties:,} ties of {pair.slates:,} slates"
    return [
        f"{pair.first} against {pair.second}: {wins}",
        f"preference {pair.preference.mean:.4f}, {_between(pair.preference)}; {pair.first} is {pair.significance}",
    ]


def _of_apprentice(alike: Imitation | None) -> list[str]:
    if alike is None:
        return []
    rate = f"{alike.match_rate.mean:.3f} of {alike.slates:,} slates, {_between(alike.match_rate)}"
    return [f"{alike.policy} would have begun alike on {rate}; overlap at {alike.k}: {_figure(alike.overlap)}"]


def _say(console: Console, words: str) -> None:
    console.print(words, highlight=False, markup=False, soft_wrap=True)


def _between(interval: MeanInterval) -> str:
    if not math.isfinite(interval.lower):
        return "?"
    return f"{interval.lower:.4f} to {interval.upper:.4f}"


def _figure(value: float) -> str:
    return "?" if value != value else f"{value:.4f}"
