"""Writes the report of a backtest: `report.json` and `report.html`. Loads matplotlib: to be imported when it is due."""

from __future__ import annotations

import json
from pathlib import Path

from streamrec.codec import harmless
from streamrec.evaluation.backtest.report import BacktestResult, report_figures
from streamrec.evaluation.backtest.report_page import report_page


def write_report(directory: Path, result: BacktestResult, made: str = "") -> Path:
    """Write `report.json` and `report.html` into `directory`, which is made if need be; returns the page's path.

    `made` says when and how it came about, at the page's foot.

    Raises:
        ValueError: arrays differ in length, or a rank is not in 0 to 20.
        OSError: the directory cannot be written.
    """
    figures = report_figures(result)
    directory.mkdir(parents=True, exist_ok=True)
    text = harmless(json.dumps(figures, indent=2, ensure_ascii=False, default=_plain))
    (directory / "report.json").write_text(text + "\n", encoding="utf-8")
    page = directory / "report.html"
    page.write_text(report_page(result, figures, made), encoding="utf-8")
    return page


def _plain(value: object) -> object:
    """What JSON has no word for: sets in a fixed order, anything else as its text."""
    return sorted(map(str, value)) if isinstance(value, set | frozenset) else str(value)
