"""The URL of a directory, on a disk or in object storage, taken apart and checked; nothing is opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote

PLACE_FORMS = (
    "a path, file:///PATH, s3://BUCKET/DIRECTORY[?region=...&endpoint_override=...&scheme=...] or "
    "gs://BUCKET/DIRECTORY; credentials are found in the environment"
)
_OPTIONS = {"s3": {"region", "endpoint_override", "scheme"}, "gs": {"endpoint_override", "scheme"}}


@dataclass(frozen=True, slots=True)
class Place:
    """A directory: `scheme` is s3, gs, or nothing for a disk's. Holds no secrets."""

    scheme: str
    path: str  # BUCKET/DIRECTORY in object storage
    options: Mapping[str, str] = field(default_factory=dict)


def place_of(url: str) -> Place:
    """Take a URL, or a bare path, apart.

    Raises:
        ValueError: it is none of `PLACE_FORMS`.
    """
    scheme, marks, rest = url.partition("://")
    if url and not marks:
        return Place("", url)
    if scheme == "file" and rest.startswith("/"):
        return Place("", unquote(rest))
    path, _, query = rest.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    bucket = path.partition("/")[0]
    if not bucket or "@" in bucket or options.keys() - _OPTIONS.get(scheme, set()) or scheme not in _OPTIONS:
        raise ValueError(f"expected {PLACE_FORMS}")
    return Place(scheme, path.rstrip("/"), options)


def inside(url: str, folder: str) -> str:
    """The URL of a folder in such a place."""
    path, mark, options = url.partition("?") if "://" in url else (url, "", "")
    return f"{path.rstrip('/')}/{folder}{mark}{options}"
