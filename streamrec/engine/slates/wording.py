"""A place of a slate in words: who wanted the item, and how it came to its position."""

from __future__ import annotations

from streamrec.events import SlateItem

SHARES_SHOWN = 5
"""Models named per item in words, those with the largest shares; plain values have them all."""
CERTAIN = 1.0 - 1e-9
TEMPERED = frozenset({"plackett-luce", "thompson"})
"""Policies that draw at `fusion.temperature`: others put an item above its rank by an order of their own."""


def wanted(item: SlateItem) -> str:
    """The models with the largest shares, largest first."""
    largest = sorted(item.shares.items(), key=lambda pair: (-abs(pair[1]), pair[0]))[:SHARES_SHOWN]
    return ", ".join(f"{model} {share:+.2g}" for model, share in largest) or "nobody in particular"


def placed(item: SlateItem, policy: str, temperature: float | None, *, explored: bool = False) -> str:
    """How the item came to its position: its propensity, where the mean score would have put it, and what moved it up.

    Args:
        item: as published.
        policy: that made the slate.
        temperature: of its draw, None where it has none.
        explored: the place was likelier given by `fusion.explore`, which a line of its own says.
    """
    chance = f"put here with probability {item.propensity:.3g}"
    if item.propensity >= CERTAIN:
        chance = "put here for certain"
    if item.team is not None:
        chance += f", picked by {item.team}"
    if item.rank == 0:  # recorded before ranks were
        return chance
    if item.rank <= item.position or item.propensity >= CERTAIN:
        return f"{chance}: {ordinal(item.rank)} by the mean score"
    place, here = ordinal(item.rank), ordinal(item.position)
    if explored:
        return f"{chance}: would stand {place} by the mean score, exploration likely put it {here}"
    who = f"the order of {item.team or policy}" if temperature is None else f"the draw (temperature {temperature:g})"
    return f"{chance}: would stand {place} by the mean score, {who} put it {here}"


def ordinal(number: int) -> str:
    """1st, 2nd, 3rd, 4th, ..., 11th, ..., 21st."""
    if number % 100 in (11, 12, 13):
        return f"{number}th"
    return f"{number}{({1: 'st', 2: 'nd', 3: 'rd'}).get(number % 10, 'th')}"
