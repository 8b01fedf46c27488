"""What the fusion sees of a candidate: every model's word in one scale, and what is known of the item.

A model's score is a log mass, so its share of the mass over a query's candidates is a probability, which makes the
models comparable. Knows nothing of weights, nor of where candidates came from.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from streamrec.engine.arrays.batch import NOTHING, Float32, Int32, Int64, Queries
from streamrec.engine.arrays.compiled import compiled
from streamrec.engine.arrays.log_shares import BY_MODEL, FLOOR, PARTS, SCALE

ITEM_FEATURES = ("item age", "item idle", "just touched", "in session", "in history")
PAST_PER_SESSION_ITEM = 16
"""So many items of the past tell as much as one of the session: one or two are little, three are more."""


def names(models: Sequence[str]) -> tuple[str, ...]:
    """What each feature is, in order."""
    return (*(f"{model} {part}" for part in PARTS for model in models), *ITEM_FEATURES)


def describe(scores: Float32, items: Int32, queries: Queries, rows: slice, moments: tuple[Int64, Int64]) -> Float32:
    """The features of the candidates of some queries, (rows, candidates, features).

    Args:
        scores: (models, rows, candidates) log masses, -inf where a model knows nothing.
        items: (rows, candidates), NOTHING where there are fewer.
        queries: of which these are the ones in `rows`.
        rows: see queries.
        moments: when each item was first and last seen, ms, by item index.
    """
    features = np.zeros((*items.shape, BY_MODEL * len(scores) + len(ITEM_FEATURES)), np.float32)
    asked = queries.ts[rows], queries.session[rows], queries.items[rows]
    _describe(scores, items, *asked, *moments, features)
    return features


def contexts(queries: Queries, rows: Int64) -> Int64:
    """How much is known of the user: 0 nothing, 1 little, 2 more, (rows,)."""
    out = np.empty(len(rows), np.int64)
    for at, row in enumerate(rows.tolist()):
        out[at] = _context(queries.session[row], queries.items[row])
    return out


@compiled
def _context(session, past):  # type: ignore[no-untyped-def]
    known = session
    if known == 0:  # at a session's start the past must do, though each of its items tells less
        for item in past:
            known += item != NOTHING
        known = (known + PAST_PER_SESSION_ITEM - 1) // PAST_PER_SESSION_ITEM
    return 0 if known == 0 else (1 if known <= 2 else 2)


@compiled
def _describe(scores, items, ts, session, past, first_ts, last_ts, features):  # type: ignore[no-untyped-def]
    models = scores.shape[0]
    width = items.shape[1]
    keys = np.empty(width, np.float32)
    for q in range(len(items)):
        used = 0
        while used < width and items[q, used] != NOTHING:
            used += 1
        bucket = _context(session[q], past[q])
        features[q] = 0.0
        for m in range(models):
            top = np.float32(-np.inf)
            for c in range(used):
                top = max(top, scores[m, q, c])
                keys[c] = -scores[m, q, c]
            if top == -np.inf:
                continue
            total = 0.0
            for c in range(used):
                total += np.exp(scores[m, q, c] - top)
            log_total = top + np.log(total)
            order = np.argsort(keys[:used])
            rank = 0
            for at in range(used):
                c = order[at]
                if scores[m, q, c] == -np.inf:
                    features[q, c, m] = FLOOR / SCALE
                else:
                    if at == 0 or keys[c] > keys[order[at - 1]]:
                        rank = at + 1  # equals share a rank
                    features[q, c, m] = max(scores[m, q, c] - log_total, FLOOR) / SCALE
                    features[q, c, models + m] = 1.0 / rank
                    features[q, c, 2 * models + m] = 1.0
                if bucket > 0:
                    features[q, c, (2 + bucket) * models + m] = features[q, c, m]
        for c in range(used):
            age_s = max(ts[q] - first_ts[items[q, c]], 0) / 1000.0
            idle_s = max(ts[q] - last_ts[items[q, c]], 0) / 1000.0
            features[q, c, BY_MODEL * models] = np.log1p(age_s) / 10.0
            features[q, c, BY_MODEL * models + 1] = np.log1p(idle_s) / 10.0
            for place in range(past.shape[1]):
                if past[q, place] == items[q, c]:
                    kind = 2 if place == 0 else (3 if place < session[q] else 4)
                    features[q, c, BY_MODEL * models + kind] = 1.0
                    break
