"""Patterns planted in made-up visits, by which a model can be seen to learn what it is meant for.

A listed model names its own: one of `PATTERNS`, or "module:attribute" of another `Pattern`.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from streamrec.config.parts import ModelEntry
from streamrec.engine.arrays.batch import MicroBatch
from streamrec.engine.models import Model
from streamrec.testing.expectations import expect
from streamrec.testing.visits import BEGAN_MS, ITEMS, Visits


@dataclass(frozen=True, slots=True)
class Pattern:
    """Visits with something to learn in them, and how much of it a model must have found in their second half."""

    planted: Callable[[Visits], list[MicroBatch]]
    hits: float = 0.15
    """The share of wanted items that it must put first to third among all, more than this."""
    times_popularity: float = 2.0
    """So many times the share that the best popularity reaches, more than this."""


def hits(model: Model, visits: Visits, batches: list[MicroBatch], warm: int) -> float:
    """Share of the wanted items that the model puts first to third among all, each asked for before it is learned."""
    found = total = 0
    size = len(visits.table)
    for at, batch in enumerate(batches):
        rows = batch.learned
        if at >= warm:
            items = np.tile(np.arange(size, dtype=np.int32), (rows, 1))
            scores = model.score(batch.queries, slice(0, rows), items)
            wanted = scores[np.arange(rows), batch.examples.item[:rows]]
            better = (scores > wanted[:, None]).sum(1)
            found += int(((better < 3) & (wanted > -np.inf)).sum())
            total += rows
        model.learn(batch)
    return found / total


def successors(visits: Visits) -> list[MicroBatch]:
    """After each item comes one certain other, nine times out of ten, in strolls of six; all are equally popular."""
    after = np.roll(np.random.default_rng(4).permutation(ITEMS), 1)
    batches, user = [], 0
    for step in range(70):
        some = []
        for _ in range(6):
            item = int(visits.rng.integers(ITEMS))
            for place in range(5):
                some.append((user, BEGAN_MS + 300_000 * step + 1_000 * place, item))
                item = int(after[item]) if visits.rng.random() < 0.9 else int(visits.rng.integers(ITEMS))
            user += 1
        batches += [visits.batch(some)]
    return batches


def companions(visits: Visits) -> list[MicroBatch]:
    """Items go in groups of four, in any order."""
    batches, user = [], 0
    for step in range(70):
        some = []
        for _ in range(8):
            group = 4 * int(visits.rng.integers(ITEMS // 4))
            some += [
                (user, BEGAN_MS + 300_000 * step + 1_000 * place, int(group + item))
                for place, item in enumerate(visits.rng.permutation(4))
            ]
            user += 1
        batches += [visits.batch(some)]
    return batches


def returns(visits: Visits) -> list[MicroBatch]:
    """Each user has three things and comes back to them."""
    own = {user: visits.rng.permutation(ITEMS)[:3] for user in range(20)}
    return [
        visits.batch([(user, BEGAN_MS + 300_000 * step, int(visits.rng.choice(own[user]))) for user in range(20)])
        for step in range(40)
    ]


def tastes(visits: Visits) -> list[MicroBatch]:
    """Each user stays within one category of six items, and no item is more popular than another."""
    return [
        visits.batch(
            [
                (user, BEGAN_MS + 300_000 * step, user % 10 + 10 * int(visits.rng.integers(ITEMS // 10)))
                for user in range(30)
            ]
        )
        for step in range(60)
    ]


def kinds(visits: Visits) -> list[MicroBatch]:
    """Who touched one kind of item wants the next kind; half-way, all items are replaced by new ones."""
    batches = []
    for step in range(80):
        first, many = (0, 3) if step < 40 else (30, 3)
        some = [
            (1_000 * step + user, BEGAN_MS + 300_000 * step + 1_000 * place, first + (user + place) % 10 + 10 * item)
            for user in range(8)
            for place, item in enumerate(visits.rng.integers(0, many, 4).tolist())
        ]
        batches.append(visits.batch(some))
    return batches


def favourites(visits: Visits) -> list[MicroBatch]:
    """Four times out of five, users want one of the same three items."""
    return [
        visits.batch(
            [
                (
                    1_000 * step + n,
                    BEGAN_MS + 300_000 * step,
                    int(visits.rng.integers(3 if visits.rng.random() < 0.8 else ITEMS)),
                )
                for n in range(20)
            ]
        )
        for step in range(24)
    ]


def fashions(visits: Visits) -> list[MicroBatch]:
    """All users want the same three items, for an hour, and then three others."""
    return [
        visits.batch(
            [
                (1_000 * step + n, BEGAN_MS + 300_000 * step, 3 * (step // 12) + int(visits.rng.integers(3)))
                for n in range(20)
            ]
        )
        for step in range(48)
    ]


def crazes(visits: Visits) -> list[MicroBatch]:
    """All users want the same three items, for five minutes, and then three others: what was wanted most just now is
    over.
    """
    return [
        visits.batch(
            [
                (1_000 * step + n, BEGAN_MS + 30_000 * step, 3 * (step // 10) % ITEMS + int(visits.rng.integers(3)))
                for n in range(20)
            ]
        )
        for step in range(160)
    ]


PATTERNS: Mapping[str, Pattern] = {
    "successors": Pattern(successors),
    "companions": Pattern(companions),
    "returns": Pattern(returns),
    "tastes": Pattern(tastes),
    "kinds": Pattern(kinds),
    "favourites": Pattern(favourites, hits=0.75, times_popularity=0.0),
    "crazes": Pattern(crazes, hits=0.5, times_popularity=1.4),
}


def pattern_of(entry: ModelEntry) -> Pattern:
    """The pattern that a model is meant for.

    Raises:
        AssertionError: it names none, or one that is not there.
    """
    name = entry.meant_for or ""
    pattern = pkgutil.resolve_name(name) if ":" in name else PATTERNS.get(name)
    expect(
        isinstance(pattern, Pattern),
        f"{entry.name!r} is meant for {entry.meant_for!r}, expected one of {', '.join(PATTERNS)}, or module:attribute "
        "of a streamrec.testing.Pattern",
    )
    assert isinstance(pattern, Pattern)
    return pattern
