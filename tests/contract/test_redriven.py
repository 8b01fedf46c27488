"""What Redis remembers of dead letters that were sent back: marks, a journal, and whose turn it is."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from types import SimpleNamespace

import pytest
import redis

from streamrec.errors import StateError
from streamrec.state.connection import Servers
from streamrec.state.redrive_journal import LEASE_S, RedriveJournal

Make = Callable[..., RedriveJournal]


@pytest.fixture
def prefix() -> str:
    return f"t{uuid.uuid4().hex[:8]}"


@pytest.fixture(params=["redis_server", "redis_cluster"])
def url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param).url)


@pytest.fixture
def client(url: str) -> Iterator[redis.Redis]:
    with closing(Servers(url, 5.0)) as servers:
        yield servers.client


@pytest.fixture
def make(url: str, prefix: str) -> Iterator[Make]:
    """Makes memories of one system that nobody else has."""
    made: list[RedriveJournal] = []

    def one(keep_ms: int | None = 60_000, lease_s: float = LEASE_S) -> RedriveJournal:
        made.append(RedriveJournal(url, prefix=prefix, topic="events", keep_ms=keep_ms, lease_s=lease_s))
        return made[-1]

    yield one
    for memory in made:
        memory.close()


def test_what_was_marked_is_known_to_every_later_run(make: Make) -> None:
    make().mark(["events-0-1", "events-0-3"])
    assert make().known(["events-0-1", "events-0-2", "events-0-3"]) == [True, False, True]
    assert make().known([]) == []


def test_a_mark_is_kept_as_long_as_its_letter(make: Make, client: redis.Redis, prefix: str) -> None:
    make(keep_ms=60_000).mark(["events-0-1"])
    make(keep_ms=None).mark(["events-0-2"])
    left = {key[-1:]: client.pttl(key) for key in client.scan_iter(f"{prefix}:*:sent:*")}
    assert 0 < left[b"1"] <= 60_000
    assert left[b"2"] == -1
    make(keep_ms=50).mark(["events-0-3"])
    time.sleep(0.1)
    assert make().known(["events-0-3"]) == [False]


def test_a_journal_stays_open_until_its_run_has_come_to_its_end(make: Make) -> None:
    memory = make()
    assert memory.unfinished() is None
    memory.begin({0: 12, 3: 2**40})
    assert make().unfinished() == {0: 12, 3: 2**40}
    memory.finish()
    assert make().unfinished() is None


def test_one_redrive_at_a_time_has_the_turn(make: Make) -> None:
    with make().held(), pytest.raises(StateError, match="another redrive"), make().held():
        pass
    with make().held():  # given back at the end, also of one that failed
        pass
    with pytest.raises(ValueError, match="of its own"), make().held():
        raise ValueError("an error of its own")
    with make().held():
        pass


def test_a_redrive_that_says_something_now_and_then_keeps_its_turn(
    make: Make, client: redis.Redis, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = [time.monotonic()]
    monkeypatch.setattr("streamrec.state.redrive_journal.time", SimpleNamespace(monotonic=lambda: now_s[0]))
    memory = make(lease_s=60.0)
    with memory.held():
        (turn,) = client.scan_iter(f"{prefix}:*:lock")
        for _ in range(3):
            client.pexpire(turn, 15_000)  # as though 45 s of the 60 had gone by
            now_s[0] += 45.0
            memory.go_on()
            assert 50_000 < client.pttl(turn) <= 60_000
        with pytest.raises(StateError, match="another redrive"), make().held():
            pass


def test_a_redrive_that_was_silent_for_too_long_may_not_go_on(make: Make) -> None:
    memory = make(lease_s=0.2)
    with memory.held():
        time.sleep(0.3)
        with make().held(), pytest.raises(StateError, match="lost its turn"):
            memory.go_on()
