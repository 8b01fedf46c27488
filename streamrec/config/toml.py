"""Settings as the TOML that they can be read from again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any


def toml_lines(values: Mapping[str, Any]) -> Iterator[str]:
    """Plain values, then a table per group."""
    for name, value in values.items():
        if not isinstance(value, Mapping):
            yield f"{_key(name)} = {_value(value)}"
    for name, group in values.items():
        if isinstance(group, Mapping):
            yield ""
            yield f"[{_key(name)}]"
            yield from (f"{_key(key)} = {_value(value)}" for key, value in group.items())


def _key(name: str) -> str:
    return name if name.replace("_", "").isalnum() and name.isascii() else _value(name)


def _value(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_value(member) for member in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(name)} = {_value(member)}" for name, member in value.items()) + "}"
    # JSON's texts, numbers and booleans are TOML's too, but for the one control character that JSON leaves bare.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
