"""Any Kafka client will do: these know nothing of streamrec but the addresses and the documented messages."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgpack
import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import UnsupportedCodecError
from confluent_kafka import Consumer, Producer

from streamrec.demo.embedded import EmbeddedBroker, EmbeddedRedis
from streamrec.testing import shop
from streamrec.transport.confluent_sink import KafkaSink
from streamrec.transport.topics import MissingTopic, apply
from tests.support.deployment import Deployment, until

NOW_MS = 1_717_000_000_000


@pytest.fixture(scope="module", params=["tansu", "apache_kafka"])
def running(
    request: pytest.FixtureRequest, redis_server: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    broker: EmbeddedBroker = request.getfixturevalue(request.param)
    deployment = Deployment(tmp_path_factory.mktemp("plain"), broker.settings, redis_server.url)
    with deployment.worker() as worker:
        until(lambda: "reading" in worker.said, worker)
        yield deployment


def sent(deployment: Deployment, packed: bool, *events: dict[str, Any]) -> None:
    producer = Producer({"bootstrap.servers": str(deployment.settings.kafka["bootstrap.servers"])})
    for event in events:
        value = msgpack.packb(event) if packed else json.dumps(event).encode()
        headers = [("content-type", b"application/msgpack")] if packed else None
        producer.produce(deployment.settings.topics.events, key=event["user_id"], value=value, headers=headers)
    assert producer.flush(20) == 0


def slate_of(deployment: Deployment, request_id: str, limit_s: float = 60.0) -> dict[str, Any]:
    """The slate that answers a request, as plain JSON."""
    consumer = Consumer(
        {
            "bootstrap.servers": str(deployment.settings.kafka["bootstrap.servers"]),
            "group.id": f"reader-{time.monotonic_ns()}",
            "auto.offset.reset": "earliest",
            "session.timeout.ms": 3_000,
        }
    )
    consumer.subscribe([deployment.settings.topics.recommendations])
    deadline = time.monotonic() + limit_s
    try:
        while time.monotonic() < deadline:
            message = consumer.poll(0.5)
            if message is None or message.error():
                continue
            slate: dict[str, Any] = json.loads(message.value() or b"")
            if slate["request_id"] == request_id:
                assert (message.key() or b"").decode() == slate["user_id"]
                return slate
    finally:
        consumer.close()
    raise AssertionError(f"no slate for {request_id} within {limit_s:.0f} s")


@pytest.mark.parametrize("packed", [False, True], ids=["json", "msgpack"])
def test_events_go_in_and_slates_come_out_as_plain_json(running: Deployment, packed: bool) -> None:
    user = f"anna-{packed}"
    views = [
        {"type": "view", "user_id": f"{user}-{n % 4}", "item_id": f"mug-{n % 6}", "ts": NOW_MS + n} for n in range(80)
    ]
    request = {"type": "request", "user_id": user, "ts": NOW_MS + 1_000, "k": 4, "event_id": f"ask-{packed}"}
    sent(
        running,
        packed,
        *views,
        {**request, "scenario": "cross_category", "context": {"device": "phone", "returning": True}},
    )
    slate = slate_of(running, f"ask-{packed}")
    assert slate["user_id"] == user
    assert slate["ts"] == NOW_MS + 1_000
    assert slate["scenario"] == "cross_category"
    assert [place["position"] for place in slate["items"]] == [1, 2, 3, 4]
    assert len({place["item_id"] for place in slate["items"]}) == 4
    assert all(place["item_id"].startswith("mug-") for place in slate["items"])
    assert all(0 < place["propensity"] <= 1 and isinstance(place["score"], float) for place in slate["items"])
    assert all(place["shares"] for place in slate["items"])


@pytest.mark.parametrize(("chosen", "readable"), [({}, True), ({"compression.codec": "lz4"}, False)])
def test_a_client_without_further_codecs_reads_what_is_published_unless_another_is_chosen(
    apache_kafka: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch, chosen: dict[str, str], readable: bool
) -> None:
    topic = f"compressed-{time.monotonic_ns()}"
    apply([MissingTopic(topic, 1, 1)], apache_kafka.settings)
    with closing(KafkaSink({**apache_kafka.settings, **chosen})) as sink:
        for _ in range(100):
            sink.publish(topic, b"k", b"a slate " * 100)
    monkeypatch.setattr("aiokafka.codec.cramjam", None)  # the package that it leaves all but gzip to

    async def read() -> list[bytes | None]:
        consumer = AIOKafkaConsumer(topic, bootstrap_servers=apache_kafka.bootstrap, auto_offset_reset="earliest")
        await consumer.start()
        try:
            return [(await asyncio.wait_for(consumer.getone(), 20)).value for _ in range(100)]
        finally:
            await consumer.stop()

    if readable:
        assert asyncio.run(read()) == [b"a slate " * 100] * 100
    else:
        with pytest.raises(UnsupportedCodecError, match="lz4"):
            asyncio.run(read())


def test_a_purchase_that_names_its_slate_comes_out_as_an_outcome_when_its_window_is_over(running: Deployment) -> None:
    views = [{"type": "view", "user_id": "ben", "item_id": f"cup-{n % 5}", "ts": NOW_MS + n} for n in range(60)]
    sent(running, False, *views, {"type": "request", "user_id": "ben", "ts": NOW_MS + 100, "event_id": "ben-asks"})
    slate = slate_of(running, "ben-asks")
    bought = slate["items"][0]
    purchase = {"type": "purchase", "user_id": "ben", "item_id": bought["item_id"], "ts": NOW_MS + 200}
    sent(running, False, {**purchase, "rec_id": slate["rec_id"], "value": 9.5}, {**purchase, "rec_id": "another"})

    def outcomes() -> list[dict[str, Any]]:
        records = running.read(running.settings.topics.outcomes)
        return [outcome for record in records if (outcome := json.loads(record.value or b""))["user_id"] == "ben"]

    later = NOW_MS + int(running.settings.attribution.window_s * 1_000) + 300_000
    sent(running, False, *({"type": "view", "user_id": "ben", "item_id": "cup-1", "ts": later + n} for n in range(40)))
    until(lambda: len(outcomes()) >= len(slate["items"]))
    outcome, *others = outcomes()
    assert {other["outcome_id"] for other in others} == {
        f"{slate['rec_id']}-{n}" for n in range(2, 1 + len(slate["items"]))
    }
    assert all(other["reward"] == 0.0 and "type" not in other for other in others)
    assert outcome["rec_id"] == slate["rec_id"]
    assert outcome["type"] == "purchase"
    assert outcome["reward"] == 1.0
    assert (outcome["item_id"], outcome["position"]) == (bought["item_id"], 1)
    assert outcome["propensity"] == bought["propensity"]


def test_history_placed_by_one_way_and_live_events_by_another_are_told_once(
    apache_kafka: EmbeddedBroker, redis_server: EmbeddedRedis, tmp_path: Path
) -> None:
    deployment = Deployment(tmp_path, apache_kafka.settings, redis_server.url, 4, "fast", limits={"max_items": 512})
    history = shop(200, seed=3)
    deployment.send(history)  # as `replay` does
    live = [{"type": "view", "user_id": f"user-{n}", "item_id": "mug", "ts": NOW_MS + n} for n in range(60)]
    sent(deployment, False, *live)  # as librdkafka does by itself
    with deployment.worker() as worker:
        until(lambda: deployment.committed() == len(history) + len(live), worker)
        assert worker.stop() == 0
        assert worker.said.count("keys are on other partitions than they belong to") == 1
        assert "keys are not all placed by murmur2 here (crc32 " in worker.said
