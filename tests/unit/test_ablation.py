"""A lag delays exactly what it says and nothing else; tables follow from their runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from streamrec.cli import app
from streamrec.config.groups import Learning, Limits
from streamrec.config.parts import BASELINE
from streamrec.config.settings import Settings
from streamrec.engine.arrays.batch import HISTORY, NOTHING
from streamrec.engine.batch_result import BatchResult
from streamrec.engine.learning.ranking_metrics import RankingMetrics
from streamrec.engine.pipeline import Pipeline
from streamrec.errors import ConfigError, LogError
from streamrec.evaluation.backtest.ablation import (
    DEFAULT_DELAYS,
    EACH,
    RunResult,
    Variant,
    comparisons,
    markdown_tables,
)
from streamrec.evaluation.backtest.delays import LateLearning, StaleContext
from streamrec.events import Event, EventType
from streamrec.wiring import build_pipeline, run_engine

BEGAN = 1_700_000_000_000
MODELS = (BASELINE, "covisit", "transitions")


def untaught(micro_batch: int, max_items: int = 400) -> Pipeline:
    limits = Limits(max_items=max_items, max_users=500)
    learning = Learning(device="cpu", micro_batch=micro_batch, micro_batch_s=1e6, collapse_repeats=True)
    return build_pipeline(Settings(limits=limits, learning=learning))


def log_of(count: int, items: int = 60) -> list[Event]:
    """Strolls along a ring, with baskets, repeats and impressions."""
    rng, events, ts, user = np.random.default_rng(4), [], BEGAN, 0
    at = rng.integers(0, items, 20)
    for _ in range(count):
        if rng.random() < 0.7:  # else another one of the same basket
            user, ts = int(rng.integers(20)), ts + 4_000
        at[user] = (at[user] + int(rng.choice([0, 1, 2], p=[0.2, 0.6, 0.2]))) % items
        kind = EventType.IMPRESSION if rng.random() < 0.1 else EventType.CLICK
        events.append(Event(type=kind, user_id=f"u{user}", item_id=f"i{at[user]}", ts=ts))
    return events


def handle(
    pipeline: Pipeline, events: Sequence[Event], watch: Sequence[Callable[[BatchResult], None]] = (), first: int = 0
) -> None:
    for batch_result in run_engine(pipeline, events, first=first):
        for observer in watch:
            observer(batch_result)


def learned(pipeline: Pipeline) -> int:
    """Examples that a model has learned."""
    (model,) = (model for model in pipeline.models if model.name == "repeats")
    return int(model.state()["events"].sum())


# Learning late


@pytest.mark.parametrize("delay", [1, 2, 50])
def test_an_example_is_learned_when_the_nth_event_after_it_begins(delay: int) -> None:
    pipeline, events = untaught(micro_batch=1), [event for event in log_of(200) if event.type is EventType.CLICK]
    late, behind = LateLearning(pipeline, delay), []
    teaching = []

    def count(batch_result: BatchResult) -> None:
        behind.append(sum(teaching) - learned(pipeline))  # as the event comes, before it is counted
        teaching.append(any(batch_result.trial.kept))

    handle(pipeline, events, [count, late])
    for at in range(len(events)):
        assert behind[at] == sum(teaching[max(0, at - delay + 1) : at])


def test_without_a_delay_it_is_the_plain_system_bit_by_bit() -> None:
    plain, late = untaught(micro_batch=1), untaught(micro_batch=1)
    handle(plain, log_of(150))
    handle(late, log_of(150), [LateLearning(late, 1)])
    assert {
        (part, name): values.tobytes() for part, arrays in plain.state().items() for name, values in arrays.items()
    } == {(part, name): values.tobytes() for part, arrays in late.state().items() for name, values in arrays.items()}


def test_a_micro_batch_waits_for_its_last_example() -> None:
    pipeline, counts = untaught(micro_batch=32), []
    late = LateLearning(pipeline, 100)
    handle(pipeline, log_of(400), [late, lambda batch_result: counts.append(learned(pipeline))])
    assert counts[:5] == [0] * 5  # the first 32 are learned at the first cut with a hundred events after them
    assert all(0 < now - before <= 32 for before, now in pairwise(counts[4:]))


def test_users_state_moves_at_once_however_late_the_learning() -> None:
    late, plain = untaught(micro_batch=8), untaught(micro_batch=8)
    handle(late, log_of(150), [LateLearning(late, 10_000)])
    handle(plain, log_of(150))
    assert learned(late) == 0
    for array in ("items", "times", "pushed"):
        assert np.array_equal(getattr(late.features.history, array), getattr(plain.features.history, array))


def test_what_waits_is_learned_before_its_items_are_forgotten() -> None:
    pipeline = untaught(micro_batch=8, max_items=64)
    late, forgotten = LateLearning(pipeline, 10_000), []
    (model,) = (model for model in pipeline.models if model.name == "repeats")
    forget = model.forget

    def spy(items: np.ndarray) -> None:
        forget(items)
        forgotten.append(learned(pipeline))

    model.forget = spy  # type: ignore[method-assign]
    handle(pipeline, log_of(600, items=300), [late])
    assert len(forgotten) > 2
    assert min(forgotten) > 0


# Knowing users late


@pytest.mark.parametrize("delay", [1, 3, 40])
def test_queries_see_the_history_without_the_latest_events_of_the_log(delay: int) -> None:
    pipeline, events = untaught(micro_batch=1), log_of(250)
    stale, seen = StaleContext(pipeline, delay), {}

    def look(batch_result: BatchResult) -> None:
        for logged, row in zip(batch_result.trial.logged_events, batch_result.trial.rows, strict=True):
            queries, ids = pipeline.batch.queries, pipeline.features.items.ids
            there = queries.items[row][queries.items[row] != NOTHING]
            seen[logged.offset] = [ids[item] for item in there], int(queries.session[row])

    handle(pipeline, events, [look, stale])
    touched: dict[str, list[tuple[int, str]]] = {}  # by user, what entered the history and when
    opened: dict[str, tuple[int, int]] = {}  # by user, the time and place of the latest query
    for at, event in enumerate(events):
        if event.type is EventType.IMPRESSION:
            continue
        began, place = opened.get(event.user_id, (-1, 0))
        place = place if began == event.ts else at
        opened[event.user_id] = event.ts, place
        history = touched.setdefault(event.user_id, [])
        past = [item for when, item in history if when < place - delay][::-1][:HISTORY]
        assert seen[at] == (past, len(past))
        if not history or history[-1][1] != event.item_id:  # a repeat counts once
            history.append((at, event.item_id or ""))


# What is run, and what is written


def test_without_anything_asked_for_learning_is_delayed() -> None:
    (runs,) = comparisons(MODELS, (), (), ())
    assert runs == [Variant(learning_delay=delay) for delay in DEFAULT_DELAYS]


def test_every_comparison_begins_with_what_it_is_compared_to() -> None:
    late, without = comparisons(MODELS, (512, 64, 64), (8,), ("covisit",))
    assert late == [*(Variant(learning_delay=delay) for delay in (1, 64, 512)), Variant(context_delay=8)]
    assert without == [Variant(), Variant(without="covisit")]


def test_each_leaves_every_model_out_once_but_the_one_that_fills_lists() -> None:
    ((whole, *runs),) = comparisons(MODELS, (), (), (EACH, "covisit"))
    assert whole == Variant()
    assert [run.without for run in runs] == ["covisit", "transitions"]


@pytest.mark.parametrize("name", ["covist", BASELINE, ""])
def test_a_model_that_cannot_be_left_out_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="expected one of covisit, transitions, or 'each'") as refused:
        comparisons(MODELS, (), (), (name,))
    assert ("did you mean covisit?" in str(refused.value)) == (name == "covist")


def test_a_variant_changes_one_thing() -> None:
    settings = Settings(learning=Learning(micro_batch=32, seed=5))
    assert Variant().settings(settings, MODELS) == settings
    assert Variant(learning_delay=512).settings(settings, MODELS) == settings
    assert Variant(learning_delay=4).settings(settings, MODELS).learning.micro_batch == 4
    assert Variant(context_delay=64).settings(settings, MODELS).learning.micro_batch == 1
    assert Variant(without="covisit").settings(settings, MODELS).learning.models == (BASELINE, "transitions")
    assert Variant(without="covisit").settings(settings, MODELS).learning.seed == 5


def run_result(variant: Variant, **recall: float) -> RunResult:
    metrics = {name: RankingMetrics(100, value, value, value / 2, value / 2) for name, value in recall.items()}
    return RunResult(variant, metrics, 1_000, 2.0)


def test_tables_say_how_much_is_lost() -> None:
    runs = [
        run_result(Variant(learning_delay=1), fused=0.4, covisit=0.2, repeats=0.0),
        run_result(Variant(learning_delay=512), fused=0.39, covisit=0.21, repeats=0.0),
    ]
    recall, mrr = markdown_tables(runs)
    assert recall.title == "Recall@10, 100 targets"
    assert recall.header == ["", "learning 1 late", "learning 512 late"]
    assert recall.rows[0] == ["fused", "0.4000", "0.3900 (-2.5%)"]
    assert recall.rows[1] == ["covisit", "0.2000", "0.2100 (+5.0%)"]
    assert recall.rows[2] == ["repeats", "0.0000", "0.0000"]
    assert mrr.rows[0] == ["fused", "0.2000", "0.1950 (-2.5%)"]
    assert "| fused | 0.4000 | 0.3900 (-2.5%) |" in recall.markdown()
    (without,) = markdown_tables([run_result(Variant(), fused=0.4), run_result(Variant(without="covisit"), fused=0.3)])
    assert without.rows == [
        ["everything", "0.4000", "0.2000"],
        ["without covisit", "0.3000 (-25.0%)", "0.1500 (-25.0%)"],
    ]


def test_the_command_writes_what_it_prints(tmp_path: Path) -> None:
    rows = [{"ts": e.ts, "user_id": e.user_id, "item_id": e.item_id, "type": e.type.value} for e in log_of(400)]
    pl.DataFrame(rows).write_parquet(tmp_path / "events.parquet")
    config = tmp_path / "streamrec.toml"
    config.write_text('[limits]\nmax_items = 2000\nmax_users = 2000\n[learning]\ndevice = "cpu"\n')
    typed = ["ablate", str(tmp_path / "events.parquet"), "--out", str(tmp_path / "out"), "--config", str(config)]
    typed += ["--delay", "200", "--context-delay", "50"]
    result = CliRunner().invoke(app, typed)
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "out" / "ablation.json").read_text())
    (runs,) = found["comparisons"]
    assert [run["run"] for run in runs] == ["learning 1 late", "learning 200 late", "context 50 late"]
    assert {run["events"] for run in runs} == {400}
    fused = [run["metrics"]["fused"]["recall_10"] for run in runs]
    assert fused[1] < 0.7 * fused[0]
    assert fused[2] < fused[0]
    assert runs[1]["change"]["fused"]["recall_10"] == pytest.approx(fused[1] / fused[0] - 1)
    page = (tmp_path / "out" / "ablation.md").read_text()
    assert f"| fused | {fused[0]:.4f} |" in page
    assert f"{fused[0]:.4f}" in result.output
    costs = next(line for line in found["verdict"] if "earning 200 late" in line)
    assert "costs" in costs
    assert f"{100 * (fused[1] - fused[0]):+.2f}" in costs
    assert costs in result.output
    assert found["verdict"][0] in (tmp_path / "out" / "ablation.html").read_text()
    assert "best single list" in found["verdict"][-1]
    as_json = CliRunner().invoke(app, [*typed, "--json"])
    assert json.loads(as_json.stdout) == json.loads((tmp_path / "out" / "ablation.json").read_text())
    assert (found["refused_rows"], found["refused"]) == (0, {})


def test_nothing_to_score_is_no_result(tmp_path: Path) -> None:
    pl.DataFrame([{"ts": BEGAN, "user_id": "u", "item_id": "i", "type": "skip"}]).write_parquet(tmp_path / "e.parquet")
    result = CliRunner().invoke(app, ["ablate", str(tmp_path / "e.parquet"), "--out", str(tmp_path / "out")])
    assert isinstance(result.exception, LogError)
    assert "nothing to score" in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_an_unknown_model_is_refused_before_anything_runs(tmp_path: Path) -> None:
    pl.DataFrame([{"ts": BEGAN, "user_id": "u", "item_id": "i", "type": "click"}]).write_parquet(tmp_path / "e.parquet")
    result = CliRunner().invoke(
        app, ["ablate", str(tmp_path / "e.parquet"), "--out", str(tmp_path / "out"), "--without", "glance"]
    )
    assert isinstance(result.exception, ConfigError)
    assert not (tmp_path / "out").exists()
