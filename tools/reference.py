"""Reference pages from the code: docs/11-settings.md from the settings, docs/12-commands.md from the command line.

A page is written by hand but for what stands between `<!-- generated: NAME -->` and `<!-- end of NAME -->`, which is
replaced. `tools/docs` writes the pages, and a test holds them to what this module says.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from streamrec.cli import app
from streamrec.config import parts as listed
from streamrec.config.groups import Group
from streamrec.config.scenarios import LeaveOut, ScenarioSettings, Slates
from streamrec.config.settings import Settings, shown

DOCS = Path(__file__).parents[1] / "docs"
CHANGED_FIRST = (
    "kafka",
    "redis.url",
    "topics.replication_factor",
    "snapshots.url",
    "metrics_port",
    "preset",
    "learning.positives",
    "learning.exclude_seen",
    "attribution.window_s",
    "serving.k",
)
"""The settings that most deployments change, in the order in which they meet them."""
OF_A_SCENARIO: Mapping[str, type[Group]] = {
    "scenarios.NAME": ScenarioSettings,
    "scenarios.NAME.leave_out": LeaveOut,
    "scenarios.NAME.slates": Slates,
}
MANY_COMMANDS = 4
"""An option that so many commands have is described once, for all of them."""
HEAD = "| setting | default | what it does |\n|---|---|---|"


# Settings


def groups() -> dict[str, type[Group]]:
    """The groups of settings by name, those of scenarios left out."""
    return {
        name: field.annotation
        for name, field in Settings.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Group)
    }


def fields() -> dict[str, FieldInfo]:
    """Every setting by its name, `group.name` for those of a group; rules of scenarios left out."""
    single = {name: field for name, field in Settings.model_fields.items() if name not in groups()}
    single.pop("scenarios")
    return single | {
        f"{group}.{name}": field for group, kind in groups().items() for name, field in kind.model_fields.items()
    }


def settings_tables() -> str:
    """A table for the settings without a group, then one for each group under its name."""
    defaults = shown(Settings())
    alone = [name for name in fields() if "." not in name]
    parts = ["## General", "\n".join([HEAD, *(setting_row(name, defaults) for name in alone)])]
    for group, kind in groups().items():
        parts.append(f"## `[{group}]`: {one_line(kind.__doc__)}")
        parts.append("\n".join([HEAD, *(setting_row(f"{group}.{name}", defaults) for name in kind.model_fields)]))
    return "\n\n".join(parts)


def changed_first() -> str:
    """The table of the settings that most deployments change."""
    defaults = shown(Settings())
    return "\n".join([HEAD, *(setting_row(name, defaults) for name in CHANGED_FIRST)])


def scenario_tables() -> str:
    """The rules of a scenario: a table for each of their groups."""
    parts = []
    for title, kind in OF_A_SCENARIO.items():
        defaults = kind().model_dump(mode="json")
        rows = [f"| `{name}` | {value(defaults[name])} | {meaning(f)} |" for name, f in kind.model_fields.items()]
        parts.append("\n".join([f"| `{title}` | default | what it does |", "|---|---|---|", *rows]))
    return "\n\n".join(parts)


def listed_tables() -> str:
    """Tables of the models, retrievers and policies that `config/parts.py` lists."""
    model_rows = [
        f"`{one.name}` | {one.about} | {'yes' if one.default else 'no'} | {', '.join(one.presets)} | "
        f"{f'`{one.proposes.name}`' if one.proposes else ''} | {one.meant_for}"
        for one in listed.MODELS
    ]
    retriever_rows = [
        f"`{one.name}` | {one.about} | {one.finds} | {f'`{one.reads}`' if one.reads else ''} | "
        f"{'every request' if one.everywhere else 'scenarios that name it'}"
        for one in listed.retrievers().values()
    ]
    tables = {
        "model | what it scores by | by default | in presets | searched by | meant for": model_rows,
        "retriever | what it proposes | finds | searches | proposes for": retriever_rows,
        "policy | how it orders a slate": [f"`{one.name}` | {one.about}" for one in listed.POLICIES],
    }
    return "\n\n".join(
        "\n".join([f"| {head} |", "|---" * (head.count("|") + 1) + "|", *(f"| {row} |" for row in rows)])
        for head, rows in tables.items()
    )


def setting_row(setting: str, defaults: Mapping[str, Any]) -> str:
    default: Any = defaults
    for part in setting.split("."):
        default = default.get(part) if isinstance(default, Mapping) else None
    code = "not set" if default is None else f"`{json.dumps(default)}`"
    return f"| `{setting}` | {code} | {meaning(fields()[setting])} |"


def value(default: Any) -> str:
    """A rule's default; that of a group of rules is in the group's own table."""
    if isinstance(default, Mapping) and default:
        return "a table"
    return "not set" if default is None else f"`{json.dumps(default)}`"


def meaning(field: FieldInfo) -> str:
    """What a setting is for, and which names it can hold where that is a list."""
    said = one_line(field.description)
    names = [str(name) for name in choices(field.annotation)]
    if all(name in said for name in names):
        return said
    many = "Any" if get_origin(field.annotation) is tuple else "One"
    return f"{said} {many} of {', '.join(f'`{name}`' for name in names)}."


def choices(annotation: Any) -> Sequence[Any]:
    """The names that a `Literal` in a setting's type allows."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return next((names for part in get_args(annotation) if (names := choices(part))), ())


# Commands


def commands() -> dict[str, typer.core.TyperCommand]:
    """Every command as it is typed, groups opened."""

    def walk(path: str, command: Any) -> Iterator[tuple[str, Any]]:
        children = getattr(command, "commands", {})
        if not children:
            yield path, command
        for name, child in children.items():
            yield from walk(f"{path} {name}", child)

    return dict(walk("streamrec", typer.main.get_command(app)))


def command_list() -> str:
    """One line for each command."""
    rows = [
        f"| [`{path}`](#{path.replace(' ', '-')}) | {paragraphs(command.help)[0]} |"
        for path, command in commands().items()
    ]
    return "\n".join(["| command | what it does |", "|---|---|", *rows])


def shared_options() -> list[tuple[str, str]]:
    """Options, with their descriptions, that many commands have."""
    rows = [row for command in commands().values() for row in options(command)]
    return [row for row in dict.fromkeys(rows) if rows.count(row) >= MANY_COMMANDS]


def command_sections() -> str:
    """For each command: what it does, an example, its own options, and which of the shared ones it has."""
    shared = shared_options()
    return "\n\n".join(section(path, command, shared) for path, command in commands().items())


def section(path: str, command: typer.core.TyperCommand, shared: Sequence[tuple[str, str]]) -> str:
    rows = options(command)
    parts = [f"## `{path}`", *paragraphs(command.help), f"    {example(command)}"]
    if own := [row for row in rows if row not in shared]:
        parts.append(option_table(own))
    if also := [f"`{name.partition(' ')[0]}`" for name, said in shared if (name, said) in rows]:
        parts.append(f"And of the [shared options](#shared-options): {', '.join(also)}.")
    return "\n\n".join(parts)


def options(command: typer.core.TyperCommand) -> list[tuple[str, str]]:
    """How each argument and option is typed, and what it does, as `--help` has it; arguments first."""
    context = command.context_class(command, info_name=command.name)
    parameters = sorted(command.params, key=lambda parameter: parameter.param_type_name != "argument")
    records = (parameter.get_help_record(context) for parameter in parameters)
    return [(name, one_line(said)) for name, said in filter(None, records)]


def option_table(rows: Sequence[tuple[str, str]]) -> str:
    return "\n".join(
        ["| option | what it does |", "|---|---|", *(f"| `{escaped(o)}` | {escaped(s)} |" for o, s in rows)]
    )


def example(command: typer.core.TyperCommand) -> str:
    """The example below a command's help."""
    said, _, typed = one_line(command.epilog).partition("Example: ")
    if said or not typed:
        raise ValueError(f"{command.name} has no example: its epilog has to be 'Example: ...'")
    return typed


# Pages


def one_line(text: str | None) -> str:
    return " ".join((text or "").split())


def paragraphs(text: str | None) -> list[str]:
    return [one_line(paragraph) for paragraph in re.split(r"\n\s*\n", text or "")]


def escaped(text: str) -> str:
    """A text that can stand in a table."""
    return text.replace("|", "\\|")


PARTS: Mapping[str, Mapping[str, Callable[[], str]]] = {
    "11-settings.md": {
        "changed first": changed_first,
        "settings": settings_tables,
        "scenarios": scenario_tables,
        "models, retrievers, policies": listed_tables,
    },
    "12-commands.md": {
        "list": command_list,
        "shared options": lambda: option_table(shared_options()),
        "commands": command_sections,
    },
}
"""What stands between the markers of each page."""
_PART = re.compile(r"(<!-- generated: (.*?) -->\n)(.*?)(<!-- end of \2 -->)", re.DOTALL)


def written(page: str, text: str) -> str:
    """A page's text with its generated parts as the code has them.

    Raises:
        ValueError: a part is missing in the page, or stands there and is not known.
    """
    parts = PARTS[page]
    if (found := [match[2] for match in _PART.finditer(text)]) != list(parts):
        raise ValueError(f"{page} has the generated parts {found}, expected {list(parts)}")
    return _PART.sub(lambda match: f"{match[1]}\n{parts[match[2]]()}\n\n{match[4]}", text)


def handwritten(text: str) -> str:
    """A page's text without its generated parts."""
    return _PART.sub("", text)


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the generated parts of the reference pages.")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail where a page is not what the code says"
    )
    check = parser.parse_args().check
    stale = []
    for name in PARTS:
        page = DOCS / name
        text = page.read_text(encoding="utf-8")
        if (new := written(name, text)) != text:
            stale.append(name)
            if not check:
                page.write_text(new, encoding="utf-8")
    print(f"{'differ from the code' if check else 'written'}: {', '.join(stale) or 'none'}")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
