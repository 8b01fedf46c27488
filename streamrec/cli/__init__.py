"""The command line: what can be typed, with a description and an example of each.

Declares and hands over. Everything heavy is imported inside a command's body, so that `--help` answers at once; what
the commands do is in `streamrec.cli.commands`.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType

from streamrec.cli.application import app
from streamrec.errors import ConfigError, StreamrecError

# isort: off
# Each adds its commands; the help lists them in this order.
from streamrec.cli import running  # noqa: F401
from streamrec.cli import history  # noqa: F401
from streamrec.cli import looking  # noqa: F401
from streamrec.cli import dead_letters  # noqa: F401
from streamrec.cli import items  # noqa: F401
from streamrec.cli import trust  # noqa: F401
# isort: on

__all__ = ["app", "main"]

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_BY_SIGNAL = 128


def main() -> None:
    """The `streamrec` console script: one clear line and an exit code for whatever goes wrong.

    Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 130 Ctrl-C, 143 SIGTERM.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)
    try:
        app()
    except StreamrecError as error:
        print(f"streamrec: {error}", file=sys.stderr)
        sys.exit(EXIT_USAGE if isinstance(error, ConfigError) else EXIT_FAILED)


def _leave(number: int, frame: FrameType | None) -> None:
    """Quietly, through every `finally`: an exception that no library mistakes for its own."""
    raise SystemExit(EXIT_BY_SIGNAL + number)
