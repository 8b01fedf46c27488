"""The training log that a data team reads is what the examples topic says, place by place."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest

from streamrec.cli.commands import examples as command
from streamrec.demo.embedded import EmbeddedBroker, EmbeddedRedis
from streamrec.engine.answering import Answering
from streamrec.engine.arrays.batch import HISTORY
from streamrec.engine.examples import FLOAT16, FLOAT64, Ended, Example, Feedback, encoded
from streamrec.errors import ConfigError
from streamrec.learner.catalogue_relay import PLACE
from streamrec.testing import shop
from streamrec.transport import Headers
from streamrec.wiring import bring_in, build_pipeline, kafka_sink
from streamrec.wiring.engine_run import logged
from tests.support.deployment import Deployment

LOG = shop(300, seed=4)
CAME = Ended(
    "user-1",
    "user-events-0-9",
    Feedback(
        policy="plackett-luce",
        context=1,
        ts=LOG[0].ts,
        items=("item-1", ""),
        features=np.zeros((2, 3), FLOAT16).tobytes(),
        propensity=np.array([0.5, 0.25], FLOAT64).tobytes(),
        reward=np.array([1.0, -0.5], FLOAT64).tobytes(),
        candidates=40,
        traces={},
        schema=1,
    ),
)


def taught(deployment: Deployment) -> list[Example]:
    """What the log teaches, the last event with the end of a slate."""
    given = {"learning": {"models": ("popularity",), "exclude_seen": True}, "fusion": {"form": "linear"}}
    pipeline = build_pipeline(type(deployment.settings).model_validate(given), serving=True)
    events = list(logged(LOG))
    bring_in(pipeline, events)
    found = [one for result in Answering(pipeline).process(events) for one in result.examples.values()]
    return [*found[:-1], msgspec.structs.replace(found[-1], ended=(CAME,))]


def publish(deployment: Deployment, values: Sequence[bytes], headers: Headers = ()) -> None:
    with closing(kafka_sink(deployment.settings)) as sink:
        for value in values:
            sink.publish(deployment.settings.topics.examples, b"0", value, headers)


@pytest.fixture
def deployment(tansu: EmbeddedBroker, redis_server: EmbeddedRedis, tmp_path: Path) -> Deployment:
    return Deployment(tmp_path, tansu.settings, redis_server.url, preset="fast")


def test_every_event_of_a_time_is_a_row_and_so_is_every_place_of_a_slate(
    deployment: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    examples = taught(deployment)
    records = [encoded(example) for example in examples]
    publish(deployment, [*records[:100], b"no example", b"", *records[100:]])
    publish(deployment, [b'{"item_id": "item-1"}', b""], ((PLACE, b"0:7:1700000000000"),))
    monkeypatch.setattr(command, "GROUP_ROWS", 64)
    monkeypatch.setattr(command, "FILE_ROWS", 100)
    out = tmp_path / "log"
    command.run(deployment.settings, out, command.Span(since=LOG[20].ts), as_json=True)
    said = json.loads(capsys.readouterr().out)
    expected = [example for example in examples if example.ts >= LOG[20].ts]
    names = ["examples-00000.parquet", "examples-00001.parquet", "examples-00002.parquet", "feedback-00000.parquet"]
    assert said == {
        "topic": deployment.settings.topics.examples,
        "examples": len(expected),
        "feedback": 2,
        "unreadable": 2,
        "files": names,
    }
    assert sorted(path.name for path in out.iterdir()) == names
    assert [pq.read_metadata(out / name).num_rows for name in names[:2]] == [100, 100]

    rows = [row for name in names[:3] for row in pq.read_table(out / name).to_pylist()]
    for row, example in zip(rows, expected, strict=True):
        assert (row["offset"], row["user_id"], row["type"]) == (example.offset, example.user_id, example.type.value)
        assert int(row["ts"].timestamp() * 1000 + 0.5) == example.ts
        assert (row["label"], row["item_id"], row["category"]) == (example.label, example.item_id, example.category)
        assert row["shown"] == (list(example.shown) or None)
        if example.query is None:
            assert row["history_items"] is None
        else:
            assert row["history_items"] == [name or None for name in example.query.items]
            assert len(row["history_ages_s"]) == len(row["history_steps"]) == len(row["history_items"]) <= HISTORY
            assert len(row["categories"]) == len(row["affinity"])
            assert set(row["history_items"]) <= {*(row["excluded"] or row["history_items"]), None}
    assert any(row["categories"] for row in rows)
    assert any(row["excluded"] for row in rows)
    places = pq.read_table(out / names[3]).to_pylist()
    assert [(row["position"], row["item_id"], row["propensity"], row["reward"]) for row in places] == [
        (1, "item-1", 0.5, 1.0),
        (2, None, 0.25, -0.5),
    ]
    assert {row["rec_id"] for row in places} == {CAME.rec_id}
    with pytest.raises(ConfigError, match=r"holds 'examples-00000.parquet' already"):
        command.run(deployment.settings, out, command.Span(), as_json=True)


def test_it_is_typed_and_says_what_it_left_out(deployment: Deployment, tmp_path: Path) -> None:
    publish(deployment, [encoded(taught(deployment)[0]), b"no example"])
    until = str(LOG[0].ts)
    printed = deployment.command("examples", "--out", str(tmp_path / "none"), "--until", until)
    assert printed.returncode == 0, printed.stderr
    assert "0 examples and 0 places of slates" in printed.stdout
    assert "1 records of" in printed.stdout
    assert pq.read_table(tmp_path / "none" / "examples-00000.parquet").schema == command.EVENTS
    assert deployment.command("examples", "--out", str(deployment.config)).returncode == 2
