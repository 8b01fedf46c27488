"""Saved arrays that are not a part's own: which part it is, what it has, and what was found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from streamrec.engine.arrays.batch import Array
from streamrec.errors import StateError

MISFIT = (KeyError, ValueError, IndexError, TypeError, RuntimeError)
"""What parts say of arrays that are not theirs: a name is missing, or a shape or type is another's."""
GO_BACK = "go back to these"


@contextmanager
def fitting(
    part: str, found: Mapping[str, Array], untaught: Mapping[str, Array], remedy: str = GO_BACK
) -> Iterator[None]:
    """While `part` takes over what was found.

    Args:
        part: what people call it.
        found: its saved arrays.
        untaught: its own arrays, as they are before anything is learned.
        remedy: what to do about other settings or another version, by which it was saved.

    Raises:
        StateError: they are not its own.
    """
    try:
        yield
    except MISFIT as error:
        why = _missing(found, untaught) or other_rows(found, untaught) or _other_lengths(found, untaught)
        raise misfit(part, why or repr(error), remedy) from error


def misfit(part: str, why: str, remedy: str) -> StateError:
    """The error that says so."""
    return StateError(f"{part} does not fit: {why}. It was saved under other settings or by another version: {remedy}")


def other_rows(found: Mapping[str, Array], untaught: Mapping[str, Array]) -> str | None:
    """Where the rows of an array are of another size, what was expected and what was found.

    How many rows there are is no matter: arrays grow along their first axis.
    """
    for name, own in untaught.items():
        rows = own.shape[1:]
        if name in found and found[name].shape[1:] != rows and 0 not in rows:
            return f"expected rows of {_size(rows)} in {name!r}, found {_size(found[name].shape[1:])}"
    return None


def _missing(found: Mapping[str, Array], untaught: Mapping[str, Array]) -> str | None:
    return next((f"expected an array {name!r}, found none" for name in untaught if name not in found), None)


def _other_lengths(found: Mapping[str, Array], untaught: Mapping[str, Array]) -> str | None:
    """The same of arrays that have all their rows from the beginning."""
    for name, own in untaught.items():
        if own.ndim and len(own) and len(own) != len(found[name]):
            return f"expected {len(own)} rows in {name!r}, found {len(found[name])}"
    return None


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "1"
