"""The commands as they are typed, against a running system."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from streamrec.demo.embedded import EmbeddedBroker, EmbeddedRedis
from streamrec.testing import recount, requests, shop
from tests.support.deployment import Deployment, WorkerProcess, until

LOG = shop(900, seed=21)


@pytest.fixture(scope="module")
def deployment(
    tansu: EmbeddedBroker, redis_server: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory
) -> Deployment:
    return Deployment(
        tmp_path_factory.mktemp("commands"), tansu.settings, redis_server.url, partitions=2, preset="fast"
    )


@pytest.fixture(scope="module")
def worker(deployment: Deployment) -> Iterator[WorkerProcess]:
    with deployment.worker() as running:
        yield running


@pytest.fixture(scope="module")
def shop_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log whose columns are called otherwise, and without event ids."""
    path = tmp_path_factory.mktemp("log") / "shop.parquet"
    columns = {
        "what": [event.type.value for event in LOG],
        "customer": [event.user_id for event in LOG],
        "product": [event.item_id for event in LOG],
        "when": [event.ts for event in LOG],
        "stars": [event.value for event in LOG],
        "kind": [(event.context or {}).get("category") for event in LOG],
    }
    pl.DataFrame(columns).write_parquet(path)
    return path


MAPPING = [
    *("--map", "type=what", "--map", "user_id=customer", "--map", "item_id=product"),
    *("--map", "ts=when", "--map", "value=stars", "--map", "context.category=kind"),
]


def test_plan_names_what_apply_then_makes(tansu: EmbeddedBroker, redis_server: EmbeddedRedis, tmp_path: Path) -> None:
    config = tmp_path / "streamrec.toml"
    names = ("events", "items", "recommendations", "outcomes", "examples", "trends", "dead_letters")
    lines = "".join(f'{name} = "{tmp_path.name}-{number}"\n' for number, name in enumerate(names))
    config.write_text(f"[topics]\npartitions = 3\n{lines}")
    connection = ("--kafka", tansu.bootstrap, "--redis", redis_server.url, "--config", str(config))

    def topics(action: str, *options: str) -> str:
        command = [sys.executable, "-m", "streamrec.cli", "topics", action, *connection, *options]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout

    missing = topics("plan")
    assert missing.count("missing") == 8
    assert topics("plan") == missing
    planned = json.loads(topics("plan", "--json"))
    assert (len(planned["missing"]), planned["different"]) == (8, [])
    assert json.loads(topics("apply", "--json")) == {"made": planned["missing"], "different": []}
    assert topics("plan") == topics("apply") == "all topics are as configured\n"
    assert json.loads(topics("plan", "--json")) == {"missing": [], "different": []}


def test_config_prints_what_is_in_force(deployment: Deployment) -> None:
    printed = deployment.command("config", "--redis", "redis://somebody:secret@elsewhere:1/0")
    assert printed.returncode == 0
    assert deployment.settings.topics.events in printed.stdout
    assert "elsewhere" in printed.stdout
    assert "secret" not in printed.stdout
    as_json = json.loads(deployment.command("config", "--json").stdout)
    assert as_json["topics"]["events"] == deployment.settings.topics.events


def test_an_interrupted_replay_goes_on_and_every_row_is_counted_once(
    deployment: Deployment, worker: WorkerProcess, shop_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    arguments = ["replay", str(shop_log), *MAPPING]
    span_s = (LOG[-1].ts - LOG[0].ts) / 1000
    command = [sys.executable, "-m", "streamrec.cli", *arguments, "--config", str(deployment.config)]
    slow = subprocess.Popen(
        [*command, "--speed", str(span_s / 60)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=dict(os.environ)
    )
    try:
        until(lambda: len(deployment.read(deployment.settings.topics.events)) > 10)
        slow.send_signal(signal.SIGTERM)
        said, _ = slow.communicate(timeout=30)
    finally:
        slow.kill()
        slow.wait(10)
    assert slow.returncode == 143
    assert "the same command goes on from here" in said.decode()
    halfway = len(deployment.read(deployment.settings.topics.events))
    assert 10 < halfway < len(LOG)

    rest = deployment.command(*arguments)
    assert rest.returncode == 0, rest.stderr
    resumed = re.search(r"resuming at row (\d+)", rest.stderr)
    assert resumed is not None, rest.stderr
    twice = halfway - int(resumed[1])
    assert twice in (0, 1)  # one row may have been on its way out when the signal came; its event id says so
    assert len(deployment.read(deployment.settings.topics.events)) == len(LOG) + twice
    until(lambda: deployment.committed() == len(LOG) + twice, worker)
    expected = recount(LOG)
    for name in [*list(expected.users)[:3]]:
        known = json.loads(deployment.command("user", name, "--json").stdout)
        assert known["counts"] == expected.users[name]
    for name in [*list(expected.items)[:3]]:
        known = json.loads(deployment.command("item", name, "--json").stdout)
        assert known["counts"] == expected.items[name]
        assert known["category"] == f"kind-{int(name.removeprefix('item-')) % 8}"


def test_a_replay_sends_nothing_that_no_worker_would_take(
    tansu: EmbeddedBroker, redis_server: EmbeddedRedis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    deployment = Deployment(tmp_path, tansu.settings, redis_server.url, partitions=2, preset="fast")
    rows = [f"click,u{n},i{n},{1_700_000_000_000 + n}" for n in range(9)]
    rows[1], rows[4] = "click,u1,i1,1700000000", f"click,u4,i4,{time.time_ns() // 1_000_000 + 90_000_000}"
    log = tmp_path / "log.csv"
    log.write_text("\n".join(["type,user_id,item_id,ts", *rows]), encoding="utf-8")
    refused = deployment.command("replay", str(log))
    assert refused.returncode == 1
    assert "2 of 9 rows cannot be used" in refused.stderr
    assert re.search(r"row 1: field 'ts' is 1700000000, .* seconds\?", refused.stderr)
    assert re.search(r"row 4: field 'ts' is \d+, \d{5} s after the message was sent", refused.stderr)
    assert deployment.read(deployment.settings.topics.events) == []
    allowed = deployment.command("replay", str(log), "--max-refused", "0.25")
    assert allowed.returncode == 0, allowed.stderr
    assert "refused 1 rows (future ts), the first is row 4" in allowed.stderr
    assert "but for 2 that were refused" in allowed.stderr
    assert len(deployment.read(deployment.settings.topics.events)) == 7


@pytest.mark.usefixtures("worker")
def test_tail_prints_what_was_asked_for(deployment: Deployment) -> None:
    user, count = Counter(event.user_id for event in requests(LOG)).most_common(1)[0]
    took = min(count, 3)
    lines = deployment.command("tail", "--from-beginning", "--user", user, "--count", str(took), "--json")
    assert lines.returncode == 0, lines.stderr
    slates = [json.loads(line) for line in lines.stdout.splitlines()]
    assert [slate["user_id"] for slate in slates] == [user] * took
    people = deployment.command("tail", "--from-beginning", "--count", "1")
    assert people.stdout.startswith("2024-01-01")
    assert people.stdout.count("\n") == 1


def test_tail_shows_new_slates_as_they_come(deployment: Deployment, worker: WorkerProcess) -> None:
    command = [sys.executable, "-m", "streamrec.cli", "tail", "--user", "newcomer", "--count", "1", "--json"]
    tail = subprocess.Popen([*command, "--config", str(deployment.config)], stdout=subprocess.PIPE)
    try:
        ask = next(event for event in requests(LOG) if event.item_id is None)
        deadline = time.monotonic() + 60
        while tail.poll() is None and time.monotonic() < deadline:  # asked again until the tail has joined
            deployment.send([type(ask)(type=ask.type, user_id="newcomer", ts=LOG[-1].ts, k=5)])
            time.sleep(1.0)
        assert tail.wait(1) == 0, worker.said
        assert tail.stdout is not None
        assert len(json.loads(tail.stdout.read())["items"]) == 5
    finally:
        tail.kill()
        tail.wait(10)


@pytest.mark.usefixtures("worker")
def test_user_and_item_speak_to_people_too(deployment: Deployment) -> None:
    expected = recount(LOG)
    user, item = max(expected.users, key=lambda name: sum(expected.users[name].values())), next(iter(expected.items))
    catalogue = deployment.directory / "titles.csv"
    catalogue.write_text("item_id,title\n" + "".join(f"{name},The {name}\n" for name in expected.items))
    assert deployment.command("items", "load", str(catalogue)).returncode == 0
    of_user = deployment.command("user", user)
    assert of_user.stdout.startswith(f"{user}: ")
    for said in (f"{sum(expected.users[user].values()):,} events", "last seen", "leans to kind-", "latest slate"):
        assert said in of_user.stdout
    assert "is answered by plackett-luce (online)" in of_user.stdout
    assert re.search(r"The item-\d+ \(item-\d+\), wanted most by \w+", of_user.stdout)
    known = json.loads(deployment.command("user", user, "--json").stdout)
    assert known["answered_by"] == {"policy": "plackett-luce", "mode": "online", "arm": None, "interleaved": None}
    assert known["segments"]
    assert known["titles"] == {name: f"The {name}" for name in known["titles"]} != {}
    assert known["prices"] is None
    assert (
        f"item {item}, The {item}: {sum(expected.items[item].values()):,} events"
        in deployment.command("item", item).stdout
    )
    stranger = deployment.command("user", "nobody-at-all")
    assert stranger.returncode == 1
    assert "'nobody-at-all' is unknown" in stranger.stderr
