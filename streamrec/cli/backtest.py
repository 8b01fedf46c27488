"""`streamrec backtest`: an old log met as if it were new."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from streamrec.cli.application import app
from streamrec.cli.options import AsJson, LogLineOptions, LogOptions, Preset, Rehearsal, Warmup, unfolded


@app.command(epilog="Example: streamrec backtest ratings.parquet --positives 'rating>=4' --exclude-seen --out report")
@unfolded
def backtest(
    log: LogOptions,
    lines: LogLineOptions,
    rehearsal: Rehearsal,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where slates and report go.", show_default=False)],
    warmup: Warmup = 0.1,
    preset: Preset = None,
    rankers: Annotated[
        list[str] | None,
        typer.Option("--ranker", metavar="MODULE:FACTORY", help="Rank by code of your own beside ours. Repeatable."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run the worker over an old log, predicting each event before it is learned, and report how well that went."""
    lines.apply()
    from streamrec.cli.commands import backtest as command

    settings = rehearsal.settings(preset, log.separator)
    command.run(log.part(), settings, out=out, warmup=warmup, as_json=as_json, rankers=rankers or ())
