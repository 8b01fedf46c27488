"""The parts of the gateway: keys, recent slates, publishing, and the end of its patience."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from litestar.enums import ScopeType
from uvicorn.server import ServerState

from streamrec.config.groups import GatewaySettings
from streamrec.errors import ConfigError, PublishDelayed, PublishFailed, TransportUnavailable
from streamrec.events import Slate, SlateItem
from streamrec.gateway import bodies, server
from streamrec.gateway.access import Access, Rejected, Role, TokenBucket
from streamrec.gateway.application import Bounds
from streamrec.gateway.metrics import GatewayMetrics
from streamrec.gateway.publishing import ConfirmedPublisher, Outgoing
from streamrec.gateway.slates import KeptSlate, RecentSlates


def hashed(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def test_without_keys_only_this_machine_is_answered(tmp_path: Path) -> None:
    Access.of(GatewaySettings()).check(None, None, Role.ADMIN)
    with pytest.raises(ConfigError, match=r"gateway.keys.*allow_anonymous"):
        Access.of(GatewaySettings(host="0.0.0.0"))
    Access.of(GatewaySettings(host="0.0.0.0", allow_anonymous=True)).check(None, None, Role.ADMIN)
    file = tmp_path / "keys"
    file.write_text(f"# the shop\n{hashed('one')} ask+write\n\n", encoding="utf-8")
    access = Access.of(GatewaySettings(host="0.0.0.0", keys_file=file))
    access.check("one", None, Role.WRITE)
    with pytest.raises(Rejected) as caught:
        access.check("one", None, Role.ADMIN)
    assert caught.value.status == 403


@pytest.mark.parametrize(
    "line", ["secret-key ask", *(hashed("k") + rest for rest in (" boss", "", " ask 0", " ask 1 2", " ask often"))]
)
def test_a_key_that_cannot_be_read_is_told_without_showing_it(line: str) -> None:
    with pytest.raises(ConfigError, match="key 1 of") as caught:
        Access.of(GatewaySettings(keys=(line,)))
    assert line.split()[0] not in str(caught.value)


def test_a_bucket_lets_so_many_through_in_the_long_run() -> None:
    now = [0.0]
    bucket = TokenBucket(2.0, lambda: now[0])
    assert [bucket.take() for _ in range(3)] == [0.0, 0.0, 0.5]
    now[0] += 0.5
    assert [bucket.take(), bucket.take()] == [0.0, 0.5]
    now[0] += 100.0
    assert [bucket.take() for _ in range(3)] == [0.0, 0.0, 0.5]


def kept(number: int, user: str = "u", items: Iterable[str] = ("a",), text: str = "") -> KeptSlate:
    places = tuple(
        SlateItem(item_id=item, position=at, score=0.0, propensity=1.0, shares={}) for at, item in enumerate(items, 1)
    )
    return KeptSlate.of(
        Slate(
            rec_id=f"r{number}",
            user_id=user,
            ts=number,
            items=places,
            policy=f"p{text}",
            version="0",
            candidates=1,
            request_id=f"q{number}",
        )
    )


def test_recent_slates_are_bounded_by_number_and_size_and_forget_all_of_what_leaves() -> None:
    recent = RecentSlates(most=3, max_bytes=10_000)
    for number in range(5):
        recent.take(kept(number, f"u{number % 2}", ("a", f"i{number}")))
    assert [recent.by_id(f"r{number}") is not None for number in range(5)] == [False, False, True, True, True]
    assert recent.answer_to("u1", "q1") is None
    assert recent.answer_to("u1", "q3") is not None
    assert recent.latest("u0", "home") == recent.by_id("r4")
    assert recent.popular("home", 1) == [("a", 3)]
    assert recent.popular("search", 9) == []
    assert recent.popular("home", 9, ["i0", "i4", "i4"]) == [("i4", 1), ("i0", 0)]
    recent.take(kept(4, "u0", ("a", "i4")))  # told again
    assert len(recent) == 3
    recent.take(kept(9, text="x" * 9_700))
    assert len(recent) == 1
    recent.take(kept(10, text="x" * 20_000))
    assert len(recent) == 0
    assert recent.latest("u", "home") is None


class Log:
    """A sink whose log stores what it is told to, and fails as it is told to."""

    def __init__(self) -> None:
        self.stored: list[bytes | None] = []
        self._waiting: list[bytes | None] = []
        self.error: PublishFailed | None = None
        self.flushes = 0
        self.flush_s = 0.0

    def publish(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Iterable[tuple[str, bytes]] = ()
    ) -> None:
        self._waiting.append(value)

    def flush(self, timeout_s: float) -> None:
        time.sleep(self.flush_s)
        self.flushes += 1
        if self.error is not None:
            raise self.error
        self.stored += self._waiting
        self._waiting = []

    def forget(self) -> None:
        self._waiting = []

    def fullness(self) -> float:
        return 0.0

    def close(self, timeout_s: float | None = None) -> None:
        self.flush(0.0)


def published(log: Log, work: Callable[[ConfirmedPublisher], object]) -> None:
    async def run() -> None:
        publisher = ConfirmedPublisher(log)
        try:
            await work(publisher)  # type: ignore[misc]
        finally:
            publisher.close()

    asyncio.run(run())


def record(value: bytes) -> Outgoing:
    return Outgoing("t", b"k", value)


def test_what_waits_together_is_stored_together() -> None:
    log = Log()
    log.flush_s = 0.2

    async def work(publisher: ConfirmedPublisher) -> None:
        await asyncio.gather(*(publisher.publish([record(b"%d" % number)]) for number in range(50)))
        assert sorted(log.stored) == sorted(b"%d" % number for number in range(50))
        assert log.flushes <= 3

    published(log, work)


def test_what_is_not_stored_is_forgotten_and_told_and_later_records_are_stored() -> None:
    log = Log()

    async def work(publisher: ConfirmedPublisher) -> None:
        log.error = PublishDelayed("slow")
        with pytest.raises(TransportUnavailable):
            await publisher.publish([record(b"lost")])
        log.error = None
        await publisher.publish([record(b"kept")])
        assert log.stored == [b"kept"]
        log.flush_s = 0.3
        waits = asyncio.ensure_future(publisher.publish([record(b"x")] * 40_000))
        await asyncio.sleep(0)
        with pytest.raises(TransportUnavailable, match="wait to be stored already"):
            await publisher.publish([record(b"y")] * 20_000)
        await waits

    published(log, work)


class Slow:
    """A request whose body comes bit by bit."""

    headers: Mapping[str, str] = {}

    async def stream(self) -> AsyncIterator[bytes]:
        for _ in range(50):
            yield b" "
            await asyncio.sleep(0.03)


def test_a_body_that_comes_too_slowly_is_refused_and_its_room_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "BODY_LIMIT_S", 0.2)
    reader = bodies.BodyReader(2)

    async def read() -> None:
        async with reader.read(Slow()):  # type: ignore[arg-type]
            pass

    for limit_s, status in ((0.02, 408), (10.0, 413)):
        monkeypatch.setattr(bodies, "BODY_LIMIT_S", limit_s)
        for _ in range(20):  # together they have room for 16
            with pytest.raises(Rejected) as caught:
                asyncio.run(read())
            assert caught.value.status == status


def test_of_too_many_requests_at_once_the_last_are_refused_at_once() -> None:
    sent: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.2)
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            sent.append(message)

    async def run() -> None:
        bounds = Bounds(app, GatewayMetrics(), max_waiting=2)
        scope = {"type": ScopeType.HTTP, "raw_path": b"/v1/events", "headers": []}
        await asyncio.gather(*(bounds(dict(scope), None, send) for _ in range(5)))  # type: ignore[arg-type]
        assert sorted(message["status"] for message in sent) == [200, 200, 503, 503, 503]
        assert (b"retry-after", b"1") in next(message for message in sent if message["status"] == 503)["headers"]
        await bounds({**scope, "raw_path": b"/livez"}, None, send)  # type: ignore[arg-type]
        assert sent[-1]["status"] == 200

    asyncio.run(run())


def test_a_connection_on_which_no_request_begins_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEAD_LIMIT_S", 0.2)

    async def app(scope: object, receive: object, send: Callable[[object], object]) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})  # type: ignore[misc]
        await send({"type": "http.response.body", "body": b""})  # type: ignore[misc]

    async def run() -> None:
        config = uvicorn.Config(app, timeout_keep_alive=60, log_config=None)  # type: ignore[arg-type]
        config.load()
        loop = asyncio.get_running_loop()
        listening = await loop.create_server(lambda: server.PatientProtocol(config, ServerState(), {}), "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        for said in (b"", b"GET / HT", b"GET / HTTP/1.1\r\nhost: x\r\n\r\nGET / HT"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(said)
            answer = await asyncio.wait_for(reader.read(), 10)  # to its end
            assert answer.startswith(b"HTTP/1.1 200") == said.startswith(b"GET / HTTP")
            writer.close()
        listening.close()

    asyncio.run(run())
