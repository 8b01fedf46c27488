"""Every ranking beside what happened next, before any of it is learned: the stuff of prequential figures.

Knows nothing of how rankings are made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from streamrec.engine.arrays.batch import Int8, MicroBatch
from streamrec.engine.arrays.labels import IMITATED, WANTED
from streamrec.engine.arrays.logged_event import LoggedEvent
from streamrec.engine.arrays.top_k import ranks


@dataclass(frozen=True, slots=True)
class Trial:
    """A chunk's examples beside their rankings, made before they were learned: what prequential figures are made of."""

    logged_events: list[LoggedEvent]  # one per example
    known: list[bool]  # the item had been seen before in the log
    rows: list[int]  # query rows of the batch
    ranks: Int8  # (1 + models, examples): the fused list first; 1 to 20, 0 further down
    kept: list[bool]  # wanted; False for a repeat that counts once, a refusal, or what is imitated
    imitated: Sequence[bool] = ()  # the choice of another policy, which an apprentice is taught


NOTHING_TRIED = Trial([], [], [], np.empty((0, 0), np.int8), [])
"""Of a chunk that is tried elsewhere."""


def tried(taught: list[LoggedEvent], known: list[bool], batch: MicroBatch, rows: slice, fill: int) -> Trial:
    """Where each example's item stood in the fused list and in every model's own.

    Args:
        taught: the event of each example, and whether its item was `known`.
        known: see taught.
        batch: holds the examples in `rows`, and their rankings.
        rows: see batch.
        fill: the model that short lists are filled up with.
    """
    asked = batch.examples.query[rows]
    fused = batch.candidates.utility[asked][None]  # (1, examples, candidates)
    scores = np.concatenate([fused, batch.candidates.scores[:, asked]])  # (1 + models, examples, candidates)
    filling = batch.candidates.scores[fill, asked]  # (examples, candidates)
    places = ranks(scores, filling, batch.candidates.items[asked], batch.examples.item[rows])
    label = batch.examples.label[rows]
    return Trial(taught, known, asked.tolist(), places, (label == WANTED).tolist(), (label == IMITATED).tolist())
