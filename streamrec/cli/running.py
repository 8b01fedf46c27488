"""Commands that run the system: the worker, its topics and configuration, and a look at it in motion."""

from __future__ import annotations

from typing import Annotated

import typer

from streamrec.cli.application import app, topics_app
from streamrec.cli.options import AsJson, Config, Items, Kafka, Preset, Redis, settings_of


@app.command(epilog="Example: streamrec worker --config streamrec.toml --metrics-port 9100")
def worker(
    kafka: Kafka = None,
    redis: Redis = None,
    config: Config = None,
    items: Items = None,
    group: Annotated[str | None, typer.Option("--group", metavar="NAME", help="Kafka consumer group.")] = None,
    metrics_port: Annotated[int | None, typer.Option("--metrics-port", metavar="PORT", help="Prometheus port.")] = None,
    preset: Preset = None,
) -> None:
    """Read events, learn from each, and answer requests with slates until stopped.

    Ctrl-C or SIGTERM finishes the batch and saves a checkpoint; a second Ctrl-C stops at once.
    """
    from streamrec.cli.commands import worker as command

    command.run(
        settings_of(config, kafka, redis, items=items, group_id=group, metrics_port=metrics_port, preset=preset)
    )


@app.command(epilog="Example: streamrec trends --kafka localhost:9092 --web-port 6066")
def trends(
    kafka: Kafka = None,
    redis: Redis = None,
    config: Config = None,
    group: Annotated[str | None, typer.Option("--group", metavar="NAME", help="The workers' consumer group.")] = None,
    web_port: Annotated[int | None, typer.Option("--web-port", metavar="PORT", help="Serve GET /trends here.")] = None,
) -> None:
    """Count what is wanted in windows of log time, and say how that changes, until stopped.

    Several share the work. Ctrl-C or SIGTERM publishes what changed and stops.
    """
    from streamrec.cli.commands import trends as command

    command.run(settings_of(config, kafka, redis, group_id=group, trends__web_port=web_port))


@app.command(name="config", epilog="Example: STREAMREC_LEARNING__SEED=7 streamrec config --config streamrec.toml")
def show_config(kafka: Kafka = None, redis: Redis = None, config: Config = None) -> None:
    """Print the effective configuration as TOML, secrets hidden."""
    from streamrec.cli.commands import configuration as command

    command.show(settings_of(config, kafka, redis))


@topics_app.command(epilog="Example: streamrec topics plan --kafka localhost:9092")
def plan(kafka: Kafka = None, redis: Redis = None, config: Config = None) -> None:
    """Say which topics are missing or differ from the configuration; change nothing."""
    from streamrec.cli.commands import topics as command

    command.plan(settings_of(config, kafka, redis))


@topics_app.command(epilog="Example: streamrec topics apply --kafka localhost:9092")
def apply(kafka: Kafka = None, redis: Redis = None, config: Config = None) -> None:
    """Create the topics that are missing; what exists is never changed."""
    from streamrec.cli.commands import topics as command

    command.apply(settings_of(config, kafka, redis))


@app.command(epilog="Example: streamrec tail --kafka localhost:9092 --user u42 --count 3")
def tail(
    kafka: Kafka = None,
    redis: Redis = None,
    config: Config = None,
    user_id: Annotated[str | None, typer.Option("--user", metavar="USER_ID", help="Only this user's slates.")] = None,
    as_json: AsJson = False,
    from_beginning: Annotated[bool, typer.Option("--from-beginning", help="Old slates too.")] = False,
    count: Annotated[int | None, typer.Option("--count", metavar="N", min=1, help="Stop after N slates.")] = None,
) -> None:
    """Print slates as they are published."""
    from streamrec.cli.commands import tail as command

    command.run(
        settings_of(config, kafka, redis), user_id=user_id, as_json=as_json, from_beginning=from_beginning, count=count
    )


@app.command(epilog="Example: streamrec schema > event.schema.json")
def schema() -> None:
    """Print the JSON Schema of an event, generated from the type that decodes it."""
    from streamrec.cli.commands import schema as command

    command.show()


@app.command(
    epilog="Example: streamrec demo --quick",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def demo(
    context: typer.Context,
    quick: Annotated[bool, typer.Option("--quick", help="A short run, for a first look and for tests.")] = False,
) -> None:
    """Replay a real shop log on this machine through a broker and a Redis server started for it."""
    from streamrec.cli.commands import demo as command

    command.run([*(["--quick"] if quick else []), *context.args])
