"""Messages put aside by a worker, looked at and sent back by the commands: each counts once, whatever happens."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import pytest
from confluent_kafka import Producer
from typer.testing import CliRunner

from streamrec.cli import app
from streamrec.demo.embedded import EmbeddedBroker, EmbeddedRedis
from streamrec.state import inspection as inspect
from streamrec.transport.confluent import KafkaSink
from streamrec.transport.positions import TopicReader
from streamrec.wiring import build_redriven, build_store
from streamrec.worker.dead_letters import opened, origin_of, returned
from tests.support.deployment import Deployment, WorkerProcess, until

TS_MS = 1_700_000_000_000
TIGHT, LOOSE = 600, 5_000
USERS = [f"reader-{number}" for number in range(8)]
VAST = b"x" * 999_900
"""A producer may send it, and no producer may send it again with a letter's headers."""
HOSTILE = b"\x1b]0;owned\x07\x9b2J [/red] no event"


def view(user: str, **more: object) -> bytes:
    """Too large for the tight limit, an event for the loose one."""
    fields = {"type": "view", "user_id": user, "item_id": "book", "ts": TS_MS, "query": "q" * 900}
    return json.dumps({**fields, **more}).encode()


@dataclass
class System:
    """What a worker has put aside under a tight limit; `worker` is the last that was started."""

    deployment: Deployment
    worker: WorkerProcess

    def send(self, values: list[tuple[str, bytes]]) -> None:
        """Spread by number, as no partitioner would: each user on the partition of its last digit."""
        producer = Producer({"bootstrap.servers": self.deployment.settings.kafka["bootstrap.servers"]})
        for user, value in values:
            partition = int(user[-1]) % 2
            producer.produce(
                self.deployment.settings.topics.events, value=value, key=user.encode(), partition=partition
            )
        assert producer.flush(20) == 0

    def caught_up(self) -> None:
        sent = len(self.deployment.read(self.deployment.settings.topics.events))
        until(lambda: self.deployment.committed() == sent, self.worker)

    def dlq(self, *arguments: str) -> dict[str, object]:
        result = CliRunner().invoke(app, ["dlq", *arguments, "--json", "--config", str(self.deployment.config)])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def views(self, users: list[str]) -> dict[str, object]:
        with closing(build_store(self.deployment.settings)) as store:
            return {user: (inspect.user(store, user) or {}).get("counts") for user in users}

    def dead_letters(self) -> list[object]:
        return [opened(record) for record in self.deployment.read(self.deployment.settings.topics.dead_letters)]


@pytest.fixture(scope="module", params=["tansu", pytest.param("apache_kafka", marks=pytest.mark.whole)])
def system(
    request: pytest.FixtureRequest, redis_server: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[System]:
    broker: EmbeddedBroker = request.getfixturevalue(request.param)
    limits = {"max_message_bytes": TIGHT}
    directory = tmp_path_factory.mktemp("dlq")
    deployment = Deployment(directory, broker.settings, redis_server.url, partitions=2, preset="fast", limits=limits)
    with deployment.worker() as worker:
        first = System(deployment, worker)
        named = [(user, view(user, event_id=f"event-{user}")) for user in USERS[:3]]
        nameless = [(user, view(user)) for user in USERS[3:]]
        first.send([*named, *nameless, ("reader-0", HOSTILE), ("reader-1", b"{"), ("reader-1", VAST)])
        # A position is saved past what is unusable once something usable has followed.
        first.send([(f"[/red]-{number}", view(f"[/red]-{number}", query="q")) for number in range(2)])
        first.caught_up()
        assert worker.stop() == 0
        yield first


def test_the_list_counts_by_reason_and_shows_the_newest(system: System) -> None:
    listed = system.dlq("list", "--limit", "3")
    assert listed["letters"] == len(USERS) + 3
    assert {(row["reason"], row["field"]): row["letters"] for row in listed["counts"]} == {
        ("too_large", ""): len(USERS) + 1,
        ("malformed", ""): 2,
    }
    assert len(listed["newest"]) == 3
    assert {dead_letter["topic"] for dead_letter in listed["newest"]} == {system.deployment.settings.topics.events}
    some = system.dlq("list", "--reason", "malformed", "--since", "2024-01-01")
    assert (some["letters"], len(some["newest"])) == (2, 2)
    assert system.dlq("list", "--since", "2090-01-01")["letters"] == 0


def test_hostile_bytes_are_shown_and_command_nothing(system: System) -> None:
    dead_letter = next(dead_letter for dead_letter in system.dead_letters() if dead_letter.value == HOSTILE)
    shown = system.deployment.command("dlq", "show", dead_letter.address)
    listed = system.deployment.command("dlq", "list")
    assert shown.returncode == listed.returncode == 0
    for printed in (shown.stdout, listed.stdout):
        assert not {"\x1b", "\x07", "\x9b"} & set(printed)
    assert r"\x1b]0;owned\x07\x9b2J [/red] no event" in shown.stdout
    assert "now: refused: malformed" in shown.stdout
    assert "key: reader-0" in shown.stdout
    assert dead_letter.address in listed.stdout


def test_a_name_that_looks_like_markup_is_shown_as_it_is(system: System) -> None:
    known = system.deployment.command("item", "book")
    assert known.returncode == 0, known.stderr
    assert "[/red]-0" in known.stdout


def test_a_message_too_large_to_be_put_aside_whole_is_put_aside_in_part(system: System) -> None:
    dead_letter = next(dead_letter for dead_letter in system.dead_letters() if dead_letter.cut_bytes)
    assert (dead_letter.reason, dead_letter.cut_bytes, dead_letter.key) == ("too_large", len(VAST), b"reader-1")
    assert VAST.startswith(dead_letter.value)
    shown = system.dlq("show", dead_letter.address)
    assert (shown["bytes"], shown["kept_bytes"]) == (len(VAST), len(dead_letter.value))


def test_a_letter_that_is_not_there_is_told_from_one_that_is_none(system: System) -> None:
    absent = system.deployment.command("dlq", "show", "9-0")
    assert (absent.returncode, "was never written" in absent.stderr) == (1, True)
    wrong = system.deployment.command("dlq", "show", "events.dlq")
    assert (wrong.returncode, "expected PARTITION-OFFSET" in wrong.stderr) == (2, True)


def test_what_would_be_refused_again_stays(system: System) -> None:
    before = len(system.deployment.read(system.deployment.settings.topics.events))
    refused = {"too_large": len(USERS), "malformed": 2}
    assert system.dlq("redrive", "--dry-run")["refused"] == refused
    assert system.dlq("redrive") == {"sent": 0, "sent_before": 0, "refused": refused, "cut": 1, "elsewhere": 0}
    assert len(system.deployment.read(system.deployment.settings.topics.events)) == before


@pytest.mark.whole
def test_a_looser_limit_lets_every_message_back_in_once(system: System) -> None:
    deployment = system.deployment
    text = deployment.config.read_text(encoding="utf-8")
    deployment.config.write_text(text.replace(f"= {TIGHT}", f"= {LOOSE}"), encoding="utf-8")
    assert system.dlq("redrive", "--dry-run")["sent"] == len(USERS)
    large = [
        dead_letter
        for dead_letter in system.dead_letters()
        if dead_letter.reason == "too_large" and not dead_letter.cut_bytes
    ]
    first, second = large[:2]
    assert system.dlq("redrive", first.address)["sent"] == 1
    assert system.dlq("redrive", first.address, "--force")["sent_before"] == 1
    cut_short(system, second)
    rest = system.dlq("redrive", "--reason", "too_large")
    assert (rest["sent"], rest["sent_before"]) == (len(USERS) - 2, 2)
    again = system.dlq("redrive")
    assert (again["sent"], again["sent_before"]) == (0, len(USERS))
    with deployment.worker() as worker:
        system.worker = worker
        system.caught_up()
        assert system.views(USERS) == {user: {"view": 1} for user in USERS}
        returned_to = {
            record.key: record.partition
            for record in deployment.read(deployment.settings.topics.events)
            if origin_of(record)
        }
        assert returned_to == {user.encode(): int(user[-1]) % 2 for user in USERS}
        fails_again(system)
        assert worker.stop() == 0


def cut_short(system: System, dead_letter) -> None:  # type: ignore[no-untyped-def]
    """Do what a redrive does that is killed after Kafka has stored a message and before Redis knows of it."""
    deployment = system.deployment
    with (
        closing(TopicReader(deployment.settings.topics.events, deployment.settings.kafka)) as events,
        closing(build_redriven(deployment.settings)) as memory,
        closing(KafkaSink(deployment.settings.kafka)) as sink,
    ):
        with memory.held():
            memory.begin(events.end())
        sink.publish(
            dead_letter.origin.topic,
            dead_letter.key,
            dead_letter.value,
            returned(dead_letter),
            partition=dead_letter.origin.partition,
        )


def fails_again(system: System) -> None:
    """What is forced and refused again is a letter of its own, names the one it was, and does not go round."""
    before = system.dead_letters()
    forced = system.dlq("redrive", "--reason", "malformed", "--force")
    assert forced["sent"] == 2
    system.send([(f"[/red]-{number}", view(f"[/red]-{number}")) for number in range(2)])
    system.caught_up()
    fresh = [dead_letter for dead_letter in system.dead_letters() if dead_letter not in before]
    was = {str(dead_letter.place) for dead_letter in before if dead_letter.reason == "malformed"}
    assert Counter(dead_letter.redriven_from for dead_letter in fresh) == Counter(was)
    assert system.dlq("redrive")["refused"] == {"malformed": 2}
    assert len(system.dead_letters()) == len(before) + 2


def test_two_redrives_at_a_time_are_refused(system: System) -> None:
    with closing(build_redriven(system.deployment.settings)) as memory, memory.held():
        second = system.deployment.command("dlq", "redrive")
    assert second.returncode == 1
    assert "another redrive" in second.stderr
    assert system.deployment.command("dlq", "redrive").returncode == 0
