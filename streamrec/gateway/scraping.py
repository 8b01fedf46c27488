"""Asks workers and learners for `/metrics` and `/readyz`, each within seconds; whoever does not answer is said to.

Knows nothing of what the figures mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from math import isfinite

from prometheus_client.parser import text_string_to_metric_families

ANSWER_S = 2.0
MOST_BYTES = 4 * 2**20
_OURS = "streamrec_"

Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Target:
    """What one process said. `away`: why it said nothing; `said` are the lines of its `/readyz`."""

    address: str
    away: str | None = None
    ready: bool = False
    said: tuple[str, ...] = ()
    samples: Mapping[str, tuple[tuple[Labels, float], ...]] = field(default_factory=dict)

    def each(self, name: str) -> Iterator[tuple[Labels, float]]:
        """The values of one metric, with their labels."""
        yield from self.samples.get(name, ())

    def total(self, name: str) -> float:
        """Their sum; 0 where there is none."""
        return sum(value for _, value in self.each(name))


def scraped(address: str) -> Target:
    """Ask one process, HOST:PORT."""
    host, _, port = address.rpartition(":")
    try:
        ready, said = _get(host, int(port), "/readyz")
        _, figures = _get(host, int(port), "/metrics")
        samples: dict[str, list[tuple[Labels, float]]] = {}
        for family in text_string_to_metric_families(figures):
            for sample in family.samples:
                if sample.name.startswith(_OURS) and isfinite(sample.value):
                    samples.setdefault(sample.name, []).append((sample.labels, sample.value))
    except (OSError, HTTPException, ArithmeticError, LookupError, ValueError) as error:  # another server's page, too
        return Target(address, away=str(error) or type(error).__name__)
    lines = tuple(said.split("\n")[:20])
    return Target(address, None, ready == 200, lines, {name: tuple(values) for name, values in samples.items()})


def _get(host: str, port: int, path: str) -> tuple[int, str]:
    connection = HTTPConnection(host.strip("[]"), port, timeout=ANSWER_S)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read(MOST_BYTES + 1)
        if len(body) > MOST_BYTES:
            raise ValueError(f"{path} has more than {MOST_BYTES:,} bytes")
        return answer.status, body.decode("utf-8", "replace").strip()
    finally:
        connection.close()
