"""Progressive figures worked by hand, drift that was planted, and none where there is none."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator

import numpy as np
import pytest

from streamrec.config.groups import Learning, Limits
from streamrec.config.settings import Settings
from streamrec.engine.arrays.batch import MicroBatch
from streamrec.engine.arrays.logged_event import LoggedEvent
from streamrec.engine.learning.prequential import (
    FIRST_BLOCKS,
    WORST,
    DriftAlarm,
    ListStanding,
    Measure,
    PrequentialRecord,
    Watch,
)
from streamrec.engine.learning.trial import Trial
from streamrec.events import Event, EventType
from streamrec.wiring import build_pipeline, run_engine
from streamrec.worker.metrics import Metrics

BEGAN = 1_700_000_000_000
LISTS = ("fused", "first", "second")


def ranked(scores: list[list[float]], target: int) -> MicroBatch:
    """One query over the items 0, 1, 2 ..., scored by the fused list and by two models, and what came of it."""
    batch = MicroBatch.empty(1, 1, len(scores) - 1, 1)
    width = len(scores[0])
    batch.candidates.items[0, :width] = np.arange(width)
    batch.candidates.utility[0, :width] = scores[0]
    batch.candidates.scores[:, 0, :width] = scores[1:]
    batch.examples.query[0], batch.examples.item[0] = 0, target
    batch.asked = batch.learned = 1
    return batch


def trial(ranks: list[int], kept: bool = True, offset: int = 0) -> Trial:
    event = Event(type=EventType.CLICK, user_id="u", item_id="i", ts=BEGAN + offset)
    return Trial([LoggedEvent(event, 0, offset)], [True], [0], np.array(ranks, np.int8)[:, None], [kept])


def test_a_case_worked_by_hand() -> None:
    progress = PrequentialRecord(LISTS)
    unknown = -math.inf
    batch = ranked([[0.0, math.log(3.0), 0.0], [unknown, 2.0, unknown], [0.0, unknown, 0.0]], target=1)
    assert progress.tried(trial([1, 1, 11]), batch, slice(0, 1)) == []
    assert progress.recent() == progress.overall()
    found = progress.overall()
    assert found["fused"] == ListStanding(pytest.approx(-math.log(3 / 5)), 1.0)
    assert found["first"] == ListStanding(0.0, 1.0)
    assert found["second"] == ListStanding(WORST, 0.0)


def test_a_target_that_nobody_proposed_is_lost_by_all() -> None:
    progress = PrequentialRecord(LISTS)
    progress.tried(trial([0, 0, 0]), ranked([[1.0, 2.0]] * 3, target=7), slice(0, 1))
    assert set(progress.overall().values()) == {ListStanding(WORST, 0.0)}


def test_no_single_target_counts_for_more_than_the_worst() -> None:
    progress = PrequentialRecord(LISTS)
    progress.tried(trial([2, 2, 2]), ranked([[0.0, 300.0]] * 3, target=0), slice(0, 1))
    assert set(progress.overall().values()) == {ListStanding(WORST, 1.0)}


def test_what_teaches_nothing_is_not_counted() -> None:
    progress = PrequentialRecord(LISTS)
    progress.tried(trial([1, 1, 1], kept=False), ranked([[1.0, 2.0]] * 3, target=0), slice(0, 1))
    assert progress.examples == 0
    assert progress.overall() == progress.recent() == {}


def test_recent_means_follow_and_overall_means_remember() -> None:
    progress = PrequentialRecord(LISTS)
    good, bad = ranked([[9.0, 0.0]] * 3, target=0), ranked([[9.0, 0.0]] * 3, target=1)
    for _ in range(2_000):
        progress.tried(trial([1, 1, 1]), good, slice(0, 1))
    for _ in range(1_024):
        progress.tried(trial([0, 0, 0]), bad, slice(0, 1))
    assert progress.recent()["fused"].hit_rate == pytest.approx(0.25, abs=0.03)  # two half-lives
    assert progress.overall()["fused"].hit_rate == pytest.approx(2_000 / 3_024)
    assert progress.recent()["fused"].loss > progress.overall()["fused"].loss


# Drift


def blocks(count: int, seed: int = 0, loss: float = 5.0, hit_rate: float = 0.4) -> Iterator[np.ndarray]:
    """Mean losses and hit rates of blocks, (2, 1), as noisy and as alike their neighbours as on real logs."""
    rng, noise = np.random.default_rng(seed), 0.0
    for _ in range(count):
        noise = 0.3 * noise + float(rng.normal(0, 0.6))
        yield np.array([[loss + noise], [float(np.clip(hit_rate - noise / 10, 0, 1))]])


def alarms(watch: Watch, means: Iterator[np.ndarray]) -> list[tuple[int, ListStanding, ListStanding]]:
    return [(at, before, after) for at, block in enumerate(means) for _, before, after in watch.look(block)]


@pytest.mark.parametrize("seed", range(4))
def test_where_nothing_changes_nothing_is_said(seed: int) -> None:
    assert len(alarms(Watch(1), blocks(2_500, seed))) <= 1  # 80,000 examples


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shift", [1.0, 2.5])
def test_a_lasting_change_for_the_worse_is_found_soon_and_said_once(seed: int, shift: float) -> None:
    watch = Watch(1)
    assert alarms(watch, blocks(400, seed)) == []
    found = alarms(watch, blocks(250, seed + 10, 5.0 + shift, 0.4 - shift / 10))
    assert len(found) == 1
    at, before, after = found[0]
    assert at < 60 / shift
    assert before.loss == pytest.approx(5.0, abs=0.2)
    assert before.hit_rate == pytest.approx(0.4, abs=0.02)
    assert after.loss == pytest.approx(5.0 + shift, abs=0.5)
    assert after.hit_rate == pytest.approx(0.4 - shift / 10, abs=0.05)


def hits(count: int, rate: float, seed: int) -> Iterator[np.ndarray]:
    """Blocks whose loss stays what it is, (2, 1): so many of thirty-two targets are in the first ten, by chance."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        yield np.array([[5.0], [rng.binomial(32, rate) / 32]])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("rate", [0.05, 0.2, 0.6])
def test_where_the_hit_rate_stays_nothing_is_said(rate: float, seed: int) -> None:
    assert alarms(Watch(1, Measure.HIT_RATE), hits(2_500, rate, seed)) == []  # 80,000 examples


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("rate", "left", "blocks_later"), [(0.2, 0.0, 25), (0.6, 0.0, 5), (0.6, 0.3, 15)])
def test_a_hit_rate_that_collapses_while_the_loss_stays_is_found(
    rate: float, left: float, blocks_later: int, seed: int
) -> None:
    by_loss, by_hits = Watch(1), Watch(1, Measure.HIT_RATE)
    for watch in (by_loss, by_hits):
        assert alarms(watch, hits(400, rate, seed)) == []
    assert alarms(by_loss, hits(100, left, seed + 10)) == []
    ((at, before, after),) = alarms(by_hits, hits(100, left, seed + 10))
    assert at < blocks_later
    assert before.hit_rate == pytest.approx(rate, abs=0.03)
    assert after.hit_rate < (rate + left) / 2  # of few blocks, one may be of before


def test_a_hit_rate_that_grows_becomes_what_is_usual() -> None:
    watch = Watch(1, Measure.HIT_RATE)
    assert alarms(watch, hits(400, 0.2, 0)) == alarms(watch, hits(400, 0.5, 1)) == []
    ((_, before, _),) = alarms(watch, hits(100, 0.2, 2))
    assert before.hit_rate == pytest.approx(0.5, abs=0.03)


def test_an_improvement_becomes_what_is_usual() -> None:
    watch = Watch(1)
    assert alarms(watch, blocks(400)) == alarms(watch, blocks(400, 1, 3.0, 0.6)) == []
    ((_, before, after),) = alarms(watch, blocks(100, 2))
    assert before.loss == pytest.approx(3.0, abs=0.2)
    assert after.loss == pytest.approx(5.0, abs=0.5)


def test_learning_is_no_drift() -> None:
    watch = Watch(1)
    falling = (block - np.array([[2.0 * (1 - math.exp(-at / 400))], [0.0]]) for at, block in enumerate(blocks(1_500)))
    assert alarms(watch, falling) == []


def test_nothing_is_said_before_it_is_known_what_is_usual() -> None:
    steps = (block + 5.0 * (at > 10) for at, block in enumerate(blocks(2 * FIRST_BLOCKS - 2)))
    assert alarms(Watch(1), steps) == []


# Over portions of a log


def micro_batch(number: int) -> tuple[MicroBatch, Trial]:
    """Thirty-two queries with made-up scores; from the ninetieth micro-batch on, `second` knows no target any more."""
    rng = np.random.default_rng(number)
    batch = MicroBatch.empty(32, 32, 2, 1)
    batch.candidates.items[:, :40] = np.arange(40)
    batch.candidates.utility[:, :40] = rng.normal(size=(32, 40))
    batch.candidates.scores[:, :, :40] = rng.normal(size=(2, 32, 40))
    targets = rng.integers(0, 44, 32)  # some are no candidates
    if number >= 90:
        batch.candidates.scores[1, np.arange(32), targets] = -np.inf
    batch.examples.query[:], batch.examples.item[:] = np.arange(32), targets
    batch.asked = batch.learned = 32
    logged_events = [
        LoggedEvent(Event(type=EventType.CLICK, user_id="u", item_id="i", ts=BEGAN), 0, 32 * number + row)
        for row in range(32)
    ]
    kept = (rng.random(32) < 0.9).tolist()
    return batch, Trial(logged_events, [True] * 32, list(range(32)), rng.integers(0, 21, (3, 32)).astype(np.int8), kept)


def follow(progress: PrequentialRecord, numbers: range, portion: int) -> list[DriftAlarm]:
    """Take these micro-batches in portions of a size."""
    drifts = []
    for number in numbers:
        batch, trial = micro_batch(number)
        for start in range(0, 32, portion):
            part = slice(start, min(start + portion, 32))
            some = Trial(
                trial.logged_events[part], trial.known[part], trial.rows[part], trial.ranks[:, part], trial.kept[part]
            )
            drifts += progress.tried(some, batch, part)
    return drifts


def bits(progress: PrequentialRecord) -> dict[str, bytes]:
    return {name: values.tobytes() for name, values in progress.state().items()}


@pytest.mark.parametrize("portion", [1, 5])
def test_how_the_log_was_cut_changes_nothing(portion: int) -> None:
    whole, cut = PrequentialRecord(LISTS), PrequentialRecord(LISTS)
    assert follow(whole, range(110), 32) == follow(cut, range(110), portion)
    assert bits(whole) == bits(cut)


@pytest.mark.parametrize("place", [3, 41, 91, 105])
def test_a_restored_progress_goes_on_as_if_nothing_had_happened(place: int) -> None:
    whole, first, second = PrequentialRecord(LISTS), PrequentialRecord(LISTS), PrequentialRecord(LISTS)
    expected = follow(whole, range(110), 32)
    before = follow(first, range(place), 32)
    second.restore(first.state())
    assert bits(first) == bits(second)
    assert before + follow(second, range(place, 110), 32) == expected
    assert bits(second) == bits(whole)
    assert len(expected) == 1


def test_a_drift_says_whose_when_and_what() -> None:
    (drift,) = follow(PrequentialRecord(LISTS), range(110), 32)
    assert drift.name == "second"
    assert 90 * 32 < int(drift.place.removeprefix("user-events-0-")) < 97 * 32
    assert drift.after.loss == pytest.approx(WORST)
    assert drift.before.loss < 6.0
    assert drift.measure is Measure.LOSS  # the ranks stayed what they were


def test_a_world_that_turns_is_noticed_in_the_models_that_followed_it() -> None:
    """Strolls along a ring of forty items: they go round one way, and then another."""
    rng, at, events = np.random.default_rng(3), np.zeros(30, np.int64), []
    for offset in range(3_300):
        user = int(rng.integers(30))
        at[user] = rng.integers(40) if rng.random() < 0.1 else (at[user] + (1 if offset < 2_700 else 17)) % 40
        ts = BEGAN + 1_000 * offset
        events.append(Event(type=EventType.CLICK, user_id=f"u{user}", item_id=f"i{at[user]}", ts=ts))
    limits = Limits(max_items=500, max_users=500)
    pipeline = build_pipeline(Settings(limits=limits, learning=Learning(device="cpu")))
    progress, drifts = pipeline.progress, []
    for portion in run_engine(pipeline, events):
        drifts += portion.drifts
    print(*drifts, sep="\n")
    assert {"fused", "transitions", "sequence"} <= {drift.name for drift in drifts}
    assert not {"popularity", "popularity_days"} & {drift.name for drift in drifts}
    assert all(int(drift.place.rsplit("-", 1)[1]) >= 2_700 for drift in drifts)
    told(Metrics(progress.lists), progress, drifts)


def told(metrics: Metrics, progress: PrequentialRecord, drifts: list[DriftAlarm]) -> None:
    """What Prometheus is told of it."""
    metrics.drifted(drifts)
    metrics.stand(progress.recent())
    value = metrics.registry.get_sample_value
    for name, standing in progress.recent().items():
        assert value("streamrec_progressive_loss", {"list": name}) == standing.loss
        assert value("streamrec_hit_rate", {"list": name}) == standing.hit_rate
        for measure in Measure:
            of_it = sum((drift.name, drift.measure) == (name, measure) for drift in drifts)
            assert (value("streamrec_drift_total", {"model": name, "measure": measure}) or 0) == of_it


def test_a_drift_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    drift = DriftAlarm(
        "sequence", BEGAN, "user-events-0-812", ListStanding(3.1, 0.41), ListStanding(4.2, 0.22), Measure.HIT_RATE
    )
    with caplog.at_level(logging.WARNING):
        Metrics(["fused", "sequence"]).drifted([drift])
    assert caplog.messages == [
        "a list does worse than usual list='sequence' measure='hit rate' place='user-events-0-812' "
        "loss=(3.1, 4.2) hit_rate=(0.41, 0.22)"
    ]
