"""The engine in the hand: every promise of `Recommender`, on the sample that ships and few rows."""

from __future__ import annotations

import subprocess
import sys
import threading
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest

import streamrec
from streamrec import Event, EventType, Item, Recommender, Slate, SlateItem
from streamrec.config.settings import load_settings
from streamrec.demo.sample import sample_items, sample_log
from streamrec.engine.learning.ranking_metrics import ranking_metrics
from streamrec.errors import BadEvent, ConfigError, LogError, StateError, StateMissing, TableError, TooManyBadEvents
from streamrec.evaluation.backtest.backtest import backtest
from streamrec.replay.logs import open_log
from streamrec.wiring import progress
from streamrec.wiring import recommender as module

NOW = 1_700_000_000_000
FAST: dict[str, Any] = {"preset": "fast", "limits": {"max_items": 4_000, "max_users": 1_000}}
SMALL: dict[str, Any] = {**FAST, "learning": {"models": ("popularity", "covisit_recent", "transitions")}}


def untaught(**settings: Any) -> Recommender:
    return Recommender(**{**SMALL, **settings})


@pytest.fixture(scope="module")
def sample() -> list[dict[str, Any]]:
    return pl.read_parquet(sample_log())[:300].to_dicts()


def visits(count: int, first: int = 0) -> list[Event]:
    """People walk along a ring of twelve items."""
    return [
        Event(type=EventType.CLICK, user_id=f"u{n % 7}", item_id=f"i{(n // 7 + n % 7) % 12}", ts=NOW + 5_000 * n)
        for n in range(first, first + count)
    ]


@pytest.fixture(scope="module")
def taught() -> Recommender:
    """By the sample, with its catalogue; tests that read share it."""
    shop = Recommender(**FAST, catalogue=sample_items())
    shop.learn(open_log(sample_log(), rows=(0, 300)))
    return shop


# Learning, from whatever is in hand


def test_the_same_events_in_any_shape_teach_the_same(sample: list[dict[str, Any]], tmp_path: Path) -> None:
    frame = pl.DataFrame(sample)
    frame.write_parquet(tmp_path / "log.parquet")
    plain = [{name: value for name, value in row.items() if value is not None} for row in sample]
    shapes: dict[str, Any] = {
        "dictionaries": sample,
        "events": [msgspec.convert(row, Event) for row in plain],
        "a generator": (row for row in sample),
        "a frame": frame,
        "a frame with times": frame.with_columns(pl.from_epoch("ts", "ms").dt.replace_time_zone("UTC"), other=1),
        "a path": tmp_path / "log.parquet",
        "a log": open_log(tmp_path / "log.parquet"),
    }
    slates: dict[str, Slate] = {}
    for name, events in shapes.items():
        shop = untaught()
        assert shop.learn(events) == 300, name
        slates[name] = shop.recommend("17850", k=5)
    assert all(one == other for one, other in pairwise(slates.values())), slates
    assert len(slates["a path"].items) == 5


def test_a_pandas_frame_is_known_by_its_methods(sample: list[dict[str, Any]]) -> None:
    pandas = pytest.importorskip("pandas")
    shop, other = untaught(), untaught()
    frame = pandas.DataFrame(sample)
    frame["ts"] = pandas.to_datetime(frame["ts"], unit="ms")
    assert shop.learn(frame) == other.learn(sample)
    assert shop.recommend("17850", k=5) == other.recommend("17850", k=5)
    numbers = {"type": ["click"] * 2, "user_id": [7.0, 8.0], "item_id": [3, 4], "ts": [NOW] * 2, "value": [1.5, None]}
    assert shop.learn(pandas.DataFrame(numbers)) == 2  # ids as pandas reads numbers with gaps
    assert shop.user("7") is not None


def test_a_bad_row_is_left_out_with_its_number_and_costs_nothing_else() -> None:
    good = [msgspec.to_builtins(event) for event in visits(60)]
    bad: list[dict[str, Any]] = [
        {"type": "vew", "user_id": "u", "item_id": "i", "ts": NOW},
        {"type": "view", "user_id": "u", "item_id": "i", "ts": "yesterday"},
        {"type": "view", "user_id": "u", "ts": NOW},
        {"type": "view", "item_id": "i", "ts": NOW},
        {"type": "view", "user_id": "u", "item_id": "i", "ts": 1_700_000_000},
        {"type": "view", "user_id": "u", "item_id": "\ud800", "ts": NOW},
        {"type": "view", "user_id": "u", "item_id": "i", "ts": NOW, "itm": 3},
    ]
    shop, other = untaught(), untaught()
    with pytest.warns(UserWarning, match="7 rows were left out") as told:
        assert shop.learn([*good[:30], *bad, *good[30:]]) == 60
    [said] = told
    assert said.filename == __file__
    words = str(said.message)
    assert "row 30: field 'type' is 'vew'" in words
    assert "row 31: field 'ts' is 'yesterday' (text), expected a whole number" in words
    assert "row 32: field 'item_id' is" in words or "row 32: a 'view' event needs `item_id`" in words
    assert "row 33: field 'user_id' is missing" in words
    assert "row 34: field 'ts' is 1700000000, expected milliseconds" in words
    assert "and 2 more" in words
    other.learn(good)
    assert items(shop.recommend("u1", k=3)) != []
    assert shop.user("u1")["counts"] == other.user("u1")["counts"] | {"request": 1}  # type: ignore[index]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert shop.learn(visits(5, first=60)) == 5  # what was said is not said again


def items(slate: Slate) -> list[str]:
    return [place.item_id for place in slate.items]


def test_whatever_makes_only_bad_rows_is_broken_and_what_is_no_row_is_a_mistake() -> None:
    shop = untaught(limits={**SMALL["limits"], "max_bad_in_a_row": 10})
    with (
        pytest.warns(UserWarning, match="10 rows were left out"),
        pytest.raises(TooManyBadEvents, match="10 messages in a row"),
    ):
        shop.learn([*visits(5), *({"type": "click", "user_id": "u", "item_id": "i", "ts": at} for at in range(50))])
    with pytest.raises(TypeError, match="row 0 is a str, expected a dictionary"):
        shop.learn({"type": "click", "user_id": "u", "item_id": "i", "ts": NOW})  # one event is no list of events
    with pytest.raises(LogError, match="no column 'type'; its columns are event, user_id, ts"):
        shop.learn(pl.DataFrame({"event": ["click"], "user_id": ["u"], "ts": [NOW]}))
    assert shop.learn(visits(10)) == 10
    assert shop.user("u4")["counts"] == {"click": 2}  # type: ignore[index]  # what came before the bad ones, too


def test_a_file_with_problems_is_refused_before_anything_is_learned(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(f"type,user_id,item_id,ts\nclick,u,a,{NOW}\nclick,u,b,soon\n")
    shop = untaught()
    with pytest.raises(LogError, match="row 1: 'ts' is 'soon'"):
        shop.learn(tmp_path / "log.csv")
    (tmp_path / "log.csv").write_text(f"type,user_id,item_id,ts\nclick,u,a,{NOW // 1000}\nclick,u,b,{NOW}\n")
    with pytest.raises(LogError, match=r"row 0: field 'ts' is 1700000\d{3}, .* seconds\?"):
        shop.learn(tmp_path / "log.csv")
    assert shop.user("u") is None


def test_an_event_that_comes_twice_is_taken_once() -> None:
    event = {"type": "click", "user_id": "u", "item_id": "a", "ts": NOW, "event_id": "1"}
    assert untaught().learn([event, event]) == 1


def test_requests_among_the_events_are_answered_only_where_that_is_said() -> None:
    log = [*visits(40), Event(type=EventType.REQUEST, user_id="u1", ts=NOW + 300_000)]
    quiet, live = untaught(), untaught()
    assert quiet.learn(log) == live.learn(log, answer=True) == 41
    assert quiet.user("u1")["slate"] is None  # type: ignore[index]
    assert live.user("u1")["slate"] is not None  # type: ignore[index]


# Asking


def test_a_request_says_what_it_wants(taught: Recommender) -> None:
    similar = taught.recommend("somebody", k=4, scenario="similar", item_id="22423")
    assert similar.scenario == "similar"
    assert len(similar.items) == 4
    assert "22423" not in items(similar)
    bundle = taught.recommend("somebody", k=4, scenario="bundle", basket=["22423", "22699"])
    assert not {"22423", "22699"} & set(items(bundle))
    search = taught.recommend("somebody", k=5, scenario="search", query="bag")
    assert search.items
    assert all("bag" in taught.catalogue.title(item).lower() for item in items(search))
    kind = next(item.categories[0] for item in taught.catalogue.values() if item.categories)
    of_kind = taught.recommend("somebody", k=5, filters={"categories": [kind]})
    assert {taught.catalogue.category(item) for item in items(of_kind)} == {kind}


def test_a_request_that_no_worker_would_take_is_refused_and_changes_nothing(taught: Recommender) -> None:
    before = repr(taught)
    with pytest.raises(BadEvent, match="field 'scenario' is 'similer', expected one of home, similar"):
        taught.recommend("u", scenario="similer")
    with pytest.raises(BadEvent, match="field 'item_id' is missing"):
        taught.recommend("u", scenario="similar")
    with pytest.raises(BadEvent, match="field 'k' is 0"):
        taught.recommend("u", k=0)
    with pytest.raises(BadEvent, match="field 'colour' is unknown"):
        taught.recommend("u", filters={"colour": "red"})
    assert repr(taught) == before


def test_a_moment_is_the_logs_own_unless_it_is_given() -> None:
    shop = untaught()
    shop.learn(visits(30))
    assert shop.recommend("u").ts == shop.recommend("u").ts == NOW + 29 * 5_000 + 1_000
    assert shop.recommend("u", ts=NOW + 9_999_999).ts == NOW + 9_999_999


def test_what_comes_of_a_slate_is_credited_to_it() -> None:
    shop = untaught()
    shop.learn(visits(60))
    slate = shop.recommend("u1", k=3)
    click = Event(type=EventType.CLICK, user_id="u1", item_id=items(slate)[0], ts=slate.ts + 1, rec_id=slate.rec_id)
    assert shop.learn([click]) == 1
    later = slate.ts + 2 * 3_600_000
    shop.learn([msgspec.structs.replace(event, ts=later + n) for n, event in enumerate(visits(40))])
    assert shop._worker.metrics.registry.get_sample_value("streamrec_outcomes_total") == 3


def test_the_settings_are_those_of_every_command() -> None:
    shop = untaught(serving__k=2)
    shop.learn(visits(40))
    assert len(shop.recommend("u1").items) == 2
    with pytest.raises(ConfigError, match=r"setting learning.sed \(argument\) is unknown; did you mean seed"):
        Recommender(learning__sed=3)
    with pytest.raises(ConfigError, match="preset"):
        Recommender(preset="fastest")


def test_a_catalogue_may_be_a_file_items_dictionaries_or_a_frame() -> None:
    mug = {"item_id": "i1", "title": "A mug", "category": "mugs", "price": 3.5}
    given: list[Any] = [
        [Item(item_id="i1", title="A mug", categories=("mugs",), price=3.5)],
        [mug],
        pl.DataFrame([mug]),
    ]
    for catalogue in given:
        shop = untaught(catalogue=catalogue)
        assert shop.catalogue["i1"] == given[0][0]
    with pytest.raises(TableError, match="row 1 of the catalogue is no item"):
        untaught(catalogue=[mug, {"item_id": "i2", "price": "dear"}])


# Looking


SLATE = Slate(
    rec_id="user-events-0-1",
    user_id="<b>",
    ts=NOW,
    items=(SlateItem(item_id="mug & co", position=1, score=-1.25, propensity=0.5, shares={}),),
    policy="plackett-luce",
    version="1",
    candidates=9,
)


def test_a_slate_prints_as_a_table() -> None:
    title, head, row = str(SLATE).splitlines()
    assert title == "home for <b>: 1 of 9 candidates by plackett-luce"
    assert head.split() == ["item", "score", "propensity"]
    assert row.split() == ["1", "mug", "&", "co", "-1.250", "0.5"]


def test_a_slate_in_a_notebook_is_a_table_and_nothing_in_it_is_markup() -> None:
    page = SLATE._repr_html_()
    assert "<td>mug &amp; co</td>" in page
    assert "home for &lt;b&gt;" in page
    assert "<b>" not in page


def test_titles_are_shown_where_the_catalogue_has_them(taught: Recommender) -> None:
    slate = taught.recommend("17850", k=3)
    shown = taught.show(slate)
    for item in items(slate):
        assert taught.catalogue.title(item) in str(shown)
    assert "<th>title</th>" in shown._repr_html_()
    assert "title" not in str(untaught().show(SLATE))


def test_a_slate_is_explained_in_structure_and_in_words(taught: Recommender) -> None:
    slate = taught.recommend("a newcomer", k=3, scenario="similar", item_id="85123A")
    told = taught.explain(slate)
    assert [one.item for one in told.items] == list(slate.items)
    first = told.items[0]
    assert first.shares == slate.items[0].shares
    sizes = [abs(share) for share in first.shares.values()]
    assert sizes == sorted(sizes, reverse=True)
    assert first.title == taught.catalogue.title(slate.items[0].item_id)
    assert 0 < first.item.propensity <= 1
    assert any("the request names it" in rule for rule in first.reason.rules)
    assert first.title in str(told)
    assert all(str(told).count(rule) == 1 for rule in told.rules[:1])
    assert first.title in told._repr_html_() or "&" in told._repr_html_()
    with pytest.raises(ConfigError, match="explain=False"):
        taught.explain(taught.recommend("u", k=3, explain=False))


# Measuring


def test_the_figures_are_those_of_a_backtest(tmp_path: Path) -> None:
    log = open_log(sample_log(), rows=(0, 300))
    result = backtest(log, load_settings(**SMALL), tmp_path, warmup=0.0)
    figures = untaught().evaluate(log)
    assert list(figures.lists) == ["fused", *result.model_ranks]
    assert figures.fused == ranking_metrics(result.ranks, result.scored)
    for name, ranks in result.model_ranks.items():
        assert figures.lists[name] == ranking_metrics(ranks, result.scored)
    assert figures.fused.targets == 300


def test_an_evaluation_learns_what_it_predicted_and_prints_as_a_table() -> None:
    shop = untaught()
    first, second = shop.evaluate(visits(140)), shop.evaluate(visits(140, first=140))
    assert second.fused.recall_10 > first.fused.recall_10
    lines = str(second).splitlines()
    assert lines[0] == "140 targets, each ranked before it was learned"
    assert lines[1].split() == ["Recall@10", "Recall@20", "MRR@20", "NDCG@10"]
    assert [line.split()[0] for line in lines[2:]] == list(second.lists)
    assert "<td>fused</td>" in second._repr_html_()
    nothing = shop.evaluate([])
    assert nothing.fused.targets == 0


# Saving


@pytest.mark.parametrize("models", [None, ("popularity", "sequence")], ids=["fast", "torch"])
def test_saved_and_loaded_it_goes_on_as_if_nothing_had_happened(
    models: tuple[str, ...] | None, sample: list[dict[str, Any]], tmp_path: Path
) -> None:
    learning: dict[str, Any] = {"exclude_seen": True} if models is None else {"models": models, "device": "cpu"}
    kept = Recommender(**FAST, catalogue=sample_items(), learning=learning)
    kept.learn(sample[:150])
    before = kept.recommend("17850", k=5)
    clicked = {"type": "click", "user_id": "17850", "item_id": items(before)[0], "ts": before.ts + 1}
    kept.learn([{**clicked, "rec_id": before.rec_id, "event_id": "once"}])
    kept.save(tmp_path / "shop")
    loaded = Recommender.load(tmp_path / "shop")
    assert repr(loaded) == repr(kept)
    last = before.ts + 1
    rest = [{**row, "ts": max(row["ts"], last) + 60_000 * n} for n, row in enumerate(sample[150:])]
    for shop in (kept, loaded):
        assert shop.learn([{**clicked, "event_id": "once"}]) == 0  # what came before is still known
    assert kept.learn(rest) == loaded.learn(rest) == len(rest)
    for user in ("17850", "13047", "a stranger"):
        for asked in ({}, {"scenario": "trending"}, {"scenario": "search", "query": "bag"}):
            assert kept.recommend(user, k=8, **asked) == loaded.recommend(user, k=8, **asked)  # type: ignore[arg-type]
    assert kept.evaluate(visits(40)) == loaded.evaluate(visits(40))
    one, other = kept._worker.pipeline.state(), loaded._worker.pipeline.state()
    for part, arrays in one.items():
        for name, array in arrays.items():
            assert np.array_equal(array, other[part][name], equal_nan=array.dtype.kind == "f"), (part, name)
    assert kept.user("17850") == loaded.user("17850")


def test_what_is_saved_is_replaced_whole_and_nothing_else_ever_is(tmp_path: Path) -> None:
    shop = untaught()
    shop.learn(visits(20))
    assert shop.save(tmp_path / "shop") == tmp_path / "shop"
    shop.learn(visits(20, first=20))
    shop.save(tmp_path / "shop")
    assert repr(Recommender.load(tmp_path / "shop")) == repr(shop)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shop"]
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1").write_text("It was")
    with pytest.raises(StateError, match="is no saved recommender"):
        shop.save(tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter1").read_text() == "It was"


def test_what_is_no_saved_recommender_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(StateMissing, match="has written"):
        Recommender.load(tmp_path / "nowhere")
    untaught().save(tmp_path / "shop")
    whole = (tmp_path / "shop" / "recommender.msgpack").read_bytes()
    (tmp_path / "shop" / "recommender.msgpack").write_bytes(whole[:-10])
    with pytest.raises(StateError, match="not as this version writes it"):
        Recommender.load(tmp_path / "shop")
    (tmp_path / "shop" / "recommender.msgpack").write_bytes(whole)
    tensors = next((tmp_path / "shop").rglob("*.safetensors"))
    tensors.write_bytes(tensors.read_bytes()[:-1] + b"x")
    with pytest.raises(StateError, match="sha256"):
        Recommender.load(tmp_path / "shop")


def test_the_environment_does_not_change_what_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = untaught()
    shop.learn(visits(30))
    shop.save(tmp_path / "shop")
    monkeypatch.setenv("STREAMREC_SERVING__K", "3")
    assert len(Recommender.load(tmp_path / "shop").recommend("u1").items) > 3


# Manners


def test_no_thread_no_process_and_no_connection_is_left_behind(tmp_path: Path) -> None:
    script = f"""
import os, threading
from streamrec import Recommender
from streamrec.demo.sample import sample_log
before = len(os.listdir("/proc/self/fd"))
shop = Recommender(preset="fast", limits={{"max_items": 4000, "max_users": 1000}})
shop.learn({{"type": "click", "user_id": "u", "item_id": f"i{{n}}", "ts": {NOW} + n}} for n in range(40))
shop.recommend("u")
shop.save({str(tmp_path / "shop")!r})
Recommender.load({str(tmp_path / "shop")!r}).recommend("u")
assert threading.enumerate() == [threading.main_thread()], threading.enumerate()
children = open(f"/proc/self/task/{{os.getpid()}}/children").read().split()
assert not children, children
sockets = [fd for fd in os.listdir("/proc/self/fd") if "socket" in os.path.realpath(f"/proc/self/fd/{{fd}}")]
assert not sockets, sockets
import sys
print(*sorted({{"confluent_kafka", "redis", "faust", "torch"}} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=300, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_the_package_offers_it_without_loading_it() -> None:
    assert "Recommender" in streamrec.__all__
    assert streamrec.Recommender is module.Recommender
    with pytest.raises(AttributeError, match="no attribute 'Recommander'"):
        streamrec.Recommander  # noqa: B018  # type: ignore[attr-defined]


class Terminal:
    """Where a person looks."""

    def __init__(self) -> None:
        self.written: list[str] = []

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.written.append(text)
        return len(text)

    def flush(self) -> None:
        pass


@pytest.mark.parametrize(("quiet_s", "drawn"), [(0.0, True), (3_600.0, False)])
def test_long_work_shows_a_bar_to_a_person_and_short_work_none(
    quiet_s: float, drawn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(progress, "QUIET_S", quiet_s)
    threads = threading.enumerate()
    assert untaught().learn(iter(visits(600))) == 600
    assert any("learning" in text for text in terminal.written) is drawn
    assert bool(terminal.written) is drawn
    assert threading.enumerate() == threads


def test_without_a_person_nothing_is_drawn(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "QUIET_S", 0.0)
    untaught().learn(visits(30))
    assert capsys.readouterr() == ("", "")
