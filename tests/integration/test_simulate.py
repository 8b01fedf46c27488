"""Made-up shoppers over real topics: the loop closes through a broker, and stops when it is told to."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from streamrec.codec import decode_event
from streamrec.config.groups import preset_settings
from streamrec.demo.embedded import EmbeddedBroker, EmbeddedRedis
from streamrec.errors import TransportError
from streamrec.evaluation.simulation.live import KafkaSystem
from streamrec.evaluation.simulation.loop import simulate
from streamrec.evaluation.simulation.world import (
    AssortmentSettings,
    CrowdSettings,
    TrafficSettings,
    World,
    WorldSettings,
)
from streamrec.events import Event, EventType
from tests.support.deployment import Deployment, until

SMALL = WorldSettings(
    seed=5,
    assortment=AssortmentSettings(items=80, categories=8),
    crowd=CrowdSettings(shoppers=20),
    traffic=TrafficSettings(requests=40, hours=0.5),
)
RUN_LIMIT_S = 120.0
DAY_MS = 86_400_000


@pytest.fixture
def deployment(tmp_path: Path, tansu: EmbeddedBroker, redis_server: EmbeddedRedis) -> Deployment:
    fast = {**preset_settings("fast")["learning"], "device": "cpu"}
    return Deployment(tmp_path, tansu.settings, redis_server.url, 2, learning=fast, fusion={"form": "linear"})


@pytest.fixture
def sent(deployment: Deployment) -> Callable[[], list[Event]]:
    """Reads what was sent to the events topic."""

    def read() -> list[Event]:
        records = deployment.read(deployment.settings.topics.events)
        return [decode_event(record.value or b"", record.headers) for record in records]

    return read


def test_shoppers_ask_read_and_answer_over_the_topics(deployment: Deployment, sent: Callable[[], list[Event]]) -> None:
    with deployment.worker() as worker:
        episode = simulate(World(SMALL), KafkaSystem(deployment.settings))
        assert episode.answered.all()
        assert len(episode.ts) == 40
        log = sent()
        assert len(log) == episode.events
        clicks = [event for event in log if event.type is EventType.IMPRESSION]
        assert clicks
        assert all(re.fullmatch(r".*-\d-\d+", event.rec_id or "") for event in clicks)  # the worker's names of slates
        until(lambda: deployment.committed() == len(log), worker)
        later = replace(SMALL.traffic, start_ms=SMALL.traffic.start_ms + DAY_MS)
        again = simulate(World(replace(SMALL, traffic=later)), KafkaSystem(deployment.settings))
        assert again.answered.all()  # the same shoppers, whose events the worker must not take for repeats
        assert worker.stop() == 0


def test_a_request_that_nobody_answers_is_given_up_and_at_last_the_whole_shop(deployment: Deployment) -> None:
    few = replace(SMALL, traffic=TrafficSettings(requests=3, hours=0.1))
    episode = simulate(World(few), KafkaSystem(deployment.settings, patience_s=0.2, first_patience_s=0.2))
    assert not episode.answered.any()
    assert (episode.regret == episode.best).all()
    with pytest.raises(TransportError, match="streamrec worker"):
        simulate(World(SMALL), KafkaSystem(deployment.settings, patience_s=0.1, first_patience_s=0.1))


def test_the_command_keeps_pace_prints_how_it_goes_and_stops_when_asked(deployment: Deployment) -> None:
    options = ["--kafka", str(deployment.settings.kafka["bootstrap.servers"]), "--config", str(deployment.config)]
    with deployment.worker():
        result = deployment.command(
            "simulate", *options[:2], "--requests", "20", "--hours", "0.2", "--shoppers", "10", "--speed", "2000"
        )
        assert result.returncode == 0, result.stderr
        assert re.search(r"^all: 20 requests: reward \d\.\d+ a slate .* 100.0% answered", result.stdout, re.MULTILINE)
        short = ("simulate", *options[:2], "--requests", "5", "--hours", "0.1", "--shoppers", "5", "--json")
        assert json.loads(deployment.command(*short).stdout)["requests"] == 5
        slow = subprocess.Popen(
            [sys.executable, "-m", "streamrec.cli", "simulate", *options, "--speed", "20"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            with pytest.raises(subprocess.TimeoutExpired):
                slow.wait(6)  # 48 hours at this speed are more than two
            slow.send_signal(signal.SIGINT)
            assert slow.wait(RUN_LIMIT_S) == 128 + signal.SIGINT
        finally:
            slow.kill()
            slow.communicate()
