"""`streamrec simulate`: made-up shoppers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from streamrec.cli.application import app
from streamrec.cli.options import AsJson, Config, Kafka, Preset, settings_of


@app.command(
    epilog="Example: streamrec simulate --policy plackett-luce --policy model:popularity --seeds 1:5 --out sim"
)
def simulate(
    kafka: Kafka = None,
    config: Config = None,
    policies: Annotated[
        list[str] | None,
        typer.Option(
            "--policy", metavar="NAME", help="A policy, uncapped:POLICY, vw:EXPLORER, oracle, shuffle. Repeatable."
        ),
    ] = None,
    seeds: Annotated[str, typer.Option("--seeds", metavar="A:B", help="Worlds to meet, as 3, 1:5 or 1,4,9.")] = "1",
    requests: Annotated[int, typer.Option("--requests", metavar="N", min=1, help="Slates asked for.")] = 6_000,
    hours: Annotated[
        float, typer.Option("--hours", metavar="H", min=0.1, help="Log time they are spread over.")
    ] = 48.0,
    shoppers: Annotated[int, typer.Option("--shoppers", metavar="N", min=1, help="How many people shop.")] = 500,
    items: Annotated[int, typer.Option("--items", metavar="N", min=20, help="How many items there are.")] = 600,
    bots: Annotated[
        int | None,
        typer.Option(
            "--bots", metavar="N", min=0, help="Bots beside them: some clicking for ever, or those of the attack."
        ),
    ] = None,
    attack: Annotated[
        Literal["flood", "views", "ring", "clicker"] | None,
        typer.Option("--attack", help="What bots do to have one item shown."),
    ] = None,
    attack_at: Annotated[
        float, typer.Option("--attack-at", metavar="SHARE", min=0, max=0.99, help="When bots come, by the hours.")
    ] = 0.25,
    lost: Annotated[
        float, typer.Option("--lost", metavar="SHARE", min=0, max=1, help="Sessions that fall silent half-way.")
    ] = 0.05,
    impressions: Annotated[bool, typer.Option(help="Tell what was looked at.")] = True,
    drift: Annotated[
        Literal["tastes", "popularity", "both"] | None, typer.Option("--drift", help="What changes all at once.")
    ] = None,
    drift_at: Annotated[
        float, typer.Option("--drift-at", metavar="SHARE", min=0, max=1, help="When, as a share of the hours.")
    ] = 0.5,
    start: Annotated[
        str, typer.Option("--start", metavar="TIME", help="When they begin, by the log: a second run comes later.")
    ] = "2024-01-01",
    speed: Annotated[
        float | None,
        typer.Option("--speed", metavar="X", min=1e-6, help="Live: times real time; without it as slates come."),
    ] = None,
    preset: Preset = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Where report and plots go.")] = None,
    as_json: AsJson = False,
) -> None:
    """Let made-up shoppers read slates and answer them: policies in equal worlds, or live over the topics.

    With --kafka they shop at the deployment that reads these topics; without it, policies compete in this process.
    """
    from streamrec.cli.commands import simulate as command
    from streamrec.cli.shared.handover import moment_of
    from streamrec.errors import ConfigError
    from streamrec.evaluation.simulation.world import (
        AnswerSettings,
        AssortmentSettings,
        DriftKind,
        DriftSettings,
        TrafficSettings,
        WorldSettings,
    )

    found, settings = command.seeds_of(seeds), settings_of(config, kafka, preset=preset)
    world = WorldSettings(
        seed=found[0],
        assortment=AssortmentSettings(items=items),
        crowd=command.crowd_of(shoppers, bots, attack, attack_at),
        traffic=TrafficSettings(requests=requests, hours=hours, lost=lost, start_ms=moment_of(start, "--start")),
        manners=AnswerSettings(impressions=impressions),
        drift=None if drift is None else DriftSettings(DriftKind(drift), drift_at),
    )
    world = command.rewards_of(world, settings)
    for_contests = [("--policy", policies), ("--out", out), ("--seeds with several worlds", found[1:])]
    useless = [name for name, given in for_contests if given] if kafka is not None else ["--speed"] if speed else []
    if useless:
        where = "with --kafka, where the deployment's own policy answers" if kafka is not None else "without --kafka"
        raise ConfigError(f"{', '.join(useless)} would change nothing {where}; leave it out")
    if kafka is not None:
        command.live(world, settings, speed=speed, as_json=as_json)
    else:
        command.contest(policies or (), world, found, settings, out, as_json=as_json)
