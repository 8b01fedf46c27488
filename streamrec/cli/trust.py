"""Commands about trust in a policy: its value from a log, experiments, the ladder, made-up shoppers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from streamrec.cli.application import app
from streamrec.cli.options import (
    HOUR_MS,
    Alpha,
    AsJson,
    Config,
    Kafka,
    Map,
    Preset,
    Redis,
    Since,
    Why,
    Window,
    number_of,
    pairs_of,
    settings_of,
)


@app.command(epilog="Example: streamrec ope --kafka localhost:9092 --target greedy --since 2024-03-01 --out report")
def ope(
    log: Annotated[
        Path | None,
        typer.Argument(
            metavar="[LOG]", help="A file of logged actions; without it the outcomes topic.", show_default=False
        ),
    ] = None,
    kafka: Kafka = None,
    redis: Redis = None,
    config: Config = None,
    targets: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            metavar="NAME",
            help="Whom to value: a policy that outcomes name; for a file uniform, column or a table. Repeatable.",
        ),
    ] = None,
    since: Annotated[str | None, typer.Option("--since", metavar="TIME", help="Slates shown from then on.")] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="TIME", help="Slates shown before then.")] = None,
    policy: Annotated[str | None, typer.Option("--policy", metavar="NAME", help="Only slates of this policy.")] = None,
    scenario: Annotated[str | None, typer.Option("--scenario", metavar="NAME", help="Only of this scenario.")] = None,
    arm: Annotated[str | None, typer.Option("--arm", metavar="NAME", help="Only of this arm of an experiment.")] = None,
    mapping: Map = None,
    where: Annotated[
        list[str] | None,
        typer.Option("--where", metavar="COLUMN=VALUE", help="Only rows with this value. Repeatable."),
    ] = None,
    features: Annotated[
        list[str] | None,
        typer.Option("--feature", metavar="COLUMN", help="The reward model may look at it. Repeatable."),
    ] = None,
    actions: Annotated[
        int | None, typer.Option("--actions", metavar="N", min=1, help="Items that uniform chooses from.")
    ] = None,
    weighting: Annotated[
        Literal["prefix", "position", "slate"],
        typer.Option("--weights", help="Which choices of a slate a reward is weighed by."),
    ] = "prefix",
    clip: Annotated[float, typer.Option("--clip", metavar="W", min=1, help="Largest weight of clipped IPS.")] = 100.0,
    switch: Annotated[
        float | None, typer.Option("--switch", metavar="W", min=0, help="Of switch-DR; without it as the log says.")
    ] = None,
    shrinkage: Annotated[
        float | None, typer.Option("--shrinkage", metavar="L", min=0, help="Of DR with shrinkage; likewise.")
    ] = None,
    draws: Annotated[int, typer.Option("--bootstraps", metavar="N", min=20, help="Resamples of slates.")] = 1_000,
    level: Annotated[
        float, typer.Option("--level", metavar="SHARE", min=0.5, max=0.999, help="How often intervals shall hold.")
    ] = 0.95,
    folds: Annotated[int, typer.Option("--folds", metavar="N", min=2, help="Of the reward model's cross-fit.")] = 5,
    by_user: Annotated[bool, typer.Option("--by-user", help="Resample users, not slates.")] = False,
    limit: Annotated[int, typer.Option("--limit", metavar="ROWS", min=1, help="Read no more than this.")] = 2_000_000,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Of resamples and folds.")] = 0,
    as_json: AsJson = False,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Where report and plots go.")] = None,
) -> None:
    """Say what other policies would have earned, from what the logging policy showed with which probability.

    Off-policy evaluation by IPS, SNIPS, the direct method and doubly robust estimators, with intervals and warnings.
    """
    from streamrec.cli.commands import ope as command
    from streamrec.cli.commands.outcomes import time_of
    from streamrec.evaluation.ope.evaluation import EvaluationOptions
    from streamrec.evaluation.ope.outcomes import OutcomeFilter
    from streamrec.evaluation.ope.tables import TableOptions
    from streamrec.evaluation.ope.weights import Weighting

    options = EvaluationOptions(Weighting(weighting), clip, switch, shrinkage, draws, level, folds, seed)
    printed = command.Printed(as_json, out)
    if log is not None:
        table = TableOptions(
            mapping=pairs_of("--map", "FIELD=COLUMN", mapping),
            where=pairs_of("--where", "COLUMN=VALUE", where),
            features=tuple(features or ()),
            actions=actions,
            limit=limit,
            by_user=by_user,
        )
        command.run_on_table(log, table, targets or (), options, printed)
        return
    wanted = OutcomeFilter(time_of(since, "--since"), time_of(until, "--until"), policy, scenario, arm)
    settings = settings_of(config, kafka, redis)
    command.run_on_topic(settings, wanted, targets or (), options, printed, limit=limit, by_user=by_user)


@app.command(epilog="Example: streamrec experiment --since rollout --out experiment")
def experiment(
    kafka: Kafka = None,
    redis: Redis = None,
    config: Config = None,
    since: Since = None,
    until: Annotated[str | None, typer.Option("--until", metavar="TIME", help="Only slates shown before.")] = None,
    window_h: Window = 24.0,
    alpha: Alpha = 0.05,
    method: Annotated[
        Literal["bounded", "asymptotic"],
        typer.Option("--method", help="asymptotic is narrower, and right only once there are many users."),
    ] = "bounded",
    bound: Annotated[
        float, typer.Option("--bound", metavar="REWARD", min=1e-6, help="No slate counts for more than this.")
    ] = 1.0,
    control: Annotated[
        str | None, typer.Option("--control", metavar="ARM", help="The arm that the others are compared to.")
    ] = None,
    outcomes: Annotated[
        Path | None, typer.Option("--outcomes", metavar="FILE", help="JSON lines in place of the topic.")
    ] = None,
    as_json: AsJson = False,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Where report.json and plots go.")] = None,
) -> None:
    """Say what slates were worth in each arm, and which policy is better, by outcomes read so far.

    The figures are right at every look: look as often as you like, and stop when you know enough.
    """
    from streamrec.cli.commands import experiment as command
    from streamrec.evaluation.experiments.arms import ExperimentDesign, SequenceMethod

    terms = ExperimentDesign(alpha, round(window_h * HOUR_MS), SequenceMethod(method))
    question = command.Question(since, until, outcomes, bound, terms, control)
    command.run(settings_of(config, kafka, redis), question, as_json=as_json, out=out)


@app.command(epilog="Example: streamrec rollout --redis redis://localhost:6379/0")
def rollout(kafka: Kafka = None, redis: Redis = None, config: Config = None, as_json: AsJson = False) -> None:
    """Print who gets which policy now, and every change that led there."""
    from streamrec.cli.commands import rollout as command

    command.show(settings_of(config, kafka, redis), as_json=as_json)


@app.command(epilog="Example: streamrec promote --to canary --share 0.05")
def promote(
    kafka: Kafka = None,
    redis: Redis = None,
    config: Config = None,
    to: Annotated[
        Literal["shadow", "canary", "online"] | None,
        typer.Option("--to", help="How far; without it one step."),
    ] = None,
    share: Annotated[
        float | None, typer.Option("--share", metavar="SHARE", min=0, max=1, help="Of users, in a canary.")
    ] = None,
    since: Since = None,
    window_h: Window = 24.0,
    alpha: Alpha = 0.05,
    require: Annotated[
        list[str] | None, typer.Option("--require", metavar="NAME=VALUE", help="Another threshold. Repeatable.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Go on though the gate says no; it is written down.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Ask the gate, change nothing.")] = False,
    why: Why = "",
) -> None:
    """Give the policy on trial more to do, if its outcomes so far pass the gate: shadow, canary, then online."""
    from streamrec.cli.commands import promotion as command
    from streamrec.cli.commands.appraisal import appraise
    from streamrec.engine.rollout.revisions import Mode
    from streamrec.evaluation.experiments.arms import ExperimentDesign

    required = {
        name: number_of(value, "--require") for name, value in pairs_of("--require", "NAME=VALUE", require).items()
    }
    mode, terms = Mode(to) if to is not None else None, ExperimentDesign(alpha, round(window_h * HOUR_MS))
    asked = command.Promotion(mode, share, force, check, why, since, required, terms)
    command.promote(settings_of(config, kafka, redis), asked, appraise)


@app.command(epilog="Example: streamrec rollback --why 'complaints about repeats'")
def rollback(
    revision: Annotated[int | None, typer.Argument(metavar="REVISION", min=0, show_default=False)] = None,
    kafka: Kafka = None,
    redis: Redis = None,
    config: Config = None,
    why: Why = "",
) -> None:
    """Return to an earlier revision of the rollout at once; without a number, to the one before."""
    from streamrec.cli.commands import rollout as command

    command.rollback(settings_of(config, kafka, redis), revision, why=why)


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
) -> None:
    """Let made-up shoppers read slates and answer them: policies in equal worlds, or live over the topics.

    With --kafka they shop at the deployment that reads these topics; without it, policies compete in this process.
    """
    from streamrec.cli.commands import simulate as command
    from streamrec.cli.commands.handover import moment_of
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
    if kafka is not None:
        command.live(world, settings, speed=speed)
    else:
        command.contest(policies or (), world, found, settings, out)
