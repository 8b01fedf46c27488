"""Runs a backtest and prints its figures in short."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from streamrec.cli.shared.console import PlainConsole, made, progress_on
from streamrec.cli.shared.logs import LogPart, checked
from streamrec.config.settings import Settings
from streamrec.errors import LogError
from streamrec.evaluation.backtest.report import (
    FEW,
    FUSED,
    BacktestResult,
    against_baseline,
    baseline,
    model_doubts,
    new_items_in_words,
    report_figures,
    verdict,
)
from streamrec.replay.catalogue_file import read_catalogue


def run(
    part: LogPart, settings: Settings, *, out: Path, warmup: float, as_json: bool, rankers: Sequence[str] = ()
) -> None:
    """Check the log, run over it, and print the figures: those of `report.json` as they are, or in short.

    `rankers` of others, to run beside ours, are MODULE:FACTORY each.

    Raises:
        TableError: the log or the catalogue cannot be read as asked; nothing was written.
        ConfigError: a setting does not fit, or a ranker cannot be made.
        LogError: likewise, or nothing of the log could be scored.
        RankerError: a ranker failed.
    """
    log = part.open(settings)
    catalogue = read_catalogue(settings.items, settings.separator) if settings.items is not None else None
    notes = PlainConsole(stderr=True)
    summary = checked(log, notes)
    from streamrec.evaluation.backtest.backtest import backtest  # loads every model: a wrong log is told before that
    from streamrec.evaluation.backtest.foreign import load_rankers

    others = load_rankers(rankers, taken=(FUSED, *settings.learning.models))
    try:
        with progress_on(notes) as progress:
            task = progress.add_task("events", total=len(log))
            result = backtest(
                log,
                settings,
                out,
                warmup=warmup,
                catalogue=catalogue,
                rankers=others,
                refusals=summary.refusals,
                on_progress=lambda events: progress.advance(task, events),
                made=made(),
            )
    except SystemExit:  # a signal's; what was written so far went with it
        notes.print(f"interrupted: nothing of this run was kept, and {out} holds what it held before", soft_wrap=True)
        raise
    _say_left_out(result, notes)
    done = f"{result.events:,} events in {result.seconds:.0f} s; slates.parquet, report.json and report.html in {out}"
    if as_json:
        print(json.dumps(json.loads((out / "report.json").read_text(encoding="utf-8")), ensure_ascii=False))
        notes.print(done, highlight=False, markup=False, soft_wrap=True)
        return
    console = PlainConsole()
    for line in (verdict(result), *model_doubts(result)):
        console.print(line, soft_wrap=True)
    console.print(figures(result))
    console.print(served(result))
    small = sum(0 < part.targets < FEW for part in against_baseline(result).values())
    if small:
        console.print(f"{small} more with fewer than {FEW} targets each, too few to tell: in report.html")
    if words := new_items_in_words(result):
        print(words)
    print(done)


def _say_left_out(result: BacktestResult, notes: PlainConsole) -> None:
    """Say what the worker took for no event; raise LogError where nothing was left to score."""
    if result.counts["dead_letters"]:
        notes.print(f"{result.counts['dead_letters']:,} rows went to the worker's dead letters", highlight=False)
    if not result.scored.any():
        targets = len(result.ranks)
        why = f"all {targets:,} targets lie in the share that is only learned (--warmup)"
        if not targets:
            why = f"none of its {result.events:,} events counts as interest (--positives)"
        raise LogError(f"{result.log}: there was nothing to score: {why}")


def figures(result: BacktestResult) -> Table:
    """The ranking metrics, one row for the fused slate and each model."""
    metrics = report_figures(result)["metrics"]
    assert isinstance(metrics, dict)
    names = [name for name in next(iter(metrics.values()), {}) if name != "targets"]
    title = f"{result.log}: {int(result.scored.sum()):,} scored targets"
    table = Table("", *names, title=title, title_justify="left")
    for model, values in metrics.items():
        table.add_row(model, *(f"{values[name]:.4f}" for name in names))
    return table


def served(result: BacktestResult) -> Table:
    """Who is served how well, beside the best single list: one row for each slice with enough targets."""
    title = f"first ten, in percent: slates beside {baseline(result)}"
    table = Table("by what was known", title=title, title_justify="left", pad_edge=False, padding=(0, 0))
    for name in ("targets", "slates", "best list", "points ahead (95%)"):
        table.add_column(name, no_wrap=True, justify="right")
    for name, part in against_baseline(result).items():
        if part.targets >= FEW or name == "all targets":
            rates = f"{100 * part.recall_10:.2f}", f"{100 * part.baseline_recall_10:.2f}"
            table.add_row(name, f"{part.targets:,}", *rates, part.words())
    return table
