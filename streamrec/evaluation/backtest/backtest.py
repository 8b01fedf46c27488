"""The backtest: the live worker on a historical log from a local source, with every ranking recorded.

Prequential: each target is ranked before it is learned, and a basket is ranked whole before any of it is learned.
Nothing here learns or ranks: it observes an ordinary worker.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from streamrec.config.settings import Settings, shown
from streamrec.engine.arrays.batch import NOTHING, Int8, Int32, Int64
from streamrec.engine.arrays.logged_event import LoggedEvent
from streamrec.engine.arrays.top_k import ranked
from streamrec.engine.batch_result import BatchResult
from streamrec.engine.learning.ranking_metrics import SLATE_LENGTH
from streamrec.engine.pipeline import Pipeline
from streamrec.evaluation.backtest.calibration import CalibrationRecorder, pairs
from streamrec.evaluation.backtest.foreign import ForeignRanker, Ranker
from streamrec.evaluation.backtest.new_items import NewItemRecorder
from streamrec.evaluation.backtest.report import BacktestResult
from streamrec.evaluation.backtest.slates import SlateWriter
from streamrec.evaluation.backtest.slices import TargetContextRecorder
from streamrec.evaluation.backtest.variety import PLACES, VarietyRecorder
from streamrec.replay.catalogue_file import CatalogueItems
from streamrec.replay.logs import Log
from streamrec.replay.refusals import Refusals
from streamrec.wiring import build_rehearsal
from streamrec.worker.profiling import Stopwatch, watch_worker

SLATES = "slates.parquet"
SAMPLES = 200
"""Points of the plots of weights and throughput."""
CLICK_MODEL = "clicks"
"""The model whose scores are log-odds, and whose calibration can therefore be measured."""


class Targets(NamedTuple):
    """The targets of one batch result, in log order."""

    logged_events: list[LoggedEvent]
    rows: Int64  # (targets,) query rows of the batch
    examples: Int64  # (targets,) example rows of the batch
    items: Int32  # (targets,)
    known: list[bool]
    scored: list[bool]
    ranks: Int8  # (1 + models + rankers of others, targets)


class Observer:
    """Records every ranking of a worker, and samples the fusion's weights and the throughput."""

    def __init__(self, pipeline: Pipeline, writer: SlateWriter, rows: int, first_row: int, warmup: float) -> None:
        self._pipeline = pipeline
        self._writer = writer
        self._scored_from = first_row + warmup * rows
        self._every = max(1, rows // SAMPLES)
        self._next_sample = 0
        self._began = time.perf_counter()
        self._now_ms, self._counted = 0, set[str]()  # users whose slate of this very time was counted already
        models = pipeline.fusion.models
        self._clicks = models.index(CLICK_MODEL) if CLICK_MODEL in models else None
        self.events = 0
        self.ts: list[int] = []
        self.known: list[bool] = []
        self.scored: list[bool] = []
        self.ranks: list[Int8] = []
        self.target_contexts = TargetContextRecorder()
        self.lists: tuple[str, ...] = models  # in the order of ranks, the fused one left out
        self.foreign: list[ForeignRanker] = []
        self.variety = VarietyRecorder(pipeline.features.items)
        self.new_items = NewItemRecorder(pipeline.features.items)
        self.calibration = CalibrationRecorder()
        self.weights: list[tuple[int, dict[str, float]]] = []
        self.throughput: list[tuple[int, float]] = []

    def __call__(self, batch_result: BatchResult) -> None:
        self.events += len(batch_result.logged_events)
        if self.events >= self._next_sample:
            self._next_sample += self._every
            self.weights.append((self.events, self._pipeline.fusion.weights()))
            self.throughput.append((self.events, self.seconds))
        targets = self._targets(batch_result)
        if targets.logged_events:
            self._record(targets)
            self._write(targets)

    @property
    def seconds(self) -> float:
        """Wall time since the start."""
        return time.perf_counter() - self._began

    def _targets(self, batch_result: BatchResult) -> Targets:
        trial, batch = batch_result.trial, self._pipeline.batch
        kept = np.flatnonzero(trial.kept)
        logged_events = [trial.logged_events[at] for at in kept]
        examples = batch.learned - len(trial.kept) + kept  # the portion's are the newest
        return Targets(
            logged_events,
            np.array(trial.rows, np.int64)[kept],
            examples,
            batch.examples.item[examples],
            [trial.known[at] for at in kept],
            [logged.offset >= self._scored_from for logged in logged_events],
            np.stack([*trial.ranks[:, kept], *(ranker.ranks(batch_result) for ranker in self.foreign)]),
        )

    def _record(self, targets: Targets) -> None:
        """Record what the metrics are computed from."""
        batch, scored = self._pipeline.batch, np.array(targets.scored)
        self.ts += [logged.event.ts for logged in targets.logged_events]
        self.known += targets.known
        self.scored += targets.scored
        self.ranks.append(targets.ranks)
        self.target_contexts.add(batch, targets.rows, targets.examples, self._pipeline.features.items)
        if self._clicks is not None and scored.any():
            scores = batch.candidates.scores[self._clicks]
            self.calibration.add(*pairs(batch, scores, targets.rows[scored], targets.items[scored]))

    def _write(self, targets: Targets) -> None:
        """Write the slates; targets of one query share a slate, which is made once."""
        logged_events = targets.logged_events
        asked, first, place = np.unique(targets.rows, return_index=True, return_inverse=True)
        slates, ids, scores = self._slates(asked)
        scored = np.bincount(place, targets.scored) > 0  # (slates,)
        fresh = [n for n, at in enumerate(first) if scored[n] and self._is_fresh(logged_events[at])]
        self.variety.add_slates(slates[fresh, :PLACES], [ids[n] for n in fresh])
        self.new_items.add_slates(
            slates[fresh, :PLACES], self._popular(asked[fresh]), self._pipeline.batch.queries.ts[asked[fresh]]
        )
        self.variety.add_targets(targets.items)
        self._writer.append(
            rows=[logged.offset for logged in logged_events],
            ts=[logged.event.ts for logged in logged_events],
            user_ids=[logged.event.user_id for logged in logged_events],
            targets=[logged.event.item_id or "" for logged in logged_events],
            known=targets.known,
            scored=targets.scored,
            items=[ids[at] for at in place],
            scores=[scores[at] for at in place],
            ranks=dict(zip(self.lists, targets.ranks[1:], strict=True)),
        )

    def _slates(self, rows: Int64) -> tuple[Int32, Sequence[Sequence[str]], Sequence[Sequence[float]]]:
        """The fused slate of each query row, best first: item indices (rows, SLATE_LENGTH), ids and scores."""
        candidates, ids = self._pipeline.batch.candidates, self._pipeline.features.items.ids
        utility = candidates.utility[rows]
        best = ranked(utility, SLATE_LENGTH)
        there, at = best != NOTHING, np.maximum(best, 0)
        slates = np.where(there, np.take_along_axis(candidates.items[rows], at, axis=1), NOTHING)
        values = np.take_along_axis(utility, at, axis=1)
        named = [[ids[item] for item in slate[ok].tolist()] for slate, ok in zip(slates, there, strict=True)]
        return slates, named, [row[ok].tolist() for row, ok in zip(values, there, strict=True)]

    def _popular(self, rows: Int64) -> Int32:
        """Popularity's own ranking for each query row, item indices (rows, PLACES)."""
        candidates = self._pipeline.batch.candidates
        best = ranked(candidates.scores[self._pipeline.fill, rows], PLACES)
        return np.where(
            best == NOTHING, NOTHING, np.take_along_axis(candidates.items[rows], np.maximum(best, 0), axis=1)
        )

    def _is_fresh(self, logged: LoggedEvent) -> bool:
        """False when this slate was counted with an earlier batch result: a basket may be split over several."""
        if logged.event.ts != self._now_ms:
            self._now_ms = logged.event.ts
            self._counted.clear()
        fresh = logged.event.user_id not in self._counted
        self._counted.add(logged.event.user_id)
        return fresh


def backtest(
    log: Log,
    settings: Settings,
    out: Path,
    *,
    warmup: float = 0.1,
    catalogue: CatalogueItems | None = None,
    rankers: Mapping[str, Ranker] | None = None,
    refusals: Refusals | None = None,
    on_progress: Callable[[int], None] = lambda events: None,
    made: str = "",
) -> BacktestResult:
    """Run over a log and write `slates.parquet`, `report.json` and `report.html` into `out`.

    Args:
        log: read whole, in order, as partition 0.
        settings: the live ones; no user saw these slates, so requests in the log are not answered and nothing explores.
        out: a directory, made when it is missing.
        warmup: share of the log's rows that is learned but not scored, in [0, 1).
        catalogue: categories of items.
        rankers: of others, by names that no list of ours has; asked beside ours (`foreign.py`).
        refusals: the rows that checking the log has refused, to be reported.
        on_progress: called with the number of events handled since the last call.
        made: when and how the report came about, for its foot.

    Raises:
        RankerError: one of these failed.
        LogError: the log turned out unreadable after all.
        StreamrecError: the worker stopped.
    """
    out.mkdir(parents=True, exist_ok=True)
    topic = settings.topics.events
    observed: list[Observer] = []

    def observe(batch_result: BatchResult) -> None:
        observed[0](batch_result)
        on_progress(len(batch_result.logged_events))

    worker = build_rehearsal(settings, lambda: log.records(topic), observe, catalogue)
    stopwatch = Stopwatch()
    watch_worker(worker, stopwatch)
    stopwatch.watch(worker.fold, "_observer", "write slates.parquet")
    pipeline = worker.pipeline
    foreign = [ForeignRanker(name, ranker, pipeline, catalogue or ()) for name, ranker in (rankers or {}).items()]
    for ranker in foreign:
        stopwatch.watch(ranker, "ranks", f"ranker {ranker.name}")
    names = (*pipeline.fusion.models, *(ranker.name for ranker in foreign))
    with SlateWriter(out / SLATES, names) as writer:
        observer = Observer(pipeline, writer, len(log), log.start, warmup)
        observer.lists, observer.foreign = names, foreign
        observed.append(observer)
        worker.run()
        seconds = observer.seconds
    refusals = refusals or Refusals()
    counts = {"rows": len(log), "refused_rows": refusals.rows, **worker.metrics.left_out()}
    result = _result(log, settings, observer, pipeline, warmup, seconds, stopwatch)
    result = replace(result, refused=refusals.as_dict(), counts=counts)
    from streamrec.evaluation.backtest.report_files import write_report  # matplotlib is slow to load

    write_report(out, result, made)
    return result


def _result(
    log: Log,
    settings: Settings,
    observer: Observer,
    pipeline: Pipeline,
    warmup: float,
    seconds: float,
    stopwatch: Stopwatch,
) -> BacktestResult:
    known_items = pipeline.features.items.known
    lists = 1 + len(observer.lists)
    ranks = np.concatenate(observer.ranks, axis=1) if observer.ranks else np.zeros((lists, 0), np.int8)
    return BacktestResult(
        log=str(Path(*log.table.path.parts[-2:])),
        seed=settings.learning.seed,
        settings={
            "warmup": warmup,
            **{k: v for k, v in shown(settings).items() if k not in ("kafka", "redis", "topics")},
        },
        ts=np.array(observer.ts, np.int64),
        known=np.array(observer.known, bool),
        scored=np.array(observer.scored, bool),
        ranks=ranks[0],
        model_ranks=dict(zip(observer.lists, ranks[1:], strict=True)),
        target_contexts=observer.target_contexts.recorded(),
        variety=observer.variety.variety(known_items),
        new_items=observer.new_items.new_items(),
        calibration=observer.calibration.calibration(),
        known_items=known_items,
        events=observer.events,
        seconds=seconds,
        weights=observer.weights,
        throughput=observer.throughput,
        step_seconds=dict(stopwatch.seconds),
        peak_memory_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )
