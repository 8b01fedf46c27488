"""Models broken while they serve: slates go on, harm is undone from a snapshot, and in the end nothing is lost by it.

Real models in a real worker; only what breaks them is brought in from outside, for a while in the middle of a log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest

from streamrec.codec import decode_slate
from streamrec.config.groups import Checkpointing, Learning, Limits
from streamrec.config.parts import default_models
from streamrec.config.settings import Settings
from streamrec.engine.batch_result import BatchResult
from streamrec.engine.fusion.fusion import Fusion
from streamrec.engine.learning.quarantine import FUSION, MODEL, unsound
from streamrec.engine.models.covisit import CoVisitation
from streamrec.engine.models.popularity import Popularity
from streamrec.engine.models.sequence import SequenceModel
from streamrec.engine.pipeline import Pipeline
from streamrec.events import Slate
from streamrec.state.memory import MemoryStore
from streamrec.state.snapshots import SnapshotDirectory
from streamrec.testing import records, requests, shop
from streamrec.transport import Record
from streamrec.transport.local import LocalSink, LocalSource
from streamrec.wiring import build_worker

TOPIC = "user-events"
LOG = shop(3_800, seed=11)
BROKEN, MENDED, CALM = 800, 1_408, 2_700
"""Offsets: where the harm begins, where it ends, and from where on nothing should be left of it."""
POLL = 32
MODELS = tuple(name for name in default_models() if name != "clicks")
"""Without the one that takes the longest to learn, and that nothing here breaks."""
PATIENCE = 4
"""A torch model learns in one cut of three here, so that eight strikes would take most of the time of harm."""

Harm = Callable[[Pipeline], AbstractContextManager[None]]
"""What is done around each step, as long as it lasts."""
Part = TypeVar("Part")


class Run:
    """One worker over the log, with a checkpoint after every fourth poll."""

    def __init__(self, directory: Path, harm: Harm = lambda pipeline: nullcontext()) -> None:
        self.slates: list[Slate] = []
        self.hits: dict[int, bool] = {}  # by offset of each wanted item: whether it was in the first ten
        self.refused: list[int] = []  # of the sequence model, at the checkpoints before its first rollback
        self.snapshots = SnapshotDirectory(directory, 3)
        settings = Settings(
            limits=Limits(max_items=512, max_users=500),
            learning=Learning(device="cpu", models=MODELS, rollback_after=PATIENCE),
            checkpoints=Checkpointing(interval_s=1e9),
        )
        source = LocalSource(TOPIC, records(TOPIC, LOG))
        worker = build_worker(
            settings, source, LocalSink(self._note), MemoryStore(), self.snapshots, observer=self._observe
        )
        self.pipeline, self.metrics = worker.pipeline, worker.metrics
        source.subscribe(worker)
        source.poll(0, 0.0)  # joins
        for done in range(0, len(LOG), POLL):
            polled = source.poll(POLL, 0.0)
            with harm(self.pipeline) if BROKEN <= done < MENDED else nullcontext():
                worker.step(polled)
            if done // POLL % 4 == 3:
                if not self.rollbacks("sequence"):
                    self.refused.append(part_of(self.pipeline, SequenceModel).refused)
                worker.checkpoint()

    def _note(self, record: Record) -> None:
        if record.topic == "recommendations":
            self.slates.append(decode_slate(record.value or b"", record.headers))

    def _observe(self, batch_result: BatchResult) -> None:
        trial = batch_result.trial
        for logged, rank, kept in zip(trial.logged_events, trial.ranks[0].tolist(), trial.kept, strict=True):
            if kept:
                self.hits[logged.offset] = 1 <= rank <= 10

    def hit_rate(self, start: int, stop: int = len(LOG)) -> float:
        """Of the fused list, between these offsets."""
        return float(np.mean([hit for offset, hit in self.hits.items() if start <= offset < stop]))

    def rollbacks(self, name: str) -> int:
        return int(self.metrics.registry.get_sample_value("streamrec_rollbacks_total", {"model": name}) or 0)


def part_of(pipeline: Pipeline, kind: type[Part]) -> Part:
    return next(part for part in (*pipeline.models, pipeline.fusion) if isinstance(part, kind))


@contextmanager
def gradients_that_are_no_numbers(pipeline: Pipeline) -> Iterator[None]:
    parameters = list(part_of(pipeline, SequenceModel).learner.tower.parameters())
    hooks = [parameter.register_hook(lambda gradient: gradient * float("nan")) for parameter in parameters]
    yield
    for hook in hooks:
        hook.remove()


@contextmanager
def tables_with_holes_and_a_loss_that_explodes(pipeline: Pipeline) -> Iterator[None]:
    part_of(pipeline, SequenceModel).vectors *= 20.0
    table = part_of(pipeline, CoVisitation).table
    table.weights[: table.rows : 3] = np.nan
    part_of(pipeline, Popularity).mass[5] = np.inf
    yield


@contextmanager
def weights_that_are_no_numbers(pipeline: Pipeline) -> Iterator[None]:
    part_of(pipeline, Fusion).mean[3] = np.nan
    yield


HARMS: Mapping[Harm, tuple[str, ...]] = {
    gradients_that_are_no_numbers: ("sequence",),
    tables_with_holes_and_a_loss_that_explodes: ("sequence", "covisit", "popularity_minutes"),
    weights_that_are_no_numbers: (FUSION,),
}
"""And whom each brings down."""


@pytest.fixture(scope="module")
def unharmed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("unharmed"))


@pytest.fixture(scope="module", params=HARMS, ids=lambda harm: harm.__name__)
def harmed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Harm]:
    with np.errstate(all="ignore"):
        return Run(tmp_path_factory.mktemp("harmed"), request.param), request.param


def test_where_nothing_breaks_nobody_is_suspected(unharmed: Run) -> None:
    assert not any(unharmed.pipeline.quarantine.standing().values())
    assert all(unharmed.rollbacks(name) == 0 for name in (FUSION, *unharmed.pipeline.fusion.models))
    assert [unharmed.snapshots.describe(reference).suspect for reference in unharmed.snapshots.references()] == [()] * 3
    assert unharmed.hit_rate(CALM) > 0.5


def test_slates_keep_coming_all_the_time(harmed: tuple[Run, Harm], unharmed: Run) -> None:
    run, _ = harmed
    assert len(run.slates) == len(requests(LOG))
    assert [slate.request_id for slate in run.slates] == [slate.request_id for slate in unharmed.slates]
    assert [len(slate.items) for slate in run.slates] == [len(slate.items) for slate in unharmed.slates]
    assert run.hit_rate(BROKEN, MENDED) > 0.5 * unharmed.hit_rate(BROKEN, MENDED)


def test_what_broke_is_rolled_back_and_nobody_else(harmed: tuple[Run, Harm]) -> None:
    run, harm = harmed
    assert {name for name in (FUSION, *run.pipeline.fusion.models) if run.rollbacks(name)} == set(HARMS[harm])
    assert not any(run.pipeline.quarantine.standing().values())  # by the end everybody is back


def test_afterwards_all_weights_are_numbers_and_the_slates_as_good_as_ever(
    harmed: tuple[Run, Harm], unharmed: Run
) -> None:
    run, harm = harmed
    parts = ((0, BROKEN), (BROKEN, MENDED), (CALM, len(LOG)))
    rates = [f"{run.hit_rate(*part):.3f} ({unharmed.hit_rate(*part):.3f})" for part in parts]
    print(f"{harm.__name__}: hit rate before, during and after (and unharmed): {', '.join(rates)}")
    state = run.pipeline.state()
    assert unsound(state, [FUSION, *(MODEL + model for model in run.pipeline.fusion.models)]) == []
    assert run.hit_rate(CALM) > 0.95 * unharmed.hit_rate(CALM)


def test_it_takes_as_many_strikes_as_were_set(harmed: tuple[Run, Harm]) -> None:
    run, harm = harmed
    if harm is gradients_that_are_no_numbers:
        assert run.refused[-1] == PATIENCE  # at the checkpoint that rolled it back for the first time
    if "sequence" not in HARMS[harm]:
        assert run.refused[-1] == 0
