"""Strings as arrays, for snapshots that hold nothing but named arrays."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from streamrec.engine.arrays.batch import Array


def packed_strings(name: str, strings: list[str]) -> dict[str, Array]:
    """Strings as two arrays: their UTF-8 bytes end to end, and where each ends."""
    encoded = [string.encode("utf-8", "surrogatepass") for string in strings]
    ends = np.cumsum([len(part) for part in encoded], dtype=np.int64) if encoded else np.empty(0, np.int64)
    return {f"{name}.utf8": np.frombuffer(b"".join(encoded), np.uint8), f"{name}.ends": ends}


def unpacked_strings(name: str, arrays: Mapping[str, Array]) -> list[str]:
    """The inverse of `packed_strings`."""
    text = arrays[f"{name}.utf8"].tobytes()
    ends = arrays[f"{name}.ends"].tolist()
    starts = [0, *ends][:-1]
    return [text[start:end].decode("utf-8", "surrogatepass") for start, end in zip(starts, ends, strict=True)]
