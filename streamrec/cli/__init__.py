"""The command line: what can be typed, with a description and an example of each.

Declares and hands over: `streamrec dlq list` is declared in `streamrec/cli/dlq_list.py`, and what it does stands in
`streamrec/cli/commands/dlq_list.py`. Everything heavy is imported inside a command's body, so that `--help` answers at
once.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from types import FrameType

from streamrec.cli.application import app
from streamrec.errors import ConfigError, StreamrecError

# isort: off
# Each adds its command; the help lists them by group, in this order.
from streamrec.cli import worker  # noqa: F401
from streamrec.cli import learner  # noqa: F401
from streamrec.cli import trends  # noqa: F401
from streamrec.cli import serve  # noqa: F401
from streamrec.cli import config  # noqa: F401
from streamrec.cli import topics_plan  # noqa: F401
from streamrec.cli import topics_apply  # noqa: F401
from streamrec.cli import topics_rescale  # noqa: F401
from streamrec.cli import topics_adopt  # noqa: F401
from streamrec.cli import backup  # noqa: F401
from streamrec.cli import restore  # noqa: F401
from streamrec.cli import top  # noqa: F401
from streamrec.cli import tail  # noqa: F401
from streamrec.cli import examples  # noqa: F401
from streamrec.cli import schema  # noqa: F401
from streamrec.cli import demo  # noqa: F401
from streamrec.cli import replay  # noqa: F401
from streamrec.cli import warmup  # noqa: F401
from streamrec.cli import backtest  # noqa: F401
from streamrec.cli import ablate  # noqa: F401
from streamrec.cli import ask  # noqa: F401
from streamrec.cli import user  # noqa: F401
from streamrec.cli import item  # noqa: F401
from streamrec.cli import ads  # noqa: F401
from streamrec.cli import explain  # noqa: F401
from streamrec.cli import dlq_list  # noqa: F401
from streamrec.cli import dlq_show  # noqa: F401
from streamrec.cli import dlq_redrive  # noqa: F401
from streamrec.cli import items_load  # noqa: F401
from streamrec.cli import items_show  # noqa: F401
from streamrec.cli import snapshots_list  # noqa: F401
from streamrec.cli import snapshots_show  # noqa: F401
from streamrec.cli import snapshots_fetch  # noqa: F401
from streamrec.cli import ope  # noqa: F401
from streamrec.cli import experiment  # noqa: F401
from streamrec.cli import rollout  # noqa: F401
from streamrec.cli import promote  # noqa: F401
from streamrec.cli import rollback  # noqa: F401
from streamrec.cli import simulate  # noqa: F401
# isort: on

__all__ = ["app", "main"]

PANELS = {
    "Run it": "worker learner trends serve demo",
    "Start with a history": "items replay warmup backtest ablate examples",
    "See what it does": "top tail ask user item ads explain dlq",
    "Decide": "ope experiment rollout promote rollback simulate",
    "Set it up and keep it": "config topics backup restore snapshots schema",
}
"""Groups of commands in the help, in this order."""
_panel_of = {name: panel for panel, names in PANELS.items() for name in names.split()}
for _command in app.registered_commands:
    assert _command.callback is not None
    _command.rich_help_panel = _panel_of[_command.callback.__name__]
for _group in app.registered_groups:
    assert _group.typer_instance is not None
    _group.rich_help_panel = _panel_of[str(_group.typer_instance.info.name)]
app.registered_commands.sort(key=lambda command: list(PANELS).index(str(command.rich_help_panel)))

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
        refuse_undecodable(sys.argv[1:], os.environ)
        app(prog_name="streamrec")  # also as `python -m streamrec.cli`: completion goes by the name
    except StreamrecError as error:
        from streamrec.config.log_lines import say_failure

        say_failure(error)
        sys.exit(EXIT_USAGE if isinstance(error, ConfigError) else EXIT_FAILED)


def refuse_undecodable(arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    """See that everything typed or set is text: bytes that are no UTF-8 reach us as characters that nothing can encode.

    Raises:
        ConfigError: it is not; names the option, or the setting's variable.
    """
    given = [(name, value) for name, value in environment.items() if name.startswith("STREAMREC_")]
    for number, (before, argument) in enumerate(pairwise(["", *arguments]), 1):
        option = argument.partition("=")[0]
        follows = f"what follows {before}" if before.startswith("-") else f"argument {number}"
        given.append((option if option.startswith("-") and _is_text(option) else follows, argument))
    for name, value in given:
        if not _is_text(value):
            raise ConfigError(f"{name} is {os.fsencode(value)!r}, expected text in UTF-8")


def _is_text(given: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in given)


def _leave(number: int, frame: FrameType | None) -> None:
    """Quietly, through every `finally`: an exception that no library mistakes for its own."""
    raise SystemExit(EXIT_BY_SIGNAL + number)
