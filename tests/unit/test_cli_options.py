"""Options that stand in groups: typed one by one, handed over as one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from streamrec.cli.options import LogOptions, unfolded
from streamrec.replay.time_units import TimeUnit


@dataclass(frozen=True)
class Source:
    """Where it comes from."""

    path: Annotated[Path, typer.Argument(metavar="PATH")]
    rows: Annotated[str | None, typer.Option("--rows", help="Which rows.")] = None
    names: Annotated[list[str] | None, typer.Option("--name")] = None


@dataclass(frozen=True)
class Goal:
    """Where it goes."""

    loud: Annotated[bool, typer.Option("--loud")] = False


Handed = list[tuple[object, ...]]


@pytest.fixture
def typed() -> Callable[..., tuple[int, str, Handed]]:
    """Types arguments after a command with two groups and an option of its own, before, between and behind them."""
    handed: Handed = []
    app = typer.Typer()

    @app.command()
    @unfolded
    def copy(
        source: Source,
        number: Annotated[int, typer.Argument()],
        goal: Goal,
        times: Annotated[int, typer.Option("--times", min=1)] = 1,
    ) -> None:
        """Copy it."""
        handed.append((source, number, goal, times))

    def run(*arguments: str) -> tuple[int, str, Handed]:
        result = CliRunner().invoke(app, arguments, env={"COLUMNS": "120"})
        return result.exit_code, result.output, handed

    return run


def test_what_is_typed_comes_in_groups(typed: Callable[..., tuple[int, str, Handed]]) -> None:
    code, output, handed = typed("a.csv", "7", "--name", "x", "--name", "y", "--loud", "--rows", "1:2", "--times", "3")
    assert code == 0, output
    assert handed == [(Source(Path("a.csv"), "1:2", ["x", "y"]), 7, Goal(loud=True), 3)]


def test_what_is_not_typed_has_the_groups_defaults(typed: Callable[..., tuple[int, str, Handed]]) -> None:
    code, output, handed = typed("a.csv", "7")
    assert code == 0, output
    assert handed == [(Source(Path("a.csv")), 7, Goal(), 1)]


def test_what_a_group_needs_has_to_be_typed(typed: Callable[..., tuple[int, str, Handed]]) -> None:
    code, output, handed = typed()
    assert (code, handed) == (2, [])
    assert "PATH" in output


def test_help_lists_the_options_of_a_group(typed: Callable[..., tuple[int, str, Handed]]) -> None:
    code, output, _ = typed("--help")
    assert code == 0
    assert "Copy it." in output
    assert "Which rows." in output
    assert "--source" not in output


def test_an_option_that_stands_twice_is_refused() -> None:
    def command(source: Source, rows: Annotated[str, typer.Option()] = "") -> None: ...

    with pytest.raises(TypeError, match="command: two options have one name among path, rows, names, rows"):
        unfolded(command)


def test_a_logs_options_say_which_part_is_read() -> None:
    part = LogOptions(
        Path("log.csv"), mapping=["ts=when"], types=["buy=purchase"], rows="5:", only_items="^a", once_per_session=True
    ).part()
    assert (part.path, part.mapping, part.types, part.rows) == (
        Path("log.csv"),
        {"ts": "when"},
        {"buy": "purchase"},
        (5, None),
    )
    assert (part.selection.only_items, part.selection.once_per_session) == ("^a", True)
    assert (part.unit, part.max_refused) == (TimeUnit.MS, 0.0)
    part = LogOptions(Path("log.csv"), ts_unit="s", max_refused=0.5).part()
    assert (part.unit, part.max_refused) == (TimeUnit.S, 0.5)
    with pytest.raises(typer.BadParameter, match="expected A:B"):
        LogOptions(Path("log.csv"), rows="5").part()


def test_a_separator_is_one_character_and_a_tab_may_be_typed() -> None:
    assert [LogOptions(Path("a.csv"), separator=char).part().separator for char in (None, ";", "\\t", "\t")] == [
        None,
        ";",
        "\t",
        "\t",
    ]
    for char in ("", ";;", '"', "\n"):
        with pytest.raises(typer.BadParameter, match="expected one character"):
            LogOptions(Path("a.csv"), separator=char).part()
