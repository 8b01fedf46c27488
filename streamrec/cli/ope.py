"""`streamrec ope`: the value of policies from a log."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from streamrec.cli.application import app
from streamrec.cli.options import AsJson, Connection, Map, Separator, pairs_of, separator_of, unfolded


@app.command(epilog="Example: streamrec ope --kafka localhost:9092 --target greedy --since 2024-03-01 --out report")
@unfolded
def ope(
    connection: Connection,
    log: Annotated[
        Path | None,
        typer.Argument(
            metavar="[LOG]", help="A file of logged actions; without it the outcomes topic.", show_default=False
        ),
    ] = None,
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
    max_refused: Annotated[
        float,
        typer.Option(
            "--max-refused", metavar="SHARE", min=0, max=1, help="Leave out so many rows that cannot be used."
        ),
    ] = 0.0,
    separator: Separator = None,
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
    draws: Annotated[int, typer.Option("--bootstraps", metavar="N", min=20, help="Resamples to draw.")] = 1_000,
    level: Annotated[
        float, typer.Option("--level", metavar="SHARE", min=0.5, max=0.999, help="How often intervals shall hold.")
    ] = 0.95,
    folds: Annotated[int, typer.Option("--folds", metavar="N", min=2, help="Of the reward model's cross-fit.")] = 5,
    by_slate: Annotated[
        bool, typer.Option("--by-slate", help="Intervals as if no user had come twice; without it by user.")
    ] = False,
    limit: Annotated[int, typer.Option("--limit", metavar="ROWS", min=1, help="Read no more than this.")] = 2_000_000,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Of resamples and folds.")] = 0,
    as_json: AsJson = False,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Where report and plots go.")] = None,
) -> None:
    """Say what other policies would have earned, from what the logging policy showed with which probability.

    Off-policy evaluation by IPS, SNIPS, the direct method and doubly robust estimators, with intervals and warnings.
    """
    from streamrec.cli.commands import ope as command
    from streamrec.cli.shared.outcomes import time_of
    from streamrec.evaluation.ope.action_rows import RowOptions
    from streamrec.evaluation.ope.evaluation import EvaluationOptions
    from streamrec.evaluation.ope.outcomes import OutcomeFilter
    from streamrec.evaluation.ope.tables import TableOptions
    from streamrec.evaluation.ope.weights import Weighting

    options = EvaluationOptions(Weighting(weighting), clip, switch, shrinkage, draws, level, folds, seed)
    printed = command.Printed(as_json, out)
    if log is not None:
        table = TableOptions(
            mapping=pairs_of("--map", "FIELD=COLUMN", mapping),
            rows=RowOptions(pairs_of("--where", "COLUMN=VALUE", where), tuple(features or ()), limit, max_refused),
            actions=actions,
            by_user=not by_slate,
            separator=separator_of(separator),
        )
        command.run_on_table(log, table, targets or (), options, printed)
        return
    wanted = OutcomeFilter(time_of(since, "--since"), time_of(until, "--until"), policy, scenario, arm)
    settings = connection.settings()
    command.run_on_topic(settings, wanted, targets or (), options, printed, limit=limit, by_user=not by_slate)
