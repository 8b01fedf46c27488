"""What a request names finds: items whose words match a text, and items whose contents are near a text or other items.

Asked for one request at a time, with what must not be shown, so that there is always as much to show as there is. Knows
nothing of users.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from streamrec.engine.arrays.batch import NOBODY, NOTHING, Bool, Float32, Int32
from streamrec.engine.arrays.top_k import best
from streamrec.engine.items.item_table import ItemTable

MOST_LOOKED_UP = 4_096
"""By words, where many of the items must not be shown."""
MOST_COMPARED = 16_384
"""By contents; of more, those that were touched or came last."""
BLOCK = 1_024
"""Vectors gathered at a time, few enough to stay in the processor's cache."""
NEAR = 0.5
"""Of the nearest one's cosine: what is further away is not found."""
Found = tuple[Int32, Float32]
"""Items, best first, and the log of how well each suits beside the best."""
NONE: Found = np.empty(0, np.int32), np.empty(0, np.float32)


class WordIndex(Protocol):
    """Something that finds items by words."""

    def __len__(self) -> int:
        """The items in it."""

    def search(self, text: str, k: int) -> tuple[list[str], Float32]:
        """At most `k` items by id, best first, and their scores, above zero."""


class WordSearch:
    """By the words of the catalogue; an item suits by its share of the best one's score."""

    def __init__(self, name: str, index: WordIndex, items: ItemTable) -> None:
        self.name = name
        self._index = index
        self._items = items

    def __len__(self) -> int:
        return len(self._index)

    def found(self, text: str | None, seeds: Int32, k: int, hidden: Bool) -> Found:
        if not text:
            return NONE
        wanted = 2 * k
        indices, scores = self._shown(text, wanted, hidden)
        while len(indices) < k and wanted < min(len(self._index), MOST_LOOKED_UP):
            wanted = min(8 * wanted, MOST_LOOKED_UP)
            indices, scores = self._shown(text, wanted, hidden)
        indices, scores = indices[:k], scores[:k]
        if not len(indices):
            return NONE
        falling = np.minimum.accumulate(scores)  # items with every word come first, though others may score higher
        return indices, np.log(falling / falling[0]).astype(np.float32)

    def _shown(self, text: str, most: int, hidden: Bool) -> Found:
        """Of the best `most` those that may be shown, and their scores."""
        names, scores = self._index.search(text, most)
        indices = np.array([self._items.lookup(name) for name in names], np.int32)
        there = indices != NOTHING
        there[there] = ~hidden[indices[there]]
        return indices[there], scores[there]


class MeaningSearch:
    """By content vectors: near to a text, or to the items that the request names."""

    def __init__(self, name: str, items: ItemTable, vector_of: Callable[[str], Float32] | None = None) -> None:
        """`vector_of` makes a vector of a text; without it, the items named are what is looked for."""
        self.name = name
        self._items = items
        self._vector_of = vector_of

    def __len__(self) -> int:
        return self._items.content.count

    def found(self, text: str | None, seeds: Int32, k: int, hidden: Bool) -> Found:
        wanted = self._wanted(text, seeds)
        content = self._items.content
        count = min(len(hidden), len(content.vectors))
        there = np.flatnonzero(content.known[:count] & ~hidden[:count]).astype(np.int32)
        if wanted is None or not len(there):
            return NONE
        if len(there) > MOST_COMPARED:
            last_ts = self._items.last_ts[there]
            there = there[np.sort(np.argpartition(-last_ts, MOST_COMPARED)[:MOST_COMPARED])]
        blocks = [there[at : at + BLOCK] for at in range(0, len(there), BLOCK)]
        cosines = np.concatenate([content.vectors[block] @ wanted for block in blocks])  # (there,)
        near = best(cosines, k, NOBODY, 0.0)
        if not len(near):
            return NONE
        near = near[cosines[near] > NEAR * float(cosines[near[0]])]
        return there[near], np.log(cosines[near] / cosines[near[0]]).astype(np.float32)

    def _wanted(self, text: str | None, seeds: Int32) -> Float32 | None:
        """What is looked for, of length one; None where nothing is known of it, (width,)."""
        content = self._items.content
        if self._vector_of is not None:
            vector = self._vector_of(text) if text else None
        else:
            known = seeds[content.known[seeds]]
            vector = content.vectors[known].sum(0) if len(known) else None
        length = 0.0 if vector is None else float(np.linalg.norm(vector))
        return None if vector is None or length == 0.0 else (vector / np.float32(length)).astype(np.float32)
