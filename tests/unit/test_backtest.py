"""A backtest is the live worker on an old log: the same twice, and its figures follow from its slates."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from streamrec.cli import app
from streamrec.config.parts import default_models
from streamrec.engine.learning.ranking_metrics import ranking_metrics
from streamrec.errors import LogError, TableError
from streamrec.evaluation.backtest.slates import fused_ranks, model_ranks, read_slates
from streamrec.evaluation.backtest.variety import gini, personalisation

BEGAN = 1_700_000_000_000
ROWS = 700


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Strolls along a ring, with baskets, repeats, ratings and impressions."""
    rng, rows, ts = np.random.default_rng(8), [], BEGAN
    while len(rows) < ROWS:
        user, item = int(rng.integers(40)), int(rng.integers(60))
        for _ in range(int(rng.integers(2, 6))):
            ts += int(rng.choice([0, 3_000, 30_000]))
            item = (item + int(rng.choice([0, 1, 2], p=[0.2, 0.7, 0.1]))) % 60
            kind = str(rng.choice(["view", "click", "purchase", "rating", "impression"], p=[0.4, 0.2, 0.2, 0.1, 0.1]))
            value = float(rng.integers(1, 6)) if kind == "rating" else None
            rows.append({"ts": ts, "user_id": f"u{user}", "item_id": f"i{item}", "type": kind, "value": value})
        ts += 40_000
    path = tmp_path_factory.mktemp("log") / "events.parquet"
    pl.DataFrame(rows[:ROWS]).write_parquet(path)
    return path


@pytest.fixture(scope="module")
def settings_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("settings") / "streamrec.toml"
    path.write_text('[limits]\nmax_items = 2000\nmax_users = 2000\n[learning]\ndevice = "cpu"\n')
    return path


class Ran:
    """What one backtest left behind."""

    def __init__(self, out: Path, printed: str, stdout: str) -> None:
        self.out, self.printed, self.stdout = out, printed, stdout
        self.slates = read_slates(out / "slates.parquet")
        self.report: dict[str, Any] = json.loads((out / "report.json").read_text())

    def column(self, name: str) -> list[Any]:
        return list(self.slates[name].to_pylist())


@pytest.fixture(scope="module")
def backtest(log: Path, settings_file: Path, tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """Runs the command as it is typed; equal options run once, unless asked to run again."""
    kept: dict[tuple[str, ...], Ran] = {}

    def run(*options: str, again: bool = False) -> Ran:
        if options not in kept or again:
            out = tmp_path_factory.mktemp("out")
            typed = ["backtest", str(log), "--out", str(out), "--config", str(settings_file), *options]
            result = CliRunner().invoke(app, typed)
            assert result.exit_code == 0, result.output
            kept[options] = Ran(out, result.output, result.stdout)
        return kept[options]

    return run


def events(log: Path) -> pl.DataFrame:
    return pl.read_parquet(log)


def test_two_runs_leave_the_same_bytes_and_another_seed_does_not(backtest) -> None:  # type: ignore[no-untyped-def]
    first = (backtest().out / "slates.parquet").read_bytes()
    assert first == (backtest(again=True).out / "slates.parquet").read_bytes()
    assert first != (backtest("--seed", "5").out / "slates.parquet").read_bytes()


def test_as_json_the_report_stands_alone_on_standard_output(backtest) -> None:  # type: ignore[no-untyped-def]
    ran = backtest("--json")
    assert json.loads(ran.stdout) == ran.report
    assert "report.html in" in ran.printed.replace("\n", " ")


def test_the_metrics_of_the_report_follow_from_the_slates(backtest) -> None:  # type: ignore[no-untyped-def]
    ran = backtest()
    scored, known = (np.array(ran.column(name)) for name in ("scored", "known"))
    rankers = {"fused": fused_ranks(ran.slates), **model_ranks(ran.slates)}
    assert set(rankers) == {"fused", *default_models()} == set(ran.report["metrics"])
    for name, ranks in rankers.items():
        assert ran.report["metrics"][name] == pytest.approx(ranking_metrics(ranks, scored).as_dict())
        assert ran.report["metrics_of_known_targets"][name] == pytest.approx(
            ranking_metrics(ranks, scored & known).as_dict()
        )
    assert ran.report["unknown_target_share"] == pytest.approx(1 - known[scored].mean())
    shown = {item for items, counts in zip(ran.column("items"), scored, strict=True) if counts for item in items[:10]}
    assert ran.report["coverage_10"] == pytest.approx(len(shown) / ran.report["counts"]["known_items"])


def test_slices_follow_from_the_log(backtest, log: Path) -> None:  # type: ignore[no-untyped-def]
    ran, table = backtest("--rows", "0:500"), events(log)[:500]
    first_seen: dict[str, int] = {}
    touched: dict[str, int] = {}
    for ts, user, item, kind in table.select("ts", "user_id", "item_id", "type").iter_rows():
        if kind != "impression":
            first_seen.setdefault(item, ts)
            touched.setdefault(user, ts)
    rows = zip(*(ran.column(name) for name in ("ts", "user_id", "target", "known", "scored")), strict=True)
    ages = {3_600: "item: first seen within an hour", 86_400: "item: first seen an hour to a day before"}
    wanted = dict.fromkeys(("user: 1st event", "item: never seen before", *ages.values(), "item: older"), 0)
    for ts, user, item, known, scored in rows:
        age = next((name for s, name in ages.items() if ts - first_seen[item] < 1_000 * s), "item: older")
        wanted[age if known else "item: never seen before"] += scored
        wanted["user: 1st event"] += scored and ts == touched[user]
    told = ran.report["slices"]
    assert {name: told[name]["fused"]["targets"] for name in wanted} == wanted
    total = ran.report["counts"]["scored_targets"]
    for family in ("session", "user", "item"):
        assert sum(part["fused"]["targets"] for name, part in told.items() if name.startswith(family)) == total
    assert told["session: 1st event"]["fused"]["targets"] > 0 < told["session: later"]["fused"]["targets"]
    assert ran.report["against_baseline"]["all targets"]["targets"] == total
    assert 0 < wanted["item: first seen within an hour"] < total


def test_the_room_that_new_items_get_follows_from_the_slates(backtest, log: Path) -> None:  # type: ignore[no-untyped-def]
    ran = backtest()
    first_seen: dict[str, int] = {}
    for ts, item, kind in events(log).select("ts", "item_id", "type").iter_rows():
        if kind != "impression":
            first_seen.setdefault(item, ts)
    columns = zip(*(ran.column(name) for name in ("user_id", "ts", "items", "scored")), strict=True)
    slates = {(user, ts): items[:10] for user, ts, items, scored in columns if scored}
    ages = [ts - first_seen[item] for (_, ts), items in slates.items() for item in items]
    told = ran.report["newcomers"]
    assert told["share_of_places"]["fused"] == pytest.approx(sum(age < 3_600_000 for age in ages) / len(ages))
    assert 0 < told["share_of_places"]["popularity"] < 1
    assert "points ahead (95%)" in ran.printed
    assert "Items younger than an hour: " in ran.printed


def test_variety_follows_from_the_slates_each_counted_once(backtest) -> None:  # type: ignore[no-untyped-def]
    ran = backtest()
    slates = {
        (user, ts): items[:10]
        for user, ts, items, scored in zip(
            *(ran.column(name) for name in ("user_id", "ts", "items", "scored")), strict=True
        )
        if scored
    }
    told = ran.report["beyond_accuracy"]
    assert told["slates"] == len(slates) < ran.report["counts"]["scored_targets"]
    shown = Counter(item for items in slates.values() for item in items)
    assert told["shown_items"] == ran.report["counts"]["recommended_items"] == len(shown)
    unshown = ran.report["counts"]["known_items"] - len(shown)
    assert told["gini_10"] == pytest.approx(gini(np.array([*shown.values(), *[0] * unshown])))
    assert told["personalisation_10"] == pytest.approx(personalisation(np.array([*shown.values()]), len(slates)))
    assert 0 < told["novelty_10_bits"] < 12
    assert told["diversity_10"] is None


def test_the_click_model_is_held_to_what_happened(backtest) -> None:  # type: ignore[no-untyped-def]
    ran = backtest()
    told = ran.report["calibration"]
    assert ran.report["counts"]["scored_targets"] < told["pairs"] <= 4 * ran.report["counts"]["scored_targets"]
    assert sum(part["pairs"] for part in told["bins"]) == told["pairs"]
    assert told["auc"] > 0.6  # it learned something of the pattern


def test_it_is_said_where_the_time_went(backtest) -> None:  # type: ignore[no-untyped-def]
    report = backtest().report
    told = report["microseconds_per_event"]
    for model in report["metrics"]:
        assert model == "fused" or {f"score {model}", f"learn {model}"} <= set(told)
    together = sum(told.values()) * report["counts"]["events"] / 1e6
    assert together == pytest.approx(report["seconds"], rel=0.3)


def test_every_target_of_the_log_is_there_once_in_order(backtest, log: Path) -> None:  # type: ignore[no-untyped-def]
    ran, table = backtest(), events(log)
    wanted = table.with_row_index("row").filter(
        pl.col("type").is_in(["view", "click", "purchase"]) | ((pl.col("type") == "rating") & (pl.col("value") >= 4))
    )
    assert ran.column("row") == wanted["row"].to_list()
    assert ran.column("target") == wanted["item_id"].to_list()
    assert ran.column("user_id") == wanted["user_id"].to_list()
    assert ran.column("ts") == wanted["ts"].to_list()


def test_slates_are_twenty_distinct_items_best_first(backtest) -> None:  # type: ignore[no-untyped-def]
    ran = backtest()
    for items, scores in zip(ran.column("items"), ran.column("scores"), strict=True):
        assert len(items) == len(scores) == len(set(items)) <= 20
        assert scores == sorted(scores, reverse=True)
    assert len(ran.column("items")[-1]) == 20
    assert ran.column("items")[0] == []


def test_a_basket_is_predicted_whole(backtest) -> None:  # type: ignore[no-untyped-def]
    ran, slates, shared = backtest(), {}, 0
    for user, ts, items in zip(*(ran.column(name) for name in ("user_id", "ts", "items")), strict=True):
        shared += (user, ts) in slates
        assert slates.setdefault((user, ts), items) == items
    assert shared > 50


def test_known_means_seen_before_in_the_log(backtest, log: Path) -> None:  # type: ignore[no-untyped-def]
    ran, seen, known = backtest(), set(), {}
    for row, (item, kind) in enumerate(events(log).select("item_id", "type").iter_rows()):
        known[row] = item in seen
        if kind != "impression":
            seen.add(item)
    assert ran.column("known") == [known[row] for row in ran.column("row")]


def test_it_finds_the_pattern_that_popularity_misses(backtest) -> None:  # type: ignore[no-untyped-def]
    metrics = backtest().report["metrics"]
    print({name: round(values["recall_10"], 3) for name, values in metrics.items()})
    popular = [values["recall_10"] for name, values in metrics.items() if name.startswith("popularity")]
    assert len(popular) == 3
    assert metrics["fused"]["recall_10"] > 2 * max(popular)


def test_the_warm_up_is_learned_but_not_scored(backtest) -> None:  # type: ignore[no-untyped-def]
    ran = backtest("--warmup", "0.5")
    assert ran.column("scored") == [row >= 0.5 * ROWS for row in ran.column("row")]
    for name in ("items", "scores", "rank_covisit"):
        assert ran.column(name) == backtest().column(name)
    assert ran.report["metrics"]["fused"]["targets"] == sum(ran.column("scored"))


def test_positives_say_what_is_a_target(backtest, log: Path) -> None:  # type: ignore[no-untyped-def]
    ran, table = backtest("--positives", "purchase,rating>=3"), events(log).with_row_index("row")
    wanted = table.filter((pl.col("type") == "purchase") | ((pl.col("type") == "rating") & (pl.col("value") >= 3)))
    assert ran.column("row") == wanted["row"].to_list()


def seen_again(ran: Ran, log: Path) -> int:
    """How many slates show something that their user had touched before the moment they were made for."""
    visits = list(enumerate(events(log).select("ts", "user_id", "item_id", "type").iter_rows()))
    count = 0
    for user, ts, items in zip(*(ran.column(name) for name in ("user_id", "ts", "items")), strict=True):
        began = next(row for row, visit in visits if visit[:2] == (ts, user))  # of the basket
        touched = {item for row, (_, who, item, kind) in visits[:began] if who == user and kind != "impression"}
        count += bool(touched & set(items))
    return count


def test_what_was_seen_is_in_no_slate_when_excluded(backtest, log: Path) -> None:  # type: ignore[no-untyped-def]
    assert seen_again(backtest("--exclude-seen"), log) == 0
    assert seen_again(backtest(), log) > 100


def test_consecutive_repeats_count_once_when_collapsed(backtest, log: Path) -> None:  # type: ignore[no-untyped-def]
    whole, ran = backtest(), backtest("--collapse-repeats")
    last: dict[str, tuple[int, str]] = {}
    dropped = set()
    for row, (ts, user, item, kind) in enumerate(events(log).select("ts", "user_id", "item_id", "type").iter_rows()):
        when, what = last.get(user, (0, ""))
        pause = ts - when > 1_800_000
        if kind == "impression":
            last[user] = (max(ts, when), "" if pause else what)
            continue
        if what == item and not pause:
            dropped.add(row)
        last[user] = (max(ts, when), item)
    assert len(dropped) > 30
    assert ran.column("row") == [row for row in whole.column("row") if row not in dropped]


def test_only_the_rows_asked_for_are_read(backtest) -> None:  # type: ignore[no-untyped-def]
    ran = backtest("--rows", "100:400")
    assert 100 <= min(ran.column("row")) < max(ran.column("row")) < 400
    assert ran.report["counts"]["events"] == 300
    assert ran.column("scored") == [row >= 130 for row in ran.column("row")]


def test_the_catalogue_is_used(backtest, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "items.csv"
    path.write_text("item_id,category\n" + "".join(f"i{n},c{n // 6}\n" for n in range(60)))
    assert backtest("--items", str(path)).column("scores") != backtest().column("scores")
    assert 0 < backtest("--items", str(path)).report["beyond_accuracy"]["diversity_10"] < 1


def test_only_the_items_asked_for_are_learned_and_predicted(backtest) -> None:  # type: ignore[no-untyped-def]
    ran = backtest("--only-items", "^i[1-3]")
    assert {item[:2] for items in ran.column("items") for item in items} == {"i1", "i2", "i3"}
    assert "of other items than asked for" in ran.printed


def test_rows_left_out_are_in_the_report_with_the_first_of_each_kind(settings_file: Path, tmp_path: Path) -> None:
    rows = [f"click,u{n % 3},i{n % 7},{BEGAN + 1_000 * n},,e{n}" for n in range(60)]
    rows[20] = f"request,u1,,{BEGAN + 20_000},nosuch,"
    rows[30] = rows[27]  # the same user's event again, but out of order
    rows[40] = f"click,u1,i1,{BEGAN + 40_000},,e37"  # u1 has sent this id before
    log, out = tmp_path / "log.csv", tmp_path / "out"
    log.write_text("\n".join(["type,user_id,item_id,ts,scenario,event_id", *rows]), encoding="utf-8")
    typed = ["backtest", str(log), "--out", str(out), "--config", str(settings_file), "--preset", "fast"]
    refused = CliRunner().invoke(app, typed)
    assert isinstance(refused.exception, LogError)
    assert "2 of 60 rows cannot be used" in str(refused.exception)
    assert not out.exists()
    allowed = CliRunner().invoke(app, [*typed, "--max-refused", "0.05", "--json"])
    assert allowed.exit_code == 0, allowed.output
    report = json.loads(allowed.stdout)
    assert report["counts"] == report["counts"] | {
        "rows": 60, "events": 57, "refused_rows": 2, "dead_letters": 0, "repeated_events": 1,
    }  # fmt: skip
    found = {reason: (rows["rows"], rows["first_row"]) for reason, rows in report["refused"].items()}
    assert found == {"invalid scenario": (1, 20), "unsorted ts": (1, 30)}
    assert "refused 1 rows (unsorted ts), the first is row 30" in allowed.stderr
    assert "1 rows repeat an event_id of their user" in allowed.stderr
    page = (out / "report.html").read_text()
    assert "refused for unsorted ts" in page


@pytest.mark.parametrize(
    ("rows", "options", "words"),
    [
        ([], [], "expected a table, but it has no rows"),
        ([f"click,u,i,{BEGAN},"], [], "nothing to score: all 1 targets lie in the share that is only learned"),
        ([f"click,u,i,{BEGAN},"] * 9, ["--warmup", "1"], "nothing to score: all 9 targets lie in the share"),
        ([f"rating,u,i,{BEGAN},"] * 9, [], "nothing to score: none of its 9 events counts as interest"),
        ([f"rating,u,i,{BEGAN},nan"] * 9, [], "nothing to score: none of its 9 events counts as interest"),
    ],
)
def test_a_log_with_nothing_to_score_is_no_success(
    rows: list[str], options: list[str], words: str, settings_file: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log.csv"
    log.write_text("\n".join(["type,user_id,item_id,ts,value", *rows]), encoding="utf-8")
    typed = ["backtest", str(log), "--out", str(tmp_path / "out"), "--config", str(settings_file), "--preset", "fast"]
    result = CliRunner().invoke(app, [*typed, *options])
    assert isinstance(result.exception, TableError)
    assert words in str(result.exception)
    assert result.stdout == ""


def test_an_interrupted_run_says_what_was_kept(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*given: object, **options: object) -> None:
        raise SystemExit(130)  # as Ctrl-C does

    monkeypatch.setattr("streamrec.evaluation.backtest.backtest.backtest", interrupted)
    result = CliRunner().invoke(app, ["backtest", str(log), "--out", str(tmp_path / "out"), "--preset", "fast"])
    assert result.exit_code == 130
    assert "interrupted: nothing of this run was kept" in result.stderr


def test_an_impossible_rule_is_refused_and_writes_nothing(log: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["backtest", str(log), "--out", str(tmp_path / "out"), "--positives", "glance"])
    assert result.exit_code != 0
    assert not (tmp_path / "out" / "slates.parquet").exists()
