"""Values policies from a log, and prints what was found for people or as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from streamrec.cli.shared.console import PlainConsole, made
from streamrec.cli.shared.outcomes import NONE_YET, OutcomeRange, read
from streamrec.config.settings import Settings
from streamrec.errors import ConfigError
from streamrec.evaluation.ope.evaluation import Evaluation, EvaluationOptions, TargetLog, evaluate
from streamrec.evaluation.ope.outcomes import OutcomeFilter, OutcomeLog
from streamrec.evaluation.ope.report import head, remarks, report, rows, verdict, write_report
from streamrec.evaluation.ope.tables import COLUMN, LOGGED, UNIFORM, TableOptions, read_actions


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
        ConfigError: no outcome counts or names a target, or no target is given.
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
    if not targets:
        named = ", ".join(outcomes.targets)
        raise ConfigError(
            f"whom shall be valued? Give --target NAME; {outcomes.read:,} outcomes were read, which name {named}"
        )
    _finish((outcomes.logged(target) for target in targets), options, printed)


def run_on_table(
    log: Path, table: TableOptions, targets: Sequence[str], options: EvaluationOptions, printed: Printed
) -> None:
    """Value targets from a file of logged actions.

    Raises:
        ConfigError: no target is given.
        TableError: the file, or a target's table, is not what it should be.
    """
    actions = read_actions(log, table)
    if not targets:
        told = f"{UNIFORM}, {COLUMN} (with --map target=COLUMN), {LOGGED}, or a file of probabilities"
        raise ConfigError(f"what shall be valued? Give --target: {told}")
    _finish((actions.logged(target) for target in targets), options, printed)


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
        write_report(printed.out, evaluations, made())
        print_note(f"report.html, report.json and plots are in {printed.out}")


def show(evaluation: Evaluation, console: Console) -> None:
    """One target: the verdict, a table of values, then what to doubt."""
    console.print(verdict(evaluation), soft_wrap=True)
    rounds = evaluation.rounds
    title = f"{evaluation.target}, from {rounds.slates:,} slates ({len(rounds):,} rows) of {evaluation.origin.name}"
    columns = head(evaluation)
    table = Table(*columns, title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for row in rows(evaluation):
        table.add_row(*row)
    console.print(table)
    for line in remarks(evaluation):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
