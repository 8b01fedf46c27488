"""Writes the findings of the quality bench as one page of Markdown: the headline first, then what stands behind it.

The prose is in `results_page.md`; every figure is taken from the reports of the runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

from streamrec.evaluation.backtest.report import FUSED, POPULARITY
from tools.benchmarks.estimates import short
from tools.benchmarks.findings import Findings
from tools.benchmarks.protocols import Goal
from tools.benchmarks.results_tables import calibration, costs, named, served, table, variety, worth

METRICS = {"recall_10": "Recall@10", "recall_20": "Recall@20", "mrr_20": "MRR@20", "ndcg_10": "NDCG@10"}


@dataclass(frozen=True, slots=True)
class Facts:
    """The circumstances of the runs, in words."""

    day: str
    machine: str
    libraries: str
    versions: Sequence[str]
    """Of the code that was measured; more than one means that not all figures are of the same code."""
    jobs: int
    limit: int | None = None


def results_page(findings: Sequence[Findings], facts: Facts, plots: Mapping[str, str]) -> str:
    """The page.

    Args:
        findings: at least one, in the order to be shown.
        facts: of the runs.
        plots: protocol to the path of its picture, as seen from the page.
    """
    runs = findings[0].runs
    template = Template((Path(__file__).parent / "results_page.md").read_text(encoding="utf-8"))
    return template.substitute(
        over="One seed." if len(runs) == 1 else f"Means over {len(runs)} seeds with 95% intervals.",
        part="" if facts.limit is None else f"**Only the first {facts.limit:,} rows of each log were read.**",
        headline=headline(findings),
        goals=_goals(findings),
        rankers="\n\n".join(_rankers(found, plots.get(found.protocol.name)) for found in findings),
        served=served(findings),
        variety=variety(findings),
        calibration=calibration(findings),
        costs=costs(findings),
        worth=worth(findings),
        seeds=", ".join(str(seed) for seed in runs),
        commands="\n".join(f"    {found.protocol.command()}" for found in findings),
        circumstances=_circumstances(facts),
    )


def headline(findings: Sequence[Findings]) -> str:
    """The fused list beside the best single model, the best retrained peer and popularity."""
    head = ["log", "fused Recall@10", "fused MRR@20", "best single model", "best retrained peer", "popularity", "goals"]
    return table(head, [_headline(found) for found in findings])


def _headline(found: Findings) -> list[str]:
    fused, peer = found.of(FUSED, "recall_10"), found.best_peer
    return [
        named(found),
        f"**{fused}**",
        f"**{found.of(FUSED, 'mrr_20')}**",
        _beside(found, found.best_model, fused.mean),
        "" if peer is None else _beside(found, peer, fused.mean),
        _both(found, POPULARITY),
        _goals_in_short(found),
    ]


def _beside(found: Findings, ranker: str, fused: float) -> str:
    """A ranker's figures, and how far the fused list is ahead of it."""
    recall = found.mean(ranker, "recall_10")
    return f"{ranker} {_both(found, ranker)}" + (f" ({fused / recall - 1:+.0%})" if recall else "")


def _both(found: Findings, ranker: str) -> str:
    return f"{short(found.mean(ranker, 'recall_10'))} / {short(found.mean(ranker, 'mrr_20'))}"


def _goals_in_short(found: Findings) -> str:
    goals = found.protocol.goals
    reached = sum(found.mean(FUSED, goal.metric) >= goal.reach for goal in goals)
    if not goals:
        return ""
    return "reached" if reached == len(goals) else f"{reached} of {len(goals)} reached" if reached else "missed"


def _goals(findings: Sequence[Findings]) -> str:
    lines = []
    for found in findings:
        told = [_judged(goal, found.mean(FUSED, goal.metric)) for goal in found.protocol.goals]
        lines += [f"- `{found.protocol.name}`: {'; '.join(told)}."] if told else []
    return "\n".join(lines) or "None was set for these logs."


def _judged(goal: Goal, value: float) -> str:
    """In plain words."""
    said, reach, stretch = f"{METRICS[goal.metric]} {short(value)}", short(goal.reach), goal.stretch
    if value < goal.reach:
        return f"{said} **misses** {reach} by {short(goal.reach - value, 4)}"
    if stretch is None:
        return f"{said} reaches {reach}"
    if value < stretch:
        return f"{said} reaches {reach}, {short(stretch - value, 4)} short of {short(stretch)} to be proud of"
    return f"{said} reaches {reach}, and {short(stretch)} to be proud of as well"


def _rankers(found: Findings, plot: str | None) -> str:
    """One log: what it is, every ranker's figures, and the hit rate over time."""
    about = f"{found.protocol.about}. {found.first['counts']['scored_targets']:,} scored targets, "
    about += f"{found.first['unknown_target_share']:.1%} of which the log had never shown before."
    rows = [[name, *(str(found.of(name, metric)) for metric in METRICS)] for name in found.rankers]
    rows += [[f"*{peer}*", *(short(found.mean(peer, metric)) for metric in METRICS)] for peer in found.peers]
    parts = [f"### {named(found)}", about, table(["ranker", *METRICS.values()], rows)]
    if found.peers:
        parts.append("In italics: peers, trained anew nine times.")
    if found.protocol.remark:
        parts.append(f"{found.protocol.remark}.")
    if plot:
        parts.append(f"![Hit rate over time on {found.protocol.name}]({plot})")
    return "\n\n".join(parts)


def _circumstances(facts: Facts) -> str:
    versions = f"Version of the code: {', '.join(facts.versions)}."
    mixed = " **These are several: not all figures are of the same code.**" if len(facts.versions) > 1 else ""
    return f"{facts.day}; {facts.machine}; {facts.libraries}; {facts.jobs} runs at a time. {versions}{mixed}"
