"""Every promise names a test that exists, and every test of the chaos suite is named by a promise."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "10-promises.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`(tests/\S+\.py)::(\w+)`", PAGE)))
PROMISED = ("What is promised", "What happens when something fails")
"""The sections of which every row is a promise."""
SECTIONS = {section.partition("\n")[0]: section for section in PAGE.split("\n## ")}
ROWS = [
    row
    for name in PROMISED
    for row in re.findall(r"^\| .* \|$", SECTIONS[name], re.MULTILINE)[1:]  # the first is the head
]
OF_THE_SUITE_ITSELF = {"test_every_step_of_a_faulty_worker_is_struck"}


def names_in(path: Path) -> set[str]:
    functions = (node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef))
    return {function.name for function in functions if function.name.startswith("test_")}


@pytest.mark.parametrize(("path", "name"), NAMED)
def test_a_test_that_is_named_exists(path: str, name: str) -> None:
    assert name in names_in(ROOT / path)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[2:40])
def test_every_promise_and_every_fault_names_its_test(row: str) -> None:
    assert len(re.findall(r"`tests/\S+\.py::\w+`", row)) == 1


def test_every_fault_that_is_tried_is_on_the_page() -> None:
    tried = {name for path in (ROOT / "tests" / "chaos").glob("test_*.py") for name in names_in(path)}
    assert len(ROWS) > 30
    assert tried - {name for _, name in NAMED} == OF_THE_SUITE_ITSELF
