"""A worker as it is run: a child process on a real broker and a real Redis, judged from outside."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from confluent_kafka import Producer

from streamrec.codec import MSGPACK, decode, decode_slate
from streamrec.config.groups import Attribution, preset_settings
from streamrec.demo.embedded import EmbeddedBroker, EmbeddedRedis, embedded_redis
from streamrec.events import Event, EventType, Evidence, Outcome, Slate
from streamrec.state import inspection as inspect
from streamrec.testing import recount, requests, shop
from streamrec.wiring import build_store
from tests.support.deployment import Deployment, WorkerProcess, until

LOG = shop(1_500, seed=11)
GOOD = {"type": "view", "user_id": "u", "item_id": "i", "ts": 1_700_000_000_000}
VALUES = Attribution().values
WINDOW_S = 60.0
EXIT_S = 40.0
"""A process on a busy machine may take so long to end once its worker has."""
PACKED = [("content-type", MSGPACK.encode())]


def but(**fields: object) -> bytes:
    return msgspec.json.encode({**GOOD, **fields})


UNUSABLE: list[tuple[str, str, bytes | None, list[tuple[str, bytes]]]] = [
    # reason, field, value, headers
    ("malformed", "", b"{", []),
    ("malformed", "", b"\xff\xfe", []),
    ("empty", "", None, []),
    ("too_large", "", but(query="x" * 5_000), []),
    ("too_deep", "", b"[" * 2_000, []),
    ("too_deep", "", b'{"a":' * 50 + b"1" + b"}" * 50, []),
    ("too_deep", "", b"\x91" * 4_000, PACKED),
    ("invalid", "", b"\xdd\xff\xff\xff\xff", PACKED),  # four thousand million values, says its head
    ("invalid", "", b"\xdf\xff\xff\xff\xff\xc0", PACKED),
    ("malformed", "", b"\xdf\xff\xff\xff\xff\xa4type", PACKED),
    ("invalid", "ts", but(ts="yesterday"), []),
    ("invalid", "ts", but(ts=-1), []),
    ("invalid", "user_id", but(user_id=7), []),
    ("invalid", "user_id", but(user_id=""), []),
    ("invalid", "item_id", but(item_id=None), []),
    ("invalid", "type", but(type="stare"), []),
    ("invalid", "k", but(k=1_000_000), []),
    ("invalid", "value", msgspec.msgpack.encode({**GOOD, "value": float("nan")}), PACKED),
    ("future", "ts", but(ts=4_000_000_000_000), []),
    ("content_type", "content-type", but(), [("content-type", b"text/xml")]),
]


@dataclass
class System:
    """A running worker that has handled everything sent so far."""

    deployment: Deployment
    worker: WorkerProcess

    def send_raw(self, values: Sequence[tuple[bytes | None, list[tuple[str, bytes]]]]) -> None:
        send_raw(self.deployment, values)

    def slates(self) -> list[Slate]:
        records = self.deployment.read(self.deployment.settings.topics.recommendations)
        return [decode_slate(record.value or b"", record.headers) for record in records]

    def outcomes(self) -> list[Outcome]:
        records = self.deployment.read(self.deployment.settings.topics.outcomes)
        return [decode(record.value or b"", record.headers, Outcome) for record in records]


def send_raw(deployment: Deployment, values: Sequence[tuple[bytes | None, list[tuple[str, bytes]]]]) -> None:
    producer = Producer({"bootstrap.servers": deployment.settings.kafka["bootstrap.servers"]})
    for value, headers in values:
        producer.produce(deployment.settings.topics.events, value=value, key=b"k", headers=headers)
    assert producer.flush(20) == 0


@pytest.fixture(scope="module", params=[pytest.param("tansu", marks=pytest.mark.whole), "apache_kafka"])
def system(
    request: pytest.FixtureRequest, redis_server: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[System]:
    broker: EmbeddedBroker = request.getfixturevalue(request.param)
    directory = tmp_path_factory.mktemp("worker")
    limits, attribution = {"max_message_bytes": 4_096}, {"window_s": WINDOW_S, "lateness_s": 5}
    deployment = Deployment(
        directory, broker.settings, redis_server.url, partitions=2, limits=limits, attribution=attribution
    )
    with deployment.worker() as worker:
        deployment.send(LOG)
        send_raw(deployment, [(value, headers) for _, _, value, headers in UNUSABLE])
        deployment.send([msgspec.structs.replace(LOG[-1], event_id=None, user_id=f"last-{n}") for n in range(40)])
        until(lambda: deployment.committed() == len(LOG) + len(UNUSABLE) + 40, worker)
        yield System(deployment, worker)


EVERYTHING = [*LOG, *(msgspec.structs.replace(LOG[-1], event_id=None, user_id=f"last-{n}") for n in range(40))]


def test_every_request_is_answered_once(system: System) -> None:
    slates = system.slates()
    assert len({slate.rec_id for slate in slates}) == len(slates)
    answered = Counter((slate.user_id, slate.request_id, slate.ts) for slate in slates)
    assert answered == Counter((event.user_id, event.event_id, event.ts) for event in requests(EVERYTHING))


def test_a_slate_holds_distinct_known_items_with_their_propensities(system: System) -> None:
    known = set(recount(EVERYTHING).items)
    asked = {event.event_id: event.k or 20 for event in requests(LOG)}
    slates = [slate for slate in system.slates() if slate.request_id in asked]
    for slate in slates:
        items = [place.item_id for place in slate.items]
        assert len(items) == min(asked[slate.request_id], slate.candidates)
        assert len(set(items)) == len(items)
        assert set(items) <= known
        assert [place.position for place in slate.items] == list(range(1, len(items) + 1))
        assert all(0.0 < place.propensity <= 1.0 + 1e-12 for place in slate.items)
    assert sum(len(slate.items) for slate in slates) > 5 * len(slates)


def test_what_the_store_knows_of_users_and_items_equals_a_recount(system: System) -> None:
    expected = recount(EVERYTHING)
    with closing(build_store(system.deployment.settings)) as store:
        users = {name: inspect.user(store, name) for name in expected.users}
        items = {name: inspect.item(store, name) for name in expected.items}
    assert {name: known and known["counts"] for name, known in users.items()} == expected.users
    assert {name: known and known["counts"] for name, known in items.items()} == expected.items


@pytest.mark.parametrize("kind", ["user", "item"])
def test_the_commands_print_the_same_counts(system: System, kind: str) -> None:
    counts = getattr(recount(EVERYTHING), f"{kind}s")
    name = max(counts, key=lambda name: sum(counts[name].values()))
    printed = system.deployment.command(kind, name, "--json")
    assert printed.returncode == 0, printed.stderr
    known = json.loads(printed.stdout)
    assert known["counts"] == counts[name]
    assert known["events"] == sum(counts[name].values())


def test_each_item_shown_has_one_outcome_that_says_what_followed(system: System) -> None:
    slates = {slate.request_id: slate for slate in system.slates() if slate.request_id}
    shown: dict[str, list[Slate]] = {}
    owed: dict[tuple[str, int], float] = {}
    for event in LOG:
        if event.event_id in slates:
            shown.setdefault(event.user_id, []).append(slates[event.event_id])
        for slate in reversed(shown.get(event.user_id, [])):
            place = next((p.position for p in slate.items if p.item_id == event.item_id), None)
            if place is not None and 0 <= event.ts - slate.ts <= WINDOW_S * 1_000:
                worth = VALUES.get(event.type, 0.0)
                owed[slate.rec_id, place] = max(owed.get((slate.rec_id, place), 0.0), worth, key=abs)
                break
    outcomes = system.outcomes()
    of_log = {slate.rec_id: slate for slate in slates.values() if slate.user_id.startswith("user-")}
    found = {(o.rec_id, o.position): o for o in outcomes if o.rec_id in of_log}
    assert len({outcome.outcome_id for outcome in outcomes}) == len(outcomes)
    closed = {rec_id for rec_id, _ in found}
    assert set(found) >= {(rec_id, item.position) for rec_id in closed for item in of_log[rec_id].items} - depths(found)
    for (rec_id, position), outcome in found.items():
        item = of_log[rec_id].items[position - 1]
        assert (outcome.item_id, outcome.propensity) == (item.item_id, item.propensity)
        assert outcome.reward == owed.get((rec_id, position), 0.0)
        assert (outcome.type is None) == (outcome.reward == 0.0)
    due = {slate.rec_id for slate in of_log.values() if slate.items and slate.ts < LOG[-1].ts - 300_000}
    assert len(due) > 50
    assert due <= closed
    assert any(outcome.type is EventType.PURCHASE and outcome.reward == 1.0 for outcome in outcomes)


def depths(found: dict[tuple[str, int], Outcome]) -> set[tuple[str, int]]:
    """Places below the lowest that an impression told of: they were not seen."""
    lowest: dict[str, int] = {}
    for (rec_id, position), outcome in found.items():
        if outcome.seen is Evidence.IMPRESSION:
            lowest[rec_id] = max(lowest.get(rec_id, 0), position)
    return {(rec_id, place) for rec_id, depth in lowest.items() for place in range(depth + 1, 101)}


def test_unusable_messages_are_put_aside_as_they_came_with_the_reason(system: System) -> None:
    topic = system.deployment.settings.topics.dead_letters
    dead_letters = [(dict(record.headers), record) for record in system.deployment.read(topic)]
    found = Counter(
        (headers["reason"].decode(), headers["field"].decode(), record.value) for headers, record in dead_letters
    )
    assert found == Counter((reason, field, value) for reason, field, value, _ in UNUSABLE)
    places = {(int(headers["partition"]), int(headers["offset"])) for headers, _ in dead_letters}
    assert len(places) == len(UNUSABLE)
    for headers, record in dead_letters:
        assert headers["topic"].decode() == system.deployment.settings.topics.events
        assert record.key == b"k"
        assert headers["detail"]


def test_a_worker_that_is_asked_to_stop_saves_everything_and_the_next_goes_on(system: System) -> None:
    deployment, before = system.deployment, system.deployment.committed()
    more = shop(400, seed=12, start_ms=LOG[-1].ts)
    deployment.send(more[:200])
    assert system.worker.stop() == 0
    assert "checkpoint saved" in system.worker.said
    assert before <= deployment.committed() <= before + 200
    deployment.send(more[200:])
    with deployment.worker() as following:
        until(lambda: deployment.committed() == before + 400, following)
        assert following.stop() == 0
    expected = recount([*EVERYTHING, *more])
    with closing(build_store(deployment.settings)) as store:
        counts = {name: (inspect.user(store, name) or {})["counts"] for name in expected.users}
    assert counts == expected.users
    slates = system.slates()
    assert len({slate.rec_id for slate in slates}) == len(slates) == len(requests([*EVERYTHING, *more]))


def test_a_worker_is_ended_in_the_stated_time_whether_it_can_save_or_not(tansu: EmbeddedBroker, tmp_path: Path) -> None:
    handover_s = 2.0
    with embedded_redis() as redis:
        checkpoints = {"handover_s": handover_s, "interval_s": 0.2}
        groups = {**preset_settings("fast"), "checkpoints": checkpoints}
        deployment = Deployment(tmp_path, tansu.settings, redis.url, **groups)
        deployment.send(LOG)
        with deployment.worker() as busy:
            until(lambda: deployment.committed() > 0, busy)
            begun = time.monotonic()
            assert busy.stop() == 0
            assert time.monotonic() - begun < handover_s + EXIT_S
        more = shop(400, seed=12, start_ms=LOG[-1].ts)
        deployment.send(more[:200])
        with deployment.worker() as cut_off:
            until(lambda: deployment.committed() == len(LOG) + 200, cut_off)
            redis.kill()
            deployment.send(more[200:])  # something that cannot be saved any more
            until(lambda: "no connection to Redis" in cut_off.said, cut_off)
            begun = time.monotonic()
            assert cut_off.stop() == 1
            assert time.monotonic() - begun < handover_s + EXIT_S
            assert "Traceback" not in cut_off.said


@pytest.mark.whole
def test_input_that_is_all_unusable_stops_the_worker_and_nothing_past_it_is_committed(
    tansu: EmbeddedBroker, redis_server: EmbeddedRedis, tmp_path: Path
) -> None:
    limits = {"max_bad_in_a_row": 25}
    deployment = Deployment(tmp_path, tansu.settings, redis_server.url, limits=limits)
    log: list[Event] = LOG[:60]
    deployment.send(log)
    with deployment.worker() as worker:
        until(lambda: deployment.committed() == len(log), worker)
        send_raw(deployment, [(b"not an event", [])] * 40)
        deployment.send(LOG[60:80])
        assert worker.wait() == 1
    lines = [json.loads(line) for line in worker.said.splitlines()]
    assert "25 messages in a row could not be used" in worker.said
    assert "limits.max_bad_in_a_row" in worker.said
    assert "Traceback" not in worker.said
    assert sum(line["event"] == "stopped" for line in lines) == 1
    assert deployment.committed() == len(log)
    dead_letters = deployment.read(deployment.settings.topics.dead_letters)
    assert sorted(int(dict(dead_letter.headers)["offset"]) for dead_letter in dead_letters) == list(range(60, 85))
