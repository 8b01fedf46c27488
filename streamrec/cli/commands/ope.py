"""Values policies from a log, and prints what was found for people or as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from streamrec.cli.shared.console import PlainConsole
from streamrec.cli.shared.outcomes import NONE_YET, OutcomeRange, read
from streamrec.config.settings import Settings
from streamrec.errors import ConfigError
from streamrec.evaluation.ope.estimators import TITLES
from streamrec.evaluation.ope.evaluation import (
    MIN_REWARDED,
    Evaluation,
    EvaluationOptions,
    PolicyValue,
    TargetLog,
    evaluate,
)
from streamrec.evaluation.ope.intervals import Interval
from streamrec.evaluation.ope.outcomes import OutcomeFilter, OutcomeLog, targets_of
from streamrec.evaluation.ope.report import report, write_report
from streamrec.evaluation.ope.tables import LOGGED, TableOptions, read_actions


@dataclass(frozen=True, slots=True)
class Printed:
    """Where the findings go."""

    as_json: bool = False
    out: Path | None = None


def run_on_topic(
    settings: Settings,
    wanted: OutcomeFilter,
    targets: Sequence[str],
    options: EvaluationOptions,
    printed: Printed,
    *,
    limit: int,
    by_user: bool,
) -> None:
    """Value targets from the outcomes topic as it is now.

    Raises:
        ConfigError: no outcome counts or names a target.
        TransportError: the topic cannot be read.
    """
    outcomes = OutcomeLog(wanted, limit, by_user=by_user)
    with PlainConsole(stderr=True).status(f"reading {settings.topics.outcomes}"):
        part = OutcomeRange(wanted.since, wanted.until)
        left_out = read(settings, part, lambda partition, outcome: outcomes.add(outcome))
    if left_out.by_time:
        print_note(f"{left_out.by_time:,} outcomes of slates shown outside --since and --until were left out")
    if left_out.unreadable:
        print_note(f"{left_out.unreadable:,} records of {settings.topics.outcomes} are no outcomes and were skipped")
    if outcomes.read == 0:
        raise ConfigError(f"nothing to value was found in topic {settings.topics.outcomes!r}: {NONE_YET}")
    _finish((outcomes.logged(target) for target in targets_of(outcomes, targets)), options, printed)


def run_on_table(
    log: Path, table: TableOptions, targets: Sequence[str], options: EvaluationOptions, printed: Printed
) -> None:
    """Value targets from a file of logged actions.

    Raises:
        TableError: the file, or a target's table, is not what it should be.
    """
    actions = read_actions(log, table)
    _finish((actions.logged(target) for target in targets or (LOGGED,)), options, printed)


def print_note(words: str) -> None:
    """A line beside the results, for people."""
    PlainConsole(stderr=True).print(f"note: {words}", highlight=False, markup=False)


def _finish(logs: Iterator[TargetLog], options: EvaluationOptions, printed: Printed) -> None:
    evaluations = [evaluate(log, options) for log in logs]
    if printed.as_json:
        print(json.dumps(report(evaluations)))
    else:
        for evaluation in evaluations:
            show(evaluation, PlainConsole())
    if printed.out is not None:
        write_report(printed.out, evaluations)
        print_note(f"report.json and plots are in {printed.out}")


def show(evaluation: Evaluation, console: Console) -> None:
    """One target: a table of values, then what to doubt."""
    rounds, options, logged = evaluation.rounds, evaluation.options, evaluation.logged
    percent = f"{options.level:.0%}"
    title = f"{evaluation.target}, from {rounds.slates:,} slates ({len(rounds):,} rows) of {evaluation.origin.name}"
    columns = ("", "value", f"{percent} bootstrap", f"{percent} Bernstein", "to logged")
    table = Table(*columns, title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_row("logged", f"{logged.value:.4g}", *_intervals(logged), "")
    for value in evaluation.values:
        mark = (" *" if value.biased else "") + (" !" if value.impossible else "")
        beside = "" if not logged.value or value.impossible else f"{value.value / logged.value:.3f}"
        table.add_row(_title(value) + mark, f"{value.value:.4g}", *_intervals(value), beside)
    console.print(table)
    unit = "slate" if rounds.users is None else "user"
    users = "" if rounds.users is None else f" ({rounds.users:,})"
    words = f"weights by {options.weighting.value}, intervals by {unit}{users}"
    lines = [f"{evaluation.ess:,.1f} effective slates; reward per slate, {words}"]
    if any(value.biased for value in evaluation.values):
        lines.append("* no interval: nothing tells how large the estimate's bias is")
    if any(value.interval is None and not (value.biased or value.impossible) for value in (logged, *evaluation.values)):
        lines.append(f"none: the rewards are of fewer than {MIN_REWARDED:.0f} equal {unit}s, or all the same")
    if evaluation.without_model is not None:
        lines.append(f"no direct or doubly robust estimates: {evaluation.without_model}")
    lines += [f"warning: {warning}" for warning in evaluation.warnings]
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _title(value: PolicyValue) -> str:
    return TITLES[value.name] if value.tuned is None else f"{TITLES[value.name]} {value.tuned:.3g}"


def _intervals(value: PolicyValue) -> tuple[str, str]:
    return _ends(value.interval), _ends(value.bernstein)


def _ends(interval: Interval | None) -> str:
    return "none" if interval is None else f"{interval.low:.3g} to {interval.high:.3g}"
