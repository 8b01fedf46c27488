"""What comes of a portion of the log: slates for those who asked, and a trial of every ranking against what happened.

Knows nothing of how rankings are made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from streamrec.arrivals import Arrival
from streamrec.events import Slate, SlateItem
from streamrec.features.batch import NOTHING, Int8, MicroBatch
from streamrec.fusion import Choice, Fusion, ranks

if TYPE_CHECKING:
    from streamrec.progress import Drift


@dataclass(frozen=True, slots=True)
class Trial:
    """One portion's examples beside their rankings, made before they were learned: the stuff of prequential figures."""

    arrivals: list[Arrival]  # one per example
    known: list[bool]  # the item had been seen before in the log
    rows: list[int]  # query rows of the batch
    ranks: Int8  # (1 + models, examples): the fused list first; 1 to 20, 0 further down
    kept: list[bool]  # False for a repeat that counts once


@dataclass(frozen=True, slots=True)
class Portion:
    """What came of one portion of the log."""

    arrivals: Sequence[Arrival]
    slates: Mapping[tuple[int, int], Slate]  # by the partition and offset of what asked for them
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
    kept = (batch.examples.label[rows] == 1).tolist()
    return Trial(taught, known, asked.tolist(), places, kept)


def composed(
    arrival: Arrival, query: int, batch: MicroBatch, choice: Choice, at: int, fusion: Fusion, ids: Sequence[str], k: int
) -> Slate:
    """The slate for one request.

    Args:
        arrival: what asked, and the `query` row of the batch that was ranked for it.
        query: see arrival.
        batch: holds the candidates.
        choice: what the fusion chose, of which row `at` is for this request.
        at: see choice.
        fusion: says each model's share.
        ids: item ids by index.
        k: items at most.
    """
    event, candidates = arrival.event, batch.candidates
    places = choice.places[at, :k]
    places = places[places != NOTHING]
    used = int((candidates.items[query] != NOTHING).sum())
    names = (*fusion.models, "item")
    columns = zip(
        candidates.items[query, places].tolist(),
        np.round(choice.utility[at, : len(places)], 5).tolist(),
        choice.propensity[at, : len(places)].tolist(),
        np.round(fusion.shares(candidates.features[query, :used], places), 3).tolist(),
        strict=True,
    )
    items = tuple(
        SlateItem(
            item_id=ids[item],
            position=position,
            score=score,
            propensity=chance,
            shares={name: share for name, share in zip(names, shares, strict=True) if share},
        )
        for position, (item, score, chance, shares) in enumerate(columns, 1)
    )
    return Slate(
        rec_id=arrival.place,
        user_id=event.user_id,
        ts=event.ts,
        items=items,
        policy=fusion.policy,
        version=str(fusion.version),
        candidates=used,
        scenario=event.scenario or "home",
        session_id=event.session_id,
        request_id=event.event_id,
    )
