"""The page of results: the headline first, goals in plain words, and every figure where a report has it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tools.benchmarks.estimates import Estimate, estimate, short
from tools.benchmarks.findings import Findings
from tools.benchmarks.protocols import PROTOCOLS, Goal
from tools.benchmarks.results_page import Facts, headline, results_page

FACTS = Facts("1 May 2026", "2 cores of a loom, 8 GiB", "numpy 2.0", ["abc"], 2)
MODELS = ("covisit", "clicks", "popularity")


def metrics(recall_10: float) -> dict[str, float]:
    return {
        "targets": 900,
        "recall_10": recall_10,
        "recall_20": recall_10 * 1.5,
        "mrr_20": recall_10 * 0.4,
        "ndcg_10": recall_10 * 0.5,
    }


def report(fused: float) -> dict[str, Any]:
    """What report.json says of a run whose fused list hits so often."""
    values = {"fused": metrics(fused), "covisit": metrics(0.16), "clicks": metrics(0.09), "popularity": metrics(0.05)}
    told = {"pairs": 40, "predicted": 0.05, "observed": 0.04}
    return {
        "counts": {"scored_targets": 900},
        "unknown_target_share": 0.013,
        "metrics": values,
        "slices": {
            "item: older": values,
            "user: after 100 events": {name: {**m, "targets": 0} for name, m in values.items()},
        },
        "beyond_accuracy": {
            "coverage_10": 0.3,
            "gini_10": 0.9,
            "novelty_10_bits": 6.5,
            "personalisation_10": 0.8,
            "diversity_10": None,
        },
        "calibration": {"pairs": 40, "ece": 0.021, "auc": 0.81, "bins": [told, *[told | {"pairs": 0}] * 9]},
        "microseconds_per_event": {"score clicks": 4.0, "learn clicks": 50.0, "retrieve": 30.0},
        "events_per_s": 2_000.0,
    }


@pytest.fixture
def found() -> Findings:
    return Findings(
        PROTOCOLS["ml100k"],
        {seed: report(fused) for seed, fused in enumerate((0.20, 0.21, 0.22))},
        {"ease": {"metrics": {"ease": metrics(0.18)}}, "als": {"metrics": {"als": metrics(0.12)}}},
        {},
        Path("nowhere"),
    )


def page(*findings: Findings, facts: Facts = FACTS) -> str:
    return results_page(findings, facts, {})


def test_an_interval_is_students() -> None:
    told = estimate([0.20, 0.21, 0.22])  # t(.975, 2) = 4.303, standard error .01 / sqrt(3)
    assert (told.mean, told.margin) == (pytest.approx(0.21), pytest.approx(4.3027 * 0.01 / 3**0.5, rel=1e-4))
    assert str(told) == ".210 ± .025"
    assert str(estimate([0.2])) == ".200"
    assert str(Estimate(0.2, 0.0)) == ".200"  # chance plays no part


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.2046, ".205"), (0, ".000"), (1, "1.000"), (0.9999, "1.000"), (-0.05, "-.050"), (10.5, "10.500")],
)
def test_figures_are_short(value: float, expected: str) -> None:
    assert short(value) == expected


def test_the_headline_comes_first_with_the_best_of_each_kind(found: Findings) -> None:
    text = page(found)
    row = "| `ml100k` | **.210 ± .025** | **.084 ± .010** | covisit .160 / .064 (+31%) | ease .180 / .072 (+17%) |"
    assert row in headline([found])
    assert headline([found]) in text[: text.index("\n## ")]


def test_goals_are_judged_in_plain_words(found: Findings) -> None:
    text = page(found)
    assert "Recall@10 .210 reaches .205, .0100 short of .220 to be proud of" in text
    assert "MRR@20 .084 **misses** .085 by .0010" in text
    assert "| 1 of 2 reached |" in text
    proud = replace(found, protocol=replace(found.protocol, goals=(Goal("recall_10", 0.1, 0.2), Goal("mrr_20", 0.02))))
    text = page(proud)
    assert "Recall@10 .210 reaches .100, and .200 to be proud of as well; MRR@20 .084 reaches .020." in text
    assert "| reached |" in text


def test_every_ranker_and_peer_has_a_row(found: Findings) -> None:
    text = page(found)
    for row in (
        "| fused | .210 ± .025 | .315 ± .037 | .084 ± .010 | .105 ± .012 |",
        "| covisit | .160 | .240 | .064 | .080 |",
        "| *als* | .120 | .180 | .048 | .060 |",
        "| item: older | .210 / .050 (100%) |",
        "| novelty, bits | 6.5 |",
        "| AUC | 0.810 |",
        "| said 0.0 to 0.1 | .040 (40) |",
        "| clicks | 4 + 50 |",
        "| everything together | 500 |",
    ):
        assert row in text, row
    for nothing in ("user: after 100 events", "diversity |", "said 0.1"):
        assert f"| {nothing}" not in text


def test_what_is_held_out_is_marked_and_has_no_goals(found: Findings) -> None:
    text = page(found, replace(found, protocol=PROTOCOLS["trivago100k"]))
    assert "| `trivago100k` † |" in text
    assert "- `trivago100k`" not in text


def test_what_a_model_is_worth_is_told_when_it_was_measured(found: Findings) -> None:
    assert "Not measured this time" in page(found)
    text = page(replace(found, without={"covisit": report(0.19)}))
    assert "| covisit | -10.0 / -4.0 |" in text


def test_the_command_of_each_log_can_be_copied(found: Findings) -> None:
    text = page(found)
    assert f"\n    {PROTOCOLS['ml100k'].command()}\n" in text
    assert "`--seed` 0, 1, 2" in text


def test_a_page_that_is_not_all_of_a_piece_says_so(found: Findings) -> None:
    assert "**" not in page(found)[page(found).index("## How it was measured") :]
    assert "not all figures are of the same code" in page(found, facts=replace(FACTS, versions=["abc", "def"]))
    assert "**Only the first 500 rows of each log were read.**" in page(found, facts=replace(FACTS, limit=500))


def test_one_seed_and_no_peers_make_a_page_too(found: Findings) -> None:
    alone = replace(found, runs={0: report(0.2)}, peers={})
    text = page(alone)
    assert "One seed." in text
    assert "±" not in text
    assert alone.best_peer is None


def test_a_log_without_calibration_leaves_its_cells_empty(found: Findings) -> None:
    bare = replace(found, runs={0: report(0.2) | {"calibration": None}})
    assert "| AUC | 0.810 |  |" in page(found, bare)
