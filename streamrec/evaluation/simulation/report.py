"""Writes the report of a contest: figures as JSON, plots as SVG, and one self-contained page."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from streamrec.evaluation.pages import escaped, filled, table_row
from streamrec.evaluation.plotting import standalone
from streamrec.evaluation.simulation.contest import Episodes
from streamrec.evaluation.simulation.plots import curves_plot
from streamrec.evaluation.simulation.standings import (
    RECOVERED,
    AttackEffect,
    Recovery,
    Standing,
    attack_effects,
    ranked,
    recoveries,
    regret_curves,
    reward_curves,
    share_curves,
    standings,
    verdict,
)
from streamrec.evaluation.simulation.world import AttackKind, World, WorldSettings

PAGE, FIGURES, EPISODES = "report.html", "contest.json", "episodes.npz"
COLUMNS = ("reward", "last_quarter", "share_of_best", "behind_first", "regret", "behind_oracle", "realised")


@dataclass(frozen=True, slots=True)
class SimulationNotes:
    """How a contest was run: what the page says beside the figures."""

    command: str
    seeds: Sequence[int]
    world: WorldSettings
    settings: Mapping[str, object]
    seconds: float
    made: str = ""
    """When and by which version, for the page's foot; the command alone without it."""


def contest_figures(episodes: Episodes, notes: SimulationNotes) -> dict[str, object]:
    """What `contest.json` says, in words that JSON knows; at least one contender with at least one seed."""
    drift_ms = World(notes.world).drift_ms
    figures = {
        "command": notes.command,
        "seeds": list(notes.seeds),
        "world": asdict(notes.world),
        "settings": notes.settings,
        "seconds": round(notes.seconds, 1),
        "standings": [asdict(standing) for standing in standings(episodes)],
        "recoveries": [asdict(recovery) for recovery in _recovered(episodes, drift_ms)],
        "pushed": [asdict(share) for share in _pushed(episodes, notes)],
    }
    return {name: _finite(value) for name, value in figures.items()}


def _recovered(episodes: Episodes, drift_ms: int | None) -> list[Recovery]:
    return [] if drift_ms is None else recoveries(episodes, drift_ms)


def _pushed(episodes: Episodes, notes: SimulationNotes) -> list[AttackEffect]:
    if notes.world.crowd.attack is AttackKind.HAMMER:
        return []
    return attack_effects(episodes, World(notes.world).attack_ms)


def write_report(out: Path, episodes: Episodes, notes: SimulationNotes) -> list[Standing]:
    """Write `report.html`, `contest.json`, `episodes.npz` and the plots into `out`; returns the table.

    Args:
        out: a directory, made when it is missing.
        episodes: at least one contender with at least one seed.
        notes: how they came about.
    """
    out.mkdir(parents=True, exist_ok=True)
    table = standings(ranked(episodes))
    drift_ms = World(notes.world).drift_ms
    plots = _plots(episodes, drift_ms)
    for name, svg in plots.items():
        (out / f"{name}.svg").write_text(standalone(svg), encoding="utf-8")
    text = json.dumps(contest_figures(episodes, notes), indent=1, default=str)
    (out / FIGURES).write_text(text + "\n", encoding="utf-8")
    arrays = {
        f"{name}/{seed}/{column}": getattr(run, column)
        for name, runs in episodes.items()
        for seed, run in zip(notes.seeds, runs, strict=True)
        for column in ("ts", "shopper", "expected", "best", "realised", "looked", "answered", "target")
    }
    np.savez_compressed(out / EPISODES, **arrays)
    special = _recovered(episodes, drift_ms), _pushed(episodes, notes)
    (out / PAGE).write_text(_page(verdict(episodes), table, special, plots, notes), encoding="utf-8")
    return table


def _plots(episodes: Episodes, drift_ms: int | None) -> dict[str, str]:
    runs = ranked(episodes)
    first = next(iter(runs.values()))[0]
    marked = None if drift_ms is None else int(np.searchsorted(first.ts, drift_ms))
    return {
        "reward": curves_plot("Expected reward per slate", reward_curves(runs), marked),
        "share": curves_plot("Share of the best slates' reward", share_curves(runs), marked),
        "regret": curves_plot("Regret, summed up", regret_curves(runs), marked),
    }


def _page(
    said: str,
    table: Sequence[Standing],
    special: tuple[Sequence[Recovery], Sequence[AttackEffect]],
    plots: Mapping[str, str],
    notes: SimulationNotes,
) -> str:
    recovery, effects = special
    return filled(
        Path(__file__).parent / "report.html",
        **plots,
        seeds=", ".join(str(seed) for seed in notes.seeds),
        verdict=escaped(said),
        made=escaped(notes.made or notes.command),
        standings="".join(table_row(s.name, [str(getattr(s, column) or "") for column in COLUMNS]) for s in table),
        recovery=_recovery_table(recovery) + _attack_table(effects),
        seconds=f"{notes.seconds:,.0f}",
        world=_pairs({k: v for k, v in asdict(notes.world).items() if k != "seed"}),
        settings=_pairs(notes.settings),
    )


def _recovery_table(recovery: Sequence[Recovery]) -> str:
    if not recovery:
        return ""
    rows = [
        table_row(
            r.name, [str(r.before), str(r.lowest), ", ".join("not" if n is None else f"{n:,}" for n in r.requests)]
        )
        for r in recovery
    ]
    head = "<tr><th>contender</th><th>share before</th><th>lowest after</th><th>requests until back, by seed</th></tr>"
    return (
        "<h2>After the drift</h2>"
        f"<p>Share of the best slates' reward just before the drift, the lowest after it, and how many requests it "
        f"took until it was back at {RECOVERED:.0%} of what it had been, over windows that lie wholly after it.</p>"
        f'<div class="scroll"><table class="figures"><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def _attack_table(effects: Sequence[AttackEffect]) -> str:
    if not effects:
        return ""
    rows = [table_row(b.name, [str(b.first), str(b.shown), str(b.reward)]) for b in effects]
    head = "<tr><th>contender</th><th>in first place</th><th>on the slate</th><th>reward</th></tr>"
    return (
        "<h2>What bots bought</h2>"
        "<p>Share of people's slates with the item that bots push, and what people's slates earned, since the bots "
        "came.</p>"
        f'<div class="scroll"><table class="figures"><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def _pairs(pairs: Mapping[str, object]) -> str:
    return "".join(table_row(name, [escaped(_words(value))]) for name, value in pairs.items())


def _words(value: object) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {_words(member)}" for key, member in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(str(member) for member in value) or "none"
    return "none" if value is None else str(value)


def _finite(value: object) -> object:
    """The same with None for what JSON has no number for."""
    if isinstance(value, Mapping):
        return {str(key): _finite(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(member) for member in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
