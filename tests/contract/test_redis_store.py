"""What the Redis store promises beyond every store: expiry, and what happens when the server or the network fails."""

from __future__ import annotations

import socket
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from typing import Any

import pytest
import redis

from streamrec.demo.embedded import embedded_redis
from streamrec.errors import ConfigError, StaleEpoch, StateError, StateUnavailable
from streamrec.state import Checkpoint, Key, Kind, PartitionMark
from streamrec.state import redis as redis_module
from streamrec.state.keys import KeySpace
from streamrec.state.redis import RedisStore
from streamrec.state.redis_url import without_password
from tests.support.deployment import until

ANN, BOB = Key(0, Kind.USER, "ann"), Key(0, Kind.USER, "bob")
TEA, SLATE = Key(0, Kind.ITEM, "tea"), Key(0, Kind.SLATE, "ann")


@pytest.fixture
def prefix() -> str:
    return uuid.uuid4().hex


@pytest.fixture
def server(redis_server: Any) -> Iterator[redis.Redis]:
    """A plain client, to look at what is stored and to make trouble."""
    with closing(redis.Redis.from_url(redis_server.url)) as client:
        yield client


@pytest.fixture
def connect(redis_server: Any, prefix: str) -> Iterator[Callable[..., RedisStore]]:
    stores = []

    def connect(url: str = redis_server.url, timeout_s: float = 5.0, allow_eviction: bool = False) -> RedisStore:
        times = {"ttl_s": 600, "slate_ttl_s": 300, "timeout_s": timeout_s}
        stores.append(RedisStore(url, prefix=prefix, topic="t", **times, allow_eviction=allow_eviction))
        return stores[-1]

    yield connect
    for store in stores:
        store.close()


@pytest.fixture
def store(connect: Callable[..., RedisStore]) -> RedisStore:
    return connect()


class Line:
    """A TCP line to the server that can lose one reply, or hold one command back and deliver it later."""

    def __init__(self, server: redis.Redis) -> None:
        where = server.get_connection_kwargs()
        self._server = (where["host"], where["port"])
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        self.lose_next_reply = self.hold_next_command = False
        self.lost: list[bytes] = []
        self.held: list[bytes] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._server, timeout=10)
                threading.Thread(target=self._carry, args=(near, far, True), daemon=True).start()
                threading.Thread(target=self._carry, args=(far, near, False), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket, commands: bool) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 20):
                if commands and self.hold_next_command:
                    self.hold_next_command = False
                    self.held.append(data)
                    break
                if not commands and self.lose_next_reply:
                    self.lose_next_reply = False
                    self.lost.append(data)
                    break
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def deliver(self) -> bytes:
        """Send what was held back; the server's reply."""
        with socket.create_connection(self._server, timeout=5) as far:
            far.sendall(self.held.pop())
            return far.recv(1 << 16)

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def line(server: redis.Redis) -> Iterator[Line]:
    with closing(Line(server)) as line:
        yield line


def test_values_expire_and_marks_do_not(store: RedisStore, server: redis.Redis, prefix: str) -> None:
    store.open(0)
    store.commit(Checkpoint(0, 1, 1, None, {SLATE: b"s", ANN: b"a", TEA: b"t"}))
    space = KeySpace(prefix, "t")
    assert [server.ttl(space.value(key)) for key in (ANN, TEA, SLATE)] == pytest.approx([600, 600, 300], abs=5)
    assert server.ttl(space.mark(0)) == server.ttl(space.registry) == -1


def test_every_key_starts_with_the_prefix(store: RedisStore, server: redis.Redis, prefix: str) -> None:
    store.open(0)
    store.commit(Checkpoint(0, 1, 1, None, {ANN: b"a", SLATE: b"s"}))
    assert len([key for key in server.scan_iter() if key.startswith(prefix.encode())]) == 5


def test_another_process_is_fenced_too(connect: Callable[..., RedisStore]) -> None:
    zombie, owner = connect(), connect()
    zombie.open(0)
    zombie.commit(Checkpoint(0, 1, 10, None, {ANN: b"first"}))
    assert owner.open(0) == PartitionMark(10, None, 2)
    with pytest.raises(StaleEpoch):
        zombie.commit(Checkpoint(0, 1, 20, None, {ANN: b"zombie"}))
    owner.commit(Checkpoint(0, 2, 11, None))
    assert owner.load([ANN]) == [b"first"]


def test_a_server_that_forgot_its_scripts_is_told_them_again(store: RedisStore, server: redis.Redis) -> None:
    store.open(0)
    server.script_flush()
    store.commit(Checkpoint(0, 1, 1, None, {ANN: b"a"}))
    server.script_flush()
    assert store.open(0) == PartitionMark(1, None, 2)


@pytest.fixture
def memory_limit(server: redis.Redis) -> Iterator[Callable[[int], None]]:
    """Limits the server's memory to what it uses now and so many bytes more."""

    def limit(spare_bytes: int) -> None:
        server.config_set("maxmemory-policy", "noeviction")
        server.config_set("maxmemory", max(1, int(server.info("memory")["used_memory"]) + spare_bytes))

    yield limit
    server.config_set("maxmemory", 0)


def test_a_full_server_writes_nothing(
    store: RedisStore, server: redis.Redis, memory_limit: Callable[[int], None]
) -> None:
    store.open(0)
    store.commit(Checkpoint(0, 1, 1, "0000000001-aa", {ANN: b"old"}))
    memory_limit(-200_000)
    with pytest.raises(StateUnavailable, match="maxmemory"):
        store.commit(Checkpoint(0, 1, 2, "0000000002-bb", {ANN: b"new", BOB: b"new"}))
    assert store.load([ANN, BOB]) == [b"old", None]
    assert store.marks() == {0: PartitionMark(1, "0000000001-aa", 1)}
    server.config_set("maxmemory", 0)
    store.commit(Checkpoint(0, 1, 3, "0000000003-cc", {ANN: b"new", BOB: b"new"}))
    assert store.load([ANN, BOB]) == [b"new", b"new"]


@pytest.mark.parametrize("spare_bytes", [100_000, 1_000_000, 3_000_000, 6_000_000, 12_000_000])
def test_a_server_that_fills_up_half_way_writes_all_or_nothing(
    store: RedisStore, memory_limit: Callable[[int], None], spare_bytes: int
) -> None:
    store.open(0)
    store.commit(Checkpoint(0, 1, 1, None))
    writes = {Key(0, Kind.USER, str(n)): bytes(1000) for n in range(3_000)}
    memory_limit(spare_bytes)
    with suppress(StateError):
        store.commit(Checkpoint(0, 1, 2, None, writes))
    written = sum(value is not None for value in store.load(list(writes)))
    assert (written, store.marks()[0].watermark) in [(0, 1), (3_000, 2)]


def test_a_server_that_does_not_answer_is_an_error_in_time(
    connect: Callable[..., RedisStore], server: redis.Redis
) -> None:
    store = connect(timeout_s=0.2)
    store.open(0)
    store.commit(Checkpoint(0, 1, 1, None, {ANN: b"1"}))
    paused_s = 60.0
    server.client_pause(int(1_000 * paused_s), all=False)  # writes alone, so that the pause can be ended
    begun = time.monotonic()
    with pytest.raises(StateUnavailable, match=r"did not answer within 0\.2 s while committing partition 0"):
        store.commit(Checkpoint(0, 1, 2, None, {ANN: b"2"}))
    assert time.monotonic() - begun < paused_s / 2
    server.client_unpause()  # the server may have read the second checkpoint, or not
    store.commit(Checkpoint(0, 1, 3, None, {ANN: b"3"}))
    assert store.load([ANN]) == [b"3"]
    assert store.marks()[0].watermark == 3


def test_a_server_that_is_not_there_is_an_error_in_time(connect: Callable[..., RedisStore]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    store = connect(f"redis://ann:s3cret@127.0.0.1:{port}/0?password=s3cret", timeout_s=60.0)
    for attempt in (lambda: store.open(0), lambda: store.load([ANN]), store.marks, lambda: store.find(Kind.USER, "a")):
        begun = time.monotonic()
        with pytest.raises(
            StateUnavailable, match=f"no connection to Redis at redis://.*127.0.0.1:{port}/0"
        ) as failure:
            attempt()
        assert time.monotonic() - begun < 30  # a connection that is refused is not waited for
        assert "s3cret" not in "".join(traceback.format_exception(failure.value)) + repr(store)


def test_a_wrong_password_is_no_passing_trouble(
    connect: Callable[..., RedisStore], server: redis.Redis, redis_server: Any
) -> None:
    server.acl_setuser("eve", enabled=True, passwords=["+right"], keys=["*"], commands=["+@all"])
    with pytest.raises(StateError, match="check user and password") as failure:
        connect(redis_server.url.replace("redis://", "redis://eve:wrong@")).open(0)
    assert not isinstance(failure.value, StateUnavailable)


def test_a_broken_connection_is_made_anew(store: RedisStore, server: redis.Redis) -> None:
    store.open(0)
    for n in range(1, 4):
        server.client_kill_filter(_type="normal", skipme=True)
        store.commit(Checkpoint(0, 1, n, None, {ANN: b"%d" % n}))
        server.client_kill_filter(_type="normal", skipme=True)
        assert store.load([ANN]) == [b"%d" % n]


def test_a_checkpoint_whose_confirmation_was_lost_is_not_written_twice(
    connect: Callable[..., RedisStore], line: Line, server: redis.Redis, prefix: str
) -> None:
    store = connect(line.url)
    store.open(0)
    store.commit(Checkpoint(0, 1, 1, None, {ANN: b"1"}))
    line.lose_next_reply = True
    before = server.info("commandstats")["cmdstat_set"]["calls"]
    store.commit(Checkpoint(0, 1, 2, None, {ANN: b"2"}))
    assert b"written" in line.lost[0]
    assert server.info("commandstats")["cmdstat_set"]["calls"] == before + 1
    assert store.load([ANN]) == [b"2"]


def test_a_copy_that_arrives_late_changes_nothing(connect: Callable[..., RedisStore], line: Line) -> None:
    store = connect(line.url)
    store.open(0)
    store.commit(Checkpoint(0, 1, 1, None, {ANN: b"1"}))
    line.hold_next_command = True
    store.commit(Checkpoint(0, 1, 2, "0000000002-bb", {ANN: b"2", BOB: b"2"}))  # the repeat gets through
    store.commit(Checkpoint(0, 1, 2, "0000000003-cc", {ANN: b"3"}))  # the same watermark, with more behind it
    assert b"EVALSHA" in line.held[0]
    line.deliver()
    assert store.load([ANN, BOB]) == [b"3", b"2"]
    assert store.marks() == {0: PartitionMark(2, "0000000003-cc", 1)}


def test_what_was_confirmed_survives_the_servers_crash(connect: Callable[..., RedisStore]) -> None:
    with embedded_redis(appendonly=True) as crashing:
        store = connect(crashing.url)
        store.open(0)
        store.commit(Checkpoint(0, 1, 10, "0000000001-aa", {ANN: b"a"}))
        crashing.kill()
        with pytest.raises(StateError, match="no connection to Redis"):
            store.commit(Checkpoint(0, 1, 11, None, {ANN: b"b"}))
        crashing.start()
        assert store.load([ANN]) == [b"a"]
        store.commit(Checkpoint(0, 1, 12, None, {ANN: b"c"}))
        assert store.open(0) == PartitionMark(12, None, 2)
        assert store.load([ANN]) == [b"c"]


def test_a_server_that_lost_everything_is_not_written_to(store: RedisStore, server: redis.Redis, prefix: str) -> None:
    store.open(0)
    store.commit(Checkpoint(0, 1, 10, None, {ANN: b"a"}))
    server.delete(*[key for key in server.scan_iter() if key.startswith(prefix.encode())])
    with pytest.raises(StateError, match="lost checkpoints of partition 0"):
        store.commit(Checkpoint(0, 1, 20, None, {BOB: b"b"}))
    assert store.load([BOB]) == [None]
    assert store.open(0) == PartitionMark(None, None, 1)
    store.commit(Checkpoint(0, 1, 20, None, {BOB: b"b"}))


def test_an_older_copy_of_the_data_is_not_written_to(store: RedisStore, server: redis.Redis, prefix: str) -> None:
    mark = KeySpace(prefix, "t").mark(0)
    store.open(0)
    store.commit(Checkpoint(0, 1, 10, None))
    older = server.dump(mark)
    assert older is not None
    store.commit(Checkpoint(0, 1, 11, None, {ANN: b"a"}))
    server.restore(mark, 0, older, replace=True)
    with pytest.raises(StateError, match="lost checkpoints of partition 0"):
        store.commit(Checkpoint(0, 1, 12, None, {BOB: b"b"}))
    assert store.load([BOB]) == [None]


@pytest.fixture
def policy(server: redis.Redis) -> Iterator[Callable[[str], None]]:
    yield lambda name: server.config_set("maxmemory-policy", name)
    server.config_set("maxmemory-policy", "noeviction")
    server.config_set("maxmemory", 0)


@pytest.mark.parametrize("name", ["allkeys-lru", "volatile-ttl", "allkeys-random"])
def test_a_server_that_may_evict_is_refused_unless_that_is_allowed(
    connect: Callable[..., RedisStore], policy: Callable[[str], None], name: str
) -> None:
    assert connect().lost([0]) == 0
    policy(name)
    with pytest.raises(StateError, match=f"maxmemory-policy {name} .* expected noeviction.*redis.allow_eviction"):
        connect().lost([0])
    assert connect(allow_eviction=True).lost([0]) == 0


def test_what_a_full_server_evicted_is_told_to_every_owner_until_it_is_accepted(
    connect: Callable[..., RedisStore],
) -> None:
    with embedded_redis() as small, closing(redis.Redis.from_url(small.url)) as server:
        store, heir = (connect(small.url, allow_eviction=True) for _ in range(2))
        for partition in (0, 1):
            store.open(partition)
            writes = {Key(partition, Kind.USER, str(n)): bytes(1_000) for n in range(1_000)}
            store.commit(Checkpoint(partition, 1, 1, None, writes))
        assert store.lost([0, 1]) == 0
        server.config_set("maxmemory-policy", "volatile-lru")  # marks stay
        server.config_set("maxmemory", int(server.info("memory")["used_memory"]) - 500_000)
        until(lambda: store.lost([0, 1]) > 0)
        server.config_set("maxmemory", 0)
        evicted = store.lost([0, 1])
        assert evicted == int(server.info("stats")["evicted_keys"]) > 0
        heir.open(1)
        assert heir.lost([1]) == heir.lost([1], accept=True) == evicted
        assert (heir.lost([1]), heir.lost([0])) == (0, evicted)


def test_a_server_that_evicts_anything_does_not_do_so_in_silence(connect: Callable[..., RedisStore]) -> None:
    with embedded_redis() as small, closing(redis.Redis.from_url(small.url)) as server:
        store = connect(small.url, allow_eviction=True)
        store.open(0)
        writes = {Key(0, Kind.USER, str(n)): bytes(1_000) for n in range(1_000)}
        store.commit(Checkpoint(0, 1, 1, None, writes))
        assert store.lost([0]) == 0
        server.config_set("maxmemory-policy", "allkeys-lru")
        server.config_set("maxmemory", int(server.info("memory")["used_memory"]) - 500_000)
        until(lambda: int(server.info("stats")["evicted_keys"]) > 100)
        server.config_set("maxmemory", 0)
        said = ""
        try:
            said = str(store.lost([0]))
        except StateError as error:
            said = str(error)
        assert said == str(server.info("stats")["evicted_keys"]) or "lost the mark of partition 0" in said


def test_values_deleted_by_somebody_else_are_noticed(
    connect: Callable[..., RedisStore], server: redis.Redis, prefix: str
) -> None:
    store, keys = connect(), KeySpace(prefix, "t")
    store.open(0)
    store.commit(Checkpoint(0, 1, 1, None, {Key(0, Kind.USER, str(n)): b"x" for n in range(2_000)} | {TEA: b"t"}))
    store.commit(Checkpoint(0, 1, 2, None, {Key(0, Kind.USER, "1"): b"", Key(0, Kind.USER, "2"): b"y", SLATE: b"s"}))
    server.delete(keys.value(SLATE))  # the latest slate is no state
    assert store.lost([0]) == 0
    server.delete(*[keys.value(Key(0, Kind.USER, str(n))) for n in range(0, 2_000, 50)])
    heir = connect()
    heir.open(0)
    assert heir.lost([0]) == heir.lost([0], accept=True) == 6  # of the 256 that are watched
    assert heir.lost([0]) == 0
    heir.seal([0])
    assert heir.lost([0]) == 0


def test_values_that_expired_are_no_loss(redis_server: Any, prefix: str) -> None:
    with closing(RedisStore(redis_server.url, prefix=prefix, topic="t", ttl_s=1, slate_ttl_s=1)) as store:
        store.open(0)
        store.commit(Checkpoint(0, 1, 1, None, {ANN: b"a"}))
        until(lambda: store.load([ANN]) == [None])
        assert store.lost([0]) == 0


def test_a_partition_whose_mark_is_gone_is_not_begun_anew(
    connect: Callable[..., RedisStore], server: redis.Redis, prefix: str
) -> None:
    connect().open(0)
    server.delete(KeySpace(prefix, "t").mark(0))
    with pytest.raises(StateError, match="lost the mark of partition 0"):
        connect().lost([0, 1], accept=True)
    assert connect().lost([1]) == 0


def test_a_mark_of_the_wrong_kind_is_left_alone(store: RedisStore, server: redis.Redis, prefix: str) -> None:
    store.open(0)
    server.set(KeySpace(prefix, "t").mark(0), "somebody else's")
    with pytest.raises(StateError, match="refused committing partition 0"):
        store.commit(Checkpoint(0, 1, 1, None, {ANN: b"a"}))
    assert store.load([ANN]) == [None]


@pytest.mark.parametrize(("bound", "limit"), [("MAX_WRITES", 1), ("MAX_BYTES", 5)])
def test_a_checkpoint_too_large_for_one_script_is_refused(
    store: RedisStore, monkeypatch: pytest.MonkeyPatch, bound: str, limit: int
) -> None:
    monkeypatch.setattr(redis_module, bound, limit)
    store.open(0)
    with pytest.raises(StateError, match="save more often"):
        store.commit(Checkpoint(0, 1, 1, None, {ANN: b"aaa", BOB: b"bbb"}))
    assert store.load([ANN, BOB]) == [None, None]


@pytest.mark.parametrize("kind", ["user", "slate"])
@pytest.mark.parametrize("seconds", [0, -1, 10**17])
def test_an_expiry_redis_would_refuse_half_way_is_refused_at_the_start(kind: str, seconds: int) -> None:
    ttls = {"ttl_s": 600, "slate_ttl_s": 600} | {"ttl_s" if kind == "user" else "slate_ttl_s": seconds}
    with pytest.raises(ConfigError, match="expected 1 to"):
        RedisStore("redis://127.0.0.1:1/0", prefix="p", topic="t", **ttls)


@pytest.mark.parametrize(
    "url",
    [
        "http://ann:s3cret@host",
        "redis://ann:s3/cret@host:6379",
        "host:6379",
        "",
        "redis://h:s3cret",
        "redis://h?s3cret=s3cret",
    ],
)
def test_a_url_that_is_none_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ConfigError, match="expected redis://") as refusal:
        RedisStore(url, prefix="p", topic="t", ttl_s=600, slate_ttl_s=600)
    assert "s3" not in "".join(traceback.format_exception(refusal.value))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("rediss://ann:s3cret@redis.example.org:6380/2", "rediss://***@redis.example.org:6380/2"),
        ("redis://:s3cret@[::1]:6379", "redis://***@[::1]:6379"),
        ("redis://host/0?password=s3cret&db=1", "redis://host/0?***"),
        ("unix://:s3cret@/run/redis.sock?db=1", "unix://***@/run/redis.sock?***"),
        ("redis://:s3/cr@et@host", "redis://***"),
        ("redis://:s3?cret@host", "redis://***"),
        ("redis://host?password=s3@cret", "redis://***"),
        ("s3cret", "***"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert without_password(url) == shown
