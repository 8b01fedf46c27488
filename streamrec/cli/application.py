"""The application that commands join, and what can be typed before a command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from streamrec import __version__


class HarmlessGroup(TyperGroup):
    """Quotes what was typed, in errors about it, so that it turns no line around; flags take no value, in its help."""

    def make_context(self, *given: Any, **options: Any) -> Any:
        """Read what stands before the command's name."""
        with _harmless_errors():
            return super().make_context(*given, **options)

    def get_params(self, ctx: Any) -> Any:
        """The options before the name."""
        return _flags_alone(super().get_params(ctx))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of this name."""
        command = super().get_command(ctx, cmd_name)
        if command is not None:
            _flags_alone(command.get_params(ctx))
        return command

    def invoke(self, ctx: Any) -> Any:
        """Read what stands behind it, and run it."""
        with _harmless_errors():
            return super().invoke(ctx)


def _flags_alone(parameters: list[Any]) -> list[Any]:
    """Typer would show `<bool>` behind each flag, as if it took a value."""
    for parameter in parameters:
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
    return parameters


@contextmanager
def _harmless_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        message = getattr(error, "message", None)
        if hasattr(error, "format_message") and isinstance(message, str):  # typer's own, of no public class
            from streamrec.codec import harmless

            vars(error)["message"] = harmless(message)
        raise


app = typer.Typer(
    name="streamrec",
    cls=HarmlessGroup,
    help="A recommender that learns from every event, on Kafka.",
    epilog="Example: streamrec worker --kafka localhost:9092 --redis redis://localhost:6379/0",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # a traceback with local variables would print secrets
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"streamrec {__version__}")
        raise typer.Exit


FormOfLines = Literal["auto", "text", "json"]
LeastSevere = Literal["debug", "info", "warning", "error"]
FORM_HELP = "Of log lines: text, json, or auto, text on a terminal and else JSON; also STREAMREC_LOG_FORMAT."
LEVEL_HELP = "The least severe log lines that are written; also STREAMREC_LOG_LEVEL."


@app.callback()
def options(
    log_format: Annotated[
        FormOfLines,
        typer.Option("--log-format", envvar="STREAMREC_LOG_FORMAT", show_envvar=False, help=FORM_HELP),
    ] = "auto",
    log_level: Annotated[
        LeastSevere,
        typer.Option("--log-level", envvar="STREAMREC_LOG_LEVEL", show_envvar=False, help=LEVEL_HELP),
    ] = "info",
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """What holds for every command: nothing is done before one is named."""
    from streamrec.cli.shared.console import harmless_output
    from streamrec.config.log_lines import write_log_lines

    harmless_output()
    write_log_lines(log_format, log_level)


topics_app = typer.Typer(
    name="topics",
    cls=HarmlessGroup,
    help="Make the topics: say what is missing, or create it.",
    epilog="Example: streamrec topics plan --kafka localhost:9092",
    no_args_is_help=True,
)
app.add_typer(topics_app)
dlq_app = typer.Typer(
    name="dlq",
    cls=HarmlessGroup,
    help="Look at messages that could not be used, and send them back.",
    epilog="Example: streamrec dlq list --reason invalid",
    no_args_is_help=True,
)
app.add_typer(dlq_app)
items_app = typer.Typer(
    name="items",
    cls=HarmlessGroup,
    help="The catalogue: put a file into its topic, and look at what the topic says.",
    epilog="Example: streamrec items load catalogue.parquet",
    no_args_is_help=True,
)
app.add_typer(items_app)
snapshots_app = typer.Typer(
    name="snapshots",
    cls=HarmlessGroup,
    help="The models' snapshots: look at them, and copy one.",
    epilog="Example: streamrec snapshots list",
    no_args_is_help=True,
)
app.add_typer(snapshots_app)
