"""Masters that die, behind Sentinels and in a cluster: under a store, and under a worker."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import pytest

from streamrec.demo.embedded import EmbeddedBroker
from streamrec.errors import StateUnavailable
from streamrec.state import Key, Kind
from streamrec.state.keys import KeySpace
from streamrec.state.redis import RedisStore
from tests.chaos.scene import Scene, rest
from tests.chaos.workers import FAILED
from tests.support.counting import Counting, opened
from tests.support.deployment import until
from tests.support.redis_servers import Servers, paused, running_cluster, running_sentinels

ANN = Key(0, Kind.USER, "ann")
PARTITIONS = range(6)
"""On a cluster of three, every master has some."""
CHECKPOINTS = {"interval_s": 0.3, "share": 0.5}
"""Snapshots of the last seconds stay, for a replica whose marks are a little older."""


@pytest.fixture
def prefix() -> str:
    return uuid.uuid4().hex


@pytest.fixture(
    params=[pytest.param(running_sentinels, marks=pytest.mark.whole), running_cluster], ids=["sentinels", "cluster"]
)
def servers(request: pytest.FixtureRequest) -> Iterator[Servers]:
    """Servers of this test alone."""
    with request.param() as servers:
        yield servers


def works(ask: Callable[[RedisStore], object], store: RedisStore) -> bool:
    try:
        ask(store)
    except StateUnavailable:
        return False
    return True


ASKED: tuple[Callable[[RedisStore], object], ...] = (
    lambda store: store.lost(PARTITIONS),
    lambda store: store.load([ANN]),
    lambda store: store.marks(),
    lambda store: list(store.scan()),
    lambda store: store.known_topic({}),
)


@pytest.mark.parametrize("how", ["killed", pytest.param("hung", marks=pytest.mark.whole)])
def test_a_master_that_dies_amid_commits_costs_a_pause_and_no_count(servers: Servers, prefix: str, how: str) -> None:
    with closing(opened(servers.url, prefix)) as store, ExitStack() as stack:
        counts = [Counting(store, partition) for partition in PARTITIONS]
        assert all(each.reaches(20) for each in counts)
        master = servers.master_of(KeySpace(prefix, "t").mark(0))
        until(lambda: servers.replicated(master))
        masters = len(servers.ports("master"))
        assert counts[0].reaches(25)
        others = [(ask, stack.enter_context(closing(opened(servers.url, prefix)))) for ask in ASKED]
        assert all(works(ask, other) for ask, other in others)
        with paused(servers.nodes[master]):
            if how == "killed":
                servers.nodes[master].kill()
            until(lambda: counts[0].reaches(30))
            for ask, other in others:  # each finds who took over by itself
                until(partial(works, ask, other))
        assert counts[0].waited > 0
        for each in counts:
            until(partial(each.reaches, 50))
        until(lambda: len(servers.ports("master")) == masters)
        assert servers.master_of(KeySpace(prefix, "t").mark(0)) != master
        for each in counts:  # what the replica had is there, and what it had not was counted again
            assert store.open(each.key.partition).watermark == each.confirmed
            assert store.load([each.key]) == [b"%d" % each.confirmed]
        assert store.lost(PARTITIONS) == 0
        assert set(store.scan()) == {each.key for each in counts}


def test_a_replica_that_had_not_heard_all_is_noticed_when_it_takes_over(servers: Servers, prefix: str) -> None:
    with closing(opened(servers.url, prefix)) as store:
        counting = Counting(store, 0)
        counting.count()
        master = servers.master_of(KeySpace(prefix, "t").mark(0))
        until(lambda: servers.replicated(master))
        with paused(servers.nodes[servers.replica_of(master)]):
            servers.asked(master, "CLIENT", "KILL", "TYPE", "replica")
            assert counting.reaches(6)
            servers.nodes[master].kill()
        until(lambda: (counting.count(), counting.lost > 0)[1])
        assert store.load([ANN]) == [b"1"]  # nothing was written
        until(lambda: counting.reaches(8))
        assert counting.lost == 1
        assert store.load([ANN]) == [b"8"]


def test_servers_that_were_all_away_are_found_again(servers: Servers, prefix: str) -> None:
    with closing(opened(servers.url, prefix)) as store, closing(opened(servers.url, prefix)) as later:
        counting = Counting(store, 0)
        counting.count()
        for server in servers.nodes.values():
            server.kill()
        for attempt in (counting.count, counting.count):
            attempt()
        assert counting.waited == 2
        for ask in (store.marks, later.marks, lambda: later.load([ANN]), lambda: list(later.scan())):
            with pytest.raises(StateUnavailable):
                ask()
        for server in servers.nodes.values():
            server.start()
        until(lambda: (counting.count(), counting.lost > 0)[1])  # they keep nothing on disk
        until(lambda: counting.reaches(2))
        assert later.load([ANN]) == [b"%d" % counting.confirmed]


@pytest.mark.whole
def test_a_worker_whose_masters_die_goes_on_with_those_that_take_over(
    apache_kafka: EmbeddedBroker, servers: Servers, tmp_path: Path, seed: int
) -> None:
    snapshots = {"url": str(tmp_path / "snapshots"), "keep": 10}
    scene = Scene(tmp_path, apache_kafka.settings, servers.url, seed=seed, checkpoints=CHECKPOINTS, snapshots=snapshots)
    redis = scene.deployment.settings.redis
    keys = KeySpace(redis.prefix, scene.deployment.settings.topics.events)
    with scene.supervised() as supervised:
        scene.send(100)
        scene.until_caught_up(supervised)
        masters = len(servers.ports("master"))
        with scene.traffic(100):
            rest(scene.draw.uniform(0.5, 1.5))
            servers.nodes[servers.master_of(keys.mark(0))].kill()
            until(lambda: len(servers.ports("master")) == masters, supervised)
            scene.until_progress(supervised)
        scene.until_caught_up(supervised)
        scene.assert_exact()
        # Should a replica have missed the last checkpoint, the worker noticed it and was started again.
        assert set(supervised.codes) <= {FAILED}
        assert not supervised.codes or "the store has lost checkpoints" in supervised.said
