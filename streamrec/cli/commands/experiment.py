"""Judges an experiment by a range of the outcomes topic, for people or as JSON."""

from __future__ import annotations

import json
import math
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from streamrec.cli.shared import outcomes
from streamrec.cli.shared.console import PlainConsole
from streamrec.cli.shared.outcomes import ROLLOUT, OutcomeRange, OutcomesLeftOut
from streamrec.config.settings import Settings
from streamrec.engine.rollout.revisions import Revision
from streamrec.errors import ConfigError
from streamrec.evaluation.experiments.arms import DEFAULT_DESIGN, Experiment, ExperimentDesign, analyse
from streamrec.evaluation.experiments.confidence import MeanInterval
from streamrec.evaluation.experiments.imitation import Imitation, imitation
from streamrec.evaluation.experiments.interleaving import InterleavingResult, compare_interleaved
from streamrec.evaluation.experiments.report import figures
from streamrec.evaluation.experiments.slates import SettledSlates
from streamrec.events import Outcome
from streamrec.wiring import build_rollout_store, settled_revision


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
    pair = compare_interleaved(settlement, question.terms.alpha, current.interleave)
    alike = _apprentice(settlement, current, question.terms.alpha)
    report = {**figures(settlement, question.terms, experiment, pair, alike), **left_out._asdict()}
    if out is not None:
        from streamrec.evaluation.experiments.plots import pictures  # matplotlib, needed with --out alone

        out.mkdir(parents=True, exist_ok=True)
        (out / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        for name, picture in pictures(experiment, pair).items():
            (out / name).write_text(picture, encoding="utf-8")
    if as_json:
        print(json.dumps(report, ensure_ascii=False))
        return
    console = PlainConsole()
    _say(console, f"{settlement.outcomes:,} outcomes of {report['slates']:,} slates{_left_out(settlement, left_out)}")
    if settlement.outcomes == 0:
        _say(console, f"nothing to judge yet: {outcomes.NONE_YET}")
    _print_arms(console, experiment, question.terms)
    _print_interleaving(console, pair)
    _print_imitation(console, alike)
    if out is not None:
        print(f"report.json and plots in {out}")


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


def _print_arms(console: Console, experiment: Experiment, terms: ExperimentDesign) -> None:
    if not experiment.arms:
        return
    share = f"{100 * (1 - terms.alpha):g}%"
    columns = ("arm", "policy", "users", "slates", "per slate", "reward", f"{share} sequence", "difference", "sequence")
    control = experiment.arms[0].name
    title = f"reward per slate, users' means over {terms.window_ms / 3_600_000:g} h each; control: {control}"
    table = Table(*columns, title=title, title_justify="left")
    apart = {compared.arm: compared.difference for compared in experiment.comparisons}
    for arm in experiment.arms:
        difference = apart.get(arm.name)
        table.add_row(
            arm.name,
            ", ".join(arm.policies),
            f"{arm.users:,}" + (f" (+{arm.waiting:,} waiting)" if arm.waiting else ""),
            f"{arm.slates:,}",
            _figure(arm.reward_per_slate),
            _figure(arm.reward.mean),
            _between(arm.reward),
            "" if difference is None else f"{difference.mean:+.4f}",
            "" if difference is None else _between(difference),
        )
    console.print(table)
    if len(experiment.arms) > 1 and not experiment.comparisons:
        _say(console, "these policies were not shown at the same time to users chosen by chance: not compared")
    for compared in experiment.comparisons:
        _say(console, f"{compared.arm} beside {compared.control}: {compared.significance}")
    if experiment.moved_slates:
        _say(console, f"{experiment.moved_slates:,} slates of users who had been in another arm are left out")
    waiting = sum(arm.waiting for arm in experiment.arms)
    if waiting and not any(arm.users for arm in experiment.arms):
        hours = terms.window_ms / 3_600_000
        _say(console, f"no user's window of {hours:g} h is over: wait, or ask with a shorter --window")


def _print_interleaving(console: Console, pair: InterleavingResult | None) -> None:
    if pair is None:
        return
    wins = f"{pair.wins:,} won, {pair.losses:,} lost, {pair.ties:,} ties of {pair.slates:,} slates"
    _say(console, f"{pair.first} against {pair.second}: {wins}")
    _say(
        console,
        f"preference {pair.preference.mean:.4f}, {_between(pair.preference)}; {pair.first} is {pair.significance}",
    )


def _print_imitation(console: Console, alike: Imitation | None) -> None:
    if alike is None:
        return
    rate = f"{alike.match_rate.mean:.3f} of {alike.slates:,} slates, {_between(alike.match_rate)}"
    _say(console, f"{alike.policy} would have begun alike on {rate}; overlap at {alike.k}: {_figure(alike.overlap)}")


def _say(console: Console, words: str) -> None:
    console.print(words, highlight=False, markup=False, soft_wrap=True)


def _between(interval: MeanInterval) -> str:
    if not math.isfinite(interval.lower):
        return "?"
    return f"{interval.lower:.4f} to {interval.upper:.4f}"


def _figure(value: float) -> str:
    return "?" if value != value else f"{value:.4f}"
