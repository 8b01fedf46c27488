"""Lets made-up shoppers shop: policies against each other in this process, or one deployment over its topics."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.table import Table

from streamrec.cli.shared.console import PlainConsole, made
from streamrec.config.settings import Settings, shown
from streamrec.errors import ConfigError
from streamrec.evaluation.simulation.loop import Episode, EpisodeRecorder
from streamrec.evaluation.simulation.standings import AttackEffect, Standing
from streamrec.evaluation.simulation.world import AttackKind, CrowdSettings, World, WorldSettings

BOTS_OF = 100
"""Shoppers for each bot, under an attack."""
PROGRESS_REQUESTS = 100
"""Live, a line is printed after so many slates."""

OF_REGRET = (
    "regret is beside the best slates for shoppers as a contender's own slates left them:\n"
    "reward and regret do not add up to what the oracle earns in its own run"
)


def seeds_of(text: str) -> list[int]:
    """The seeds named by `3`, `1:5` (both included) or `1,4,9`.

    Raises:
        ConfigError: it is none of these.
    """
    try:
        first, colon, last = text.partition(":")
        found = list(range(int(first), int(last) + 1)) if colon else [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 0:
        raise ConfigError(f"--seeds is {text!r}, expected whole numbers as 3, 1:5 or 1,4,9")
    return found


def crowd_of(shoppers: int, bots: int | None, attack: str | None, attack_at: float) -> CrowdSettings:
    """People, and bots beside them: unless told otherwise one for every hundred people under attack, else none."""
    if attack is None:
        return CrowdSettings(shoppers=shoppers, bots=bots or 0)
    count = -(-shoppers // BOTS_OF) if bots is None else bots
    return CrowdSettings(shoppers=shoppers, bots=count, attack=AttackKind(attack), attack_at=attack_at)


def contest(
    contenders: Sequence[str],
    world: WorldSettings,
    seeds: Sequence[int],
    settings: Settings,
    out: Path | None,
    *,
    as_json: bool,
) -> None:
    """Every contender in the world of every seed; prints the table, and writes a report after each seed when asked to.

    Raises:
        ConfigError: there is no such contender.
    """
    from streamrec.evaluation.simulation import contest as contests
    from streamrec.evaluation.simulation.report import SimulationNotes, contest_figures, write_report
    from streamrec.evaluation.simulation.standings import attack_effects, ranked, standings, verdict

    notes = PlainConsole(stderr=True)
    began = time.perf_counter()

    def note(name: str, seed: int, episode: Episode) -> None:
        at_s = time.perf_counter() - began
        notes.print(f"{at_s:7.1f} s  seed {seed}  {name}: {episode.expected.mean():.4f} a slate", highlight=False)

    online = contests.alone(settings)
    aside = [f"rollout.{name}" for name, value in settings.rollout if value != getattr(online.rollout, name)]
    if aside:
        words = f"note: set aside, for each contender answers every request of its own world: {', '.join(aside)}"
        notes.print(words, highlight=False, markup=False, soft_wrap=True)
    names = list(dict.fromkeys(contenders or contests.DEFAULT))
    episodes: contests.Episodes = {name: [] for name in names}
    command = shlex.join(["streamrec", *sys.argv[1:]])
    for number, seed in enumerate(seeds, 1):
        for name, runs in contests.contest(names, world, [seed], online, note).items():
            episodes[name] += runs
        told = SimulationNotes(command, seeds[:number], world, _told(online), time.perf_counter() - began, made())
        if out is not None:  # after every seed: what is interrupted has its report so far
            write_report(out, episodes, told)
    if as_json:
        print(json.dumps(contest_figures(episodes, told), default=str))
        if out is not None:
            notes.print(f"written to {out}", highlight=False, markup=False, soft_wrap=True)
        return
    terminal = PlainConsole()
    shown_on = terminal if terminal.is_terminal else PlainConsole(width=150)
    shown_on.print(verdict(episodes), soft_wrap=True)
    shown_on.print(_table(standings(ranked(episodes))))
    shown_on.print(OF_REGRET, highlight=False, soft_wrap=True)
    if world.crowd.attack is not AttackKind.HAMMER:
        shown_on.print(_bought(attack_effects(episodes, World(world).attack_ms)))
    if out is not None:
        print(f"written to {out}")


def live(world: WorldSettings, settings: Settings, *, speed: float | None, as_json: bool) -> None:
    """Send made-up shoppers to the configured topics and print how well they are served, until the last has left.

    Raises:
        TransportError: no broker answers, or a topic is missing.
    """
    from streamrec.evaluation.simulation.live import KafkaSystem
    from streamrec.evaluation.simulation.loop import steps

    system, recorder = KafkaSystem(settings, speed=speed), EpisodeRecorder()
    printed, progress = 0, sys.stderr if as_json else sys.stdout
    try:
        for _ in steps(World(world), system, recorder):
            if len(recorder.rows) - printed >= PROGRESS_REQUESTS:
                print(line(recorder, printed), file=progress, flush=True)
                printed = len(recorder.rows)
    finally:
        system.close()
        if len(recorder.rows) > printed:
            print(line(recorder, printed), file=progress, flush=True)
        if as_json:
            print(json.dumps({**served(recorder, 0), "events_sent": recorder.events, "late": system.late}))
        elif recorder.rows:
            print(f"all: {line(recorder, 0)}; {recorder.events:,} events sent, {system.late:,} slates not waited for")


def served(recorder: EpisodeRecorder, since: int) -> dict[str, float | int | None]:
    """How the requests since the one numbered `since` were served, per slate; None where there were none."""
    episode = EpisodeRecorder(recorder.rows[since:]).episode() if len(recorder.rows) > since else None
    columns = ("expected", "realised", "regret", "answered")
    means = {name: None if episode is None else float(getattr(episode, name).mean()) for name in columns}
    return {"requests": len(recorder.rows) - since, **means}


def line(recorder: EpisodeRecorder, since: int) -> str:
    """The same in one line, after how many requests there have been; there is at least one."""
    found = served(recorder, since)
    return (
        f"{len(recorder.rows):,} requests: reward {found['expected']:.4f} a slate "
        f"(given {found['realised']:.4f}), regret {found['regret']:.4f}, "
        f"{found['answered']:.1%} answered"
    )


def rewards_of(world: WorldSettings, settings: Settings) -> WorldSettings:
    """The world with answers worth what the settings say they are."""
    from streamrec.events import EventType

    values = settings.attribution.values
    return replace(
        world,
        rewards=replace(
            world.rewards,
            click=values.get(EventType.CLICK, 0.0),
            cart=values.get(EventType.ADD_TO_CART, 0.0),
            purchase=values.get(EventType.PURCHASE, 0.0),
            skip=values.get(EventType.SKIP, 0.0),
        ),
    )


def _told(settings: Settings) -> dict[str, object]:
    return {name: value for name, value in shown(settings).items() if name not in ("kafka", "redis", "topics")}


def _bought(attack_effects: Sequence[AttackEffect]) -> Table:
    table = Table("since the bots came", "target in first place", "target on the slate", "reward")
    for share in attack_effects:
        table.add_row(share.name, str(share.first), str(share.shown), str(share.reward))
    return table


def _table(standings: Sequence[Standing]) -> Table:
    table = Table("contender", "reward", "last quarter", "share of the best", "winner less this", "regret")
    if any(s.behind_oracle is not None for s in standings):
        table.add_column("oracle less this")
    for s in standings:
        columns = (s.reward, s.last_quarter, s.share_of_best, s.behind_first, s.regret, s.behind_oracle)
        table.add_row(s.name, *(str(column) for column in columns if column is not None))
    return table
