"""The catalogue topic and a worker that follows it, from the command line to the slate, on both brokers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner, Result

from streamrec.cli import app
from streamrec.codec import decode_slate
from streamrec.demo.embedded import EmbeddedBroker, EmbeddedRedis
from streamrec.engine.items.text_encoders import Hashed
from streamrec.errors import ConfigError, TableError, TransportError
from streamrec.events import Event, EventType
from streamrec.testing import shop
from streamrec.wiring import kafka_sink
from tests.support.deployment import Deployment, WorkerProcess, until

LOG = shop(600, seed=5, items=80)
NONE_REFUSED = {"refused_rows": 0, "refused": []}
NAMES = [f"item-{n}" for n in range(80)]


@dataclass
class System:
    """A worker that has read a catalogue of every item and learned a log."""

    deployment: Deployment
    worker: WorkerProcess
    now_ms: int = LOG[-1].ts
    asked: int = 0

    def load(self, rows: list[dict[str, object]], *options: str) -> dict[str, object]:
        path = self.deployment.directory / "items.jsonl"
        path.write_text("\n".join(json.dumps(row) for row in rows))
        done = self.items("load", str(path), "--json", *options)
        assert done.exit_code == 0, done.output
        said: dict[str, object] = json.loads(done.stdout)
        return said

    def items(self, *arguments: str) -> Result:
        """A command of `streamrec items`."""
        return CliRunner().invoke(app, ["items", *arguments, "--config", str(self.deployment.config)])

    def write(self, key: bytes, value: bytes | None) -> None:
        with closing(kafka_sink(self.deployment.settings)) as sink:
            sink.publish(self.deployment.settings.topics.items, key, value)

    def slate(self) -> list[str]:
        """The answer to a request that is sent now."""
        self.asked += 1
        self.now_ms += 1_000
        name = f"asked-{self.asked}"
        self.deployment.send([
            Event(type=EventType.REQUEST, user_id=f"user-{self.asked % 9}", ts=self.now_ms, event_id=name, k=30)
        ])  # fmt: skip
        found: list[list[str]] = []

        def answered() -> bool:
            for record in self.deployment.read(self.deployment.settings.topics.recommendations):
                slate = decode_slate(record.value or b"", record.headers)
                if slate.request_id == name:
                    found.append([place.item_id for place in slate.items])
            return bool(found)

        until(answered, self.worker)
        return found[0]

    def dead_letters(self) -> list[dict[str, str]]:
        records = self.deployment.read(self.deployment.settings.topics.dead_letters)
        return [{name: value.decode() for name, value in record.headers} for record in records]


@pytest.fixture(scope="module", params=[pytest.param("tansu", marks=pytest.mark.whole), "apache_kafka"])
def system(
    request: pytest.FixtureRequest, redis_server: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[System]:
    broker: EmbeddedBroker = request.getfixturevalue(request.param)
    directory = tmp_path_factory.mktemp("catalogue")
    deployment = Deployment(directory, broker.settings, redis_server.url, partitions=2, preset="fast")
    listed = System(deployment, worker=None)  # type: ignore[arg-type]
    listed.load([{"item_id": name, "title": f"Thing {name}"} for name in NAMES])
    listed.write(b"item-3", None)
    with deployment.worker() as worker:
        deployment.send(LOG)
        until(lambda: deployment.committed() == len(LOG), worker)
        yield System(deployment, worker, LOG[-1].ts)


def test_what_was_withdrawn_before_the_worker_began_is_on_no_slate(system: System) -> None:
    answers = system.deployment.read(system.deployment.settings.topics.recommendations)
    shown = [place.item_id for r in answers for place in decode_slate(r.value or b"", r.headers).items]
    assert len(shown) > 500
    assert "item-3" not in shown


def test_only_what_differs_is_sent(system: System, tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"item_id": name, "title": f"Thing {name}"} for name in NAMES if name != "item-3"]
    same = {"new": 0, "changed": 0, "same": 79, "withdrawn": 0, "sent": 0, **NONE_REFUSED}
    assert system.load(rows) == same
    loose = ("--max-refused", "0.02", "--dry-run")
    refused = [{"row": 79, "detail": "'price' is 'dear', expected a finite number"}]
    assert system.load([*rows, {"item_id": "worse", "price": "dear"}], *loose) == {
        **same, "refused_rows": 1, "refused": refused,
    }  # fmt: skip
    withdrawing = system.items("load", str(system.deployment.directory / "items.jsonl"), "--withdraw", *loose)
    assert isinstance(withdrawing.exception, ConfigError)
    assert "row 79 cannot be used" in str(withdrawing.exception)
    rows[0]["price"], rows[1]["item_id"] = 2.5, "another"
    differing = {"new": 1, "changed": 1, "same": 77, "withdrawn": 1, **NONE_REFUSED}
    assert system.load(rows, "--withdraw", "--dry-run") == {**differing, "sent": 0}
    assert system.load(rows, "--dry-run") == {**differing, "withdrawn": 0, "sent": 0}
    assert system.load(rows, "--withdraw") == {**differing, "sent": 3}
    assert system.load(rows, "--withdraw") == {**same}
    rows[0]["price"], rows[1]["item_id"] = None, "item-1"
    assert system.load(rows, "--withdraw") == {**differing, "sent": 3}
    pl.DataFrame({"item_id": []}, schema={"item_id": pl.String}).write_parquet(tmp_path / "none.parquet")
    empty = system.items("load", str(tmp_path / "none.parquet"), "--withdraw")
    assert isinstance(empty.exception, TableError)
    assert "it has no rows" in str(empty.exception)
    wrong = system.items("load", str(few(rows, tmp_path)), "--withdraw")
    assert "70 of 79 items in the topic are not in few.jsonl and will be withdrawn" in str(wrong.exception)
    assert "nothing was sent" in str(wrong.exception)
    assert system.load(rows, "--withdraw") == same
    for allowed in ("--yes",), ("--max-withdrawn", "0.9"):
        done = system.items("load", str(few(rows, tmp_path)), "--withdraw", "--json", *allowed)
        assert json.loads(done.stdout)["withdrawn"] == 70
        assert "70 of 79 items" in done.stderr
        assert system.load(rows)["new"] == 70


def few(rows: list[dict[str, object]], place: Path) -> Path:
    """Another file than was meant."""
    path = place / "few.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows[:9]))
    return path


def test_a_new_item_gets_onto_slates_and_a_withdrawn_one_leaves_them_at_once(system: System) -> None:
    system.slate()
    system.load([{"item_id": "brand-new", "title": "Brand new", "boost": 5}])
    waited = next((n for n in range(40) if "brand-new" in system.slate()), None)
    print(f"the new item was on a slate after {waited} requests")
    assert waited is not None
    shown = next(name for name in system.slate() if name != "brand-new")
    system.write(shown.encode(), None)
    system.write(b"brand-new", None)
    system.slate()  # a request may overtake a tombstone that was sent at the same moment; the next does not
    for _ in range(5):
        assert not {shown, "brand-new"} & set(system.slate())
    told = system.items("show", "brand-new")
    assert isinstance(told.exception, TransportError)
    assert "was withdrawn" in str(told.exception)


def test_a_record_that_is_no_item_is_put_aside_and_costs_nothing_else(system: System) -> None:
    before = len(system.dead_letters())
    system.write(b"item-5", b'{"item_id": "item-5", "price": "cheap"}')
    system.write(b"item-6", b'{"item_id": "item-7"}')
    system.write(b"", b'{"item_id": "item-8"}')
    system.write(b"item-9", b"\xff\x00")
    until(lambda: len(system.dead_letters()) >= before + 4, system.worker)
    told = {(dead_letter["reason"], dead_letter["field"]) for dead_letter in system.dead_letters()[before:]}
    assert {dead_letter["topic"] for dead_letter in system.dead_letters()} == {system.deployment.settings.topics.items}
    assert told == {("invalid", "price"), ("invalid", "item_id"), ("keyless", ""), ("malformed", "")}
    assert len(system.slate()) == 30
    assert {"item-5", "item-6"} & {name for _ in range(4) for name in system.slate()}


def test_what_the_topic_says_of_an_item_can_be_looked_at(system: System) -> None:
    row = {"item_id": "looked", "title": "A [red]title[/]", "tags": ["x"], "vector": [0.25] * 20, "boost": 2}
    system.load([row])
    told = system.items("show", "looked")
    assert told.exit_code == 0, told.output
    assert "A [red]title[/]" in told.stdout
    assert re.search(r"vector .*0\.25, .*\(20\)", told.stdout)
    assert json.loads(system.items("show", "looked", "--json").stdout) == row
    assert "is not there" in str(system.items("show", "nowhere").exception)


def test_items_get_vectors_on_the_way_and_again_only_when_their_words_change(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[dict[str, object]] = [{"item_id": f"worded-{n}", "title": f"Thing {n}"} for n in range(3)]
    system.load(rows)
    refused = system.items("load", str(system.deployment.directory / "items.jsonl"), "--embed")
    assert isinstance(refused.exception, ConfigError)
    assert "learning.encoder" in str(refused.exception)
    monkeypatch.setenv("STREAMREC_LEARNING__ENCODER", "planted")
    monkeypatch.setattr("streamrec.wiring.build_encoder", lambda settings: Hashed(24))
    rows += [{"item_id": "given", "title": "Thing", "vector": [0.5, 0.25]}, {"item_id": "wordless"}]
    assert system.load(rows) == {"new": 2, "changed": 3, "same": 0, "withdrawn": 0, "sent": 5, **NONE_REFUSED}
    assert system.load(rows) == {"new": 0, "changed": 0, "same": 5, "withdrawn": 0, "sent": 0, **NONE_REFUSED}
    told = [json.loads(system.items("show", name, "--json").stdout) for name in ("worded-1", "given", "wordless")]
    assert [len(one.get("vector", ())) for one in told] == [24, 2, 0]
    rows[1]["title"] = "Another thing"
    assert system.load(rows, "--dry-run")["changed"] == 1
    assert system.load(rows)["changed"] == 1
    assert system.load(rows, "--no-embed")["changed"] == 3  # whose vectors are gone again


def test_a_worker_that_is_started_again_reads_the_catalogue_anew(system: System) -> None:
    gone = system.slate()[0]
    system.write(gone.encode(), None)
    assert system.worker.stop() == 0
    with system.deployment.worker() as again:
        system.worker = again
        for _ in range(5):
            assert gone not in system.slate()
        assert again.stop() == 0
