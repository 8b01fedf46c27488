"""The door: `streamrec serve` as a process beside a worker, a broker and Redis, asked over real HTTP."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from streamrec.codec import decode_event, decode_item
from streamrec.config.groups import GatewaySettings
from streamrec.config.settings import shown
from streamrec.config.toml import toml_lines
from streamrec.demo.embedded import EmbeddedBroker, EmbeddedRedis, embedded_broker, embedded_redis, free_ports
from streamrec.events import Event, EventType
from streamrec.wiring import StoredLookups
from tests.support.deployment import Deployment, WorkerProcess, until

PATIENT = {"deadline_ms": 10_000}
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
RELAXED: dict[str, Any] = {"deadline": None, "suppress_health_check": list(HealthCheck)}
WRITE, ASK, ADMIN, RARE = "write-key", "ask-key", "admin-key", "rare-key"


def hashed(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


@dataclass
class House:
    """Everything that runs. `guarded` is a gateway with keys, which takes unknown fields."""

    broker: EmbeddedBroker
    redis: EmbeddedRedis
    deployment: Deployment
    worker: WorkerProcess
    door: httpx.Client
    guarded: httpx.Client
    guard: WorkerProcess

    def events(self) -> list[Event]:
        records = self.deployment.read(self.deployment.settings.topics.events)
        return [decode_event(record.value, record.headers) for record in records]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    place = tmp_path_factory.mktemp("door")
    port, guarded_port = free_ports(2)
    keys = (
        f"{hashed(WRITE)} write",
        f"{hashed(ASK)} ask",
        f"{hashed(ADMIN)} admin",
        f"{hashed(RARE)} ask+write 0.02",
    )
    with embedded_broker(apache=False) as broker, embedded_redis() as redis:
        deployment = Deployment(
            place,
            broker.settings,
            redis.url,
            partitions=2,
            preset="fast",
            learning={"exclude_seen": True, "device": "cpu"},
            redis={"url": redis.url, "prefix": "door", "timeout_s": 1.0},
            gateway={"port": port},
        )
        guarded = place / "guarded.toml"
        strict = GatewaySettings(
            port=guarded_port, keys=keys, unknown_fields="ignore", cors_origins=("https://shop.example",)
        )
        strictly = deployment.settings.model_copy(update={"gateway": strict})
        guarded.write_text("\n".join(toml_lines(shown(strictly))), encoding="utf-8")
        with (
            deployment.worker() as worker,
            WorkerProcess(deployment.config, place / "door.log", "serve") as serving,
            WorkerProcess(guarded, place / "guarded.log", "serve") as guard,
            httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as door,
            httpx.Client(base_url=f"http://127.0.0.1:{guarded_port}", timeout=30) as guarded_door,
        ):
            until(lambda: ready(door), serving)
            until(lambda: ready(guarded_door), guard)
            shop = [event(f"u{number % 9}", f"i{number % 23}") for number in range(300)]
            assert door.post("/v1/events", json=shop).status_code == 202
            until(lambda: "degraded" not in ask(door, "u1", **PATIENT).json(), worker)
            yield House(broker, redis, deployment, worker, door, guarded_door, guard)


def ready(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def event(user: str, item: str | None = "i1", kind: str = "click", **fields: object) -> dict[str, object]:
    return {"type": kind, "user_id": user, "item_id": item, **fields}


def ask(client: httpx.Client, user: str, **fields: object) -> httpx.Response:
    return client.post("/v1/recommendations", json={"user_id": user, **fields})


@contextmanager
def stopped(pid: int | None) -> Iterator[None]:
    """A process that does nothing for a while, and knows nothing of it."""
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


# Events


def test_an_event_is_in_the_log_once_it_is_accepted(house: House) -> None:
    before_ms = time.time_ns() // 1_000_000
    answer = house.door.post("/v1/events", json=event("stored", "i5", value=2.5, context={"device": "phone"}))
    assert (answer.status_code, answer.json()) == (202, {"accepted": 1, "refused": []})
    [found] = [one for one in house.events() if one.user_id == "stored"]
    assert (found.type, found.item_id, found.value, found.context) == (EventType.CLICK, "i5", 2.5, {"device": "phone"})
    assert before_ms <= found.ts <= time.time_ns() // 1_000_000


def test_the_very_next_slate_knows_of_an_event_just_accepted(house: House) -> None:
    seen: set[str] = set()
    for _ in range(5):
        first = ask(house.door, "reader", k=3, **PATIENT).json()["items"][0]["item_id"]
        assert first not in seen
        assert house.door.post("/v1/events", json=event("reader", first)).status_code == 202
        seen.add(first)


@pytest.mark.parametrize(
    ("fields", "reason", "field"),
    [
        ({"type": "stare"}, "invalid", "type"),
        ({"user_id": 7}, "invalid", "user_id"),
        ({"user_id": ""}, "invalid", "user_id"),
        ({"item_id": None}, "invalid", "item_id"),
        ({"item_id": "i\u0007"}, "invalid", "item_id"),
        ({"ts": "yesterday"}, "invalid", "ts"),
        ({"ts": 1_700_000_000}, "past", "ts"),
        ({"ts": 4_000_000_000_000}, "future", "ts"),
        ({"value": 1e300}, "invalid", "value"),
        ({"context": {"a": {"b": 1}}}, "invalid", "context"),
        ({"query": "x" * 70_000}, "too_large", None),
        ({"colour": "red"}, "invalid", "colour"),
    ],
)
def test_an_event_that_workers_would_refuse_is_refused_with_the_reason(
    house: House, fields: dict[str, object], reason: str, field: str | None
) -> None:
    answer = house.door.post("/v1/events", json={**event("refused"), **fields})
    assert answer.status_code == 400
    [refused] = answer.json()["refused"]
    assert (refused["index"], refused["reason"], refused.get("field")) == (0, reason, field)


def test_the_good_events_of_a_batch_are_stored_and_the_bad_ones_named(house: House) -> None:
    batch = [event("mixed", f"m{number}") for number in range(4)]
    batch[1]["type"], batch[3]["ts"] = "stare", -1
    answer = house.door.post("/v1/events", json=batch)
    assert (answer.status_code, answer.json()["accepted"]) == (207, 2)
    assert [(one["index"], one["field"]) for one in answer.json()["refused"]] == [(1, "type"), (3, "ts")]
    assert {one.item_id for one in house.events() if one.user_id == "mixed"} == {"m0", "m2"}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'[{"type":"click","user_id":"broken","item_id":"i1"},{"type":"cli', "malformed"),
        (b'[{"type":"click","user_id":"broken","item_id":"i1"},{]', "malformed"),
        (b"[" * 100_000, "malformed"),
        (b"", "malformed"),
        (b"[]", "empty"),
        (b"\xff\xfe", "malformed"),
        (b"[" + b",".join([b"{}"] * 10_001) + b"]", "too_large"),
    ],
    ids=["cut off", "broken in the middle", "deep", "nothing", "no events", "no text", "too many"],
)
def test_of_a_body_that_is_no_json_nothing_is_stored(house: House, body: bytes, reason: str) -> None:
    answer = house.door.post("/v1/events", content=body)
    assert (answer.status_code, answer.json()["reason"]) == (400, reason)
    assert not [one for one in house.events() if one.user_id == "broken"]


def test_ten_thousand_events_are_one_batch_and_hold_nobody_up(house: House) -> None:
    batch = [event(f"many{number % 50}", f"i{number % 23}", kind="impression") for number in range(10_000)]
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(house.door.post, "/v1/events", json=batch)
        looked = []
        while not sent.done():
            began = time.monotonic()
            assert house.guarded.get("/livez").status_code == house.door.get("/livez").status_code == 200
            looked.append(time.monotonic() - began)
        assert (sent.result().status_code, sent.result().json()["accepted"]) == (202, 10_000)
    assert looked
    assert max(looked) < 5.0  # a tenth of that, where nothing else runs


def test_bodies_may_be_gzip_and_a_bomb_is_never_unpacked(house: House) -> None:
    packed = {"content-encoding": "gzip"}
    body = json.dumps([event("packed"), event("packed")]).encode()

    def post(content: bytes, headers: dict[str, str]) -> tuple[int, str | None]:
        answer = house.door.post("/v1/events", content=content, headers=headers)
        return answer.status_code, answer.json().get("reason")

    assert post(gzip.compress(body), packed) == (202, None)
    assert post(gzip.compress(bytes(50_000_000), 1), packed) == (413, "too_large")
    assert post(gzip.compress(body)[:-9], packed) == (400, "malformed")
    assert post(gzip.compress(body) * 2, packed) == (400, "malformed")
    assert post(body, packed) == (400, "malformed")
    assert post(body, {"content-encoding": "br"}) == (415, "content_encoding")
    assert len([one for one in house.events() if one.user_id == "packed"]) == 2


@contextmanager
def connected(client: httpx.Client, said: bytes) -> Iterator[socket.socket]:
    """A connection on which so much has been said."""
    with socket.create_connection(("127.0.0.1", client.base_url.port or 0), 20) as connection:
        connection.sendall(said)
        yield connection


def test_a_body_that_is_too_large_is_refused_unread(house: House) -> None:
    head = b"POST /v1/events HTTP/1.1\r\nhost: localhost\r\n"
    with connected(house.door, head + b"content-length: 10000000\r\n\r\n[") as announced:
        assert announced.recv(100).startswith(b"HTTP/1.1 413")
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    with connected(house.door, head + b"transfer-encoding: chunked\r\n\r\n" + chunk * 70) as endless:
        assert endless.recv(100).startswith(b"HTTP/1.1 413")


def test_clients_that_say_nothing_or_little_harm_nobody(house: House) -> None:
    half = (b"", b"POST /v1/events HT", b"POST /v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-length: 90\r\n\r\n[")
    open_ones = [connected(house.door, half[number % 3]) for number in range(60)]
    for one in open_ones:
        one.__enter__()
    try:
        assert house.door.post("/v1/events", json=event("patient")).status_code == 202
    finally:
        for one in open_ones:
            one.__exit__(None, None, None)


# Slates


def test_a_slate_is_what_its_topic_has_and_may_be_fetched_again(house: House) -> None:
    slate = ask(house.door, "guest", k=4, explain=True, context={"device": "phone"}, **PATIENT).json()
    assert (slate["user_id"], len(slate["items"]), len(slate["reasons"])) == ("guest", 4, 4)
    assert [place["position"] for place in slate["items"]] == [1, 2, 3, 4]
    assert house.door.get(f"/v1/slates/{slate['rec_id']}").json() == slate
    assert house.door.get("/v1/slates/none").status_code == 404


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"k": 0}, "k"),
        ({"k": 10_000}, "k"),
        ({"scenario": "hoome"}, "scenario"),
        ({"scenario": "similar"}, "item_id"),
        ({"scenario": "search"}, "query"),
        ({"basket": ["i"] * 33}, "basket"),
        ({"filters": {"price": 3}}, "price"),
        ({"user_id": None}, "user_id"),
        ({"type": "click"}, "type"),
        ({"deadline_ms": 60_000}, None),
        ({"deadline_ms": "soon"}, None),
    ],
)
def test_a_request_that_cannot_be_answered_is_refused_at_once(
    house: House, fields: dict[str, object], field: str | None
) -> None:
    answer = house.door.post("/v1/recommendations", json={"user_id": "u1", **fields})
    assert answer.status_code == 400
    assert (answer.json()["reason"], answer.json().get("field")) == ("invalid", field)


def test_every_way_of_asking_gets_through(house: House) -> None:
    similar = ask(house.door, "u3", scenario="similar", item_id="i4", k=2, **PATIENT).json()
    bundle = ask(house.door, "u3", scenario="bundle", basket=["i4", "i5"], k=2, **PATIENT).json()
    cheap = ask(house.door, "u3", filters={"price_max": 1.0}, **PATIENT).json()
    assert (similar["scenario"], bundle["scenario"], cheap["items"]) == ("similar", "bundle", [])
    assert not {place["item_id"] for place in bundle["items"]} & {"i4", "i5"}


def test_a_request_that_is_repeated_has_one_slate(house: House) -> None:
    with ThreadPoolExecutor(6) as pool:
        headers = [{"x-request-id": "again"}] * 6
        body = {"user_id": "u4", **PATIENT}
        answers = list(pool.map(lambda head: house.door.post("/v1/recommendations", json=body, headers=head), headers))
    answers.append(ask(house.door, "u4", request_id="again"))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["rec_id"] for answer in answers}) == 1
    assert {answer.json()["request_id"] for answer in answers} == {"again"}
    assert answers[0].headers["x-request-id"] == "again"
    assert len([one for one in house.events() if one.event_id == "again"]) == 1


def test_events_that_are_sent_again_under_their_request_id_are_the_same_events(house: House) -> None:
    batch = [event("twice", "i1"), event("twice", "i2", event_id="own")]
    for _ in range(2):
        assert house.door.post("/v1/events", json=batch, headers={"x-request-id": "r1"}).status_code == 202
    assert [one.event_id for one in house.events() if one.user_id == "twice"] == ["r1", "own"] * 2
    slate = ask(house.door, "twice", **PATIENT)
    assert slate.status_code == 200
    until(lambda: house.door.get("/v1/users/twice").status_code == 200)
    assert house.door.get("/v1/users/twice").json()["counts"]["click"] == 2


def test_feedback_is_an_event_that_names_its_slate(house: House) -> None:
    slate = ask(house.door, "u5", **PATIENT).json()
    item = slate["items"][0]["item_id"]
    said = {"rec_id": slate["rec_id"], "type": "purchase", "item_id": item, "value": 9.5, "position": 1}
    assert house.door.post("/v1/feedback", json=said).status_code == 202
    [found] = [one for one in house.events() if one.rec_id == slate["rec_id"]]
    assert (found.user_id, found.type, found.item_id, found.value, found.position) == (
        "u5",
        EventType.PURCHASE,
        item,
        9.5,
        1,
    )
    [refused] = house.door.post("/v1/feedback", json={**said, "rec_id": "gone"}).json()["refused"]
    assert refused["field"] == "user_id"
    assert house.door.post("/v1/feedback", json={**said, "rec_id": "gone", "user_id": "u5"}).status_code == 202


def test_items_that_a_caller_brings_are_ranked_for_the_user(house: House) -> None:
    brought = ["i9", "i3", "nowhere", "i7", "i7"]
    ranking = house.door.post("/v1/rank", json={"user_id": "ranker", "candidates": brought, **PATIENT}).json()
    assert sorted(place["item_id"] for place in ranking["items"]) == ["i3", "i7", "i9"]
    assert ranking["unranked"] == ["nowhere"]
    assert all(isinstance(place["score"], float) for place in ranking["items"])
    for wrong in ([], ["i"] * 101, "i1", [1], None):
        refused = house.door.post("/v1/rank", json={"user_id": "ranker", "candidates": wrong})
        assert (refused.status_code, refused.json()["field"]) == (400, "candidates")
    assert house.door.post("/v1/rank", json={"user_id": "ranker"}).json()["field"] == "candidates"
    with stopped(house.worker.pid):
        late = {"user_id": "ranker", "candidates": ["i9", "i3"], "deadline_ms": 30}
        answer = house.door.post("/v1/rank", json=late).json()
        assert ({place["item_id"] for place in answer["items"]}, answer["degraded"]) == ({"i3", "i9"}, "late")


# What is stored, and the catalogue


def test_users_and_items_are_told_as_on_the_command_line(house: House) -> None:
    lookups = StoredLookups(house.deployment.settings)
    until(lambda: lookups.user("u6") is not None and lookups.item("i6") is not None)
    user = house.door.get("/v1/users/u6").json()
    assert (user["user_id"], user["segments"][0], user["answered_by"]["mode"]) == ("u6", "heavy", "online")
    assert user == json.loads(json.dumps(lookups.user("u6")))
    assert house.door.get("/v1/items/i6").json() == json.loads(json.dumps(lookups.item("i6")))
    assert house.door.get("/v1/users/nobody").status_code == house.door.get("/v1/items/none").status_code == 404
    lookups.close()


@pytest.mark.parametrize("item_id", ["lamps/red lamp", "🛋️ sofa", "a?b#c%d", "..", "ॐ"])
def test_any_id_may_stand_in_a_path(house: House, item_id: str) -> None:
    path = f"/v1/items/{quote(item_id, safe='').replace('.', '%2E')}"
    given = {"title": "A lamp", "categories": ["lamp"], "price": 3.5}
    assert house.door.put(path, json=given).status_code == 202
    assert house.door.delete(path).status_code == 202
    records = house.deployment.read(house.deployment.settings.topics.items)
    said = [record for record in records if record.key == item_id.encode()]
    assert decode_item(said[0].value or b"").price == 3.5
    assert said[1].value is None


def test_what_is_no_item_stays_out_of_the_catalogue(house: House) -> None:
    batch = [{"item_id": "good"}, {"item_id": "bad", "price": "much"}, {"title": "nobody"}]
    answer = house.door.post("/v1/items", json=batch)
    assert (answer.status_code, answer.json()["accepted"]) == (207, 1)
    assert [one["field"] for one in answer.json()["refused"]] == ["price", "item_id"]
    assert house.door.put("/v1/items/one", json={"item_id": "another"}).status_code == 400
    assert house.door.put("/v1/items/%ff", json={}).status_code == 400
    assert house.door.put("/v1/items/a%00b", json={}).status_code == 400
    assert house.door.delete("/v1/items/" + "x" * 257).status_code == 400
    assert house.door.put("/v1/items/a/b", json={}).status_code == 404
    assert house.door.patch("/v1/items/a").status_code == 405


# Who may


def as_(key: str) -> dict[str, str]:
    return {"x-api-key": key}


def test_a_key_is_for_what_its_roles_say(house: House) -> None:
    tries: list[tuple[str, str, Any]] = [
        ("POST", "/v1/events", event("keyed")),
        ("POST", "/v1/recommendations", {"user_id": "u1", **PATIENT}),
        ("GET", "/v1/users/u1", None),
        ("PUT", "/v1/items/keyed", {}),
        ("GET", "/metrics", None),
    ]

    def statuses(headers: dict[str, str]) -> list[int]:
        return [house.guarded.request(how, path, json=body, headers=headers).status_code for how, path, body in tries]

    assert statuses({}) == statuses(as_("guess")) == statuses(as_(hashed(ADMIN))) == [401] * 5
    assert statuses(as_(WRITE)) == [202, 403, 403, 403, 403]
    assert statuses(as_(ASK)) == [403, 200, 403, 403, 403]
    assert statuses({"authorization": f"Bearer {ADMIN}"}) == [202, 200, 200, 202, 200]
    for path in ("/livez", "/readyz", "/docs", "/openapi.json"):
        assert house.guarded.get(path).status_code == 200
    said = house.guard.said
    assert not [key for key in (WRITE, ASK, ADMIN, RARE) if key in said]


def test_the_window_asks_for_a_key_as_a_browser_can_give_one(house: House) -> None:
    refused = house.guarded.get("/")
    assert (refused.status_code, refused.headers["www-authenticate"][:5]) == (401, "Basic")
    for path in ("/", "/window/find?q=i1", "/window/letter?at=0-0", "/window/live", "/window/try"):
        how = "POST" if path.endswith("try") else "GET"
        assert house.guarded.request(how, path).status_code == 401
        assert house.guarded.request(how, path, auth=("anybody", ASK)).status_code == 403
    page = house.guarded.get("/?kind=user&q=u1", auth=("anybody", ADMIN))
    assert (page.status_code, "Look up" in page.text) == (200, True)
    assert house.guarded.get("/v1/users/u1", auth=("anybody", ADMIN)).status_code == 401
    evil = {"origin": "https://evil.example"}
    assert house.door.post("/window/try", data={"user_id": "u1"}, headers=evil).status_code == 403


def test_a_key_that_is_used_too_often_waits(house: House) -> None:
    first, second = (house.guarded.get("/v1/slates/none", headers=as_(RARE)) for _ in range(2))
    assert (first.status_code, second.status_code) == (404, 429)
    assert 1 <= int(second.headers["retry-after"]) <= 50
    assert house.guarded.get("/v1/slates/none", headers=as_(ASK)).status_code == 404


def test_a_browser_may_come_from_the_origins_that_are_named(house: House) -> None:
    asks = {"access-control-request-method": "POST", "access-control-request-headers": "x-api-key"}
    named = house.guarded.options("/v1/events", headers={"origin": "https://shop.example", **asks})
    assert named.headers["access-control-allow-origin"] == "https://shop.example"
    other = house.guarded.options("/v1/events", headers={"origin": "https://evil.example", **asks})
    assert "access-control-allow-origin" not in other.headers
    for client in (house.door, house.guarded):
        sent = client.post("/v1/events", json=event("page"), headers={"origin": "https://evil.example", **as_(ADMIN)})
        assert (sent.status_code, sent.json()["reason"]) == (403, "origin")
    assert house.door.get("/v1/users/u1", headers={"host": "evil.example:8080"}).json()["reason"] == "host"
    welcome = {"origin": "https://shop.example", **as_(WRITE)}
    assert house.guarded.post("/v1/events", json=event("page"), headers=welcome).status_code == 202


def test_unknown_fields_may_be_left_out_instead_of_refused(house: House) -> None:
    given = event("loose", "i3", colour="red", nested={"a": [1]})
    assert house.guarded.post("/v1/events", json=given, headers=as_(WRITE)).status_code == 202
    assert [one.item_id for one in house.events() if one.user_id == "loose"] == ["i3"]


def test_the_document_says_what_is_there_and_needs_nothing_from_elsewhere(house: House) -> None:
    api = house.door.get("/openapi.json").json()
    assert api["openapi"].startswith("3.1")
    assert {"Event", "Item", "RecommendationRequest", "Recommendation"} <= set(api["components"]["schemas"])
    assert api["components"]["schemas"]["Event"]["required"] == ["type", "user_id"]
    page = house.door.get("/docs").text
    assert all(path in page for path in api["paths"])
    assert "http://" not in page
    assert "<script" not in page
    assert 'streamrec_http_requests_total{path="/v1/events",status="202"}' in house.door.get("/metrics").text


def test_no_request_of_the_document_breaks_it_and_every_answer_is_as_the_document_says(house: House) -> None:
    api = schemathesis.openapi.from_dict(house.door.get("/openapi.json").json())
    api.config.update(base_url=str(house.door.base_url))
    asked: set[str] = set()
    for found in api.get_all_operations():
        operation = found.ok()

        @settings(max_examples=8, derandomize=True, database=None, phases=[Phase.generate], **RELAXED)
        @given(case=operation.as_strategy())
        def holds(case: schemathesis.Case) -> None:
            case.headers = {**(case.headers or {}), "X-Deadline-Ms": "1"}  # a slate's content is another test's
            case.call_and_validate(checks=CHECKS)
            asked.add(case.operation.label)

        holds()
    assert len(asked) == 13
    assert house.events()  # all of them are such as workers take


# Trouble


def test_without_a_worker_the_answer_is_the_latest_slate_or_what_is_popular(house: House) -> None:
    latest = ask(house.door, "u7", **PATIENT).json()
    with stopped(house.worker.pid):
        began = time.monotonic()
        known = ask(house.door, "u7", request_id="delayed", deadline_ms=300).json()
        took_s = time.monotonic() - began
        assert known == {**latest, "degraded": "late"}
        assert 0.3 <= took_s < 3.0
        short = ask(house.door, "u7", k=2, deadline_ms=50).json()
        assert (short["rec_id"], short["items"]) == (latest["rec_id"], latest["items"][:2])
        header = {"x-deadline-ms": "50"}
        stranger = house.door.post("/v1/recommendations", json={"user_id": "new", "k": 5}, headers=header).json()
        assert (stranger["rec_id"], stranger["policy"], len(stranger["items"])) == ("", "popular", 5)
        strict = ask(house.door, "u7", filters={"price_max": 1.0}, deadline_ms=50).json()
        assert (strict["items"], strict["degraded"]) == ([], "late")
        assert house.door.post("/v1/events", json=event("u7", "i8")).status_code == 202
    late = ask(house.door, "u7", request_id="delayed", **PATIENT).json()
    assert "degraded" not in late
    assert late["request_id"] == "delayed"
    assert "degraded_answers_total" in house.door.get("/metrics").text


def test_without_redis_lookups_say_so_and_events_come_in(house: House) -> None:
    with stopped(house.redis.pid):
        away = house.door.get("/v1/users/u1")
        assert house.redis.url.partition("/")[2] not in away.text
        assert (away.status_code, away.json()["reason"], away.headers["retry-after"]) == (503, "unavailable", "1")
        assert house.door.post("/v1/events", json=event("no-redis")).status_code == 202
        assert ask(house.door, "u1", deadline_ms=300).status_code == 200
    until(lambda: house.door.get("/v1/users/u1").status_code == 200)


def test_without_kafka_nothing_is_accepted_and_what_was_is_there(house: House) -> None:
    assert house.door.post("/v1/events", json=event("kafka", "before")).status_code == 202
    with stopped(house.broker.pid):
        answer = house.door.post("/v1/events", json=event("kafka", "meanwhile"))
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert ask(house.door, "u1").json()["degraded"] == "kafka_away"
        assert house.door.get("/livez").status_code == 200
        assert house.door.get("/readyz").status_code == 503
        assert house.door.get("/v1/users/u1").status_code == 200
    until(lambda: house.door.post("/v1/events", json=event("kafka", "after")).status_code == 202)
    assert {"before", "after"} <= {one.item_id for one in house.events() if one.user_id == "kafka"}


def test_it_ends_when_it_is_told_to_and_finishes_what_is_under_way(house: House) -> None:
    with stopped(house.worker.pid), ThreadPoolExecutor(1) as pool:
        body = {"user_id": "u1", "deadline_ms": 2_000}
        waiting = pool.submit(house.guarded.post, "/v1/recommendations", json=body, headers=as_(ASK))
        both = "streamrec_http_waiting 2.0"  # it, and who looks
        until(lambda: both in house.guarded.get("/metrics", headers=as_(ADMIN)).text)
        status = house.guard.stop()
        assert waiting.result().json()["degraded"] == "late"
    assert status == 0
