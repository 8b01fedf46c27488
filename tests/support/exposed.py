"""What `/metrics` shows of workers, learners and gateways."""

from __future__ import annotations

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from streamrec.gateway.metrics import GatewayMetrics
from streamrec.learner.metrics import LearnerMetrics
from streamrec.worker.metrics import Metrics


def exposed() -> dict[str, tuple[str, ...]]:
    """What `/metrics` shows of ours: by name, as Prometheus has it, the labels."""
    shown: dict[str, tuple[str, ...]] = {}
    for metrics in (Metrics(["fused"]), LearnerMetrics(["fused"]), GatewayMetrics()):
        for kind in vars(metrics).values():  # what has labels is shown once it has values
            if names := getattr(kind, "_labelnames", ()):
                kind.labels(*names)
        for family in text_string_to_metric_families(generate_latest(metrics.registry).decode()):
            for sample in family.samples:
                if family.name.startswith("streamrec_") and not sample.name.endswith("_created"):
                    shown[sample.name] = tuple(sorted(sample.labels))
    return shown
