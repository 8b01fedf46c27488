"""What comes of a portion of the log: slates for those who asked, and a trial of every ranking against what happened.

Knows nothing of how rankings are made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from streamrec.arrivals import Arrival
from streamrec.attribution import Memo
from streamrec.events import Slate
from streamrec.features.batch import Int8, MicroBatch
from streamrec.interest import IMITATED, WANTED
from streamrec.ranking import ranks

if TYPE_CHECKING:
    from streamrec.progress import Drift


@dataclass(frozen=True, slots=True)
class Trial:
    """One portion's examples beside their rankings, made before they were learned: the stuff of prequential figures."""

    arrivals: list[Arrival]  # one per example
    known: list[bool]  # the item had been seen before in the log
    rows: list[int]  # query rows of the batch
    ranks: Int8  # (1 + models, examples): the fused list first; 1 to 20, 0 further down
    kept: list[bool]  # wanted; False for a repeat that counts once, a refusal, or what is imitated
    imitated: Sequence[bool] = ()  # somebody else's choice, which an apprentice is taught


@dataclass(frozen=True, slots=True)
class Portion:
    """What came of one portion of the log."""

    arrivals: Sequence[Arrival]
    slates: Mapping[tuple[int, int], Slate]  # by the partition and offset of what asked for them
    memos: Mapping[tuple[int, int], Memo]  # what to keep of each slate, to learn from what comes of it
    trial: Trial
    drifts: Sequence[Drift]  # that came to light in it


def tried(taught: list[Arrival], known: list[bool], batch: MicroBatch, rows: slice, fill: int) -> Trial:
    """Where each example's item stood in the fused list and in every model's own.

    Args:
        taught: the examples' arrivals, and whether their items were `known`.
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
