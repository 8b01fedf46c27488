"""Every command and every setting is documented, with its true default."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from streamrec.cli import app
from streamrec.config.groups import Group
from streamrec.config.scenarios import BUILT_IN, LeaveOut, ScenarioSettings, Slates
from streamrec.config.settings import Settings, shown
from streamrec.transport import Record
from streamrec.wiring import build_validation_limits
from streamrec.worker.validation import event_of

ROOT = Path(__file__).parents[2]
CLI = (ROOT / "docs" / "12-commands.md").read_text(encoding="utf-8")
CONFIGURATION = (ROOT / "docs" / "11-settings.md").read_text(encoding="utf-8")
SLATES = (ROOT / "docs" / "03-slates.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands() -> Iterator[tuple[str, typer.core.TyperCommand]]:
    """Every command as it is typed, groups opened."""

    def walk(path: str, command: typer.core.TyperCommand) -> Iterator[tuple[str, typer.core.TyperCommand]]:
        children = getattr(command, "commands", {})
        if not children:
            yield path, command
        for name, child in children.items():
            yield from walk(f"{path} {name}", child)

    yield from walk("streamrec", typer.main.get_command(app))


COMMANDS = dict(commands())
SCENARIO_GROUPS: dict[str, type[Group]] = {
    "scenarios.NAME": ScenarioSettings,
    "scenarios.NAME.leave_out": LeaveOut,
    "scenarios.NAME.slates": Slates,
}
SETTINGS = [
    *(
        name
        for name, field in Settings.model_fields.items()
        if name != "scenarios" and not hasattr(field.annotation, "model_fields")
    ),
    *(
        f"{group}.{name}"
        for group, field in Settings.model_fields.items()
        for name in getattr(field.annotation, "model_fields", ())
    ),
]


def test_there_is_something_to_document() -> None:
    assert {"streamrec worker", "streamrec topics apply", "streamrec backtest"} <= set(COMMANDS)
    assert {"group_id", "kafka", "redis.url", "snapshots.keep"} <= set(SETTINGS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_section_with_an_example(command: str) -> None:
    section = re.search(rf"^## `{re.escape(command)}`\n(.*?)(?=^## |\Z)", CLI, re.MULTILINE | re.DOTALL)
    assert section is not None
    assert re.search(rf"^    .*{re.escape(command)}", section[1], re.MULTILINE)


def test_no_command_is_documented_that_does_not_exist() -> None:
    assert set(re.findall(r"^## `(streamrec [^`]+)`", CLI, re.MULTILINE)) == set(COMMANDS)


@pytest.mark.parametrize(
    "command",
    [
        *(
            "streamrec backtest",
            "streamrec replay",
            "streamrec tail",
            "streamrec trends",
            "streamrec warmup",
            "streamrec worker",
        ),
        *("streamrec ope", "streamrec experiment", "streamrec promote"),
        *("streamrec dlq list", "streamrec dlq redrive"),
    ],
)
def test_every_option_of_the_larger_commands_is_mentioned(command: str) -> None:
    shared = {"--kafka", "--redis", "--help"}
    options = {option for parameter in COMMANDS[command].params for option in parameter.opts if option[:2] == "--"}
    assert {option for option in options - shared if option not in CLI} == set()


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_setting_is_documented_with_its_default(setting: str) -> None:
    row = re.search(rf"^\| `{re.escape(setting)}` \| (.*?) \| (.+) \|$", CONFIGURATION, re.MULTILINE)
    assert row is not None
    value: object = shown(Settings())
    for part in setting.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    assert row[1] == ("not set" if value is None else f"`{json.dumps(value)}`")


def test_no_setting_is_documented_that_does_not_exist() -> None:
    before_scenarios = CONFIGURATION[: CONFIGURATION.index("\n## `[scenarios.NAME]`")]
    assert set(re.findall(r"^\| `([^`]+)` \|", before_scenarios, re.MULTILINE)) == set(SETTINGS)


@pytest.mark.parametrize("group", SCENARIO_GROUPS)
def test_every_rule_of_a_scenario_is_documented_with_its_default(group: str) -> None:
    table = re.search(rf"^\| `{re.escape(group)}` \|.*\n\|[-|]+\n((?:\|.*\n)+)", CONFIGURATION, re.MULTILINE)
    assert table is not None
    rows = {row[1]: row[2] for row in re.finditer(r"^\| `([^`]+)` \| (.*?) \| .+ \|$", table[1], re.MULTILINE)}
    defaults = SCENARIO_GROUPS[group]().model_dump(mode="json")
    assert rows == {name: documented(value) for name, value in defaults.items()}


def documented(value: object) -> str:
    """A default as the tables have it; a group's has a table of its own."""
    if isinstance(value, dict) and value:
        return "a table"
    return "not set" if value is None else f"`{json.dumps(value)}`"


@pytest.mark.parametrize("scenario", BUILT_IN)
def test_every_built_in_scenario_is_shown_by_example(scenario: str) -> None:
    section = re.search(rf"^### `{scenario}`\n(.*?)(?=^##|\Z)", SLATES, re.MULTILINE | re.DOTALL)
    assert section is not None
    validation_limits = build_validation_limits(Settings())
    requests = re.findall(r'^(\{"type": .*\})$', section[1], re.MULTILINE)
    events = [
        event_of(Record("user-events", 0, 0, b"u42", request.encode()), validation_limits) for request in requests
    ]
    assert scenario in {event.scenario or "home" for event in events}


def test_every_scenario_that_is_asked_for_is_answered_on_the_page() -> None:
    """The answers come in the order of the scenarios; `tests/integration/test_pages.py` asks for them."""
    answers = SLATES[SLATES.index("### `home`") : SLATES.index("## Filters")]
    assert re.findall(r"^### `(\w+)`$", answers, re.MULTILINE) == list(BUILT_IN)
    assert f"--count {len(BUILT_IN)}\n" in answers
    assert len(re.findall(r"^\S+ \S+Z  visitor: \S+ \(", answers, re.MULTILINE)) == len(BUILT_IN)
    assert "streamrec ask " in answers


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_setting_says_in_the_code_what_it_is_for(setting: str) -> None:
    group, _, name = setting.partition(".")
    field = Settings.model_fields[group]
    if name:
        field = field.annotation.model_fields[name]  # type: ignore[union-attr]
    assert field.description


def test_a_newcomer_needs_fewer_than_400_words() -> None:
    first = README.index("## From clone to your own topic")
    read = README[: README.index("\n## ", first + 1)]
    pictures = re.compile(r"^```text\n.*?^```$", re.MULTILINE | re.DOTALL)  # to be looked at
    assert len(pictures.sub("", read).split()) < 400


def test_the_two_commands_stand_at_the_top_and_can_be_run() -> None:
    top = README[: README.index("\n## ")]
    for tool in ("tools/demo", "tools/test"):
        assert tool in top
        assert (ROOT / tool).stat().st_mode & 0o111


@pytest.mark.parametrize(
    "page", sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]), ids=lambda page: page.name
)
def test_no_link_inside_the_repository_is_dead(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    inside = [link for link in links if "://" not in link]
    assert [link for link in inside if not (page.parent / link).exists()] == []


def test_every_command_with_json_says_what_it_prints() -> None:
    printing = {path for path, command in COMMANDS.items() if any("--json" in p.opts for p in command.params)}
    table = CLI[CLI.index("\n# What `--json` prints") :]
    told = {
        name
        for row in re.findall(r"^\| (`streamrec .*?) \|", table, re.MULTILINE)
        for name in re.findall(r"`(.*?)`", row)
    }
    assert told == printing
