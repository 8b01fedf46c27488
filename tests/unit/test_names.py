"""What a stranger can rely on: one class name means one thing, and nothing is made of more than eight things."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import streamrec

PACKAGE = Path(streamrec.__file__).parent


def test_no_two_classes_of_the_package_share_a_name() -> None:
    """Top-level classes, public and private; a leading underscore tells none apart."""
    places = defaultdict(list)
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                places[node.name.lstrip("_")].append(f"{path.relative_to(PACKAGE)}:{node.lineno}")
    assert len(places) > 100  # the package was found
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_nothing_is_constructed_from_more_than_eight_things() -> None:
    many = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                taken = len(node.args.posonlyargs) + len(node.args.args) + len(node.args.kwonlyargs) - 1
                if taken > 8:
                    many[f"{path.relative_to(PACKAGE)}:{node.lineno}"] = taken
    assert many == {}
