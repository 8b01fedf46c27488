"""Bytes of unknown origin as text for people: nothing in it commands a terminal, and it is never long.

Knows nothing of what the bytes should have been.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import msgspec

from streamrec.codec import CONTENT_TYPE

MOST_CHARS = 4_096
"""Of a value's text; more is cut off, and said to be."""
MOST_DECODED_BYTES = 65_536
_HEX_BYTES = 512
_ROW_BYTES = 16


def excerpt(value: bytes | None, headers: Iterable[tuple[str, bytes]] = ()) -> str:
    """The value as indented JSON where it is JSON or msgpack, else as escaped text, else in hexadecimal."""
    if value is None:
        return "(none)"
    packed = any(name.lower() == CONTENT_TYPE and b"msgpack" in content for name, content in headers)
    text = _decoded(value, packed) if len(value) <= MOST_DECODED_BYTES else None
    if text is None:
        text = _escaped(value) if _is_texty(value) else _hexadecimal(value)
    if len(text) <= MOST_CHARS:
        return text
    return f"{text[:MOST_CHARS]}\n... the first {MOST_CHARS:,} characters; the value has {len(value):,} bytes"


def _decoded(value: bytes, packed: bool) -> str | None:
    try:
        plain: Any = msgspec.msgpack.decode(value) if packed else msgspec.json.decode(value)
        if not isinstance(plain, dict | list):  # a byte that happens to be a number says nothing
            return None
        # Only ASCII comes out, everything else escaped; what JSON leaves bare of it is one control character.
        return json.dumps(plain, indent=2, default=repr).replace("\x7f", "\\u007f")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError, ValueError):
        return None


def _is_texty(value: bytes) -> bool:
    start = value[:MOST_CHARS]
    plain = sum(32 <= byte < 127 or byte in b"\t\r\n" for byte in start)
    return plain * 10 >= len(start) * 7


def _escaped(value: bytes) -> str:
    start = value[:MOST_CHARS]
    more = f"\n... the first {len(start):,} of {len(value):,} bytes" if len(start) < len(value) else ""
    return ascii(start)[2:-1] + more


def _hexadecimal(value: bytes) -> str:
    start = value[:_HEX_BYTES]
    rows = [f"{at:04x}  {start[at : at + _ROW_BYTES].hex(' ')}" for at in range(0, len(start), _ROW_BYTES)]
    if len(start) < len(value):
        rows.append(f"... the first {len(start):,} of {len(value):,} bytes")
    return "\n".join(rows)
