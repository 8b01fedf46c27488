"""What it costs to learn late, to know users late, or to do without a model: one backtest, one thing changed at a time.

Every run is test-then-learn over the same targets, so the differences between runs are differences on the very same
questions.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from streamrec.config.settings import Settings, shown
from streamrec.engine.arrays.batch import Int8
from streamrec.engine.batch_result import BatchResult
from streamrec.errors import ConfigError
from streamrec.evaluation.backtest.delays import LateLearning, StaleContext
from streamrec.evaluation.backtest.metrics import RankingMetrics, ranking_metrics
from streamrec.replay.catalogue_file import CatalogueItems
from streamrec.replay.logs import Log
from streamrec.wiring import BASELINE, build_rehearsal
from streamrec.worker.loop import Worker

FUSED = "fused"
EACH = "each"
FIGURES = {"recall_10": "Recall@10", "mrr_20": "MRR@20"}
"""What is compared, and how people call it."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One run. Without any change it is the backtest of the settings as they are."""

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
        """Put what lags behind into a worker; what comes back wants to see every portion."""
        found: list[Callable[[BatchResult], None]] = []
        if self.learning_delay is not None:
            found.append(LateLearning(worker.pipeline, self.learning_delay))
        if self.context_delay is not None:
            found.append(StaleContext(worker.pipeline, self.context_delay))
        return found


Comparison = Sequence[Variant]
"""Runs that are compared with the first of them."""
LATE = (1, 64, 512, 4_096)


def comparisons(
    models: Sequence[str], delays: Sequence[int], context_delays: Sequence[int], without: Sequence[str]
) -> list[Comparison]:
    """What to run: delays are compared with no delay, a system without a model with the whole one.

    Args:
        models: all there are.
        delays: of learning, in events; when nothing at all is asked for, LATE.
        context_delays: of the users' history, in events.
        without: model names, or `each`.

    Raises:
        ConfigError: there is no such model, or it fills short lists up and cannot be done without.
    """
    removable = [name for name in models if name != BASELINE]
    unknown = [name for name in without if name not in (*removable, EACH)]
    if unknown:
        raise ConfigError(f"--without {unknown[0]}: expected one of {', '.join(removable)}, or '{EACH}'")
    if not (delays or context_delays or without):
        delays = LATE
    found: list[Comparison] = []
    if delays or context_delays:
        late = [Variant(learning_delay=delay) for delay in sorted({1, *delays})]
        found.append([*late, *(Variant(context_delay=delay) for delay in sorted(set(context_delays)))])
    if without:
        left_out = removable if EACH in without else list(dict.fromkeys(without))
        found.append([Variant(), *(Variant(without=name) for name in left_out)])
    return found


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of one run."""

    variant: Variant
    metrics: Mapping[str, RankingMetrics]  # by list, the fused one first
    events: int
    seconds: float

    def change(self, base: Finding, name: str, figure: str) -> float | None:
        """How much larger a figure of a list is than in the base, as a share of it; None where there is no telling."""
        if name not in self.metrics or name not in base.metrics or self is base:
            return None
        before: float = getattr(base.metrics[name], figure)
        after: float = getattr(self.metrics[name], figure)
        return after / before - 1.0 if before > 0 else None


class Scorekeeper:
    """Remembers where every list had put every target."""

    def __init__(self, scored_from: float) -> None:
        self._scored_from = scored_from
        self._ranks: list[Int8] = []
        self._scored: list[bool] = []

    def __call__(self, batch_result: BatchResult) -> None:
        trial = batch_result.trial
        kept = np.flatnonzero(trial.kept)
        self._ranks.append(trial.ranks[:, kept])
        self._scored += [trial.logged_events[at].offset >= self._scored_from for at in kept]

    def metrics(self, lists: Sequence[str]) -> dict[str, RankingMetrics]:
        """By list, in the order of `Trial.ranks`."""
        ranks = np.concatenate([np.zeros((len(lists), 0), np.int8), *self._ranks], axis=1)
        scored = np.array(self._scored, bool)
        return {name: ranking_metrics(places, scored) for name, places in zip(lists, ranks, strict=True)}


def run(
    log: Log,
    settings: Settings,
    variant: Variant,
    models: Sequence[str],
    *,
    warmup: float,
    catalogue: CatalogueItems | None = None,
    heard: Callable[[int], None] = lambda events: None,
) -> Finding:
    """One backtest, changed as the variant says.

    Args:
        log: read whole, in order, as partition 0.
        settings: of the backtest, before the change.
        variant: the change.
        models: all there are.
        warmup: share of the log's rows that is learned but not scored, in [0, 1).
        catalogue: categories of items.
        heard: is told how many events were handled, again and again.

    Raises:
        LogError: the log turned out unreadable after all.
        StreamrecError: the worker stopped.
    """
    began, events = time.perf_counter(), 0
    scores = Scorekeeper(log.start + warmup * len(log))
    observers: list[Callable[[BatchResult], None]] = []

    def observe(batch_result: BatchResult) -> None:
        nonlocal events
        events += len(batch_result.logged_events)
        for observer in observers:
            observer(batch_result)
        heard(len(batch_result.logged_events))

    topic = settings.topics.events
    worker = build_rehearsal(variant.settings(settings, models), lambda: log.records(topic), observe, catalogue)
    lists = (FUSED, *worker.pipeline.fusion.models)
    observers += [scores, *variant.lags(worker)]
    worker.run()
    return Finding(variant, scores.metrics(lists), events, time.perf_counter() - began)


def model_names(settings: Settings) -> tuple[str, ...]:
    """Every model that these settings build."""
    worker = build_rehearsal(settings, lambda: iter(()), lambda batch_result: None)
    return worker.pipeline.fusion.models


# What is written down


@dataclass(frozen=True, slots=True)
class Grid:
    """A table of text."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        return f"## {self.title}\n\n" + "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def grids(findings: Sequence[Finding]) -> list[Grid]:
    """The tables of one comparison: by list where learning is late, of the fused list where a model is missing."""
    base = findings[0]
    targets = base.metrics[FUSED].targets
    if base.variant.learning_delay is None:
        rows = [[str(f.variant), *(_cell(f, base, FUSED, figure) for figure in FIGURES)] for f in findings]
        return [Grid(f"Without a model, fused, {targets:,} targets", ["", *FIGURES.values()], rows)]
    header = ["", *(str(finding.variant) for finding in findings)]
    return [
        Grid(
            f"{label}, {targets:,} targets",
            header,
            [[name, *(_cell(finding, base, name, figure) for finding in findings)] for name in base.metrics],
        )
        for figure, label in FIGURES.items()
    ]


def _cell(finding: Finding, base: Finding, name: str, figure: str) -> str:
    change = finding.change(base, name, figure)
    value = f"{getattr(finding.metrics[name], figure):.4f}" if name in finding.metrics else ""
    return value if change is None else f"{value} ({change:+.1%})"


def write(out: Path, log: Log, settings: Settings, warmup: float, results: Sequence[Sequence[Finding]]) -> None:
    """Write `ablation.json` and `ablation.md` into `out`, which is made if need be.

    Raises:
        OSError: the directory cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    said = {k: v for k, v in shown(settings).items() if k not in ("kafka", "redis", "topics")}
    figures = {
        "log": f"{log.table.path.parent.name}/{log.table.path.name}",
        "rows": [log.start, log.stop],
        "warmup": warmup,
        "settings": said,
        "comparisons": [[_plain(finding, findings[0]) for finding in findings] for findings in results],
    }
    (out / "ablation.json").write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    pages = [grid.markdown() for findings in results for grid in grids(findings)]
    (out / "ablation.md").write_text("\n".join(pages), encoding="utf-8")


def _plain(finding: Finding, base: Finding) -> dict[str, object]:
    variant = finding.variant
    return {
        "run": str(variant),
        "learning_delay": variant.learning_delay,
        "context_delay": variant.context_delay,
        "without": variant.without,
        "events": finding.events,
        "seconds": finding.seconds,
        "metrics": {name: metrics.as_dict() for name, metrics in finding.metrics.items()},
        "change": {
            name: {figure: finding.change(base, name, figure) for figure in FIGURES} for name in finding.metrics
        },
    }
