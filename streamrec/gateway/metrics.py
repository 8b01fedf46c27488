"""What the gateway counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, GCCollector, Histogram, ProcessCollector

LATENCY_BUCKETS_S = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 15.0)
OTHER = "other"
"""What is asked for on a path that there is not: labels are bounded."""


class GatewayMetrics:
    """One gateway's counters."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, GCCollector):
            collector(registry=self.registry)
        self.requests = Counter(
            "streamrec_http_requests", "Requests over HTTP", ["path", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "streamrec_http_seconds",
            "From a request's first byte to its answer's last",
            ["path"],
            buckets=LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        self.waiting = Gauge("streamrec_http_waiting", "Requests that are being answered", registry=self.registry)
        self.degraded = Counter(
            "streamrec_degraded_answers",
            "Requests answered by another slate than was asked for",
            ["reason"],
            registry=self.registry,
        )
