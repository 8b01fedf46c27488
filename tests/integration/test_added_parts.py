"""Another package adds a model, a retriever and a policy, each by one file and one entry point, and all work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from streamrec.cli import app
from streamrec.config import parts
from streamrec.config.parts import MODELS, ModelEntry, listing
from streamrec.config.settings import Settings, load_settings
from streamrec.errors import ConfigError
from streamrec.evaluation.backtest.slates import read_slates
from streamrec.state.memory import MemoryStore
from streamrec.state.snapshots import SnapshotDirectory
from streamrec.testing import check_model, check_policy, check_retriever, records, shop
from streamrec.transport.local import LocalSink, LocalSource
from streamrec.wiring import build_worker
from streamrec.worker.loop import Worker

ROOT = Path(__file__).parents[2]
ENTRIES = '''
"""What acme adds: read with the settings, so nothing heavy is imported here."""

from streamrec.config.parts import Finds, ModelEntry, PolicyEntry, RetrieverEntry

FORWARD = ModelEntry(
    "forward",
    "acme.forward:Forward.build",
    default=True,
    presets=("fast",),
    proposes=RetrieverEntry("forward", "streamrec.engine.retrieval.neighbours:Neighbours.build"),
    prior_weight=0.5,
    meant_for="successors",
    about="a Markov chain of the first order",
)
OLDEST = RetrieverEntry("oldest", "acme.oldest:Oldest.build", Finds.OWN, about="the user's past, the oldest first")
BOLTZMANN = PolicyEntry("boltzmann", "acme.boltzmann:Boltzmann.build", "by the exponential of the mean utility")
'''
FORWARD = '''
"""score(item) = log n(last, item), how often the item came next after the last one."""

import numpy as np

from streamrec.engine.arrays.batch import NOTHING


class Forward:
    def __init__(self, name, capacity):
        self.name = name
        self.counts = np.zeros((capacity, capacity), np.float32)
        self.rows = 0

    @classmethod
    def build(cls, parts):
        return cls(parts.name, parts.capacity)

    def score(self, queries, rows, items):
        last = queries.items[rows][:, :1]
        with np.errstate(divide="ignore"):
            return np.where((items == NOTHING) | (last == NOTHING), -np.inf, np.log(self.counts[last, items]))

    def strongest(self, queries, rows, k, excluded):
        out = np.full((len(queries.ts[rows]), k), NOTHING, np.int32)
        for row, last in enumerate(queries.items[rows][:, 0].tolist()):
            if last != NOTHING:
                order = np.argsort(-self.counts[last, : self.rows], kind="stable").astype(np.int32)
                hidden = excluded.hides(order) | (self.counts[last, order] == 0)
                hidden |= np.isin(order, excluded.items[excluded.starts[row] : excluded.starts[row + 1]])
                best = order[~hidden][:k]
                out[row, : len(best)] = best
        return out

    def learn(self, batch):
        examples = batch.examples
        wanted = np.flatnonzero(examples.label[: batch.learned] == 1)
        if len(wanted):
            self.rows = max(self.rows, int(examples.item[wanted].max()) + 1)
            wanted = wanted[(examples.session[wanted] > 0) & (examples.recent[wanted, 0] != NOTHING)]
            np.add.at(self.counts, (examples.recent[wanted, 0], examples.item[wanted]), 1)

    def forget(self, items):
        self.counts[items] = self.counts[:, items] = 0

    def served(self):
        return {"counts": np.ascontiguousarray(self.counts[: self.rows, : self.rows])}

    def serve(self, arrays, changed=None):
        self.counts[:] = 0
        self.rows = len(arrays["counts"])
        self.counts[: self.rows, : self.rows] = arrays["counts"]

    def state(self):
        return {"counts": self.counts[: self.rows, : self.rows].copy()}

    def restore(self, arrays):
        self.counts[:] = 0
        self.rows = len(arrays["counts"])
        self.counts[: self.rows, : self.rows] = arrays["counts"]
'''
OLDEST = '''
"""People come back to what they had long ago."""

import numpy as np

from streamrec.engine.arrays.batch import NOTHING


class Oldest:
    def __init__(self, name):
        self.name = name

    @classmethod
    def build(cls, parts):
        return cls(parts.name)

    def candidates(self, queries, rows, k, excluded):
        out = np.full((len(queries.ts[rows]), k), NOTHING, np.int32)
        for row, past in enumerate(queries.items[rows]):
            own = np.array(list(dict.fromkeys(past[past != NOTHING][::-1].tolist())), np.int32)
            hidden = excluded.hides(own) | np.isin(own, excluded.items[excluded.starts[row] : excluded.starts[row + 1]])
            own = own[~hidden][:k]
            out[row, : len(own)] = own
        return out

    def learn(self, batch):
        pass
'''
BOLTZMANN = '''
"""Plackett and Luce's order by the fusion's mean utility."""

import numpy as np

from streamrec.engine.policies import Components
from streamrec.engine.policies.stateless import Unlearned


class Boltzmann(Unlearned):
    estimated_from = 0

    def __init__(self, name, temperature):
        self.name = name
        self.temperature = temperature

    @classmethod
    def build(cls, parts):
        return cls(parts.name, parts.temperature)

    def components(self, asked, posterior):
        scores = asked.utility[:, :, None] / self.temperature
        return Components(np.ones((len(scores), 1)), scores, scale=1.0 / self.temperature)
'''
POINTS = """
[streamrec.models]
forward = acme.entries:FORWARD
[streamrec.retrievers]
oldest = acme.entries:OLDEST
[streamrec.policies]
boltzmann = acme.entries:BOLTZMANN
"""
SOURCES = {"__init__": "", "entries": ENTRIES, "forward": FORWARD, "oldest": OLDEST, "boltzmann": BOLTZMANN}
CHOSEN = ("popularity", "popularity_days", "transitions", "forward")


@pytest.fixture
def install(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Installs the package, with these entry points, until the test ends; returns where."""
    place = tmp_path / "site-packages"

    def install(entry_points: str) -> Path:
        for name, source in SOURCES.items():
            (place / "acme").mkdir(parents=True, exist_ok=True)
            (place / "acme" / f"{name}.py").write_text(source)
        about = place / "acme-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(entry_points)
        sys.path.insert(0, str(place))
        return place

    yield install
    sys.path.remove(str(place))
    for name in [name for name in sys.modules if name.partition(".")[0] == "acme"]:
        del sys.modules[name]


@pytest.fixture
def installed(install: Callable[[str], Path]) -> Iterator[None]:
    install(POINTS)
    with listing():  # what was read before it was there is read again, here and afterwards
        yield


@pytest.mark.usefixtures("installed")
def test_what_another_package_adds_is_listed_after_ours_and_can_be_set() -> None:
    assert list(parts.models()) == [*(entry.name for entry in MODELS), "forward"]
    assert "forward" in Settings().learning.models
    assert "forward" in load_settings(preset="fast").learning.models
    assert "forward" in Settings().scenarios["similar"].retrievers
    assert load_settings(fusion__policy="boltzmann").fusion.policy == "boltzmann"
    assert load_settings(rollout__baseline="model:forward").rollout.baseline == "model:forward"


@pytest.mark.usefixtures("installed")
def test_what_another_package_adds_can_be_checked_as_ours_is() -> None:
    forward = parts.models()["forward"]
    check_model(forward)
    check_retriever(forward)
    check_retriever(parts.retrievers()["oldest"])
    check_policy(parts.policies()["boltzmann"])


def log(path: Path) -> Path:
    """Forty users walk on a ring of sixty items, mostly to the next one."""
    rng, rows, ts = np.random.default_rng(3), [], 1_700_000_000_000
    for _ in range(300):
        user, item = int(rng.integers(40)), int(rng.integers(60))
        for _ in range(4):
            item = (item + int(rng.choice([1, 2], p=[0.9, 0.1]))) % 60
            rows.append({"ts": ts, "user_id": f"u{user}", "item_id": f"i{item}", "type": "view"})
            ts += 3_000
    pl.DataFrame(rows).write_parquet(path)
    return path


@pytest.mark.usefixtures("installed")
def test_a_backtest_learns_ranks_and_draws_with_what_another_package_adds(tmp_path: Path) -> None:
    settings = tmp_path / "streamrec.toml"
    settings.write_text(
        f"[limits]\nmax_items = 500\n[learning]\nmodels = {json.dumps(CHOSEN)}\n"
        '[fusion]\nform = "linear"\npolicy = "boltzmann"\n'
    )
    typed = ["backtest", str(log(tmp_path / "log.parquet")), "--config", str(settings), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, typed)
    assert result.exit_code == 0, result.output
    metrics = json.loads((tmp_path / "out" / "report.json").read_text())["metrics"]
    print({name: values["recall_10"] for name, values in metrics.items()})
    assert set(metrics) == {"fused", *CHOSEN}
    for name in ("forward", "fused"):
        assert metrics[name]["recall_10"] > 2 * metrics["popularity"]["recall_10"]
    assert "rank_forward" in read_slates(tmp_path / "out" / "slates.parquet").column_names
    assert "forward" in result.output


@pytest.mark.usefixtures("installed")
def test_what_it_learned_is_saved_and_restored(tmp_path: Path) -> None:
    settings = load_settings(
        limits__max_items=500,
        learning__models=CHOSEN,
        learning__device="cpu",
        fusion__form="linear",
        fusion__policy="boltzmann",
    )
    events, store = records("user-events", shop(300, seed=7)), MemoryStore()

    def worker() -> tuple[Worker, LocalSource]:
        source = LocalSource("user-events", events)
        snapshots = SnapshotDirectory(tmp_path / "snapshots", 3)
        one = build_worker(settings, source, LocalSink(), store, snapshots)
        source.subscribe(one)
        source.poll(0, 0.0)  # joins, and takes up what was saved
        return one, source

    first, source = worker()
    first.step(source.poll(1_000, 0.0))
    first.checkpoint()
    second, _ = worker()
    for one in (first, second):
        assert [model.name for model in one.pipeline.models] == list(CHOSEN)
        assert {"forward", "oldest"} <= {retriever.name for retriever in one.pipeline.retrievers}
        assert one.pipeline.fusion.mean.shape == first.pipeline.fusion.mean.shape
    assert "forward" in first.pipeline.schema
    learned, restored = (one.pipeline.models[-1].state()["counts"] for one in (first, second))
    assert learned.sum() > 50
    assert learned.tobytes() == restored.tobytes()


@pytest.mark.parametrize(
    ("entry_points", "said"),
    [
        ("[streamrec.models]\ngone = acme.gone:ENTRY\n", r"entry point 'gone' \(acme.gone:ENTRY\) of package acme"),
        ("[streamrec.policies]\nforward = acme.entries:FORWARD\n", "is of type ModelEntry, expected .*PolicyEntry"),
        (
            "[streamrec.models]\na = acme.entries:FORWARD\nb = acme.entries:FORWARD\n",
            "two model entries are called",
        ),
    ],
)
def test_a_broken_entry_point_is_named(install: Callable[[str], Path], entry_points: str, said: str) -> None:
    install(entry_points)
    with pytest.raises(ConfigError, match=said), listing():
        pass


def test_a_command_ends_with_one_line_about_a_broken_entry_point(install: Callable[[str], Path]) -> None:
    place = install("[streamrec.models]\ngone = acme.gone:ENTRY\n")
    ended = subprocess.run(
        [sys.executable, "-m", "streamrec.cli", "config"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(place)])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith(
        "streamrec: entry point 'gone' (acme.gone:ENTRY) of package acme in group streamrec.models"
    )
    assert "Traceback" not in ended.stderr


def test_an_entry_whose_code_is_not_there_is_named_when_it_is_built() -> None:
    lost = ModelEntry("lost", "acme.lost:Lost.build", meant_for="successors")
    with listing(lost), pytest.raises(ConfigError, match=r"'lost' is listed as 'acme.lost:Lost.build', which"):
        check_model(lost)


@pytest.mark.parametrize("name", ["covisit", "Upper", "fused", ""])
def test_a_name_must_be_new_and_a_word(name: str) -> None:
    with pytest.raises(ConfigError, match="called"), listing(ModelEntry(name, "acme.lost:Lost.build")):
        pass
    assert "covisit" in parts.models()
