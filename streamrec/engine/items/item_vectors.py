"""What items are about, as vectors of one length: given ones, or words hashed into place.

    given     the item's `vector` as it is, with zeros behind; a longer one is folded: component i is added to or taken
              from place hash(i), which keeps inner products on average (Weinberger et al.: Feature hashing for large
              scale multitask learning, ICML 2009)
    hashed    otherwise every word of title and text, every category and tag, the same way

A text alone, such as a search query, has its words in the same places as items have theirs.

All are of length one, so an inner product is a cosine. Nothing is learned here, so an item's vector depends on the
catalogue alone: what matters about it, a model finds out (`models.content`).
"""

from __future__ import annotations

import zlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from streamrec.engine.arrays.batch import Bool, Float32, Float64, Int32, Int64
from streamrec.engine.items.tokens import words
from streamrec.events import Item

WIDTH = 256
MOST_WORDS = 400
"""Of a title or text: what comes later says little more."""
TITLE, TEXT, CATEGORY, TAG = 1.0, 0.5, 1.0, 1.0
"""What a word counts, by where it stands."""
_FIRST_ROWS = 1_024
_TINY = 1e-12
Float16 = npt.NDArray[np.float16]


class Content:
    """Vectors by item index; rows appear as they are needed."""

    def __init__(self, capacity: int, width: int = WIDTH) -> None:
        self.capacity = capacity
        self.width = width
        self.vectors: Float32 = np.zeros((0, width), np.float32)
        self.known: Bool = np.zeros(capacity, np.bool_)
        self.count = 0  # items that have one

    def set(self, index: int, vector: Float16 | None) -> None:
        """What the item is about now; None where nothing is known."""
        self.count += int(vector is not None) - int(self.known[index])
        self.known[index] = vector is not None
        if vector is None:
            return
        if index >= len(self.vectors):
            rows = min(self.capacity, max(_FIRST_ROWS, 2 * len(self.vectors), index + 1))
            self.vectors = np.concatenate([self.vectors, np.zeros((rows - len(self.vectors), self.width), np.float32)])
        self.vectors[index] = vector

    def forget(self, items: Int32) -> None:
        """These indices will name other items soon."""
        self.count -= int(self.known[items].sum())
        self.known[items] = False

    def latest(self, last_ts: Int64, k: int) -> Int32:
        """At most `k` items that have a vector, those touched or added last; by index.

        `last_ts` is when, ms, by item index.
        """
        there = np.flatnonzero(self.known[: len(last_ts)])
        if len(there) > k:
            there = np.sort(there[np.lexsort((there, -last_ts[there]))[:k]])
        return there.astype(np.int32)


def content_of_vector(given: Sequence[float] | Float32 | Float64, width: int) -> Float16 | None:
    """A vector of whatever length as items have theirs; None where it is zero."""
    vector = _folded(given, width)
    length = float(np.linalg.norm(vector))
    return None if length == 0.0 else (vector / length).astype(np.float16)


def words_of_item(item: Item, width: int) -> Float64:
    """Everything the catalogue says of an item, hashed into place, of any length, (width,)."""
    counts: defaultdict[str, float] = defaultdict(float)
    for word in _telling(item.title or ""):
        counts[word] += TITLE
    for word in _telling(item.text or ""):
        counts[word] += TEXT
    for kind, names, weight in (("category", item.categories, CATEGORY), ("tag", item.tags, TAG)):
        for name in names:
            counts[f"{kind} {name.casefold()}"] += weight
    return _hashed({word: count**0.5 for word, count in counts.items()}, width)


def content_of_text(text: str, width: int) -> Float32:
    """What a text is about by its words, of length one, zero where it has none, (width,)."""
    vector = _hashed({word: count**0.5 for word, count in Counter(_telling(text)).items()}, width)
    return (vector / max(float(np.linalg.norm(vector)), _TINY)).astype(np.float32)


def _telling(text: str) -> list[str]:
    """Words but for single letters and digits."""
    return [word for word in words(text, MOST_WORDS) if len(word) > 1 or not word.isascii()]


def _folded(given: Sequence[float] | Float32 | Float64, width: int) -> Float64:
    if len(given) <= width:
        return np.pad(np.asarray(given, np.float64), (0, width - len(given)))
    return _hashed({f"#{place}": float(value) for place, value in enumerate(given)}, width)


def _hashed(weights: Mapping[str, float], width: int) -> Float64:
    vector = np.zeros(width, np.float64)
    for word, weight in weights.items():
        place = zlib.crc32(word.encode("utf-8", "surrogatepass"))
        vector[(place >> 1) % width] += weight if place & 1 else -weight
    return vector
