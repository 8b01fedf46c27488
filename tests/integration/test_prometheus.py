"""Alerts and the dashboard on a real Prometheus, which reads a worker and a learner at work."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
import yaml

from streamrec.codec import MSGPACK, encode_event
from streamrec.demo.embedded import EmbeddedBroker, EmbeddedRedis, free_ports
from streamrec.testing import HEADERS, shop
from streamrec.wiring import kafka_sink
from tests.support.deployment import Deployment, WorkerProcess, until

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "rules.yaml"
QUIET = {
    *("Refused requests, {{reason}}", "Paused, pauses: {{reason}}"),
    *("Alarms within an hour, drift: {{model}}, {{measure}}", "Alarms within an hour, rollback: {{model}}"),
}
"""What does not happen here: panel and legend."""
SELECTOR = re.compile(r"\b(?:streamrec|process)_\w+(?:\{[^}]*\})?")
pytestmark = pytest.mark.whole


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A running one."""

    port: int

    def get(self, path: str, **query: str) -> Any:
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urlencode(query)}"
        with urlopen(url, timeout=10) as answer:
            told = json.load(answer)
        assert told["status"] == "success"
        assert not told.get("warnings")
        return told["data"]

    def ask(self, expression: str) -> list[dict[str, Any]]:
        """The values of an expression as of now. A mistake in it is an HTTP error."""
        found: list[dict[str, Any]] = self.get("query", query=expression)["result"]
        return found


@pytest.fixture
def ports() -> list[int]:
    return free_ports(3)


@pytest.fixture
def prometheus(tmp_path: Path, ports: list[int]) -> Iterator[Prometheus]:
    """Reads the other two ports each second, and knows the rules. Its data are in `tmp_path`."""
    if (command := shutil.which("prometheus")) is None:
        pytest.skip("Prometheus is not here: Debian has it, apt-get install prometheus")
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [
            {"job_name": "streamrec", "static_configs": [{"targets": [f"127.0.0.1:{port}" for port in ports[1:]]}]}
        ],
    }
    (tmp_path / "prometheus.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    with (tmp_path / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                command,
                f"--config.file={tmp_path / 'prometheus.yaml'}",
                f"--storage.tsdb.path={tmp_path / 'prometheus'}",
                f"--web.listen-address=127.0.0.1:{ports[0]}",
            ],
            stdout=log,
            stderr=log,
        )
    running = Prometheus(ports[0])

    def answers() -> bool:
        assert process.poll() is None, (tmp_path / "prometheus.log").read_text("utf-8")
        try:
            return bool(running.get("status/buildinfo"))
        except URLError:
            return False

    try:
        until(answers, limit_s=60)
        yield running
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture
def traffic(
    tmp_path: Path, ports: list[int], apache_kafka: EmbeddedBroker, redis_server: EmbeddedRedis
) -> Iterator[Deployment]:
    """A worker's deployment, whose shop is visited until the test is over; one message in a hundred cannot be read."""
    deployment = Deployment(
        tmp_path,
        apache_kafka.settings,
        redis_server.url,
        partitions=3,
        preset="fast",
        limits={"max_items": 1_024, "max_users": 2_000},
        attribution={"window_s": 60, "lateness_s": 1},
        metrics_port=ports[1],
        learner={"where": "elsewhere", "snapshot_every": 500, "metrics_port": ports[2]},
    )
    over = threading.Event()

    def visit() -> None:
        topic = deployment.settings.topics.events
        with closing(kafka_sink(deployment.settings)) as sink:
            for number, event in enumerate(shop(100_000)):
                value = b"{" if number % 100 == 99 else encode_event(event, MSGPACK)
                sink.publish(topic, event.user_id.encode(), value, HEADERS)
                if number % 20 == 19 and over.wait(0.1):
                    return

    visitor = threading.Thread(target=visit)
    visitor.start()
    yield deployment
    over.set()
    visitor.join(60)


def expressions() -> dict[str, list[tuple[str, str]]]:
    """Of the dashboard: by panel, legend and expression, as Grafana would ask them."""
    panels = json.loads((DEPLOY / "grafana" / "streamrec.json").read_text("utf-8"))["panels"]
    return {
        panel["title"]: [
            (t["legendFormat"], t["expr"].replace("$namespace", ".*").replace("$__rate_interval", "10s"))
            for t in panel.get("targets", ())
        ]
        for panel in panels
    }


def test_each_expression_can_be_answered_and_has_data_where_something_happens(
    prometheus: Prometheus, traffic: Deployment, tmp_path: Path, ports: list[int]
) -> None:
    with traffic.worker() as worker, WorkerProcess(traffic.config, tmp_path / "learner.log", "learner") as learner:
        until(
            lambda: bool(prometheus.ask("streamrec_models_behind_events < 1000 and streamrec_model_version > 500")),
            worker,
        )
        until(lambda: bool(prometheus.ask("rate(streamrec_snapshot_seconds_count[15m]) > 0")), learner)
        until(lambda: bool(prometheus.ask("rate(streamrec_outcomes_total[10s]) > 0")), worker)

        empty = {
            f"{title}, {legend}"
            for title, lines in expressions().items()
            for legend, expression in lines
            if not prometheus.ask(expression)
        }
        assert empty <= QUIET

        [group] = prometheus.get("rules")["groups"]
        assert {rule["name"]: rule.get("lastError") for rule in group["rules"] if rule["health"] != "ok"} == {}
        assert prometheus.ask('ALERTS{alertstate="firing"}') == []
        for rule in group["rules"]:
            prometheus.ask(rule["query"])
            nothing = {selector for selector in SELECTOR.findall(rule["query"]) if not prometheus.ask(selector)}
            assert nothing <= {"streamrec_refused_requests_total"}, rule["name"]

        top = traffic.command("top", "--once", "--json")
        assert top.returncode == 0, top.stderr
        told = json.loads(top.stdout)
        assert [process["kind"] for process in told["processes"]] == ["worker", "learner"]
        assert told["events_per_s"] > 0
        assert sum(count["total"] for count in told["dead_letters"].values()) > 0

        assert worker.stop() == 0
        until(lambda: bool(prometheus.ask("absent(streamrec_paused)")))
