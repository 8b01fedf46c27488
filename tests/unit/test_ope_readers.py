"""Logs as rounds: outcomes of a topic and files of actions, what is left out, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import polars as pl
import pytest

from streamrec.errors import ConfigError, TableError
from streamrec.evaluation.ope.action_rows import RowOptions
from streamrec.evaluation.ope.evaluation import EvaluationOptions, evaluate
from streamrec.evaluation.ope.outcomes import OutcomeFilter, OutcomeLog
from streamrec.evaluation.ope.report import report, write_report
from streamrec.evaluation.ope.synthetic import ActionWorld, SlateWorld
from streamrec.evaluation.ope.tables import COLUMN, LOGGED, UNIFORM, ActionLog, TableOptions, read_actions
from streamrec.events import Counterfactual, Outcome, Proposal

EVERYTHING = OutcomeFilter()


def outcome(rec_id: str = "s", position: int = 1, **more: Any) -> Outcome:
    fields: dict[str, Any] = {
        "outcome_id": f"{rec_id}-{position}", "rec_id": rec_id, "user_id": "u", "item_id": f"item-{position}",
        "position": position, "propensity": 0.5, "reward": 0.2, "ts": 2_000, "shown_ts": 1_000, "policy": "thompson",
        "alternatives": {"greedy": Counterfactual(propensity=0.25, proposal=Proposal(item_id="item-9", score=1.0))},
    }  # fmt: skip
    return Outcome(**{**fields, **more})


def taken(*outcomes: Outcome, outcome_filter: OutcomeFilter = EVERYTHING, limit: int = 1_000) -> OutcomeLog:
    found = OutcomeLog(outcome_filter, limit)
    for one in outcomes:
        found.add(one)
    return found


def test_rows_of_a_slate_come_together_in_order_however_they_were_read() -> None:
    rows = [outcome("b", 2), outcome("a", 2), outcome("b", 1), outcome("a", 1, reward=1.0), outcome("b", 3)]
    data = taken(*rows).logged("greedy").rounds
    assert data.slates == 2
    assert sorted(np.bincount(data.slate).tolist()) == [2, 3]
    assert sorted(data.step.tolist()) == [0, 0, 1, 1, 2]
    assert data.reward[data.step == 0].sum() == 1.2
    assert data.logged.tolist() == [0.5] * 5
    assert data.target.tolist() == [0.25] * 5


def test_an_outcome_that_comes_again_counts_once() -> None:
    found = taken(outcome("a"), outcome("b"), outcome("a"))
    assert found.read == 3
    assert len(found.logged("greedy").rounds) == 2


def test_slates_that_do_not_name_the_target_are_left_out_whole_and_counted() -> None:
    found = taken(outcome("a", 1), outcome("a", 2, alternatives={}), outcome("b", 1))
    logged = found.logged("greedy")
    assert len(logged.rounds) == 1
    assert "1 slates do not say what 'greedy' would have done" in logged.origin.notes[0]
    assert len(found.logged("logged").rounds) == 3
    with pytest.raises(ConfigError, match="they name logged, greedy"):
        found.logged("exp3")
    with pytest.raises(ConfigError, match="it made slates itself, and 'logged' has their value"):
        found.logged(outcome("a").policy)
    with pytest.raises(ConfigError, match="none of them counts"):
        taken().logged("greedy")


def test_a_policy_named_late_has_no_word_on_earlier_slates() -> None:
    late = {"exp3": Counterfactual(propensity=0.1)}
    found = taken(outcome("a"), outcome("b", alternatives=late), outcome("c", alternatives=late))
    assert found.targets == ("logged", "exp3", "greedy")
    logged = found.logged("exp3")
    assert logged.rounds.target.tolist() == [0.1, 0.1]
    assert logged.target_features is None  # it proposed nothing: no direct method
    assert evaluate(logged, EvaluationOptions(draws=20)).without_model is not None


@pytest.mark.parametrize(
    ("outcome_filter", "kept"),
    [
        (OutcomeFilter(since=1_000), "abc"),
        (OutcomeFilter(since=1_001), "c"),
        (OutcomeFilter(until=5_000), "ab"),
        (OutcomeFilter(policy="exp3"), "b"),
        (OutcomeFilter(scenario="basket"), "b"),
        (OutcomeFilter(arm="treated"), "c"),
    ],
)
def test_only_what_is_asked_for_counts(outcome_filter: OutcomeFilter, kept: str) -> None:
    rows = [
        outcome("a"),
        outcome("b", policy="exp3", scenario="basket"),
        outcome("c", shown_ts=5_000, arm="treated"),
    ]
    assert len(taken(*rows, outcome_filter=outcome_filter).logged("greedy").rounds) == len(kept)


def test_what_is_wrong_with_a_range_is_told() -> None:
    rows = [
        outcome("a", 1, estimated_from=64),
        outcome("a", 3),  # position 2 was not seen
        outcome("b", 1, propensity=0.0),
        outcome("c", 1, policy="exp3"),
        outcome("d", 1),
    ]
    known = "; ".join(evaluate(taken(*rows, limit=4).logged("greedy"), EvaluationOptions(draws=20)).warnings)
    for words in (
        "estimated from 64 draws, one of which made the slate: weights by them have no bias",
        "1 slates have places that were not seen",
        "2 policies: thompson, exp3",
        "1 outcomes without a propensity above 0",
        "100.0% of what the target would show is never shown",
        "1 users have weighted rewards",
    ):
        assert words in known
    assert "limit of 3" in "; ".join(taken(*rows, limit=3).logged("greedy").origin.notes)


def test_outcomes_of_invented_slates_lead_to_the_true_value_with_a_reward_model() -> None:
    world = SlateWorld.drawn(2)
    found = taken(*world.outcomes(4_000, np.random.default_rng(0)), limit=100_000)
    assert found.targets == ("logged", "other")
    result = evaluate(found.logged("other"), EvaluationOptions(draws=200))
    values = {value.name: value for value in result.values}
    assert set(values) == {"ips", "clipped_ips", "snips", "dm", "dr", "switch_dr", "shrunk_dr"}
    for name in ("ips", "snips", "dr"):
        interval = values[name].interval  # some four standard errors from end to end
        assert abs(values[name].value - world.value) < interval.high - interval.low
    assert abs(result.logged.value - world.value) > 2 * (result.logged.interval.high - result.logged.interval.low)
    logging_policy = evaluate(found.logged("logged"), EvaluationOptions(draws=200))
    assert {round(value.value, 9) for value in logging_policy.values if value.name in ("ips", "snips", "dr")} == {
        round(logging_policy.logged.value, 9)
    }


COLUMNS = {"reward": "click", "propensity": "pscore", "item": "what", "position": "where"}


@pytest.fixture
def actions(tmp_path: Path) -> Path:
    world = ActionWorld.drawn(2, items=4, spread=0.5)
    data, shown, target_features = world.log(6_000, np.random.default_rng(0))
    item, place = shown.codes.T
    table = {
        "click": data.reward, "pscore": data.logged, "other": data.target, "what": item + 10, "where": place + 1,
        "who": np.arange(6_000) // 4, "age": np.where(item == 1, "young", "old"), "height": 1.0 * item,
    }  # fmt: skip
    path = tmp_path / "log.parquet"
    pl.DataFrame(table).write_parquet(path)
    rows = [(i + 10, p + 1, target_features.probability[p, i]) for p in range(3) for i in range(4)]
    pl.DataFrame(rows, schema=["item", "position", "probability"], orient="row").write_csv(tmp_path / "target.csv")
    return path


def opened(path: Path, **more: Any) -> ActionLog:
    rows = RowOptions(**{name: more.pop(name) for name in ("where", "features", "max_refused") if name in more})
    return read_actions(path, TableOptions(mapping=COLUMNS | more.pop("mapping", {}), rows=rows, **more))


def test_slates_count_by_user_wherever_a_column_holds_the_user(actions: Path) -> None:
    by_user = opened(actions, mapping={"user": "who"}).logged(UNIFORM)
    assert by_user.rounds.users == 1_500
    assert by_user.origin.notes == ()
    by_slate = opened(actions, mapping={"user": "who"}, by_user=False).logged(UNIFORM)
    assert (by_slate.rounds.users, by_slate.origin.notes) == (None, ())
    nobody = pl.read_parquet(actions).with_columns(who=pl.lit(None, pl.Int64))
    nobody.write_parquet(actions)
    with pytest.raises(TableError, match="'who' is empty"):
        opened(actions, mapping={"user": "who"})
    assert opened(actions, mapping={"user": "who"}, by_user=False).logged(UNIFORM).rounds.users is None
    unknown = opened(actions).logged(UNIFORM)
    assert unknown.rounds.users is None
    assert "no column holds 'user' (--map user=COLUMN)" in unknown.origin.notes[0]
    mixed = opened(actions, mapping={"user": "what", "slate": "where"}).logged(UNIFORM)
    assert "3 slates are of several users" in mixed.origin.notes[0]


def test_a_column_and_a_table_say_the_same_of_a_target(actions: Path) -> None:
    log = opened(actions, mapping={"target": "other"})
    by_column, by_table = log.logged(COLUMN), log.logged(str(actions.parent / "target.csv"))
    assert by_column.rounds.target == pytest.approx(by_table.rounds.target, abs=1e-9)
    value = ActionWorld.drawn(2, items=4, spread=0.5).value
    found = {v.name: v for v in evaluate(by_table, EvaluationOptions(draws=200)).values}
    assert found["dr"].interval.low < value < found["dr"].interval.high
    assert {v.name for v in evaluate(by_column, EvaluationOptions(draws=20)).values} == {"ips", "clipped_ips", "snips"}
    assert by_table.origin.never_shown == 0.0


def test_uniform_is_over_the_items_shown_or_over_more(actions: Path) -> None:
    log = opened(actions)
    assert log.logged(UNIFORM).rounds.target[0] == 0.25
    more = opened(actions, actions=5).logged(UNIFORM)
    assert more.rounds.target[0] == 0.2
    assert more.origin.never_shown == pytest.approx(0.2)
    with pytest.raises(TableError, match="more than --actions 3"):
        opened(actions, actions=3).logged(UNIFORM)


def test_rows_are_chosen_and_slates_put_together(actions: Path) -> None:
    assert len(opened(actions, where={"where": "2", "age": "young"}).reward) < 1_000
    log = opened(actions, mapping={"slate": "who", "user": "who"})
    data = log.logged(LOGGED).rounds
    assert data.slates == 1_500
    assert data.steps == 4
    assert (np.diff(log.place)[data.step[1:] > 0] >= 0).all()
    assert data.cluster is not None
    assert data.cluster.max() == 1_499
    features = opened(actions, features=("age", "height")).logged(UNIFORM).shown_features
    assert features is not None
    assert features.sizes == (4, 3, 2)
    assert features.dense.std() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mapping": {"reward": "clicks"}}, "there is no column 'clicks'"),
        ({"mapping": {"colour": "age"}}, "'colour' is no field"),
        ({"mapping": {"propensity": "age"}}, "row 0: 'age' is .*, expected probabilities above 0 to 1"),
        ({"mapping": {"propensity": "height"}}, "expected probabilities above 0 to 1"),
        ({"where": {"where": "9"}}, "no row counts"),
    ],
)
def test_a_log_that_cannot_be_evaluated_is_refused_in_words(actions: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(TableError, match=words):
        opened(actions, **options)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"item": [10], "probability": [0.5]}, "must sum to 1"),
        ({"item": [10, 11], "chance": [0.5, 0.5]}, "expected the columns item and probability"),
        (
            {"item": [10, 11], "probability": [1.5, -0.5]},
            "row 0: 'probability' is .*1.5.*, expected probabilities from 0 to 1",
        ),
    ],
)
def test_a_table_that_is_no_distribution_is_refused(actions: Path, table: dict[str, Any], words: str) -> None:
    path = actions.parent / "bad.csv"
    pl.DataFrame(table).write_csv(path)
    with pytest.raises(TableError, match=words):
        opened(actions).logged(str(path))


def test_the_report_has_a_shape_that_stays_and_plots_that_can_be_read(actions: Path, tmp_path: Path) -> None:
    evaluations = [evaluate(opened(actions).logged(UNIFORM), EvaluationOptions(draws=50))]
    found = report(evaluations)
    assert set(found) == {"version", "evaluations"}
    assert set(found["evaluations"][0]) == {
        "target", "log", "logging_policies", "slates", "users", "rows", "rewarded_rows", "options", "logged",
        "estimates", "without_reward_model", "effective_sample_size", "effective_rewarded", "weights",
        "clipped_share", "never_shown", "estimated_from", "warnings",
    }  # fmt: skip
    assert set(found["evaluations"][0]["estimates"]["dr"]) == {
        "value", "bootstrap", "bernstein", "biased", "impossible", "tuned", "relative_to_logged",
    }  # fmt: skip
    write_report(tmp_path / "out", evaluations)
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == json.loads(json.dumps(found))
    for plot in ("intervals-uniform.svg", "weights-uniform.svg"):
        assert ElementTree.parse(tmp_path / "out" / plot).getroot().tag.endswith("svg")
