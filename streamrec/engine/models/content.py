"""What items are about: how well an item fits to what the user touched lately.

    p = sum over the user's items j of FADE ** (steps to j) v_j, to length one        the profile
    score(item) = p W v_item

with frozen content vectors v of length one. W begins as a multiple of the identity, where the score is a cosine, and is
fine-tuned online: a step up the log-likelihood of the softmax over the candidates of each query, so that a word or a
direction that tells nothing comes to count nothing, and one thing may lead to another. What is learned this way is of
vectors and not of items, so that an item without any event inherits it.

The profile is made of the items that the user's history holds, so there is nothing more to remember of a user, and an
item whose description changes changes the profiles of those who touched it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from streamrec.engine.arrays.batch import HISTORY, NOTHING, Array, Bool, Float32, Int32, MicroBatch, Queries
from streamrec.engine.arrays.compiled import compiled
from streamrec.engine.following.served import Arrays, ChangedRows, Rows
from streamrec.engine.items.item_table import ItemTable
from streamrec.engine.models import ModelParts
from streamrec.engine.retrieval import RetrieverParts
from streamrec.engine.retrieval.nearest import Nearest

FADE = 0.85
SHARPNESS = 4.0
"""What W is a multiple of the identity by, at first."""
LEARNING_RATE = 4.0
MOST = 20.0
"""Largest length of a row of W."""
POOL = 8_192
"""Items searched: all that have a vector, or those that were touched or added last."""


class ContentModel:
    """Reads the content vectors of an item table."""

    def __init__(self, name: str, items: ItemTable, learning_rate: float = LEARNING_RATE) -> None:
        self.name = name
        self.learning_rate = learning_rate
        self.refused = 0  # updates with a number in them that is none
        self._items = items
        self._content = items.content
        self._fade = FADE ** np.arange(HISTORY, dtype=np.float32)
        self.weights: Float32 = SHARPNESS * np.eye(self._content.width, dtype=np.float32)  # W

    @classmethod
    def build(cls, parts: ModelParts) -> ContentModel:
        """As `streamrec.config.parts` lists it."""
        return cls(parts.name, parts.items)

    def score(self, queries: Queries, rows: slice, items: Int32) -> Float32:
        out = np.full(items.shape, -np.inf, np.float32)
        if self._content.count == 0:
            return out
        users = self.users(queries, rows)  # (rows, width)
        known = self._known(items)
        for at in np.flatnonzero(users.any(1)).tolist():
            there = known[at]
            out[at, there] = self._content.vectors[items[at, there]] @ users[at]
        return out

    def learn(self, batch: MicroBatch) -> None:
        if self._content.count == 0:
            return
        step = np.zeros_like(self.weights)
        learned = 0
        for e in np.flatnonzero(batch.examples.label[: batch.learned] == 1).tolist():
            q, item = int(batch.examples.query[e]), batch.examples.item[e]
            if q == NOTHING or not self._content.known[item]:
                continue
            offered = batch.candidates.items[q]
            offered = offered[self._known(offered)]
            profile = self._profiles(batch.queries, slice(q, q + 1))[0]
            if item not in offered or not profile.any():
                continue
            vectors = self._content.vectors[offered]  # (offered, width)
            scores = vectors @ (profile @ self.weights)
            shares = np.exp(scores - scores.max())
            pull = self._content.vectors[item] - (shares / shares.sum()) @ vectors
            step += np.outer(profile, pull)
            learned += 1
        if learned == 0:
            return
        moved = self.weights + self.learning_rate / max(learned, 1) ** 0.5 * step
        lengths = np.linalg.norm(moved, axis=1, keepdims=True)
        if not np.isfinite(lengths).all():
            self.refused += 1
            return
        self.weights = (moved * np.minimum(1.0, MOST / np.maximum(lengths, 1e-6))).astype(np.float32)

    def forget(self, items: Int32) -> None:
        """Nothing here is by item."""

    def served(self) -> dict[str, Rows]:
        return {"weights": self.weights}

    def serve(self, arrays: Arrays, changed: ChangedRows | None = None) -> None:
        self.weights = arrays["weights"]

    def state(self) -> dict[str, Array]:
        return {"weights": self.weights.copy(), "refused": np.array([self.refused], np.int64)}

    def restore(self, arrays: Mapping[str, Array]) -> None:
        self.weights[:] = arrays["weights"]
        self.refused = int(arrays["refused"][0])

    # As a retriever sees it

    def users(self, queries: Queries, rows: slice) -> Float32:
        """Profiles times W, zero where nothing is known, (rows, width)."""
        profiles = self._profiles(queries, rows)
        for at in range(len(profiles)):  # one product per query: its bits do not depend on how many came with it
            profiles[at] = profiles[at] @ self.weights
        return profiles

    def item_vectors(self) -> Float32:
        """(items, width)"""
        return self._content.vectors

    def item_bias(self) -> Float32:
        """None, (items,)"""
        return np.zeros(len(self._content.vectors), np.float32)

    def top(self, k: int) -> Int32:
        """The items to search among."""
        return self._content.latest(self._items.last_ts, min(k, POOL))

    def _known(self, items: Int32) -> Bool:
        known: Bool = (items != NOTHING) & self._content.known[items]
        return known

    def _profiles(self, queries: Queries, rows: slice) -> Float32:
        past = queries.items[rows]
        out = np.zeros((len(past), self._content.width), np.float32)
        _profile(past, queries.steps[rows], self._content.vectors, self._content.known, self._fade, out)
        return out


def build_retriever(parts: RetrieverParts) -> Nearest:
    """The nearest among the items that the model itself names."""
    return Nearest(parts.name, parts.model, parts.model, POOL)


@compiled
def _profile(past, steps, vectors, known, fade, out):  # type: ignore[no-untyped-def]
    for q in range(len(past)):
        for place in range(past.shape[1]):
            item = past[q, place]
            if item != NOTHING and known[item]:
                for c in range(out.shape[1]):
                    out[q, c] += fade[steps[q, place]] * vectors[item, c]
        length = np.sqrt((out[q] * out[q]).sum())
        if length > 0.0:
            out[q] /= length
