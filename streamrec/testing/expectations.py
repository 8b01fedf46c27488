"""How a check says what it expected: an AssertionError with a sentence, whichever test runner is used."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from streamrec.engine.arrays.batch import Array


def expect(held: bool | np.bool_, otherwise: str) -> None:
    """Raise AssertionError with this sentence unless it held."""
    if not held:
        raise AssertionError(otherwise)


def expect_equal(came: object, expected: object, of: str) -> None:
    """Raise AssertionError unless what came is what was expected."""
    if came != expected:
        raise AssertionError(f"{of} is {came!r}, expected {expected!r}")


def expect_raised(kind: type[Exception], said: str, action: Callable[[], object]) -> Exception:
    """The error that the action raises.

    Raises:
        AssertionError: it raises none of this kind, or one whose message does not match `said`, a regular expression.
    """
    try:
        action()
    except kind as error:
        expect(re.search(said, str(error)) is not None, f"{kind.__name__} says {str(error)!r}, expected {said!r} in it")
        return error
    raise AssertionError(f"nothing was raised, expected {kind.__name__} with {said!r} in its message")


def same(first: Mapping[str, Array], second: Mapping[str, Array]) -> bool:
    """Whether two states have the same names, types and bits."""
    return first.keys() == second.keys() and all(
        first[name].dtype == second[name].dtype and first[name].tobytes() == second[name].tobytes() for name in first
    )


def run_all(checks: tuple[Callable[[Any], None], ...], fresh: Callable[[], Any]) -> None:
    """Run every check on a subject of its own; an AssertionError begins with the name of the promise."""
    for check in checks:
        try:
            check(fresh())
        except AssertionError as error:
            raise AssertionError(f"{check.__name__}: {error}") from error
