"""The live system on an old log: the worker's own objects, a local source, and a record of every ranking.

Prequential: each wanted item is ranked before it is learned, a basket whole before any of it. Nothing here learns or
ranks; it watches a worker that does not know it is watched.
"""

from __future__ import annotations

import resource
import time
from pathlib import Path

import numpy as np

from streamrec.build import build_rehearsal
from streamrec.catalogue import Catalogue
from streamrec.features.batch import NOTHING
from streamrec.fusion import ranked
from streamrec.portions import Portion
from streamrec.recommender import Recommender
from streamrec.replay.logs import Log
from streamrec.replay.metrics import recommended_items
from streamrec.replay.report import BacktestResult, write_report
from streamrec.replay.slates import SlateWriter
from streamrec.settings import Settings, shown

SLATES = "slates.parquet"
LIST_LENGTH = 20
SAMPLES = 200
"""Points of the plots of weights and throughput."""


class Observer:
    """Writes down every ranking of a worker, and samples how it goes."""

    def __init__(self, recommender: Recommender, writer: SlateWriter, rows: int, first_row: int, warmup: float) -> None:
        self._recommender = recommender
        self._writer = writer
        self._scored_from = first_row + warmup * rows
        self._every = max(1, rows // SAMPLES)
        self._next_sample = 0
        self._began = time.perf_counter()
        self.events = 0
        self.ts: list[int] = []
        self.known: list[bool] = []
        self.scored: list[bool] = []
        self.ranks: list[np.ndarray] = []
        self.recommended: set[str] = set()
        self.weights: list[tuple[int, dict[str, float]]] = []
        self.throughput: list[tuple[int, float]] = []

    def __call__(self, portion: Portion) -> None:
        self.events += len(portion.arrivals)
        if self.events >= self._next_sample:
            self._next_sample += self._every
            self.weights.append((self.events, self._recommender.fusion.weights()))
            self.throughput.append((self.events, self.seconds))
        trial = portion.trial
        kept = np.flatnonzero(trial.kept)
        if len(kept) == 0:
            return
        arrivals = [trial.arrivals[at] for at in kept]
        known = [trial.known[at] for at in kept]
        scored = [arrival.offset >= self._scored_from for arrival in arrivals]
        ranks = trial.ranks[:, kept]
        items, scores = self._lists([trial.rows[at] for at in kept])
        self._writer.append(
            rows=[arrival.offset for arrival in arrivals],
            ts=[arrival.event.ts for arrival in arrivals],
            user_ids=[arrival.event.user_id for arrival in arrivals],
            targets=[arrival.event.item_id or "" for arrival in arrivals],
            known=known,
            scored=scored,
            items=items,
            scores=scores,
            ranks=dict(zip(self._recommender.fusion.models, ranks[1:], strict=True)),
        )
        self.recommended |= recommended_items(slate for slate, counts in zip(items, scored, strict=True) if counts)
        self.ts += [arrival.event.ts for arrival in arrivals]
        self.known += known
        self.scored += scored
        self.ranks.append(ranks)

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.perf_counter() - self._began

    def _lists(self, rows: list[int]) -> tuple[list[list[str]], list[list[float]]]:
        """The fused list of each query row, ids and scores, best first."""
        candidates, ids = self._recommender.batch.candidates, self._recommender.knowledge.items.ids
        asked, place = np.unique(rows, return_inverse=True)
        utility = candidates.utility[asked]
        best = ranked(utility, LIST_LENGTH)
        indices = np.take_along_axis(candidates.items[asked], np.maximum(best, 0), axis=1)
        values = np.take_along_axis(utility, np.maximum(best, 0), axis=1)
        there = best != NOTHING
        items = [[ids[i] for i in row[ok].tolist()] for row, ok in zip(indices, there, strict=True)]
        scores = [row[ok].tolist() for row, ok in zip(values, there, strict=True)]
        return [items[at] for at in place], [scores[at] for at in place]


def backtest(
    log: Log, settings: Settings, out: Path, *, warmup: float = 0.1, catalogue: Catalogue | None = None
) -> BacktestResult:
    """Run over a log and write `slates.parquet`, `report.json` and `report.html` into `out`.

    Args:
        log: read whole, in order, as partition 0.
        settings: the live ones; nobody saw these slates, so requests in the log are not answered and nothing explores.
        out: a directory, made when it is missing.
        warmup: share of the log's rows that is learned but not scored, in [0, 1).
        catalogue: categories of items.

    Raises:
        LogError: the log turned out unreadable after all.
        StreamrecError: the worker stopped.
    """
    out.mkdir(parents=True, exist_ok=True)
    topic = settings.topics.events
    observed: list[Observer] = []
    worker = build_rehearsal(settings, lambda: log.records(topic), lambda portion: observed[0](portion), catalogue)
    names = worker.recommender.fusion.models
    with SlateWriter(out / SLATES, names) as writer:
        observer = Observer(worker.recommender, writer, len(log), log.start, warmup)
        observed.append(observer)
        worker.run()
        seconds = observer.seconds
    result = _result(log, settings, observer, worker.recommender, warmup, seconds)
    write_report(out, result)
    return result


def _result(
    log: Log,
    settings: Settings,
    observer: Observer,
    recommender: Recommender,
    warmup: float,
    seconds: float,
) -> BacktestResult:
    lists = 1 + len(recommender.fusion.models)
    ranks = np.concatenate(observer.ranks, axis=1) if observer.ranks else np.zeros((lists, 0), np.int8)
    return BacktestResult(
        log=log.table.path.parent.name + "/" + log.table.path.name,
        seed=settings.learning.seed,
        settings={
            "warmup": warmup,
            **{k: v for k, v in shown(settings).items() if k not in ("kafka", "redis", "topics")},
        },
        ts=np.array(observer.ts, np.int64),
        known=np.array(observer.known, bool),
        scored=np.array(observer.scored, bool),
        ranks=ranks[0],
        model_ranks=dict(zip(recommender.fusion.models, ranks[1:], strict=True)),
        recommended_items=len(observer.recommended),
        known_items=recommender.knowledge.items.known,
        events=observer.events,
        seconds=seconds,
        weights=observer.weights,
        throughput=observer.throughput,
        counts={"events": observer.events, "users": len(recommender.knowledge.users)},
        peak_memory_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )
