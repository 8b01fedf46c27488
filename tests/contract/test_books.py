"""What every book of revisions promises, asked of each of them."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from itertools import repeat

import pytest
import redis

from streamrec.engine.rollout.revisions import Mode, Revision, RolloutStore
from streamrec.errors import StateError
from streamrec.state.keys import KeySpace
from streamrec.state.rollouts import KEPT, MemoryRolloutStore, RedisRolloutStore


def revision(number: int, **changes: object) -> Revision:
    given = {"mode": Mode.SHADOW, "policy": "plackett-luce", "baseline": "model:popularity", "share": 0.05, **changes}
    return Revision(number=number, ts=1_704_067_200_000 + number, **given)  # type: ignore[arg-type]


@pytest.fixture(params=["memory", "redis_server", "redis_cluster"])
def opened(request: pytest.FixtureRequest) -> Iterator[Callable[[], RolloutStore]]:
    """Opens the same book each time it is called, as several processes would."""
    if request.param == "memory":
        shared = MemoryRolloutStore()
        yield lambda: shared
        return
    url, prefix = request.getfixturevalue(request.param).url, uuid.uuid4().hex
    with ExitStack() as stack:
        yield lambda: stack.enter_context(closing(RedisRolloutStore(url, prefix=prefix, topic="user-events")))


@pytest.fixture
def rollouts(opened: Callable[[], RolloutStore]) -> RolloutStore:
    return opened()


def test_an_empty_book_leaves_it_to_the_settings(rollouts: RolloutStore) -> None:
    assert rollouts.latest() is None
    assert rollouts.history() == []


def test_revisions_come_back_whole_newest_first(rollouts: RolloutStore) -> None:
    first = revision(1, arms={"greedy": 0.1, "linucb": 0.2}, mode=Mode.ONLINE, why="größer", figures={"n": 12.5})
    second = revision(2, interleave=("greedy", "linucb"), restores=1, salt="\x00", forced=True)
    rollouts.append(first)
    rollouts.append(second)
    assert rollouts.history() == [second, first]
    assert rollouts.latest() == second
    assert [list(found.arms) for found in rollouts.history()] == [
        [],
        ["greedy", "linucb"],
    ]  # the order is the arms' own


@pytest.mark.parametrize("number", [0, 1, 3])
def test_a_revision_must_follow_the_newest(rollouts: RolloutStore, number: int) -> None:
    rollouts.append(revision(1))
    with pytest.raises(StateError, match=f"revision {number} .* the newest is 1, expected {number - 1}; somebody else"):
        rollouts.append(revision(number, why="another one"))
    assert rollouts.history() == [revision(1)]


def test_of_many_who_promote_at_once_one_succeeds(opened: Callable[[], RolloutStore]) -> None:
    books = [opened() for _ in range(8)]
    barrier, outcome = threading.Barrier(len(books)), list[str]()

    def promote(number: int, own: RolloutStore) -> None:
        barrier.wait()
        try:
            own.append(revision(1, why=f"by {number}"))
            outcome.append(f"by {number}")
        except StateError:
            pass

    threads = [threading.Thread(target=promote, args=numbered) for numbered in enumerate(books)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcome == [found.why for found in opened().history()]
    assert len(outcome) == 1


def test_the_oldest_revisions_leave_and_numbers_go_on(rollouts: RolloutStore) -> None:
    for number in range(1, KEPT + 4):
        rollouts.append(revision(number))
    kept = [found.number for found in rollouts.history()]
    assert kept == list(range(KEPT + 3, 3, -1))


@pytest.fixture
def client(redis_server: object) -> Iterator[redis.Redis]:
    with closing(redis.Redis.from_url(redis_server.url)) as connected:  # type: ignore[attr-defined]
        yield connected


def test_a_revision_that_is_sent_twice_is_written_once(redis_server: object, client: redis.Redis) -> None:
    prefix = uuid.uuid4().hex
    with closing(RedisRolloutStore(redis_server.url, prefix=prefix, topic="t")) as rollouts:  # type: ignore[attr-defined]
        for _ in repeat(None, 2):  # the second as if the first one's answer had been lost
            rollouts.append(revision(1))
        assert rollouts.history() == [revision(1)]
    assert client.llen(KeySpace(prefix, "t").rollout) == 1


def test_what_is_no_revision_is_told_with_its_key(redis_server: object, client: redis.Redis) -> None:
    prefix = uuid.uuid4().hex
    client.lpush(KeySpace(prefix, "t").rollout, b'{"number": "seven"}')
    with (
        closing(RedisRolloutStore(redis_server.url, prefix=prefix, topic="t")) as rollouts,  # type: ignore[attr-defined]
        pytest.raises(StateError, match=f"no revision of a rollout under '{prefix}:t:rollout'"),
    ):
        rollouts.latest()


def test_books_of_other_topics_are_others(redis_server: object) -> None:
    prefix = uuid.uuid4().hex
    with ExitStack() as stack:
        here, there = (
            stack.enter_context(closing(RedisRolloutStore(redis_server.url, prefix=prefix, topic=topic)))  # type: ignore[attr-defined]
            for topic in ("t", "u")
        )
        here.append(revision(1))
        assert there.latest() is None


def test_a_server_that_is_away_is_named_without_its_password() -> None:
    with (
        closing(RedisRolloutStore("redis://me:secret@127.0.0.1:1/0", prefix="p", topic="t", timeout_s=0.5)) as rollouts,
        pytest.raises(StateError, match=r"no connection to Redis at redis://\*\*\*@127.0.0.1:1/0") as raised,
    ):
        rollouts.latest()
    assert "secret" not in str(raised.value)
