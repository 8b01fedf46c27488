"""The docs are one small book: few pages of one form, words that exist, reference pages that the code has written."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from streamrec.gateway.metrics import GatewayMetrics
from streamrec.learner.metrics import LearnerMetrics
from streamrec.worker.metrics import Metrics
from tools.reference import CHANGED_FIRST, DOCS, PARTS, fields, handwritten, written

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "streamrec"
MOST_PAGES, MOST_WORDS = 15, 20_000
NUMBERED = sorted(DOCS.glob("[0-9][0-9]-*.md"))
BESIDE = {"glossary.md", "experiments.md", "results.md"}
"""The words, the dated log, and the page that `tools/bench quality` writes."""
GONE = (
    """Moments Cuts Portion Arrival Knowledge Ruling lots Letter bury Doubt Lesson Memo Dealt Teller Duels Verdicts"""
)
"""Names of a private dialect that the field's words have replaced."""


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def names_in(source: Path) -> set[str]:
    """The module's name, and those of all its classes and functions, without leading underscores."""
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    defined = {node.name for node in ast.walk(ast.parse(text_of(source))) if isinstance(node, kinds)}
    return {name.strip("_") for name in defined | {source.stem}}


def test_the_book_is_short() -> None:
    pages = [ROOT / "README.md", *NUMBERED, DOCS / "glossary.md"]
    assert len(pages) <= MOST_PAGES
    assert sum(len(handwritten(text_of(page)).split()) for page in pages) <= MOST_WORDS


def test_its_pages_follow_one_another() -> None:
    assert [page.name[:2] for page in NUMBERED] == [f"{number:02}" for number in range(1, len(NUMBERED) + 1)]
    assert {page.name for page in DOCS.glob("*.md")} - {page.name for page in NUMBERED} == BESIDE


@pytest.mark.parametrize("page", NUMBERED, ids=lambda page: page.stem)
def test_a_page_has_its_question_a_table_a_command_and_what_comes_next(page: Path) -> None:
    text = text_of(page)
    title, _, rest = text.partition("\n")
    assert "?" in title + rest.lstrip("\n").partition("\n\n")[0]
    assert re.search(r"^\|(?:-+\|)+$", text, re.MULTILINE)
    assert "\n```sh\n" in text
    assert re.match(r"\**Next\b.*\]\(.+\)", text.strip().splitlines()[-1])


@pytest.mark.parametrize("name", PARTS)
def test_a_reference_page_is_what_the_code_says(name: str) -> None:
    text = text_of(DOCS / name)
    assert text == written(name, text), "run tools/docs"


def test_a_page_that_lacks_a_generated_part_is_refused() -> None:
    with pytest.raises(ValueError, match="expected"):
        written("12-commands.md", "# Commands\n")


def test_the_ten_settings_that_people_change_come_first() -> None:
    assert len(CHANGED_FIRST) == 10
    rows = re.findall(r"^\| `([^`]+)` \|", text_of(DOCS / "11-settings.md"), re.MULTILINE)
    assert tuple(rows[:10]) == CHANGED_FIRST
    assert set(CHANGED_FIRST) <= set(fields())


def exposed() -> dict[str, tuple[str, ...]]:
    """What `/metrics` shows of ours: by name, as Prometheus has it, the labels."""
    shown: dict[str, tuple[str, ...]] = {}
    for metrics in (Metrics(["fused"]), LearnerMetrics(["fused"]), GatewayMetrics()):
        for kind in vars(metrics).values():  # what has labels is shown once it has values
            if names := getattr(kind, "_labelnames", ()):
                kind.labels(*names)
        for family in text_string_to_metric_families(generate_latest(metrics.registry).decode()):
            for sample in family.samples:
                if family.name.startswith("streamrec_") and not sample.name.endswith("_created"):
                    shown[sample.name] = tuple(sorted(sample.labels))
    return shown


def test_every_metric_says_what_is_good_and_what_to_do() -> None:
    shown = {
        re.sub(r"_(count|sum|total)$", "", name.removeprefix("streamrec_")): labels
        for name, labels in exposed().items()
        if not name.endswith("_bucket")
    }
    rows = re.findall(
        r"^\| `(\w+)(?:\{([\w,]+)\})?` \| ([^|]+) \| ([^|]+) \|$", text_of(DOCS / "08-wrong.md"), re.MULTILINE
    )
    assert {name: tuple(sorted(filter(None, labels.split(",")))) for name, labels, *_ in rows} == shown
    assert len(rows) == len(shown)


def test_every_metric_that_is_named_is_there() -> None:
    pages = [*DOCS.glob("*.md"), ROOT / "README.md", *(path for path in (ROOT / "deploy").iterdir() if path.is_file())]
    named = {name for page in pages for name in re.findall(r"\bstreamrec_[a-z]\w*", text_of(page))}
    histograms = {name.removesuffix("_count") for name in exposed() if name.endswith("_count")}
    assert named - exposed().keys() - histograms == set()
    assert len(named) > 5


def test_the_glossary_s_words_exist() -> None:
    sources = "\n".join(text_of(source) for source in PACKAGE.rglob("*.py"))
    rows = re.findall(r"^\| (?!word|-).*\|$", text_of(DOCS / "glossary.md"), re.MULTILINE)
    assert 15 <= len(rows) <= 30
    for row in rows:
        names = re.findall(r"`([\w.]+)`", row)
        assert names, row
        assert [name for name in names if not re.search(rf"\b{re.escape(name)}\b", sources)] == [], row


@pytest.mark.parametrize("source", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_words_that_went_do_not_come_back(source: Path) -> None:
    gone = {word.casefold() for word in GONE.split()}
    assert {name for name in names_in(source) if name.replace("_", "").casefold() in gone} == set()
