"""What a scenario's mix says of one query's candidates: which are alike, of one group, or young.

Knows nothing of how slates are drawn under it: that is `policies.constrained`.
"""

from __future__ import annotations

import numpy as np

from streamrec.engine.arrays.batch import NOTHING, Float32, Int32, MicroBatch
from streamrec.engine.items.item_table import ItemTable
from streamrec.engine.policies import Constraints
from streamrec.engine.scenarios.scenario import SlateMix


def constraints_of(mix: SlateMix, items: ItemTable, batch: MicroBatch, query: int) -> Constraints | None:
    """The constraints of the slate that answers a ranked query; None where anything goes."""
    if mix.free:
        return None
    candidates = batch.candidates.items[query]
    known = candidates != NOTHING
    group = np.where(known, items.category[candidates], NOTHING).astype(np.int32)
    since = batch.queries.ts[query] - int(mix.fresh_s * 1000)
    return Constraints(
        similar=similarity(items, candidates, group) if mix.diversity else np.empty((0, 0), np.float32),
        group=group,
        young=known & (items.first_ts[candidates] >= since),
        weight=mix.diversity,
        most_per_group=mix.most_per_category,
        young_share=mix.fresh_share,
    )


def similarity(items: ItemTable, candidates: Int32, group: Int32) -> Float32:
    """1 within a group, else the cosine of the contents where both are known, (candidates, candidates).

    Args:
        items: know the contents.
        candidates: (candidates,) item indices, NOTHING where there are fewer.
        group: (candidates,) NOTHING where none is known.
    """
    similar: Float32 = ((group[:, None] == group) & (group != NOTHING)).astype(np.float32)
    described = np.flatnonzero((candidates != NOTHING) & items.content.known[candidates])
    if len(described):
        vectors = items.content.vectors[candidates[described]]
        among = np.ix_(described, described)
        similar[among] = np.maximum(similar[among], np.clip(vectors @ vectors.T, 0.0, 1.0))
    return similar
