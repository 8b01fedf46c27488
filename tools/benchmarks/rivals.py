"""Recommenders trained in batches, under the live system's protocol: each wanted item is ranked before it is learned.

A peer is trained at every tenth of a log on all that came before, and sits in a recommender beside one popularity,
which learns all the time and fills short lists up. Events, users, baskets, rankings and metrics are handled by the code
that a backtest runs; only who learns, and when, is different.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from streamrec.config.parts import BASELINE
from streamrec.config.settings import Settings
from streamrec.engine.arrays.batch import Int8, Int64
from streamrec.engine.arrays.logged_event import LoggedEvent
from streamrec.engine.fusion.fusion import Fusion
from streamrec.engine.learning.prequential import PrequentialRecord
from streamrec.engine.learning.ranking_metrics import RankingMetrics, ranking_metrics
from streamrec.engine.pipeline import Pipeline, Rankers, Safety
from streamrec.engine.retrieval.neighbours import Neighbours
from streamrec.engine.slates.responder import SlateResponder
from streamrec.events import Event
from streamrec.replay.logs import Log
from streamrec.wiring import build_pipeline, run_engine
from tools.benchmarks.peers import Method
from tools.benchmarks.peers.ease import Ease
from tools.benchmarks.peers.implicit_factors import AlternatingLeastSquares, PairwiseRanking
from tools.benchmarks.peers.itemknn import ItemNeighbours
from tools.benchmarks.peers.peer import Peer

TRAININGS = 10
"""A log is cut into so many parts; a peer is trained after each but the last."""
NOBODY_LEAVES = 2**31
"""Users in memory at most: there is no store that they could come back from."""


def gru4rec(seed: int) -> Method:
    """The peer that loads torch."""
    from tools.benchmarks.peers.gru4rec import Gru4Rec

    return Gru4Rec(seed)


PEERS: Mapping[str, Callable[[int], Method]] = {
    "itemknn": lambda seed: ItemNeighbours(),
    "ease": lambda seed: Ease(),
    "als": AlternatingLeastSquares,
    "bpr": PairwiseRanking,
    "gru4rec": gru4rec,
}
"""What makes each peer from a seed; everything else about them is the same for every log."""


@dataclass(frozen=True, slots=True)
class Trials:
    """Where each wanted item stood before it was learned: 1 to 20, 0 when further down or unknown."""

    rows: Int64  # (targets,) of the log
    peer: Int8  # (targets,) in the peer's list, filled up with popularity
    popularity: Int8  # (targets,) in the popularity's


def run_rival(name: str, log: Log, settings: Settings, warmup: float = 0.1) -> RankingMetrics:
    """The figures of one of PEERS over a log.

    Args:
        name: which.
        log: read whole, in order.
        settings: say what counts as wanted, what is excluded, and the seed.
        warmup: share of the log's rows that is learned but not scored, in [0, 1).

    Raises:
        ConfigError: the peer needs a library that is not installed.
        LogError: the log turned out unreadable after all.
    """
    method = PEERS[name](settings.learning.seed)
    train_at = [log.start + part * len(log) // TRAININGS for part in range(1, TRAININGS)]
    trials = try_out(method, log.events(), train_at, settings)
    return ranking_metrics(trials.peer, trials.rows >= log.start + warmup * len(log))


def try_out(method: Method, events: Iterable[tuple[int, Event]], train_at: Sequence[int], settings: Settings) -> Trials:
    """Rank every wanted item by a method that is trained whenever the log comes to certain rows.

    Args:
        method: untrained.
        events: with their rows in the log, in order.
        train_at: rows before which to train, ascending.
        settings: see `run_rival`.
    """
    peer = Peer("peer", method, settings.limits.max_items)
    pipeline = beside_popularity(peer, settings)
    rows: list[int] = []
    ranks = [np.empty((2, 0), np.int8)]
    for part, of_part in groupby(events, lambda numbered: bisect_right(train_at, numbered[0])):
        if part:
            peer.train()
        for batch_result in run_engine(pipeline, (LoggedEvent(event, 0, row) for row, event in of_part)):
            trial = batch_result.trial
            rows += [logged.offset for logged, kept in zip(trial.logged_events, trial.kept, strict=True) if kept]
            ranks.append(trial.ranks[1:, trial.kept])
    of_peer, of_popularity = np.concatenate(ranks, axis=1)
    return Trials(np.array(rows, np.int64), of_peer, of_popularity)


def beside_popularity(peer: Peer, settings: Settings) -> Pipeline:
    """A recommender of two models: a peer, and the popularity that fills its lists up."""
    learning = settings.learning.model_copy(update={"models": (BASELINE,)})
    limits = settings.limits.model_copy(update={"max_users": NOBODY_LEAVES})
    alone = build_pipeline(settings.model_copy(update={"learning": learning, "limits": limits}))
    models = [peer, *alone.models]
    names = [model.name for model in models]
    fusion = Fusion(names)
    return Pipeline(
        features=alone.features,
        rankers=Rankers(models, [Neighbours(peer.name, peer), *alone.retrievers], fill=BASELINE),
        fusion=fusion,
        answers=SlateResponder(
            models=models,
            fusion=fusion,
            features=alone.features,
            policies=alone.answers.policies,
            plan=alone.answers.plan,
        ),
        rules=alone.rules,
        interest=alone.interest,
        batching=alone.batching,
        safety=Safety(PrequentialRecord(["fused", *names]), alone.rate_limits),
    )
