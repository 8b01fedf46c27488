"""Commands about messages that could not be used: look at them, and send them back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from streamrec.cli.application import dlq_app
from streamrec.cli.options import AsJson, Config, Kafka, Redis, settings_of

if TYPE_CHECKING:
    from streamrec.cli.commands.dead_letters import DeadLetterSelection

Reason = Annotated[
    list[str] | None, typer.Option("--reason", metavar="REASON", help="Only letters with this reason. Repeatable.")
]
Since = Annotated[str | None, typer.Option("--since", metavar="TIME", help="Only letters put aside from then on.")]
Until = Annotated[str | None, typer.Option("--until", metavar="TIME", help="Only letters put aside before then.")]


@dlq_app.command(name="list", epilog="Example: streamrec dlq list --reason invalid --since 2024-03-01 --limit 5")
def list_letters(
    kafka: Kafka = None,
    redis: Redis = None,
    config: Config = None,
    reason: Reason = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=0, max=10_000, help="Newest letters shown.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Count the dead letters by reason and field, and show the newest."""
    from streamrec.cli.commands import dead_letters as command

    command.show_all(settings_of(config, kafka, redis), _selection(reason, since, until), limit=limit, as_json=as_json)


@dlq_app.command(epilog="Example: streamrec dlq show 3-1041")
def show(
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="As listed: PARTITION-OFFSET.", show_default=False)],
    kafka: Kafka = None,
    redis: Redis = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Show one dead letter whole, and whether its message would be accepted now."""
    from streamrec.cli.commands import dead_letters as command

    command.show(settings_of(config, kafka, redis), address, as_json=as_json)


@dlq_app.command(epilog="Example: streamrec dlq redrive --reason too_large --dry-run")
def redrive(
    output_topics: Annotated[
        list[str] | None, typer.Argument(metavar="[ADDRESS]...", help="Only these letters.", show_default=False)
    ] = None,
    kafka: Kafka = None,
    redis: Redis = None,
    config: Config = None,
    reason: Reason = None,
    since: Since = None,
    until: Until = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be sent; send nothing.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Send also what would be refused again.")] = False,
    as_json: AsJson = False,
) -> None:
    """Send dead letters that would be accepted now back to the events topic, each once however often this is run."""
    from streamrec.cli.commands import redrive as command

    selection = _selection(reason, since, until)
    command.run(
        settings_of(config, kafka, redis), selection, output_topics or [], dry_run=dry_run, force=force, as_json=as_json
    )


def _selection(reasons: list[str] | None, since: str | None, until: str | None) -> DeadLetterSelection:
    from streamrec.cli.commands.dead_letters import DeadLetterSelection
    from streamrec.cli.commands.outcomes import time_of

    return DeadLetterSelection(frozenset(reasons or ()), time_of(since, "--since"), time_of(until, "--until"))
