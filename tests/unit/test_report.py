"""What a backtest leaves behind: slates that metrics can be recomputed from, a JSON file and a page."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from streamrec.config.parts import models as listed_models
from streamrec.engine.learning.ranking_metrics import ranking_metrics
from streamrec.errors import TableError
from streamrec.evaluation import plotting
from streamrec.evaluation.backtest import plots, report_page
from streamrec.evaluation.backtest import slates as slates_file
from streamrec.evaluation.backtest.calibration import Calibration, ReliabilityBin
from streamrec.evaluation.backtest.new_items import NewItems
from streamrec.evaluation.backtest.report import BacktestResult, verdict
from streamrec.evaluation.backtest.report_files import write_report
from streamrec.evaluation.backtest.slates import SlateWriter, fused_ranks, model_ranks, read_slates
from streamrec.evaluation.backtest.slices import TargetContexts, masks
from streamrec.evaluation.backtest.variety import Variety

MODELS = ("click", "sequence", "popularity")
TARGETS = 3_000


@pytest.fixture(scope="module")
def columns() -> dict[str, Any]:
    """The columns of slates.parquet for a made-up run; the first slates are short, the target is often in them."""
    rng = np.random.default_rng(7)
    catalogue = np.array([f"item-{n}" for n in range(60)])
    slates = [list(rng.choice(catalogue, min(20, n), replace=False)) for n in range(TARGETS)]
    return {
        "rows": np.arange(TARGETS) * 2,
        "ts": 1_318_000_000_000 + np.sort(rng.integers(0, 10**9, TARGETS)),
        "user_ids": [f"user-{n}" for n in rng.integers(0, 99, TARGETS)],
        "targets": list(rng.choice(catalogue, TARGETS)),
        "known": rng.random(TARGETS) < 0.9,
        "scored": np.arange(TARGETS) >= 300,
        "items": slates,
        "scores": [np.sort(rng.random(len(slate)).astype(np.float32))[::-1] for slate in slates],
        "ranks": {name: rng.integers(0, 21, TARGETS) for name in MODELS},
    }


def part(columns: dict[str, Any], start: int, stop: int) -> dict[str, Any]:
    cut = {name: values[start:stop] for name, values in columns.items() if name != "ranks"}
    return cut | {"ranks": {name: ranks[start:stop] for name, ranks in columns["ranks"].items()}}


def written(path: Path, columns: dict[str, Any], batch: int) -> Path:
    with SlateWriter(path, MODELS) as writer:
        for start in range(0, TARGETS, batch):
            writer.append(**part(columns, start, start + batch))
    return path


def result_of(path: Path, **more: Any) -> BacktestResult:
    """The result that a run with these slates would report, taken from the file alone."""
    table = read_slates(path)
    scored = table["scored"].to_numpy()
    count = np.arange(len(scored), dtype=np.int32)
    fields = {
        "log": "made up",
        "seed": 3,
        "settings": {"warmup": 0.1, "positives": ["purchase"]},
        "ts": table["ts"].to_numpy(),
        "known": table["known"].to_numpy(),
        "scored": scored,
        "ranks": fused_ranks(table),
        "model_ranks": model_ranks(table),
        "known_items": 60,
        "target_contexts": TargetContexts(count % 5, count % 7, count, (count * 100.0).astype(np.float32)),
        "variety": Variety(2_700, 45, 0.75, 0.4, 5.5, 0.8, None),
        "calibration": Calibration(
            8_000, 0.03, 0.71, (ReliabilityBin(8_000, 0.25, 0.22), *[ReliabilityBin(0, 0, 0)] * 9)
        ),
        "step_seconds": {"learn click": 0.4, "score click": 0.2, "retrieve": 0.8},
        "events": 4_000,
        "seconds": 2.0,
        "weights": [(n * 100, {"click": 0.01 * n, "sequence": -0.02 * n, "hour": 0.5}) for n in range(40)],
        "throughput": [(n * 100, n * 0.05) for n in range(1, 41)],
    }
    return BacktestResult(**(fields | more))


@pytest.fixture(scope="module")
def slates(columns: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("run") / "slates.parquet", columns, 256)


def test_slates_come_back_as_they_were_written(slates: Path, columns: dict[str, Any]) -> None:
    table = read_slates(slates)
    assert table["items"].to_pylist() == columns["items"]
    assert table["target"].to_pylist() == columns["targets"]
    assert [np.float32(score) for slate in table["scores"].to_pylist() for score in slate] == [
        score for slate in columns["scores"] for score in slate
    ]
    for name in MODELS:
        assert (model_ranks(table)[name] == columns["ranks"][name]).all()


def test_fused_ranks_are_the_places_of_the_targets(slates: Path, columns: dict[str, Any]) -> None:
    pairs = zip(columns["items"], columns["targets"], strict=True)
    assert fused_ranks(read_slates(slates)).tolist() == [
        slate.index(target) + 1 if target in slate else 0 for slate, target in pairs
    ]


def test_the_bytes_do_not_depend_on_how_rows_were_batched(
    columns: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slates_file, "ROW_GROUP", 512)
    files = [written(tmp_path / f"{batch}.parquet", columns, batch) for batch in (1, 100, 512, 700, TARGETS)]
    assert len({file.read_bytes() for file in files}) == 1
    changed = columns | {"targets": ["another", *columns["targets"][1:]]}
    assert written(tmp_path / "changed.parquet", changed, 100).read_bytes() != files[0].read_bytes()


def test_a_run_that_fails_leaves_no_slates(columns: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), SlateWriter(tmp_path / "slates.parquet", MODELS) as writer:
        writer.append(**part(columns, 0, 10))
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ranks": {"click": [1]}}, "expected those named"),
        ({"ranks": {"click": [1], "sequence": [21], "popularity": [0]}}, "rank_sequence goes from 21 to 21"),
        ({"scores": [[0.5]]}, "one score for each item"),
        ({"items": [["x"] * 21], "scores": [[0.1] * 21]}, "expected at most 20"),
        ({"targets": ["x", "y"]}, "expected as many each"),
    ],
)
def test_slates_that_make_no_sense_are_refused(
    columns: dict[str, Any], tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said), SlateWriter(tmp_path / "slates.parquet", MODELS) as writer:
        writer.append(**(part(columns, 50, 51) | change))


def test_a_run_without_targets_still_leaves_a_table(tmp_path: Path) -> None:
    with SlateWriter(tmp_path / "slates.parquet", MODELS):
        pass
    table = read_slates(tmp_path / "slates.parquet")
    assert (table.num_rows, len(fused_ranks(table))) == (0, 0)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "slates.parquet").write_text("no")
    with pytest.raises(TableError, match="run the backtest again"):
        read_slates(tmp_path / "slates.parquet")


def test_every_metric_of_the_report_can_be_recomputed_from_the_slates(slates: Path, tmp_path: Path) -> None:
    write_report(tmp_path, result_of(slates))
    report = json.loads((tmp_path / "report.json").read_text())
    rows = [row for row in read_slates(slates).to_pylist() if row["scored"]]
    places = {"fused": [row["items"].index(row["target"]) + 1 if row["target"] in row["items"] else 0 for row in rows]}
    places |= {name: [row[f"rank_{name}"] for row in rows] for name in MODELS}
    assert set(report["metrics"]) == set(places)
    for name, ranks in places.items():
        told = report["metrics"][name]
        assert told["targets"] == len(rows) == 2_700
        assert told["recall_10"] == pytest.approx(sum(0 < rank <= 10 for rank in ranks) / len(rows))
        assert told["recall_20"] == pytest.approx(sum(rank > 0 for rank in ranks) / len(rows))
        assert told["mrr_20"] == pytest.approx(sum(1 / rank for rank in ranks if rank) / len(rows))
        assert told["ndcg_10"] == pytest.approx(sum(1 / np.log2(1 + r) for r in ranks if 0 < r <= 10) / len(rows))
    assert report["unknown_target_share"] == pytest.approx(sum(not row["known"] for row in rows) / len(rows))
    assert report["coverage_10"] == report["beyond_accuracy"]["coverage_10"] == 0.75
    assert report["events_per_s"] == 2_000
    assert report["seed"] == 3
    assert report["settings"]["warmup"] == 0.1


def test_known_targets_are_reported_apart(slates: Path, tmp_path: Path) -> None:
    result = result_of(slates)
    write_report(tmp_path, result)
    told = json.loads((tmp_path / "report.json").read_text())["metrics_of_known_targets"]["fused"]
    assert told == ranking_metrics(result.ranks, result.scored & result.known).as_dict()


def test_slices_are_the_same_metrics_over_parts_of_the_targets(slates: Path, tmp_path: Path) -> None:
    result = result_of(slates)
    write_report(tmp_path, result)
    told = json.loads((tmp_path / "report.json").read_text())["slices"]
    parts = masks(result.target_contexts, result.known)
    assert set(told) == set(parts)
    for name, mask in parts.items():
        assert told[name]["click"] == ranking_metrics(result.model_ranks["click"], result.scored & mask).as_dict()


def test_every_slice_stands_beside_the_best_single_list(slates: Path, tmp_path: Path) -> None:
    result = result_of(slates, new_items=NewItems(0.25, 0.5))
    page = write_report(tmp_path, result).read_text()
    told = json.loads((tmp_path / "report.json").read_text())
    best = max(MODELS, key=lambda name: told["metrics"][name]["recall_10"])
    assert told["baseline"] == best
    assert list(told["against_baseline"]) == ["all targets", *told["slices"]]
    for name, part in told["slices"].items():
        beside = told["against_baseline"][name]
        assert beside["targets"] == part["fused"]["targets"]
        assert beside["share"] == pytest.approx(part["fused"]["targets"] / 2_700)
        assert beside["recall_10"] == pytest.approx(part["fused"]["recall_10"])
        assert beside["baseline_recall_10"] == pytest.approx(part[best]["recall_10"])
        assert beside["difference"] == pytest.approx(beside["recall_10"] - beside["baseline_recall_10"])
        assert beside["lower"] <= beside["difference"] <= beside["upper"]
    young = told["slices"]["item: first seen within an hour"]
    assert told["newcomers"] == {
        "younger_than_s": 3_600.0,
        "share_of_targets": pytest.approx(young["fused"]["targets"] / 2_700),
        "share_of_places": {"fused": 0.25, "popularity": 0.5},
        "recall_10": {name: pytest.approx(young[name]["recall_10"]) for name in ("fused", best)},
    }
    assert "25.0% of what was recommended to them" in page
    assert f"<h1>Backtest on made up</h1>\n<p><b>{verdict(result)}</b></p>" in page  # the first sentence
    assert f"{best} has" in verdict(result)
    assert '<th scope="row">user: 1st event</th>' in page


def test_rows_of_few_targets_are_folded_away(slates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_page, "FEW", 500)
    page = write_report(tmp_path, result_of(slates)).read_text()
    told = json.loads((tmp_path / "report.json").read_text())["slices"]
    shown, _, folded = page.partition("Fewer than 500 targets each")
    few = [name for name, part in told.items() if 0 < part["fused"]["targets"] < 500]
    assert 0 < len(few) < len(told)
    assert all(f'<th scope="row">{name}</th>' in folded and f">{name}</th>" not in shown for name in few)


def test_without_another_list_or_target_contexts_nothing_stands_beside_it(slates: Path, tmp_path: Path) -> None:
    for changed in ({"model_ranks": {}}, {"target_contexts": None}):
        write_report(tmp_path, result_of(slates, **changed))
        told = json.loads((tmp_path / "report.json").read_text())
        assert told["newcomers"] is None
        assert list(told["against_baseline"]) == ([] if "model_ranks" in changed else ["all targets"])


def test_costs_are_per_event_and_the_largest_comes_first(slates: Path, tmp_path: Path) -> None:
    write_report(tmp_path, result_of(slates))
    told = json.loads((tmp_path / "report.json").read_text())["microseconds_per_event"]
    assert list(told.items()) == [("retrieve", 200.0), ("learn click", 100.0), ("score click", 50.0)]


def test_the_page_shows_slices_variety_calibration_and_costs(slates: Path, tmp_path: Path) -> None:
    text = write_report(tmp_path, result_of(slates)).read_text()
    for row in (
        '<th scope="row">user: after 100 events</th>',
        '<th scope="row">Novelty: surprise of a shown item</th><td>5.5 bits</td>',
        '<th scope="row">0.0 to 0.1</th><td>8,000</td><td>0.250</td><td>0.220</td>',
        '<th scope="row">click</th><td>50.0</td><td>100.0</td>',
        '<th scope="row">retrieve</th><td></td><td>200.0</td>',
        "no categories known",
    ):
        assert row in text


def test_a_plot_that_stands_alone_has_the_colours_of_the_page_and_no_variables(slates: Path, tmp_path: Path) -> None:
    page = write_report(tmp_path, result_of(slates)).read_text()
    light = dict(re.findall(r"(--[a-z0-9-]+): (#[0-9a-f]{6})", page[: page.index("@media")]))
    assert {name: light[name] for name in plotting.ON_WHITE} == plotting.ON_WHITE
    drawn = plotting.standalone(page[page.index("<svg") : page.index("</svg>") + len("</svg>")])
    assert "var(" not in drawn
    assert plotting.ON_WHITE["--series-1"] in drawn
    ElementTree.fromstring(drawn)
    ElementTree.fromstring(plotting.standalone(plots.NOTHING))


class Page(HTMLParser):
    """Collects what a browser would fetch, and checks that what is opened is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.open: list[str] = []
        self.unbalanced: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [
            f"{k}={v}" for k, v in attrs if k in ("src", "href", "xlink:href", "srcset") and v and v[0] != "#"
        ]
        if tag not in ("meta", "link", "br", "img", "hr"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)


def test_the_page_needs_nothing_from_elsewhere_and_shows_every_plot(slates: Path, tmp_path: Path) -> None:
    text = write_report(tmp_path, result_of(slates)).read_text()
    page = Page(text)
    assert page.fetched == []
    assert (page.open, page.unbalanced) == ([], [])
    assert not re.search(r"@import|url\(\s*['\"]?(?!#)", text)
    assert text.count('role="img"') == 8  # four plots, each for wide screens and for phones
    for name in ("fused", *MODELS):
        assert f'<th scope="row">{name}</th>' in text
    assert "$" not in text


def test_plots_take_the_colours_of_the_page(slates: Path, tmp_path: Path) -> None:
    text = write_report(tmp_path, result_of(slates)).read_text()
    drawn = text[text.index("<svg") :]
    assert "var(--series-1)" in drawn
    assert "var(--ink)" in drawn
    assert not re.search(r"(stroke|fill): #", drawn)


def test_two_lines_have_colour_and_every_other_is_grey_and_named(slates: Path, tmp_path: Path) -> None:
    result = result_of(slates)
    text = write_report(tmp_path, result).read_text()
    assert "--series-3" not in text
    for svg in re.findall(r"<svg.*?</svg>", text, re.S)[:2]:
        for name in ("fused", *MODELS):
            assert f">{name}</text>" in svg
        for variable in ("var(--series-1)", "var(--series-2)", "var(--quiet)"):
            assert variable in svg
        seen = re.search(r'aria-label="([^"]*)"', svg)
        assert seen is not None
        assert re.search(r"fused ends at 0\.\d+, \w+ at 0\.\d+; fused lies above", seen[1])


def test_weights_that_have_no_name_are_counted(slates: Path) -> None:
    samples = [(n, {f"w{at}": at + 0.1 for at in range(20)}) for n in (1, 2)]
    assert "6 more, between ±5.1 at the end, have no name here" in plots.weights(samples)


@pytest.mark.parametrize(
    ("auc", "ece", "answer"),
    [(0.46, 0.01, "worse than chance"), (0.7, 0.2, "off by 0.20 on the average"), (0.7, 0.01, "to be believed")],
)
def test_the_heading_answers_and_a_model_worse_than_chance_is_named(
    auc: float, ece: float, answer: str, slates: Path, tmp_path: Path
) -> None:
    found = Calibration(800, ece, auc, (ReliabilityBin(800, 0.25, 0.22), *[ReliabilityBin(0, 0, 0)] * 9))
    text = write_report(tmp_path, result_of(slates, calibration=found)).read_text()
    (heading,) = re.findall(r"<h2>The click model's probabilities: (.*?)</h2>", text)
    assert answer in heading
    assert ("The model clicks orders items worse than chance (AUC 0.46" in text) == (auc < 0.5)


def test_text_is_never_smaller_than_eleven_pixels_on_a_phone(slates: Path, tmp_path: Path) -> None:
    text = write_report(tmp_path, result_of(slates)).read_text()
    narrow = re.findall(r'<svg class="narrow".*?</svg>', text, re.S)
    assert len(narrow) == 4
    for svg in narrow:
        width = float(ElementTree.fromstring(svg).attrib["viewBox"].split()[2])
        sizes = {float(size) for size in re.findall(r"font(?:-size)?: (?:bold )?([\d.]+)px", svg)}
        assert min(sizes) * 337 / width >= 11  # what a page of 375 px leaves


def test_equal_results_give_equal_reports(slates: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_report(tmp_path / name, result_of(slates))
    for file in ("report.json", "report.html"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_settings_that_json_has_no_word_for_are_written_in_a_fixed_order(slates: Path, tmp_path: Path) -> None:
    kinds = frozenset(f"type {n}" for n in range(9))
    write_report(tmp_path, result_of(slates, settings={"recommend_on": kinds, "directory": Path("a/b")}))
    told = json.loads((tmp_path / "report.json").read_text())["settings"]
    assert told == {"recommend_on": sorted(kinds), "directory": "a/b"}


def test_names_cannot_break_the_page(slates: Path, tmp_path: Path) -> None:
    nasty = '<script>alert("x")</script> $money'
    text = write_report(tmp_path, result_of(slates, log=nasty, settings={nasty: nasty})).read_text()
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
    assert "$money" in text


def test_an_empty_run_is_reported_without_plots(slates: Path, tmp_path: Path) -> None:
    nothing = np.empty(0, np.int64)
    none = nothing.astype(bool)
    empty = result_of(
        slates,
        ts=nothing,
        known=none,
        scored=none,
        ranks=nothing,
        model_ranks=dict.fromkeys(MODELS, nothing),
        target_contexts=TargetContexts(nothing, nothing, nothing, nothing.astype(np.float32)),
        variety=Variety(),
        calibration=None,
        weights=[],
        throughput=[],
        seconds=0.0,
    )
    text = write_report(tmp_path, empty).read_text()
    assert "Nothing was scored" in text
    assert "<svg" not in text
    assert json.loads((tmp_path / "report.json").read_text())["metrics"]["fused"]["targets"] == 0


def test_the_whole_name_of_every_model_stands_inside_the_picture() -> None:
    places = np.arange(9)
    names = ("fused", *listed_models(), "a model of somebody's own with a name of many words")
    line = plots.Line(places, places / 9, 1_700_000_000_000 + places * 86_400_000)
    wide = plotting.standalone(plots.over_time("recall_10", dict.fromkeys(names, line)))
    drawn = ElementTree.fromstring(wide)
    width = float(drawn.attrib["viewBox"].split()[2])
    texts = drawn.iter("{http://www.w3.org/2000/svg}text")
    ends = {text.text: float(text.attrib["x"]) for text in texts if text.text in names}
    assert set(ends) == set(names)
    pt_per_letter = 0.6 * plotting.FONT_PT  # a wide font's, on the average of letters
    assert all(ends[name] + pt_per_letter * len(name) < width for name in names)
