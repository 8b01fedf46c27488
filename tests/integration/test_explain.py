"""`streamrec explain`, on a running system: why items are on a slate, whether or not its request asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest
from confluent_kafka import Producer

from streamrec.cli.commands.explain import run
from streamrec.config.groups import SnapshotSettings
from streamrec.demo.embedded import EmbeddedBroker, EmbeddedRedis
from streamrec.errors import ConfigError, StateError, StreamrecError, TransportError
from streamrec.events import Event, EventType
from streamrec.testing import STARTED_MS
from streamrec.transport import Record
from streamrec.transport.positions import TopicReader
from tests.support.deployment import Deployment, until

VISITS, PAIRS = 110, 6
LATER = STARTED_MS + 10**7


def event(kind: EventType, user: str, item: str | None, ts: int, **more: object) -> Event:
    return Event(type=kind, user_id=user, item_id=item, ts=ts, event_id=f"{user}-{ts}", **more)


def planted() -> list[Event]:
    """After left-N comes right-N."""
    log = []
    for visit in range(VISITS):
        for step, side in enumerate(("left", "right")):
            ts = STARTED_MS + 60_000 * visit + 5_000 * step
            log.append(event(EventType.CLICK, f"visitor-{visit}", f"{side}-{visit % PAIRS}", ts))
    return log


LOG = [
    *planted(),
    event(EventType.REQUEST, "ann", None, LATER - 1, scenario="hoome"),
    event(EventType.CLICK, "ann", "left-2", LATER),
    event(EventType.REQUEST, "ann", None, LATER + 180_000, k=3, explain=True),  # no longer ann's latest slate below
    event(EventType.REQUEST, "ann", None, LATER + 200_000, k=3),
    event(EventType.CLICK, "ann", "left-4", LATER + 201_000),  # after the slate: no reason for it
    event(EventType.REQUEST, "ann", None, LATER + 200_000, k=3),  # repeats an event_id
]
REFUSED = 2 * VISITS
CLICKED, ASKED_WHY, ASKED, _, REPEATED = range(len(LOG) - 5, len(LOG))


@pytest.fixture(scope="module")
def deployment(
    tansu: EmbeddedBroker, redis_server: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory
) -> Deployment:
    """Everything of LOG handled, and one request more sent after the worker has gone."""
    small = {"max_items": 2_000, "max_users": 2_000}
    running = Deployment(tmp_path_factory.mktemp("explain"), tansu.settings, redis_server.url, limits=small)
    running.send(LOG)
    with running.worker() as worker:
        until(lambda: running.committed() == len(LOG), worker)
        assert worker.stop() == 0
    running.send([event(EventType.REQUEST, "bob", None, LATER + 300_000)])
    return running


@pytest.fixture(scope="module")
def rec_id(deployment: Deployment) -> Callable[[int], str]:
    return lambda offset: f"{deployment.settings.topics.events}-0-{offset}"


def test_reasons_asked_for_are_read_from_the_record(
    deployment: Deployment, rec_id: Callable[[int], str], capsys: pytest.CaptureFixture[str]
) -> None:
    run(deployment.settings, rec_id(ASKED_WHY), as_json=True, derive=True)
    told = json.loads(capsys.readouterr().out)
    assert set(told) == {
        *("rec_id", "user_id", "ts", "policy", "version", "mode", "arm", "scenario", "candidates", "reasons", "items"),
    }
    assert (told["rec_id"], told["user_id"], told["reasons"]) == (rec_id(ASKED_WHY), "ann", "recorded")
    assert [item["position"] for item in told["items"]] == [1, 2, 3]
    for item in told["items"]:
        assert set(item) == {
            *("position", "item_id", "title", "score", "rank", "propensity", "team", "shares", "because", "rules"),
        }
    [wanted] = [item for item in told["items"] if item["item_id"] == "right-2"]
    cause = wanted["because"][0]
    assert cause["fall"] > 1
    assert {**cause, "fall": 0} == {"item_id": "left-2", "title": "left-2", "fall": 0, "type": "click", "ts": LATER}


def test_reasons_nobody_asked_for_are_derived_and_said_to_be(
    deployment: Deployment, rec_id: Callable[[int], str], tmp_path: Path
) -> None:
    catalogue = tmp_path / "catalogue.csv"
    pl.DataFrame({"item_id": ["right-2"], "title": ["Mug, the other half"]}).write_csv(catalogue)
    told = deployment.command("explain", rec_id(ASKED), "--items", str(catalogue))
    assert told.returncode == 0, told.stderr
    assert f"slate {rec_id(ASKED)} for ann, 2024-01-01" in told.stdout
    assert "derived with the models as of now, not as of then" in told.stdout
    assert "Mug, the other half (right-2), score" in told.stdout
    assert "because of left-2 (click, 3 min before) +" in told.stdout
    assert "left-4 (" not in told.stdout  # what came after the slate
    assert told.stdout.count("wanted by ") == told.stdout.count("put here ") == 3


def test_nothing_is_derived_when_told_not_to(deployment: Deployment, rec_id: Callable[[int], str]) -> None:
    told = deployment.command("explain", rec_id(ASKED), "--no-derive")
    assert told.returncode == 0, told.stderr
    assert "there are none in the record" in told.stdout
    assert "because" not in told.stdout
    assert told.stdout.count("wanted by ") == 3


def test_what_cannot_be_explained_is_said_in_one_line(deployment: Deployment, rec_id: Callable[[int], str]) -> None:
    settings, events = deployment.settings, deployment.settings.topics.events

    def refused(name: str, error: type[StreamrecError]) -> str:
        with pytest.raises(error) as caught:
            run(settings, name, as_json=True, derive=True)
        return str(caught.value)

    assert "expected TOPIC-PARTITION-OFFSET" in refused("what?", ConfigError)
    assert "'nowhere-at-all' does not exist" in refused("nowhere-at-all-0-1", TransportError)
    assert "no record has been written there yet" in refused(rec_id(len(LOG) + 1), StateError)
    assert "the topic has 1 partitions" in refused(f"{events}-7-1", StateError)
    assert "the event there is a click; serving.recommend_on answers request, search" in refused(
        rec_id(CLICKED), StateError
    )
    assert "the request was refused, so no items were chosen: field 'scenario' is 'hoome'" in refused(
        rec_id(REFUSED), StateError
    )
    assert "repeated an event_id" in refused(rec_id(REPEATED), StateError)
    assert f"not answered yet: workers have not saved a checkpoint beyond it (they stand at {len(LOG)})" in refused(
        rec_id(len(LOG)), StateError
    )


def test_without_a_snapshot_nothing_can_be_derived(
    deployment: Deployment, rec_id: Callable[[int], str], tmp_path: Path
) -> None:
    elsewhere = SnapshotSettings(url=str(tmp_path / "none"))
    settings = deployment.settings.model_copy(update={"snapshots": elsewhere})
    with pytest.raises(StateError, match="--no-derive"):
        run(settings, rec_id(ASKED), as_json=True, derive=True)
    assert not (tmp_path / "none").exists()


def test_a_record_is_found_by_its_place_and_by_what_it_says(
    broker: EmbeddedBroker, make_topic: Callable[[int], str]
) -> None:
    topic = make_topic(2)
    producer = Producer({"bootstrap.servers": broker.bootstrap})
    for n in range(6):
        producer.produce(topic, b"%d" % n, partition=n % 2, timestamp=STARTED_MS + n * 1_000)
        producer.flush(10)
    with closing(TopicReader(topic, broker.settings)) as surveyor:

        def value(record: Record | None) -> bytes | None:
            return None if record is None else record.value

        def found(wanted: bytes, since_s: int, span_s: int) -> bytes | None:
            return value(
                surveyor.find(STARTED_MS + since_s * 1_000, span_s * 1_000, lambda record: record.value == wanted)
            )

        assert [value(surveyor.record(0, at)) for at in range(4)] == [b"0", b"2", b"4", None]
        assert [value(surveyor.record(*place)) for place in ((1, 2), (1, 3), (2, 0))] == [b"5", None, None]
        assert [found(b"3", since, 10) for since in (0, 3, 4)] == [b"3", b"3", None]
        assert found(b"5", 0, 1) is None
        assert found(b"nothing of the kind", 0, 10) is None
