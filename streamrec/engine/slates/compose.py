"""What is published for a request, made of what was chosen.

Knows nothing of how candidates were found, scored or chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

import numpy as np

from streamrec.engine.arrays.batch import NOTHING, Float32, Float64, Int64, MicroBatch
from streamrec.engine.arrays.log_shares import log_shares
from streamrec.engine.arrays.logged_event import LoggedEvent
from streamrec.engine.fusion.fusion import Fusion
from streamrec.engine.policies.registry import ChosenSlate, CounterfactualChoice
from streamrec.engine.scenarios.scenario import scenario_of
from streamrec.events import Alternative, Proposal, Slate, SlateItem


def composed(
    logged: LoggedEvent,
    query: int,
    batch: MicroBatch,
    chosen: ChosenSlate,
    fusion: Fusion,
    ids: Sequence[str],
    k: int,
    stale: tuple[str, ...] = (),
) -> Slate:
    """The slate for one request.

    Args:
        logged: the request, and the `query` row of the batch that was ranked for it.
        query: see logged.
        batch: holds the candidates.
        chosen: what the policy chose of them.
        fusion: says each model's share.
        ids: item ids by index.
        k: items at most.
        stale: what was too old to be used.
    """
    event, candidates = logged.event, batch.candidates
    places = shown(chosen, k)
    used = int((candidates.items[query] != NOTHING).sum())
    features, utility = candidates.features[query, :used], candidates.utility[query, :used]
    ranks = np.empty(used, np.int64)
    ranks[np.argsort(-utility, kind="stable")] = np.arange(1, used + 1)
    items = tuple(
        SlateItem(
            item_id=ids[item],
            position=position,
            score=score,
            propensity=chance,
            shares=shares,
            scores=scores,
            rank=rank,
            team=team,
        )
        for position, (item, score, chance, shares, scores, rank, team) in enumerate(
            zip(
                candidates.items[query, places].tolist(),
                np.round(utility[places].astype(np.float64), 5).tolist(),
                chosen.propensity[: len(places)].tolist(),
                _named((*fusion.models, "item"), np.round(fusion.shares(features, places), 3)),
                _scores(fusion, features[places]),
                ranks[places].tolist(),
                chosen.teams[: len(places)],
                strict=True,
            ),
            1,
        )
    )
    return Slate(
        rec_id=logged.place,
        user_id=event.user_id,
        ts=event.ts,
        items=items,
        policy=chosen.decision.publish,
        version=str(fusion.version),
        candidates=used,
        scenario=scenario_of(event),
        session_id=event.session_id,
        request_id=event.event_id,
        estimated_from=chosen.estimated_from,
        mode=chosen.decision.mode,
        arm=chosen.decision.arm,
        alternatives={
            name: _alternative(other, query, batch, fusion, ids, len(places)) for name, other in chosen.beside.items()
        },
        stale=stale,
    )


def shown(chosen: ChosenSlate, k: int) -> Int64:
    """The places among the candidates that are published, (at most k,)."""
    places = chosen.places[:k]
    published: Int64 = places[places != NOTHING]
    return published


def _alternative(
    other: CounterfactualChoice, query: int, batch: MicroBatch, fusion: Fusion, ids: Sequence[str], length: int
) -> Alternative:
    places = other.proposal[:length]
    places = places[places != NOTHING]
    candidates = batch.candidates
    columns = zip(
        candidates.items[query, places].tolist(),
        np.round(candidates.utility[query, places].astype(np.float64), 5).tolist(),
        _scores(fusion, candidates.features[query, places]),
        strict=True,
    )
    return Alternative(
        propensities=tuple(other.propensity[:length].tolist()),
        proposals=tuple(Proposal(item_id=ids[item], score=score, scores=scores) for item, score, scores in columns),
    )


def _scores(fusion: Fusion, features: Float32) -> list[dict[str, float]]:
    """What each model says of each of some candidates, (rows, features)."""
    shares: Float64 = log_shares(features, len(fusion.models)).astype(np.float64)
    return _named(fusion.models, np.round(shares, 3))


def _named(names: Sequence[str], rows: Float64) -> list[dict[str, float]]:
    """Each row by name, without what says nothing."""
    return [
        {name: value for name, value in zip(names, row, strict=True) if value and isfinite(value)}
        for row in rows.tolist()
    ]
