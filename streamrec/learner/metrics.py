"""What a learner counts, for Prometheus and for people."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import Counter, Gauge, Histogram

from streamrec.learner.fold import Fold
from streamrec.worker.metrics import LearningMetrics, Total


class LearnerMetrics(LearningMetrics):
    """One learner's counters."""

    def __init__(self, lists: Sequence[str]) -> None:
        """`lists` as in `LearningMetrics`."""
        super().__init__(lists)
        self.at_work = Gauge(
            "streamrec_learner_at_work", "1 while this learner is the one that learns", registry=self.registry
        )
        self.examples = Total("streamrec_examples_learned", "Examples learned from", registry=self.registry)
        self.repeats = Total(
            "streamrec_repeated_examples", "Examples that came again, left out", registry=self.registry
        )
        self.unreadable = Total(
            "streamrec_unreadable_examples", "Records passed over: they are no example", registry=self.registry
        )
        self.lag = Gauge(
            "streamrec_examples_lag", "Records of the examples not yet learned from", registry=self.registry
        )
        self.updates = Counter("streamrec_model_updates", "Updates of the models published", registry=self.registry)
        self.update_bytes = Counter("streamrec_model_update_bytes", "Bytes of them", registry=self.registry)
        self.snapshot = Histogram("streamrec_snapshot_seconds", "One snapshot of the models", registry=self.registry)
        self.unsaved_snapshots = Counter(
            "streamrec_unsaved_snapshots", "Snapshots that could not be kept", registry=self.registry
        )

    def folded(self, fold: Fold, lag: int) -> None:
        """Show how far the fold has come, with how much to go, and how the models do."""
        self.lag.set(lag)
        self.examples.reach(fold.examples)
        self.repeats.reach(fold.repeats)
        self.unreadable.reach(fold.unreadable)
        self.show_learning(fold.pipeline)
        rolled_back, fold.rolled_back = fold.rolled_back, []
        self.judged(rolled_back, fold.pipeline.quarantine.standing())
