"""`streamrec ablate`: a backtest with one thing changed at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from streamrec.cli.application import app
from streamrec.cli.options import AsJson, LogOptions, Rehearsal, Warmup, unfolded


@app.command(
    epilog="Example: streamrec ablate clicks.parquet --map type=@click --delay 512 --without each --out ablation"
)
@unfolded
def ablate(
    log: LogOptions,
    rehearsal: Rehearsal,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the tables go.", show_default=False)],
    warmup: Warmup = 0.1,
    delays: Annotated[
        list[int] | None,
        typer.Option("--delay", metavar="EVENTS", min=1, help="Learn so many events late. Repeatable."),
    ] = None,
    context_delays: Annotated[
        list[int] | None,
        typer.Option("--context-delay", metavar="EVENTS", min=1, help="Know users so many events late. Repeatable."),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option("--without", metavar="MODEL", help="Do without this model; 'each' tries all. Repeatable."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a backtest several times with one thing changed: learning late, knowing users late, or without a model."""
    from streamrec.cli.commands import ablate as command

    settings = rehearsal.settings(separator=log.separator)
    changes = command.Ablations(delays or (), context_delays or (), without or ())
    command.run(log.part(), settings, changes, out=out, warmup=warmup, as_json=as_json)
