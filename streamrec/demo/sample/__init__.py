"""The sample that ships with the package: three weeks of a real shop's purchases, and the titles of what was bought.

Where it comes from, what was changed and its licence (CC BY 4.0) are told in README.md beside this file.
"""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).parent


def sample_log() -> Path:
    """The purchases, a log that needs no mapping: type, user_id, item_id, ts, session_id, value."""
    return HERE / "online_retail.parquet"


def sample_items() -> Path:
    """The catalogue of the sample: item_id, title, category."""
    return HERE / "online_retail_items.parquet"
