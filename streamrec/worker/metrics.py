"""What a worker counts, for Prometheus and for people."""

from __future__ import annotations

import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
)

from streamrec.config.log_lines import get_logger
from streamrec.engine.attribution.open_slates import OpenSlates
from streamrec.engine.learning.prequential import DriftAlarm, ListStanding
from streamrec.engine.learning.quarantine import MODEL
from streamrec.engine.learning.trial import Trial
from streamrec.engine.pipeline import Pipeline
from streamrec.events import Slate

LOG = get_logger("streamrec.worker.metrics")
OTHER = "other"
"""What a scenario that is not configured is counted as: labels are bounded."""
LATENCY_BUCKETS_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 15.0, 60.0)


class Total(Counter):
    """A counter of what is counted elsewhere: it is told the total that has been reached."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._told = 0

    def reach(self, total: int) -> None:
        """Count what has come since the last call; a lower total is one that began anew."""
        self.inc(max(0, total - self._told))
        self._told = total


class LearningMetrics:
    """What is counted of learning, in a registry with what is known of the process."""

    def __init__(self, lists: Sequence[str]) -> None:
        """`lists` names what is ranked: the fused list first, then every model."""
        self.registry = CollectorRegistry()
        for collector in (PlatformCollector, ProcessCollector, GCCollector):
            collector(registry=self.registry)
        build = Info("streamrec_build", "What runs here", registry=self.registry)
        build.info({"version": version("streamrec"), "python": platform.python_version()})
        self._lists = tuple(lists)
        self.imitated = Counter(
            "streamrec_imitated", "Choices of another that an apprentice was shown", registry=self.registry
        )
        self.matched = Counter(
            "streamrec_imitated_matches", "Of those, that it would have put first too", registry=self.registry
        )
        self.trials = Counter(
            "streamrec_trials", "Wanted items ranked before they were learned", registry=self.registry
        )
        self.hits = Counter("streamrec_hits", "Of those, in the first ten of a list", ["list"], registry=self.registry)
        self.loss = Gauge(
            "streamrec_progressive_loss",
            "Mean loss of a list of late, in nats, before it learned",
            ["list"],
            registry=self.registry,
        )
        self.hit_rate = Gauge(
            "streamrec_hit_rate",
            "Share of wanted items of late in the first ten of a list",
            ["list"],
            registry=self.registry,
        )
        self.drifts = Counter(
            "streamrec_drift",
            "Times that a list came to do lastingly worse",
            ["model", "measure"],
            registry=self.registry,
        )
        self.held_back = Total(
            "streamrec_held_back_examples",
            "Examples, and feedback on slates, beyond the rate limits of their user or item, not learned",
            ["bucket"],
            registry=self.registry,
        )
        self.refused = Total(
            "streamrec_refused_updates", "Updates whose numbers were not finite", ["model"], registry=self.registry
        )
        self.rollbacks = Counter(
            "streamrec_rollbacks", "Times that a model went back to an older self", ["model"], registry=self.registry
        )
        self.quarantined = Gauge(
            "streamrec_quarantined", "1 while a model is not trusted", ["model"], registry=self.registry
        )
        self.skipped_snapshots = Total(
            "streamrec_skipped_snapshots", "Snapshots that could not be used at the start", registry=self.registry
        )

    def tried(self, trial: Trial) -> None:
        """Count a chunk's prequential hits, and how often an apprentice would have done the same."""
        if any(trial.imitated):
            matches = trial.ranks[0, trial.imitated] == 1
            self.imitated.inc(len(matches))
            self.matched.inc(int(matches.sum()))
        if not any(trial.kept):
            return
        ranks = trial.ranks[:, trial.kept]
        self.trials.inc(ranks.shape[1])
        for name, hits in zip(self._lists, ((ranks > 0) & (ranks <= 10)).sum(1).tolist(), strict=True):
            if hits:
                self.hits.labels(name).inc(hits)

    def stand(self, standings: Mapping[str, ListStanding]) -> None:
        """Show how well each list does."""
        for name, standing in standings.items():
            self.loss.labels(name).set(standing.loss)
            self.hit_rate.labels(name).set(standing.hit_rate)

    def show_learning(self, pipeline: Pipeline) -> None:
        """Show how well the lists of a pipeline do, and what it did not learn from."""
        for name, count in pipeline.refused_updates().items():
            self.refused.labels(name).reach(count)
        self.stand(pipeline.progress.recent())
        for bucket, count in pipeline.rate_limits.held_back().items():
            self.held_back.labels(bucket).reach(count)

    def judged(self, rolled_back: Iterable[str], out: Mapping[str, bool]) -> None:
        """Count rollbacks, and show what is not trusted; both by the name of the component in snapshots."""
        for component in rolled_back:
            self.rollbacks.labels(component.removeprefix(MODEL)).inc()
        for component, untrusted in out.items():
            self.quarantined.labels(component.removeprefix(MODEL)).set(untrusted)

    def drifted(self, drifts: Iterable[DriftAlarm]) -> None:
        """Count and log drift alarms; each is raised once."""
        for drift in drifts:
            self.drifts.labels(drift.name, drift.measure).inc()
            LOG.warning(
                "a list does worse than usual",
                list=drift.name,
                measure=drift.measure.value,
                place=drift.place,
                loss=(round(drift.before.loss, 3), round(drift.after.loss, 3)),
                hit_rate=(round(drift.before.hit_rate, 4), round(drift.after.hit_rate, 4)),
            )


class Metrics(LearningMetrics):
    """One worker's counters."""

    def __init__(self, lists: Sequence[str], scenarios: Iterable[str] = ()) -> None:
        """`lists` as in `LearningMetrics`; `scenarios` is what may be asked for."""
        super().__init__(lists)
        self._scenarios = frozenset(scenarios)
        self._lagging: set[int] = set()
        self.events = Counter("streamrec_events", "Events handled", registry=self.registry)
        self.dead_letters = Counter(
            "streamrec_dead_letters", "Messages that could not be used", ["reason"], registry=self.registry
        )
        self.duplicates = Counter("streamrec_duplicates", "Events seen before, left out", registry=self.registry)
        self.misplaced = Counter(
            "streamrec_misplaced_events",
            "Events on another partition than topics.partitioner puts their key on",
            registry=self.registry,
        )
        self.late = Counter("streamrec_late_events", "Events older than the user's last one", registry=self.registry)
        self.early = Counter(
            "streamrec_early_events", "Events dated ahead of their message, counted at its time", registry=self.registry
        )
        self.slates = Counter("streamrec_slates", "Slates published", ["scenario"], registry=self.registry)
        self.empty = Counter(
            "streamrec_empty_slates", "Slates published that hold nothing", ["scenario"], registry=self.registry
        )
        self.refused_requests = Counter(
            "streamrec_refused_requests",
            "Slates published that say why the request was refused, counted nowhere else",
            ["reason"],
            registry=self.registry,
        )
        self.published_before = Counter(
            "streamrec_published_before",
            "Slates and outcomes that a former owner had published already, not published again",
            ["what"],
            registry=self.registry,
        )
        self.outcomes = Counter("streamrec_outcomes", "Outcomes published", registry=self.registry)
        self.examples = Counter("streamrec_examples_sent", "Examples sent to the learner", registry=self.registry)
        self.open_slates = Gauge(
            "streamrec_open_slates", "Slates whose outcomes are not final yet", registry=self.registry
        )
        self.closed_early = Total(
            "streamrec_slates_closed_early", "Slates judged before their time to make room", registry=self.registry
        )
        self.unseen = Total("streamrec_slates_unseen", "Slates that were not seen", registry=self.registry)
        self.late_credits = Total(
            "streamrec_late_credits", "Events that named a slate which was not open", registry=self.registry
        )
        self.latency = Histogram(
            "streamrec_slate_latency_seconds",
            "From the request's time of sending to its slate",
            buckets=LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        self.checkpoint = Histogram("streamrec_checkpoint_seconds", "One checkpoint", registry=self.registry)
        self.paused = Gauge("streamrec_paused", "1 while nothing is read", registry=self.registry)
        self.pauses = Counter("streamrec_pauses", "Times that reading was stopped", ["reason"], registry=self.registry)
        self.disowned = Counter(
            "streamrec_refused_checkpoints",
            "Checkpoints of partitions that had a newer owner, not written",
            registry=self.registry,
        )
        self.unsaved = Counter(
            "streamrec_unsaved_handovers",
            "Partitions handed over without a checkpoint, for want of time",
            registry=self.registry,
        )
        self.model_version = Gauge(
            "streamrec_model_version", "The offset in the examples that the models stand for", registry=self.registry
        )
        self.behind_events = Gauge(
            "streamrec_models_behind_events",
            "Events of this worker that the models do not know yet",
            registry=self.registry,
        )
        self.behind_seconds = Gauge(
            "streamrec_models_behind_seconds",
            "How old the oldest example is that is not learned",
            registry=self.registry,
        )
        self.learner_away = Gauge("streamrec_learner_away", "1 while no learner is heard of", registry=self.registry)
        self.update_gaps = Counter(
            "streamrec_model_update_gaps", "Times that updates were missing", registry=self.registry
        )
        self.refused_model_updates = Counter(
            "streamrec_refused_model_updates", "Updates of the models that could not be used", registry=self.registry
        )
        self.skipped = Total(
            "streamrec_skipped_records", "Records deleted before they were read", registry=self.registry
        )
        self.lost_values = Total(
            "streamrec_lost_values", "Values that the store was given, and lost", registry=self.registry
        )
        self.catalogue_items = Gauge(
            "streamrec_catalogue_items", "Items that the catalogue lists", registry=self.registry
        )
        self.catalogue_dropped = Total(
            "streamrec_catalogue_dropped", "Items of the catalogue beyond limits.max_catalogue", registry=self.registry
        )
        self.trends_age = Gauge(
            "streamrec_trends_age_seconds",
            "Age of the newest statement on trends, in the log's time; NaN before the first",
            registry=self.registry,
        )
        self.trends_age.set(math.nan)
        self.trends_refused = Total(
            "streamrec_trends_refused",
            "Statements on trends that could not be used",
            ["reason"],
            registry=self.registry,
        )
        self.lag = Gauge("streamrec_lag", "Records of the input not yet read", ["partition"], registry=self.registry)
        self.standstill = Gauge(
            "streamrec_standstill_seconds",
            "Longest time in which nothing was read of a partition with something to read",
            registry=self.registry,
        )
        self.unlearned = Total(
            "streamrec_unlearned_events",
            "Records that users remember and models never learned, for want of a newer snapshot",
            registry=self.registry,
        )

    def followed(self, version: int, events: int, seconds: float, *, away: bool) -> None:
        """Show how far the models are that are followed."""
        self.model_version.set(version)
        self.behind_events.set(events)
        self.behind_seconds.set(seconds)
        self.learner_away.set(away)

    def answered(self, slate: Slate) -> None:
        """Count a slate that was published."""
        if slate.refused is not None:
            self.refused_requests.labels(slate.refused.reason).inc()
            return
        scenario = slate.scenario if slate.scenario in self._scenarios else OTHER
        self.slates.labels(scenario).inc()
        if not slate.items:
            self.empty.labels(scenario).inc()

    def behind(self, lag: Mapping[int, int], standstill_s: float) -> None:
        """Show how much is unread, by partition held, and how long one has stood still."""
        for partition in self._lagging - lag.keys():
            self.lag.remove(partition)
        self._lagging = set(lag)
        for partition, records in lag.items():
            self.lag.labels(partition).set(records)
        self.standstill.set(standstill_s)

    def left_out(self) -> dict[str, int]:
        """How many messages have become no event so far, by what became of them."""
        counters = {"dead_letters": self.dead_letters, "repeated_events": self.duplicates}
        totals = {
            name: [
                sample.value
                for metric in counter.collect()
                for sample in metric.samples
                if sample.name.endswith("_total")
            ]
            for name, counter in counters.items()
        }
        return {name: int(sum(values)) for name, values in totals.items()}

    def began(self, skipped_snapshots: int, unlearned: int) -> None:
        """Show what was amiss with the snapshots at the start."""
        self.skipped_snapshots.reach(skipped_snapshots)
        self.unlearned.reach(unlearned)

    def listed(self, items: int, dropped: int) -> None:
        """Show how much of a catalogue is known."""
        self.catalogue_items.set(items)
        self.catalogue_dropped.reach(dropped)

    def told(self, age_s: float | None, refused: Mapping[str, int]) -> None:
        """Show how old the trends are, and what of them could not be used, by reason."""
        self.trends_age.set(math.nan if age_s is None else age_s)
        for reason, count in refused.items():
            self.trends_refused.labels(reason).reach(count)

    def wait(self, slates: OpenSlates) -> None:
        """Show what waits for its outcomes, and what went amiss with it."""
        self.open_slates.set(slates.waiting)
        self.closed_early.reach(slates.early)
        self.unseen.reach(slates.unseen)
        self.late_credits.reach(slates.late)
