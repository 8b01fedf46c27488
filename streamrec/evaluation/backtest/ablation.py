"""Ablation: what delayed learning, a delayed user history or a missing model costs. One backtest per change.

Every run ranks the same targets before it learns them, so the runs' metrics can be compared target by target.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from streamrec.codec import harmless
from streamrec.config.parts import BASELINE
from streamrec.config.settings import Settings, shown
from streamrec.engine.arrays.batch import Int8
from streamrec.engine.batch_result import BatchResult
from streamrec.engine.learning.ranking_metrics import RankingMetrics, Ranks, ranking_metrics
from streamrec.errors import ConfigError, LogError, did_you_mean
from streamrec.evaluation import pages
from streamrec.evaluation.backtest.delays import LateLearning, StaleContext
from streamrec.evaluation.backtest.lift import Lift, best_single, lift
from streamrec.replay.catalogue_file import CatalogueItems
from streamrec.replay.logs import Log
from streamrec.replay.refusals import Refusals
from streamrec.wiring import build_rehearsal
from streamrec.worker.loop import Worker

FUSED = "fused"
EACH = "each"
FIGURES = {"recall_10": "Recall@10", "mrr_20": "MRR@20"}
"""Metrics that are compared: the field's name, and the name to print."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One run of an ablation: at most one field is set; with none, the backtest of the settings as they are."""

    learning_delay: int | None = None  # events
    context_delay: int | None = None  # events
    without: str | None = None

    def __str__(self) -> str:
        if self.learning_delay is not None:
            return f"learning {self.learning_delay:,} late"
        if self.context_delay is not None:
            return f"context {self.context_delay:,} late"
        return "everything" if self.without is None else f"without {self.without}"

    def settings(self, settings: Settings, models: Sequence[str]) -> Settings:
        """The settings of this run; `models` are all there are."""
        learning = settings.learning
        if self.learning_delay is not None:  # a micro-batch must not wait for longer than it should
            learning = learning.model_copy(update={"micro_batch": min(learning.micro_batch, self.learning_delay)})
        if self.context_delay is not None:
            learning = learning.model_copy(update={"micro_batch": 1})
        if self.without is not None:
            kept = tuple(name for name in models if name != self.without)
            learning = learning.model_copy(update={"models": kept})
        return settings.model_copy(update={"learning": learning})

    def lags(self, worker: Worker) -> list[Callable[[BatchResult], None]]:
        """Delay the worker's parts as this run asks; returns observers that must be called with every batch result."""
        found: list[Callable[[BatchResult], None]] = []
        if self.learning_delay is not None:
            found.append(LateLearning(worker.pipeline, self.learning_delay))
        if self.context_delay is not None:
            found.append(StaleContext(worker.pipeline, self.context_delay))
        return found


Comparison = Sequence[Variant]
"""Runs that are compared with the first of them."""
DEFAULT_DELAYS = (1, 64, 512, 4_096)


def comparisons(
    models: Sequence[str], delays: Sequence[int], context_delays: Sequence[int], without: Sequence[str]
) -> list[Comparison]:
    """What to run: delays are compared with no delay, a system without a model with the whole one.

    Args:
        models: all there are.
        delays: of learning, in events; DEFAULT_DELAYS when neither delays nor models are given.
        context_delays: of the users' history, in events.
        without: model names, or `each`.

    Raises:
        ConfigError: there is no such model, or it is the baseline, which fills short lists up and cannot be removed.
    """
    removable = [name for name in models if name != BASELINE]
    unknown = [name for name in without if name not in (*removable, EACH)]
    if unknown:
        near = did_you_mean(unknown[0], removable)
        raise ConfigError(f"--without {unknown[0]}: expected one of {', '.join(removable)}, or '{EACH}'{near}")
    if not (delays or context_delays or without):
        delays = DEFAULT_DELAYS
    found: list[Comparison] = []
    if delays or context_delays:
        late = [Variant(learning_delay=delay) for delay in sorted({1, *delays})]
        found.append([*late, *(Variant(context_delay=delay) for delay in sorted(set(context_delays)))])
    if without:
        left_out = removable if EACH in without else list(dict.fromkeys(without))
        found.append([Variant(), *(Variant(without=name) for name in left_out)])
    return found


@dataclass(frozen=True, slots=True)
class RunResult:
    """The metrics of one run."""

    variant: Variant
    metrics: Mapping[str, RankingMetrics]  # by list, the fused one first
    events: int
    seconds: float
    ranks: Mapping[str, Ranks] = field(default_factory=dict)  # by list, of the scored targets, which all runs share

    def beside(self, base: RunResult) -> Lift | None:
        """How far its fused list is ahead of the base run's; None of the base itself, and without ranks."""
        if self is base or not self.ranks:
            return None
        every = np.ones(len(self.ranks[FUSED]), bool)
        return lift(self.ranks[FUSED], base.ranks[FUSED], every, len(every))

    def change(self, base: RunResult, name: str, figure: str) -> float | None:
        """Relative change of a metric of a list against the base run; None where the base has no such value."""
        if name not in self.metrics or name not in base.metrics or self is base:
            return None
        before: float = getattr(base.metrics[name], figure)
        after: float = getattr(self.metrics[name], figure)
        return after / before - 1.0 if before > 0 else None


class RankRecorder:
    """Records the rank of every target in every list."""

    def __init__(self, scored_from: float) -> None:
        self._scored_from = scored_from
        self._ranks: list[Int8] = []
        self._scored: list[bool] = []

    def __call__(self, batch_result: BatchResult) -> None:
        trial = batch_result.trial
        kept = np.flatnonzero(trial.kept)
        self._ranks.append(trial.ranks[:, kept])
        self._scored += [trial.logged_events[at].offset >= self._scored_from for at in kept]

    def ranks(self, lists: Sequence[str]) -> dict[str, Ranks]:
        """Of the scored targets, by list, in the order of `Trial.ranks`."""
        ranks = np.concatenate([np.zeros((len(lists), 0), np.int8), *self._ranks], axis=1)
        return dict(zip(lists, ranks[:, np.array(self._scored, bool)], strict=True))


def run(
    log: Log,
    settings: Settings,
    variant: Variant,
    models: Sequence[str],
    *,
    warmup: float,
    catalogue: CatalogueItems | None = None,
    on_progress: Callable[[int], None] = lambda events: None,
) -> RunResult:
    """One backtest, changed as the variant says.

    Args:
        log: read whole, in order, as partition 0.
        settings: of the backtest, before the change.
        variant: the change.
        models: all there are.
        warmup: share of the log's rows that is learned but not scored, in [0, 1).
        catalogue: categories of items.
        on_progress: called with the number of events handled since the last call.

    Raises:
        LogError: the log turned out unreadable after all, or has nothing to score.
        StreamrecError: the worker stopped.
    """
    began, events = time.perf_counter(), 0
    scores = RankRecorder(log.start + warmup * len(log))
    observers: list[Callable[[BatchResult], None]] = []

    def observe(batch_result: BatchResult) -> None:
        nonlocal events
        events += len(batch_result.logged_events)
        for observer in observers:
            observer(batch_result)
        on_progress(len(batch_result.logged_events))

    topic = settings.topics.events
    worker = build_rehearsal(variant.settings(settings, models), lambda: log.records(topic), observe, catalogue)
    lists = (FUSED, *worker.pipeline.fusion.models)
    observers += [scores, *variant.lags(worker)]
    worker.run()
    ranks = scores.ranks(lists)
    metrics = {name: ranking_metrics(places, np.ones(len(places), bool)) for name, places in ranks.items()}
    if not metrics[FUSED].targets:
        raise LogError(
            f"{log.table.path.name}: nothing to score: no event counts as interest, or all lie within the warm-up"
        )
    return RunResult(variant, metrics, events, time.perf_counter() - began, ranks)


def model_names(settings: Settings) -> tuple[str, ...]:
    """Every model that these settings build."""
    worker = build_rehearsal(settings, lambda: iter(()), lambda batch_result: None)
    return worker.pipeline.fusion.models


# Tables and files


@dataclass(frozen=True, slots=True)
class MarkdownTable:
    """A table of text, for Markdown and the terminal."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        return f"## {self.title}\n\n" + "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def markdown_tables(run_results: Sequence[RunResult]) -> list[MarkdownTable]:
    """The tables of one comparison: by list where learning is late, of the fused list where a model is missing."""
    base = run_results[0]
    targets = base.metrics[FUSED].targets
    if base.variant.learning_delay is None:
        rows = [[str(f.variant), *(_cell(f, base, FUSED, figure) for figure in FIGURES)] for f in run_results]
        return [MarkdownTable(f"Without a model, fused, {targets:,} targets", ["", *FIGURES.values()], rows)]
    header = ["", *(str(run_result.variant) for run_result in run_results)]
    return [
        MarkdownTable(
            f"{label}, {targets:,} targets",
            header,
            [[name, *(_cell(run_result, base, name, figure) for run_result in run_results)] for name in base.metrics],
        )
        for figure, label in FIGURES.items()
    ]


def verdict(results: Sequence[Sequence[RunResult]]) -> list[str]:
    """What was found, in sentences: of each change, and of the whole system beside the best single list."""
    said, whole = [], results[0][0]
    for base, *changed in results:
        apart = [(run_result, beside) for run_result in changed if (beside := run_result.beside(base)) is not None]
        for run_result, beside in sorted(apart, key=lambda pair: pair[1].difference):
            certain = "costs" if beside.upper < 0 else "gains" if beside.lower > 0 else "changes nothing for certain"
            said.append(f"{str(run_result.variant).capitalize()} {certain}: {beside.words()} points of Recall@10.")
    every = np.ones(whole.metrics[FUSED].targets, bool)
    alone = {name: ranks for name, ranks in whole.ranks.items() if name != FUSED}
    best = best_single(alone, every)
    if best is not None:
        said.append(lift(whole.ranks[FUSED], alone[best], every, len(every)).verdict(best))
    return said


def _cell(run_result: RunResult, base: RunResult, name: str, figure: str) -> str:
    change = run_result.change(base, name, figure)
    value = f"{getattr(run_result.metrics[name], figure):.4f}" if name in run_result.metrics else ""
    return value if change is None else f"{value} ({change:+.1%})"


def write(
    out: Path,
    log: Log,
    settings: Settings,
    warmup: float,
    results: Sequence[Sequence[RunResult]],
    refusals: Refusals,
    made: str = "",
) -> None:
    """Write `ablation.json`, `ablation.md` and `ablation.html` into `out`, which is made if need be.

    `made` says when and how they came about, at the page's foot.

    Raises:
        OSError: the directory cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    said = {k: v for k, v in shown(settings).items() if k not in ("kafka", "redis", "topics")}
    figures = {
        "log": str(Path(*log.table.path.parts[-2:])),
        "rows": [log.start, log.stop],
        "refused_rows": refusals.rows,
        "refused": refusals.as_dict(),
        "warmup": warmup,
        "settings": said,
        "verdict": verdict(results),
        "comparisons": [[_plain(run_result, run_results[0]) for run_result in run_results] for run_results in results],
    }
    (out / "ablation.json").write_text(
        harmless(json.dumps(figures, indent=2, ensure_ascii=False)) + "\n", encoding="utf-8"
    )
    tables = [table for run_results in results for table in markdown_tables(run_results)]
    text = "\n\n".join([*verdict(results), *(table.markdown() for table in tables)])
    (out / "ablation.md").write_text(harmless(text), encoding="utf-8")
    body = "".join(f"<h2>{pages.escaped(t.title)}</h2>{pages.table_of(t.header, t.rows)}" for t in tables)
    page = pages.page(f"Ablation on {figures['log']}", verdict(results) or ["Nothing was compared."], body, made)
    (out / "ablation.html").write_text(page, encoding="utf-8")


def _plain(run_result: RunResult, base: RunResult) -> dict[str, object]:
    variant = run_result.variant
    return {
        "run": str(variant),
        "learning_delay": variant.learning_delay,
        "context_delay": variant.context_delay,
        "without": variant.without,
        "events": run_result.events,
        "seconds": run_result.seconds,
        "metrics": {name: metrics.as_dict() for name, metrics in run_result.metrics.items()},
        "change": {
            name: {figure: run_result.change(base, name, figure) for figure in FIGURES} for name in run_result.metrics
        },
    }
