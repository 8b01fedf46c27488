"""What the Redis store promises behind Sentinels and in a cluster, while no server dies; and of URLs that name them."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from contextlib import closing
from functools import partial

import pytest
import redis
from redis.crc import key_slot

from streamrec.errors import ConfigError, StateError, StateUnavailable
from streamrec.state import Checkpoint, Key, Kind
from streamrec.state.keys import KeySpace
from tests.support.counting import Counting, opened
from tests.support.deployment import until
from tests.support.redis_servers import Servers, paused

ANN = Key(0, Kind.USER, "ann")


@pytest.fixture
def prefix() -> str:
    return uuid.uuid4().hex


@pytest.mark.parametrize("kind", ["redis_sentinels", "redis_cluster"])
def test_a_master_told_that_it_needs_a_replica_takes_nothing_without_one(
    request: pytest.FixtureRequest, prefix: str, kind: str
) -> None:
    servers: Servers = request.getfixturevalue(kind)
    with closing(opened(servers.url, prefix)) as store:
        counting = Counting(store, 0)
        counting.count()
        master = servers.master_of(KeySpace(prefix, "t").mark(0))
        servers.asked(master, "CONFIG", "SET", "min-replicas-to-write", 1, "min-replicas-max-lag", 1)
        with paused(servers.nodes[servers.replica_of(master)]):
            until(lambda: (counting.count(), counting.waited > 0)[1])
            assert store.load([ANN]) == [b"%d" % counting.confirmed]
        until(partial(counting.reaches, counting.confirmed + 1))
        servers.asked(master, "CONFIG", "SET", "min-replicas-to-write", 0)


@pytest.mark.parametrize("kind", ["redis_sentinels", "redis_cluster"])
def test_an_answer_that_came_too_late_is_not_taken_for_the_next_ones(
    request: pytest.FixtureRequest, prefix: str, kind: str
) -> None:
    servers: Servers = request.getfixturevalue(kind)
    with closing(opened(servers.url, prefix)) as store:
        counting, master = Counting(store, 0), servers.master_of(KeySpace(prefix, "t").mark(0))
        counting.count()
        servers.asked(master, "CLIENT", "PAUSE", 60_000, "WRITE")
        counting.count()
        assert counting.waited == 1
        assert store.load([ANN]) == [b"1"]
        servers.asked(master, "CLIENT", "UNPAUSE")
        assert counting.reaches(5)
        assert store.load([ANN]) == [b"5"]


def test_a_slot_that_moves_to_another_master_is_followed(redis_cluster: Servers, prefix: str) -> None:
    servers, topic = redis_cluster, "of-this-test"  # whose slot holds nothing of other tests
    with closing(opened(servers.url, prefix, topic)) as store:
        keys = KeySpace(prefix, topic)
        counting, slot = Counting(store, 0), key_slot(keys.mark(0))
        others = [Key(0, Kind.USER, str(n)) for n in range(10)]
        counting.count()
        store.commit(Checkpoint(0, 1, 1, None, dict.fromkeys(others, b"x")))
        source = servers.master_of(keys.mark(0))
        target = next(port for port in servers.ports("master") if port != source)
        names = {port: str(servers.asked(port, "CLUSTER", "MYID")) for port in (source, target)}
        servers.asked(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", names[source])
        servers.asked(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", names[target])
        move = ("MIGRATE", "127.0.0.1", target, "", 0, 5_000, "KEYS")
        servers.asked(source, *move, keys.value(others[0]))
        assert store.load([others[0]]) == [b"x"]
        servers.asked(source, *move, keys.mark(0))
        counting.count()
        assert counting.waited == 1  # half of what the script needs is elsewhere
        servers.asked(source, *move, keys.sentinels(0), *map(keys.value, (ANN, *others[1:])))
        for port in (target, source):
            servers.asked(port, "CLUSTER", "SETSLOT", slot, "NODE", names[target])
        counting.count()
        assert (counting.confirmed, counting.waited) == (2, 1)
        assert store.load([ANN, *others]) == [b"2", *[b"x"] * len(others)]
        assert store.marks()[0].watermark == 2
        assert store.lost([0]) == 0
        assert set(store.scan()) == {ANN, *others}


def test_every_master_of_a_cluster_must_not_evict(redis_cluster: Servers, prefix: str) -> None:
    with closing(opened(redis_cluster.url, prefix)) as store:
        store.open(0)
        assert store.lost([0]) == 0
        home = redis_cluster.master_of(KeySpace(prefix, "t").mark(0))
        other = next(port for port in redis_cluster.ports("master") if port != home)
        redis_cluster.asked(other, "CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        with pytest.raises(StateError, match="maxmemory-policy allkeys-lru"):
            store.lost([0])
        redis_cluster.asked(other, "CONFIG", "SET", "maxmemory-policy", "noeviction")


def first_of(servers: Servers) -> str:
    return f"127.0.0.1:{next(iter(servers.nodes))}"


def sentinel_of(servers: Servers) -> str:
    return servers.url.removeprefix("redis+sentinel://").partition(",")[0]


WRONG: dict[str, tuple[Callable[[Servers, Servers], str], str]] = {
    "no such service": (lambda sentinels, _: sentinels.url.replace("/shop", "/shpo"), "name no master .*'shpo'"),
    "a cluster that is a server": (lambda s, _: f"redis+cluster://{first_of(s)}", "is no cluster .*write redis://"),
    "a server that is a cluster": (lambda _, c: f"redis://{first_of(c)}", r"write redis\+cluster://"),
    "Sentinels that are a server": (lambda s, _: f"redis+sentinel://{first_of(s)}/shop", "is no Sentinel: write"),
    "a server that is a Sentinel": (lambda s, _: f"redis://{sentinel_of(s)}", r"write redis\+sentinel://"),
    "a cluster that is away": (lambda *_: "redis+cluster://127.0.0.1:1,127.0.0.1:2", "no connection to Redis at"),
    "Sentinels that are away": (lambda *_: "redis+sentinel://127.0.0.1:1/shop", "no Sentinel can be reached"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_url_of_something_else_is_told_in_one_line(
    redis_sentinels: Servers, redis_cluster: Servers, prefix: str, wrong: str
) -> None:
    url, line = WRONG[wrong]
    with closing(opened(url(redis_sentinels, redis_cluster), prefix)) as store:
        with pytest.raises(StateError, match=line) as failure:
            store.open(0)
        assert "\n" not in str(failure.value)


def test_a_wrong_password_is_no_passing_trouble(redis_sentinels: Servers, redis_cluster: Servers, prefix: str) -> None:
    for url in (redis_sentinels.url, redis_cluster.url):
        with closing(opened(url.replace("://", "://eve:s3cret@"), prefix)) as store:
            with pytest.raises(StateError, match=r"\*\*\*@127.0.0.1:.*check user and password") as failure:
                store.open(0)
            assert not isinstance(failure.value, StateUnavailable)


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinal://ann:s3cret@host/shop",
        "redis+sentinel://ann:s3cret@host:26379",
        "redis+sentinel://ann:s3cret@host,/shop",
        "redis+sentinel://ann:s3cret@host/shop/one",
        "redis+sentinel://host/shop?s3cret=s3cret",
        "redis+cluster://ann:s3cret@host:port",
        "redis+cluster://host/3?password=s3cret",
        "unix+cluster://:s3cret@/run/redis.sock",
    ],
)
def test_a_url_that_is_none_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ConfigError, match=r"expected redis://.*redis\+sentinel://.*redis\+cluster://") as refusal:
        opened(url, "p")
    assert "s3" not in str(refusal.value)


def test_options_and_credentials_go_to_the_servers_that_hold_data(redis_sentinels: Servers, prefix: str) -> None:
    with closing(redis.Redis(port=redis_sentinels.ports("master")[0])) as master:
        master.acl_setuser("ann", enabled=True, passwords=["+s3:cret"], keys=["*"], commands=["+@all"])
    url = redis_sentinels.url.replace("://", "://ann:s3%3Acret@") + "?client_name=shop"
    with closing(opened(url, prefix)) as store:
        store.open(0)
        with closing(redis.Redis(port=redis_sentinels.ports("master")[0])) as master:
            assert ("shop", "ann") in [(client["name"], client["user"]) for client in master.client_list()]
