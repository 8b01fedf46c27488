"""Who asks what cannot be answered is told why; who cannot be told, or did not ask, gets nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from streamrec.cli.commands.tail import line
from streamrec.codec import CONTENT_TYPE, MSGPACK, decode_slate
from streamrec.config.groups import Learning, Limits
from streamrec.config.settings import Settings
from streamrec.errors import TooManyBadEvents
from streamrec.events import EventType, RequestRefusal, Slate
from streamrec.state import Store
from streamrec.state.memory import MemoryStore
from streamrec.state.snapshots import SnapshotDirectory
from streamrec.transport import Record
from streamrec.transport.local import LocalSink, LocalSource
from streamrec.wiring import build_worker
from streamrec.worker.loop import Worker

TOPIC = "user-events"
NOW = 1_700_000_000_000
ASKED = {"type": "request", "user_id": "ann", "ts": NOW, "event_id": "e1", "session_id": "s1"}
SETTINGS = Settings(
    limits=Limits(max_items=500, max_users=500, max_message_bytes=4_096),
    learning=Learning(device="cpu", models=("popularity",)),
)


def message(fields: dict[str, Any], **more: Any) -> Record:
    given = {"topic": TOPIC, "partition": 0, "offset": 0, "key": b"ann", "timestamp_ms": NOW, **more}
    return Record(**{"value": json.dumps(fields).encode(), **given})


def worked(
    log: Sequence[Record],
    settings: Settings = SETTINGS,
    store: Store | None = None,
    snapshots: SnapshotDirectory | None = None,
) -> tuple[Worker, LocalSink]:
    sink = LocalSink()
    source = LocalSource(TOPIC, log, partitions=1 + max(record.partition for record in log))
    worker = build_worker(settings, source, sink, store or MemoryStore(), snapshots)
    worker.run()
    return worker, sink


def slates_of(sink: LocalSink) -> list[Slate]:
    return [decode_slate(record.value or b"", record.headers) for record in sink.records("recommendations")]


@pytest.mark.parametrize(
    ("changes", "reason", "field"),
    [
        ({"scenario": "hoome"}, "invalid", "scenario"),
        ({"scenario": "similar"}, "invalid", "item_id"),
        ({"scenario": "search", "query": ""}, "invalid", "query"),
        ({"query": "long " * 300}, "invalid", "query"),
        ({"k": 101}, "invalid", "k"),
        ({"filters": {"price": 3}}, "invalid", "price"),
        ({"colour": "\x1b[2J"}, "invalid", "colour"),
        ({"context": {"a": json.loads("[" * 40 + "]" * 40)}}, "too_deep", None),
        ({"ts": "yesterday"}, "invalid", "ts"),
        ({"ts": NOW // 1000}, "past", "ts"),
        ({"ts": NOW + 10 * 86_400_000}, "future", "ts"),
        ({"type": "search", "query": "q" * 1025}, "invalid", "query"),
    ],
)
@pytest.mark.parametrize("packed", [False, True], ids=["json", "msgpack"])
def test_a_request_that_is_refused_gets_a_slate_with_the_reason_of_its_dead_letter(
    changes: dict[str, Any], reason: str, field: str | None, packed: bool
) -> None:
    fields = {**ASKED, **changes}
    encoded: dict[str, Any] = {"value": msgspec.msgpack.encode(fields), "headers": ((CONTENT_TYPE, MSGPACK.encode()),)}
    worker, sink = worked([message(fields, **(encoded if packed else {}))])
    [dead_letter], [slate] = sink.records("user-events.dlq"), slates_of(sink)
    [published] = sink.records("recommendations")
    said = {name: content.decode() for name, content in dead_letter.headers}
    assert (said["reason"], said["field"]) == (reason, field or "")
    assert slate.refused == RequestRefusal(reason=reason, detail=said["detail"], field=field)
    assert slate.refused.detail.isprintable()
    assert len(published.value or b"") < 1_000
    assert (published.key, slate.user_id, slate.request_id) == (b"ann", "ann", "e1")
    assert (slate.rec_id, slate.session_id, slate.items) == ("user-events-0-0", "s1", ())
    assert slate.scenario == changes.get("scenario", "search" if changes.get("type") == "search" else "home")
    assert slate.ts == (NOW // 1000 if reason == "past" else NOW)
    value = worker.metrics.registry.get_sample_value
    assert value("streamrec_refused_requests_total", {"reason": reason}) == 1
    assert value("streamrec_open_slates") == 0
    assert slate.refused.detail in line(slate)
    assert f"refused: {slate.refused.detail}" in str(slate)


def test_a_request_is_answered_too_that_has_no_key_or_begins_with_a_byte_order_mark() -> None:
    marked = b"\xef\xbb\xbf" + json.dumps(ASKED).encode()
    _, sink = worked([message(ASKED, key=None), message(ASKED, offset=1, value=marked)])
    assert [(slate.user_id, slate.refused and slate.refused.reason) for slate in slates_of(sink)] == [
        ("ann", "keyless"), ("ann", "malformed"),
    ]  # fmt: skip
    assert [record.key for record in sink.records("recommendations")] == [b"ann", b"ann"]


@pytest.mark.parametrize(
    ("fields", "more"),
    [
        ({**ASKED, "type": "click"}, {}),
        ({**ASKED, "type": "reqest"}, {}),
        ({"type": "request", "ts": NOW, "k": 5}, {}),
        ({**ASKED, "user_id": 7}, {}),
        ({**ASKED, "user_id": "ann\x1b[2J"}, {}),
        ({**ASKED, "user_id": ""}, {}),
        ({**ASKED, "user_id": "a" * 257}, {}),
        ({**ASKED, "query": "q" * 5_000}, {}),
        (ASKED, {"value": json.dumps(ASKED).encode()[:-1]}),
        (ASKED, {"value": b'{"type": "request", "user_id": "\\ud800", "ts": 1}'}),
        (ASKED, {"value": b'{"type": "request", "user_id": "\xff", "ts": 1}'}),
        (ASKED, {"value": b'{"type": "request", "user_id": "ann", "x": ' + b"[" * 2_000 + b"]" * 2_000 + b"}"}),
        (ASKED, {"value": b"[" * 2_000}),
        (ASKED, {"value": None}),
        (ASKED, {"headers": ((CONTENT_TYPE, b"text/plain"),)}),
        (ASKED, {"headers": ((CONTENT_TYPE, MSGPACK.encode()),)}),
    ],
)
def test_what_is_no_request_or_does_not_say_whose_gets_a_dead_letter_and_no_slate(
    fields: dict[str, Any], more: dict[str, Any]
) -> None:
    _, sink = worked([message(fields, **more)])
    assert len(sink.records("user-events.dlq")) == 1
    assert slates_of(sink) == []


def test_whatever_else_is_wrong_with_it_each_field_is_read_by_itself() -> None:
    broken = {**ASKED, "event_id": ["e1"], "session_id": "s\n", "scenario": {"a": 1}, "ts": None}
    _, sink = worked([message(broken)])
    [slate] = slates_of(sink)
    assert (slate.user_id, slate.request_id, slate.session_id, slate.scenario) == ("ann", None, None, "home")
    assert slate.ts == NOW


def test_only_types_that_are_answered_are_refused_with_a_slate() -> None:
    view = {"type": "view", "user_id": "ann", "item_id": "a", "ts": NOW, "k": 101}

    def users(*types: EventType) -> list[str]:
        serving = SETTINGS.serving.model_copy(update={"recommend_on": frozenset(types)})
        log = [message(view), message({**ASKED, "user_id": "bob", "k": 101}, offset=1)]
        return [slate.user_id for slate in slates_of(worked(log, SETTINGS.model_copy(update={"serving": serving}))[1])]

    assert users(EventType.VIEW) == ["ann"]
    assert users(EventType.REQUEST) == ["bob"]
    assert users() == []


def mixed_log() -> list[Record]:
    """Every third request cannot be answered; two partitions, whose records come in turns."""
    log = []
    for n in range(90):
        changes = {"k": 101} if n % 3 else {}
        fields = {"type": "request", "user_id": f"u{n % 2}", "ts": NOW + n, "event_id": f"e{n}", **changes}
        log.append(message(fields, partition=n % 2, offset=n // 2, key=b"u"))
    last = {"type": "view", "item_id": "a", "ts": NOW + 400_000}
    return [*log, *(message({**last, "user_id": f"u{part}"}, partition=part, offset=45, key=b"u") for part in (0, 1))]


def test_the_slates_of_a_partition_are_in_the_order_of_their_requests_refused_or_not() -> None:
    worker, sink = worked(mixed_log())
    for partition in (0, 1):
        told = [slate for slate in slates_of(sink) if slate.user_id == f"u{partition}"]
        assert [slate.request_id for slate in told] == [f"e{n}" for n in range(partition, 90, 2)]
        assert [slate.rec_id for slate in told] == [f"user-events-{partition}-{offset}" for offset in range(45)]
    value = worker.metrics.registry.get_sample_value
    assert value("streamrec_refused_requests_total", {"reason": "invalid"}) == 60
    assert value("streamrec_slates_total", {"scenario": "home"}) == 30
    assert value("streamrec_empty_slates_total", {"scenario": "home"}) == 30  # nothing is known to recommend


def test_one_that_is_read_again_by_the_next_worker_is_refused_under_the_same_name(tmp_path: Path) -> None:
    store, snapshots = MemoryStore(), SnapshotDirectory(tmp_path, 3)
    log = [message(ASKED), *(message({**ASKED, "event_id": f"e{n}", "k": 0}, offset=n) for n in (1, 2, 3))]
    first, second = (slates_of(worked(log, store=store, snapshots=snapshots)[1]) for _ in range(2))
    assert [slate.rec_id for slate in first] == [f"user-events-0-{offset}" for offset in range(4)]
    assert second == first[1:]  # a position stays before the unusable messages at its end


def test_a_refused_slate_waits_for_no_outcome_and_is_owed_nothing() -> None:
    click = {"type": "click", "user_id": "ann", "item_id": "a", "ts": NOW + 1, "rec_id": "user-events-0-0"}
    later = {"type": "view", "user_id": "ann", "item_id": "a", "ts": NOW + 400_000_000}
    worker, sink = worked(
        [message({**ASKED, "k": 0}), message(click, offset=1), message(later, offset=2, timestamp_ms=later["ts"])]
    )
    assert sink.records("outcomes") == ()
    value = worker.metrics.registry.get_sample_value
    assert value("streamrec_late_credits_total") == 1
    assert value("streamrec_events_total") == 2


def test_who_asked_is_answered_in_order_before_too_many_bad_messages_stop_the_worker() -> None:
    limits = SETTINGS.limits.model_copy(update={"max_bad_in_a_row": 4})
    bad = [message({**ASKED, "event_id": f"e{n}", "k": 101}, offset=n) for n in range(1, 7)]
    log = [message({**ASKED, "event_id": "e0"}), *bad, message({**ASKED, "event_id": "e7"}, offset=7)]
    store, sinks = MemoryStore(), [LocalSink(), LocalSink()]
    for sink in sinks:
        source = LocalSource(TOPIC, log, partitions=1)
        with pytest.raises(TooManyBadEvents, match="4 messages in a row"):
            build_worker(SETTINGS.model_copy(update={"limits": limits}), source, sink, store, None).run()
    first, again = (slates_of(sink) for sink in sinks)
    assert [(slate.request_id, slate.refused is not None) for slate in first] == [
        ("e0", False), ("e1", True), ("e2", True), ("e3", True), ("e4", True),
    ]  # fmt: skip
    assert [slate.rec_id for slate in again] == [slate.rec_id for slate in first]
    assert len(sinks[0].records("user-events.dlq")) == 4


def flood(count: int, others: int = 3, apart_ms: int = 1) -> list[Record]:
    """One user asks all the time; others ask now and then."""
    asked = []
    for n in range(count):
        user = f"other{n % others}" if n % 40 == 39 else "ann"
        fields = {"type": "search" if n % 2 else "request", "user_id": user, "ts": NOW + apart_ms * n, "query": "tea"}
        asked.append(message({**fields, "event_id": f"e{n}"}, offset=n, timestamp_ms=NOW + apart_ms * n))
    return asked


def test_who_asks_too_often_is_told_so_and_the_others_are_answered() -> None:
    worker, sink = worked(flood(200))
    told = slates_of(sink)
    assert [slate.request_id for slate in told] == [f"e{n}" for n in range(200)]
    anns = [slate for slate in told if slate.user_id == "ann"]
    assert [slate.refused is not None for slate in anns] == [False] * 101 + [True] * 94  # 100, and one for 100 ms
    assert {slate.refused.reason for slate in anns if slate.refused} == {"too_many_requests"}
    assert all(slate.refused is None for slate in told if slate.user_id != "ann")
    value = worker.metrics.registry.get_sample_value
    assert value("streamrec_refused_requests_total", {"reason": "too_many_requests"}) == 94
    assert value("streamrec_events_total") == 200  # they count, and are no dead letters
    assert not sink.records("user-events.dlq")
    assert anns[-1].refused is not None
    assert "more than 100 requests at once, and then more than 10 a second" in anns[-1].refused.detail


def test_who_asks_at_the_pace_that_is_allowed_is_answered_for_ever() -> None:
    assert all(slate.refused is None for slate in slates_of(worked(flood(400, apart_ms=100))[1]))
    free = SETTINGS.model_copy(update={"serving": SETTINGS.serving.model_copy(update={"requests_at_once": 10**9})})
    assert all(slate.refused is None for slate in slates_of(worked(flood(400), free)[1]))


def test_events_that_are_answered_without_asking_are_never_too_many() -> None:
    serving = SETTINGS.serving.model_copy(update={"recommend_on": frozenset({EventType.VIEW}), "requests_at_once": 1})
    views = [message({"type": "view", "user_id": "ann", "item_id": "a", "ts": NOW}, offset=n) for n in range(9)]
    told = slates_of(worked(views, SETTINGS.model_copy(update={"serving": serving}))[1])
    assert [slate.refused for slate in told] == [None] * 9


@pytest.mark.parametrize("cut", [60, 101, 150])
def test_after_a_restart_the_same_requests_are_too_many(tmp_path: Path, cut: int) -> None:
    """Also where an event comes late."""
    log = flood(200)
    late = json.loads(log[30].value or b"")
    log[150] = message({**late, "event_id": "late", "ts": NOW - 3_600_000}, offset=150)
    whole = slates_of(worked(log)[1])
    store, snapshots = MemoryStore(), SnapshotDirectory(tmp_path, 3)
    parts = [slates_of(worked(log[:end], store=store, snapshots=snapshots)[1]) for end in (cut, 200)]
    again = {slate.rec_id: slate.refused for part in parts for slate in part}
    assert again == {slate.rec_id: slate.refused for slate in whole}
