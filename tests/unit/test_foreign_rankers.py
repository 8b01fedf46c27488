"""A ranker of others runs in a backtest beside ours, under the same protocol, and is held to its word."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

from streamrec import Event
from streamrec.cli import app
from streamrec.config.settings import load_settings
from streamrec.errors import ConfigError, RankerError
from streamrec.evaluation.backtest.backtest import backtest
from streamrec.evaluation.backtest.foreign import Ranker, load_rankers
from streamrec.evaluation.backtest.report import BacktestResult
from streamrec.evaluation.backtest.slates import model_ranks, read_slates
from streamrec.replay.logs import open_log

BEGAN = 1_700_000_000_000
SMALL: dict[str, Any] = {
    "preset": "fast",
    "learning": {"models": ("popularity",), "positives": ("click", "purchase")},
    "limits": {"max_items": 300, "max_users": 300},
}

MODULE = """
from collections import Counter


class MostPopular:
    name = "most popular"

    def __init__(self):
        self.counts = Counter()

    def learn(self, events):
        self.counts.update(event.item_id for event in events if event.item_id is not None)

    def rank(self, user_id, candidates=None, k=20):
        return [item_id for item_id, _ in self.counts.most_common(k)]
"""

Row = tuple[str, str, str, int]
LOG: list[Row] = [  # what, who, which, minutes
    ("click", "ann", "a", 0),
    ("click", "bob", "b", 1),
    ("click", "ann", "a", 2),
    ("purchase", "bob", "a", 3),  # a basket of three, and somebody else's click at the same time
    ("purchase", "bob", "c", 3),
    ("click", "ann", "d", 3),
    ("purchase", "bob", "d", 3),
    ("view", "ann", "e", 4),  # of no interest, and learned all the same
    ("click", "ann", "e", 5),
]


class Scripted:
    """Recommends what was touched last; remembers what it was told and asked."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.script: list[tuple[str, Any]] = []

    def learn(self, events: Sequence[Event]) -> None:
        self.script.append(("learn", [f"{event.user_id} {event.item_id}" for event in events]))
        self.seen += [event.item_id for event in events if event.item_id is not None]

    def rank(self, user_id: str, candidates: Sequence[str] | None = None, k: int = 20) -> Sequence[str]:
        self.script.append(("rank", user_id))
        return list(dict.fromkeys(reversed(self.seen)))[:k]


def run(ranker: Ranker, out: Path, **learning: object) -> BacktestResult:
    columns = list(zip(*LOG, strict=True))
    frame = pl.DataFrame(dict(zip(("type", "user_id", "item_id", "minutes"), columns, strict=True)))
    frame = frame.with_columns(ts=BEGAN + 60_000 * pl.col("minutes"))
    frame.write_parquet(out / "log.parquet")
    settings = load_settings(**{**SMALL, "learning": {**SMALL["learning"], **learning}})
    return backtest(open_log(out / "log.parquet"), settings, out / "report", warmup=0.0, rankers={"scripted": ranker})


def test_it_is_asked_before_it_is_told_of_each_event_and_once_before_a_basket(tmp_path: Path) -> None:
    ranker = Scripted()
    result = run(ranker, tmp_path)
    assert ranker.script == [
        ("rank", "ann"),
        ("learn", ["ann a"]),
        ("rank", "bob"),
        ("learn", ["bob b"]),
        ("rank", "ann"),
        ("learn", ["ann a"]),
        ("rank", "bob"),
        ("learn", ["bob a", "bob c"]),
        ("rank", "ann"),
        ("learn", ["ann d", "bob d", "ann e"]),
        ("rank", "ann"),
    ]
    # a and b and c are new when they are wanted; the basket was ranked as a, b; then d came, and e was seen last.
    assert result.model_ranks["scripted"].tolist() == [0, 0, 2, 1, 0, 0, 0, 1]
    assert len(result.ranks) == len(result.model_ranks["popularity"]) == 8


def test_what_must_not_be_recommended_is_dropped_from_its_list(tmp_path: Path) -> None:
    result = run(Scripted(), tmp_path, exclude_seen=True)
    # ann has had a, so that it is no answer for her; bob has had b, which moves nothing above a.
    assert result.model_ranks["scripted"].tolist() == [0, 0, 0, 1, 0, 0, 0, 0]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "rankers_of_others.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield "rankers_of_others:MostPopular"
    sys.modules.pop("rankers_of_others", None)


def test_ten_lines_make_a_row_in_every_table_of_a_backtest(module: str, tmp_path: Path) -> None:
    from streamrec.demo.sample import sample_log

    options = ["--rows", "0:400", "--preset", "fast", "--warmup", "0", "--ranker", module, "--out", str(tmp_path)]
    ran = CliRunner().invoke(app, ["backtest", str(sample_log()), *options])
    assert ran.exit_code == 0, ran.output
    assert "most popular" in ran.output
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["metrics"]["most popular"].keys() == report["metrics"]["fused"].keys()
    assert report["metrics"]["most popular"]["targets"] == report["metrics"]["fused"]["targets"]
    assert "ranker most popular" in report["microseconds_per_event"]
    assert "most popular" in (tmp_path / "report.html").read_text()
    places = model_ranks(read_slates(tmp_path / "slates.parquet"))["most popular"]
    # The same by hand: whoever is counted so far, before each basket.
    counts, expected, moment = Counter[str](), [], None
    rows = pl.read_parquet(sample_log())[:400].select("user_id", "ts", "item_id").rows()
    ranking: list[str] = []
    for user, ts, item in rows:
        if (user, ts) != moment:
            moment, ranking = (user, ts), [name for name, _ in counts.most_common(20)]
        expected.append(ranking.index(item) + 1 if item in ranking else 0)
        counts[item] += 1
    assert places.tolist() == expected
    assert any(expected)


def raises(user_id: str, k: int) -> list[str]:
    raise ValueError("no luck")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (raises, r"ranker 'scripted' failed in rank\(\): ValueError: no luck"),
        (lambda user_id, k: ["a", "a"], r"rank\('bob', k=20\) gave 'a' twice"),
        (lambda user_id, k: ["zebra"], "gave 'zebra', expected the id of an item it has learned of"),
        (lambda user_id, k: [3], "gave 3, expected the id of an item"),
        (lambda user_id, k: ["a"] * (k + 1), "gave 21 items, expected at most 20"),
        (lambda user_id, k: "abc", "gave a str, expected a list of item ids"),
        (lambda user_id, k: None, "gave a NoneType, expected a list of item ids"),
    ],
)
def test_a_ranker_that_breaks_its_word_ends_the_run_by_name(
    answer: Callable[[str, int], Any], said: str, tmp_path: Path
) -> None:
    class Broken(Scripted):
        def rank(self, user_id: str, candidates: Sequence[str] | None = None, k: int = 20) -> Any:
            return answer(user_id, k) if user_id == "bob" else []

    with pytest.raises(RankerError, match=said):
        run(Broken(), tmp_path)
    assert not (tmp_path / "report" / "slates.parquet").exists()


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("rankers_of_others", "expected MODULE:FACTORY"),
        ("no_such_module_here:Ranker", "cannot be made: ModuleNotFoundError"),
        ("collections:NoSuchThing", "cannot be made: AttributeError"),
        ("collections:Counter", r"a Counter has no learn\(\) and no rank\(\)"),
    ],
)
def test_what_makes_no_ranker_is_refused_in_words(named: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_rankers([named], taken=())


def test_no_two_lists_have_one_name(module: str) -> None:
    assert list(load_rankers([module], taken=("fused",))) == ["most popular"]
    with pytest.raises(ConfigError, match="another list is called 'most popular'"):
        load_rankers([module, module], taken=())
    with pytest.raises(ConfigError, match="another list"):
        load_rankers([module], taken=("most popular",))


def test_the_example_with_implicit_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("implicit")
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "examples")
    from implicit_ranker import LeastSquares  # type: ignore[import-not-found]

    ranker = LeastSquares(every=4)
    places = run(ranker, tmp_path).model_ranks["scripted"].tolist()
    assert ranker.model is not None
    assert places[:3] == [0, 0, 1]
