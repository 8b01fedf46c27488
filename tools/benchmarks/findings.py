"""What the quality bench found under one protocol, and the questions a page of results asks of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from streamrec.evaluation.backtest.report import FUSED
from tools.benchmarks.estimates import Estimate, estimate
from tools.benchmarks.protocols import Protocol
from tools.benchmarks.tasks import Report


@dataclass(frozen=True, slots=True)
class Findings:
    """Reports by seed; of the first seed also by peer and by the model that was left out."""

    protocol: Protocol
    runs: Mapping[int, Report]
    peers: Mapping[str, Report]
    without: Mapping[str, Report]
    place: Path
    """The folder of the first seed's run, with its `slates.parquet`."""

    @property
    def first(self) -> Report:
        """The first seed's report."""
        return next(iter(self.runs.values()))

    @property
    def rankers(self) -> list[str]:
        """The fused list and every model, in the order of the reports."""
        return list(self.first["metrics"])

    def of(self, ranker: str, metric: str) -> Estimate:
        """A metric of the fused list or of one model, over the seeds."""
        return estimate([report["metrics"][ranker][metric] for report in self.runs.values()])

    def mean(self, ranker: str, metric: str) -> float:
        """The same as one number, of a peer too."""
        if ranker in self.peers:
            return float(self.peers[ranker]["metrics"][ranker][metric])
        return self.of(ranker, metric).mean

    @property
    def best_model(self) -> str:
        """The single model with the best Recall@10."""
        return max((name for name in self.rankers if name != FUSED), key=lambda name: self.mean(name, "recall_10"))

    @property
    def best_peer(self) -> str | None:
        """The peer with the best Recall@10, None where none was measured."""
        return max(self.peers, key=lambda peer: self.mean(peer, "recall_10"), default=None)
