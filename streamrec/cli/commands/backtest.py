"""Runs a backtest and prints its figures in short."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from streamrec.cli.shared.console import PlainConsole
from streamrec.cli.shared.logs import LogPart, checked
from streamrec.config.settings import Settings
from streamrec.errors import LogError
from streamrec.evaluation.backtest.report import (
    FUSED,
    BacktestResult,
    against_popularity,
    new_items_in_words,
    report_figures,
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
    result = backtest(log, settings, out, warmup=warmup, catalogue=catalogue, rankers=others, refusals=summary.refusals)
    _say_left_out(result, notes)
    done = f"{result.events:,} events in {result.seconds:.0f} s; slates.parquet, report.json and report.html in {out}"
    if as_json:
        print(json.dumps(json.loads((out / "report.json").read_text(encoding="utf-8")), ensure_ascii=False))
        notes.print(done, highlight=False, markup=False, soft_wrap=True)
        return
    PlainConsole().print(figures(result))
    PlainConsole().print(served(result))
    print(new_items_in_words(result))
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
    names = list(next(iter(metrics.values()), {}))
    title = f"{result.log}: {int(result.scored.sum()):,} scored targets"
    table = Table("", *names, title=title, title_justify="left")
    for model, values in metrics.items():
        table.add_row(model, *(f"{value:.3f}" if isinstance(value, float) else str(value) for value in values.values()))
    return table


def served(result: BacktestResult) -> Table:
    """Who is served how well, beside popularity: one row for each slice that has targets."""
    table = Table("recall_10 by what was known")
    for name in ("targets", "share", "fused", "popularity", "ahead by (95%)"):
        table.add_column(name, no_wrap=True)
    for name, part in against_popularity(result).items():
        if part.targets:
            rates = f"{part.recall_10:.3f}", f"{part.popularity_recall_10:.3f}"
            table.add_row(name, f"{part.targets:,}", f"{part.share:.1%}", *rates, part.words())
    return table
