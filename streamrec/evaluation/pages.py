"""Fills the template of a page of HTML that needs nothing else: its style goes in with it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template

from streamrec.codec import harmless

PLAIN = Path(__file__).parent / "page.html"
"""A title, a sentence in bold that says what was found, and a body."""
STYLE = Path(__file__).parent / "page.css"
"""The colours that plots are drawn in stand here too, for light and for dark."""


def filled(template: Path, **parts: str) -> str:
    """The page: HTML in each `$part` of the template, and the style of all pages in its `$style`."""
    text = Template(template.read_text(encoding="utf-8"))
    return text.substitute(parts, style=STYLE.read_text(encoding="utf-8"))


def escaped(text: str) -> str:
    """Text of anybody's as HTML that shows it, and does nothing else."""
    return escape(harmless(text))


def table_row(name: str, cells: Sequence[str]) -> str:
    """A row of a table whose cells, HTML already, are headed by a name, which is plain text."""
    return f'<tr><th scope="row">{escaped(name)}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'


def page(title: str, said: Sequence[str], body: str, made: str) -> str:
    """A page of findings.

    Args:
        title: plain text, as the rest but the body.
        said: the verdict, and what is to be said beside it.
        body: HTML.
        made: when and how it came about.
    """
    lead, *rest = said
    parts = {"title": title, "lead": lead, "rest": " ".join(rest), "made": made}
    return filled(PLAIN, **{name: escaped(text) for name, text in parts.items()}, body=body)


def table_of(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of plain text, whose first column names the rows."""
    names = "".join(f"<th>{escaped(name)}</th>" for name in head)
    body = "".join(table_row(name, [escaped(cell) for cell in cells]) for name, *cells in rows)
    return (
        f'<div class="scroll"><table class="figures"><thead><tr>{names}</tr></thead><tbody>{body}</tbody></table></div>'
    )
