"""`streamrec promote`: a step of the rollout forward."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from streamrec.cli.application import app
from streamrec.cli.options import AsJson, Connection, DesignOptions, Since, Why, number_of, pairs_of, unfolded


@app.command(epilog="Example: streamrec promote --to canary --share 0.05")
@unfolded
def promote(
    connection: Connection,
    design: DesignOptions,
    to: Annotated[
        Literal["shadow", "canary", "online"] | None,
        typer.Option("--to", help="How far; without it one step."),
    ] = None,
    share: Annotated[
        float | None, typer.Option("--share", metavar="SHARE", min=0, max=1, help="Of users, in a canary.")
    ] = None,
    since: Since = None,
    require: Annotated[
        list[str] | None, typer.Option("--require", metavar="NAME=VALUE", help="Another threshold. Repeatable.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Go on though the gate says no; it is written down.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Ask the gate, change nothing.")] = False,
    why: Why = "",
    as_json: AsJson = False,
) -> None:
    """Give the policy on trial more to do, if its outcomes so far pass the gate: shadow, canary, then online."""
    from streamrec.cli.commands import promote as command
    from streamrec.cli.shared.appraisal import appraise
    from streamrec.engine.rollout.revisions import Mode

    required = {
        name: number_of(value, "--require") for name, value in pairs_of("--require", "NAME=VALUE", require).items()
    }
    mode = Mode(to) if to is not None else None
    asked = command.Promotion(mode, share, force, check, why, since, required, design.design())
    command.run(connection.settings(), asked, appraise, as_json=as_json)
