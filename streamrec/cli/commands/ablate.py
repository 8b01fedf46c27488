"""Runs a backtest again and again, each time with one thing changed, and prints what the change costs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.table import Table

from streamrec.cli.shared.console import PlainConsole, made, progress_on
from streamrec.cli.shared.logs import LogPart, checked
from streamrec.config.settings import Settings
from streamrec.replay.catalogue_file import read_catalogue


class Ablations(NamedTuple):
    """What is to be changed, one thing at a time."""

    delays: Sequence[int] = ()
    """Of learning, in events."""
    context_delays: Sequence[int] = ()
    """Of users' histories, in events."""
    without: Sequence[str] = ()
    """Models to leave out, or `each`."""


def run(part: LogPart, settings: Settings, changes: Ablations, *, out: Path, warmup: float, as_json: bool) -> None:
    """Check the log, run over it once per change, print and write the tables.

    Raises:
        TableError, LogError: the log or the catalogue cannot be read as asked; nothing was written.
        ConfigError: a setting does not fit, or there is no such model.
    """
    log = part.open(settings)
    catalogue = read_catalogue(settings.items, settings.separator) if settings.items is not None else None
    console = PlainConsole(stderr=True)
    summary = checked(log, console)
    from streamrec.evaluation.backtest import ablation  # loads every model: a wrong log is told before that

    models = ablation.model_names(settings)
    comparisons = ablation.comparisons(models, *changes)
    results = []
    with progress_on(console) as progress:
        for comparison in comparisons:
            run_results = []
            for variant in comparison:
                task = progress.add_task(str(variant), total=len(log))
                run_results.append(
                    ablation.run(
                        log,
                        settings,
                        variant,
                        models,
                        warmup=warmup,
                        catalogue=catalogue,
                        on_progress=lambda events, task=task: progress.advance(task, events),  # type: ignore[misc]
                    )
                )
            results.append(run_results)
    ablation.write(out, log, settings, warmup, results, summary.refusals, made())
    done = f"ablation.json, ablation.md and ablation.html in {out}"
    if as_json:
        print(json.dumps(json.loads((out / "ablation.json").read_text(encoding="utf-8")), ensure_ascii=False))
        console.print(done, highlight=False, markup=False, soft_wrap=True)
        return
    for said in ablation.verdict(results):
        PlainConsole().print(said, soft_wrap=True)
    for run_results in results:
        for grid in ablation.markdown_tables(run_results):
            table = Table(*grid.header, title=grid.title, title_justify="left")
            for row in grid.rows:
                table.add_row(*row)
            PlainConsole().print(table)
    print(done)
