"""`streamrec demo`: the demonstration."""

from __future__ import annotations

from typing import Annotated

import typer

from streamrec.cli.application import app


@app.command(
    epilog="Example: streamrec demo --quick",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def demo(
    context: typer.Context,
    quick: Annotated[bool, typer.Option("--quick", help="A short run, for a first look and for tests.")] = False,
) -> None:
    """Replay a real shop log on this machine through a broker and a Redis server started for it."""
    from streamrec.cli.commands import demo as command

    command.run([*(["--quick"] if quick else []), *context.args])
