"""`python -m streamrec.demo`: the command line of the demonstration, and its exit codes.

0 done (whatever the figures say), 1 failed, 130 ended by Ctrl-C, 143 by SIGTERM. Everything started is ended with it.
"""

from __future__ import annotations

import logging
import signal
import sys
from types import FrameType
from typing import Annotated, Literal

import typer

from streamrec.config.log_lines import write_log_lines
from streamrec.errors import StreamrecError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(epilog="Example: tools/demo --quick")
def demo(
    quick: Annotated[bool, typer.Option("--quick", help="The first 24,000 purchases instead of all 39,267.")] = False,
    stay: Annotated[
        bool, typer.Option("--stay", help="Keep everything running afterwards, until Ctrl-C, to look around.")
    ] = False,
    log_format: Annotated[
        Literal["auto", "text", "json"], typer.Option("--log-format", envvar="STREAMREC_LOG_FORMAT")
    ] = "auto",
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], typer.Option("--log-level", envvar="STREAMREC_LOG_LEVEL")
    ] = "info",
) -> None:
    """Replay a real shop log on this machine through a broker and a Redis server started for it.

    Purchases are sent as they happened; before each basket a slate is asked for, and judged by what was bought.
    """
    from streamrec.demo.run import run

    write_log_lines(log_format, log_level)
    logging.getLogger("streamrec.kafka").setLevel(logging.CRITICAL)  # a broker just started is warned about
    run(quick=quick, stay=stay)


def main() -> None:
    """Run, and say in one line what went wrong if something did."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)
    try:
        app()
    except StreamrecError as error:
        print(f"streamrec demo: {error}", file=sys.stderr)
        sys.exit(1)


def _leave(number: int, frame: FrameType | None) -> None:
    """Quietly, through every `finally`. Ending takes seconds, and another Ctrl-C must not break it off half way."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(128 + number)


if __name__ == "__main__":
    main()
