"""The system of the demonstration: a broker, a Redis server, a worker and a gateway, all of them child processes.

They end with this one. Knows nothing of what is sent or shown.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from streamrec.config.groups import FusionSettings, GatewaySettings, LearnerSettings, Redis, SnapshotSettings, Topics
from streamrec.config.settings import PREFIX, Settings, shown
from streamrec.config.toml import toml_lines
from streamrec.demo.embedded import EmbeddedBroker, EmbeddedServer, embedded_broker, embedded_redis, free_ports
from streamrec.errors import EmbeddedError
from streamrec.transport.topics import apply, wanted

_LOG_BYTES = 2_000


class WorkerProcess(EmbeddedServer):
    """`streamrec worker` with a configuration file, as a person would start it."""

    kind = "the worker"
    durable = True
    start_limit_s = 600.0  # the first one of an install compiles first: a minute alone on a slow machine
    command, up = "worker", "reading "
    """What is started, and what it logs once it is up."""

    def __init__(self, config: Path, log: Path) -> None:
        # The file says everything: what the person has set for a system of their own must not reach this one.
        unset = [part for name in sorted(os.environ) if name.startswith(PREFIX) for part in ("-u", name)]
        command = ["env", *unset, sys.executable, "-m", "streamrec.cli", self.command, "--config", str(config)]
        super().__init__(command, lambda: self.up in self.log_end(), log)

    def log_end(self) -> str:
        """The last lines it wrote."""
        return self._log.read_bytes()[-_LOG_BYTES:].decode(errors="replace") if self._log.exists() else ""

    def check(self) -> None:
        """Make sure that it runs.

        Raises:
            EmbeddedError: it has ended; the message holds the end of its log.
        """
        if self.pid is None:
            raise EmbeddedError(f"the worker ended, expected it to run on; the end of its log:\n{self.log_end()}")


class GatewayProcess(WorkerProcess):
    """`streamrec serve` with the same file."""

    kind = "the gateway"
    command, up = "serve", "Uvicorn running"


@dataclass(frozen=True, slots=True)
class RunningSystem:
    """Everything running, and the configuration file that connects any `streamrec` command to it."""

    broker: EmbeddedBroker
    worker: WorkerProcess
    gateway: GatewayProcess
    """Not started yet."""
    settings: Settings
    config: Path

    @property
    def page(self) -> str:
        """Where the gateway shows its window."""
        return f"http://{self.settings.gateway.host}:{self.settings.gateway.port}/"


@contextmanager
def running_system(place: Path, items: Path) -> Iterator[RunningSystem]:
    """Start everything, with data, logs and model snapshots in `place`; end it with the block, the worker first.

    Raises:
        EmbeddedError: something did not start.
    """
    with embedded_broker(place / "broker") as broker, embedded_redis(place / "redis") as redis:
        metrics_port, port = free_ports(2)
        settings = Settings(
            group_id="streamrec-demo",
            items=items,
            kafka=dict(broker.settings),
            redis=Redis(url=redis.url),
            # One partition keeps the log's order over all users: every run gives the same slates, and popularity,
            # counted here in that order, has seen exactly what the worker had.
            topics=Topics(partitions=1),
            # These customers bought long ago, whatever is shown now: exploring would cost hits and teach nothing.
            fusion=FusionSettings(policy="greedy"),
            snapshots=SnapshotSettings(url=str(place / "snapshots")),
            # Years go by in seconds: a learner beside would be days of the shop behind. Live it is half a second.
            learner=LearnerSettings(where="within"),
            metrics_port=metrics_port,
            gateway=GatewaySettings(port=port, metrics=(f"127.0.0.1:{metrics_port}",)),
        )
        apply(wanted(settings.topics), broker.settings)
        config = place / "streamrec.toml"
        config.write_text("\n".join(toml_lines(shown(settings))) + "\n", encoding="utf-8")
        worker, gateway = WorkerProcess(config, place / "worker.log"), GatewayProcess(config, place / "gateway.log")
        try:
            worker.start()
            yield RunningSystem(broker, worker, gateway, settings, config)
        finally:
            gateway.stop()
            worker.stop()
