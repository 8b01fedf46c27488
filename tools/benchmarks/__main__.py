"""`python -m tools.benchmarks`: carries out all measurements and prints them.

Exit codes: 0 done (whatever the figures say), 1 failed, 130 ended by Ctrl-C, 143 by SIGTERM.
"""

from __future__ import annotations

import logging
import os
import platform
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from streamrec.errors import EmbeddedError, StreamrecError

if TYPE_CHECKING:
    from rich.table import Table

    from streamrec.demo.embedded import EmbeddedBroker, EmbeddedRedis
    from tools.benchmarks.measure import BenchLog, Result, Task

DEFAULT_ROWS = 20_000
FLUSH_LIMIT_S = 60.0
FLOORS = {"backtest": 1_000, "broker": 800}
"""Events per second that must be reached with everything on."""
SMALLEST_SHARE = 0.015
"""Steps that take less of the time are summed up."""

Measured = list[tuple["Task", "Result"]]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.callback(invoke_without_command=True)
def default(context: typer.Context) -> None:
    """Measure this machine. Without a command: speed."""
    if context.invoked_subcommand is None:
        speed()


@app.command(epilog="Example: tools/bench speed --rows 100000 --log globo")
def speed(
    rows: Annotated[int, typer.Option("--rows", min=1_000, help="Rows of each log.")] = DEFAULT_ROWS,
    partitions: Annotated[int, typer.Option("--partitions", min=1, help="Of the events topic.")] = 1,
    only: Annotated[list[str] | None, typer.Option("--log", metavar="NAME", help="Only this log. Repeatable.")] = None,
) -> None:
    """Events per second with everything on (a slate of 20 for every event), and with nothing learned or recommended.

    Measures the logs in the folder that STREAMREC_DATA names, else the sample that ships with the package.
    """
    from streamrec.demo.embedded import embedded_broker, embedded_redis

    logs = [log for log in bench_logs(rows) if not only or log.name in only]
    if not logs:
        raise typer.BadParameter(f"no log is named {', '.join(only or ())}", param_hint="--log")
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    print(f"{machine}; the first {rows:,} rows of each log")
    measured: Measured = []
    with (
        tempfile.TemporaryDirectory(prefix="streamrec-bench-", ignore_cleanup_errors=True) as place,
        embedded_broker(Path(place, "broker")) as broker,
        embedded_redis(Path(place, "redis")) as redis,
    ):
        print(f"{broker.kind}, Redis, {partitions} partition(s), one worker process")
        for log in logs:
            events = send(log, broker, partitions)
            for task in tasks(log, events, broker, redis, place):
                measured.append((task, in_a_process_of_its_own(task)))
                print(line(*measured[-1]), flush=True)
    report(measured)


@app.command(epilog="Example: tools/bench quality --protocol ml100k --seeds 0,1,2 --no-peers")
def quality(
    only: Annotated[
        list[str] | None, typer.Option("--protocol", metavar="NAME", help="Only this one. Repeatable.")
    ] = None,
    seeds: Annotated[
        str, typer.Option("--seeds", metavar="N[,N...]", help="One run of each protocol per seed.")
    ] = "0,1,2",
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Where results are kept, and looked for before they are made.")
    ] = Path("build/quality"),
    peers: Annotated[bool, typer.Option(help="Measure recommenders trained in batches beside ours.")] = True,
    leave_one_out: Annotated[
        bool, typer.Option("--leave-one-out", help="Also once without each model: what it is worth.")
    ] = False,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Runs at a time, about 1.5 GB each.")] = 2,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="ROWS", min=100, help="Only the first rows of each log, for a try.")
    ] = None,
    write: Annotated[
        Path | None, typer.Option("--write", metavar="FILE", help="The page of results.", show_default="DIR/results.md")
    ] = None,
) -> None:
    """How well it predicts: every protocol, seed and peer, and a page of results.

    Needs the folder of logs that STREAMREC_DATA names. What was measured before with the same command is not measured
    again: an interrupted bench goes on, and an empty --out begins anew.
    """
    from tools.benchmarks.quality import Bench, chosen, facts, measure, write_page
    from tools.benchmarks.results_page import headline

    bench = Bench(_logs(), out.resolve(), chosen(only or ()), _numbers(seeds), _peers() if peers else (), limit)
    findings, versions = measure(bench, jobs, leave_one_out=leave_one_out)
    page = write or out / "results.md"
    write_page(findings, facts(versions, jobs, limit), page)
    print(f"\n{headline(findings)}\n{page} has the rest")


@app.command(epilog="Example: tools/bench trends --events 100000")
def trends(
    events: Annotated[int, typer.Option("--events", min=1_000, help="In the topic before it begins.")] = 60_000,
) -> None:
    """Events per second of one instance of `streamrec trends`, beside a Faust agent that only acknowledges."""
    from streamrec.config.groups import Topics
    from streamrec.demo.embedded import embedded_broker
    from streamrec.transport.topics import apply, wanted
    from tools.benchmarks import trends as bench

    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    with (
        tempfile.TemporaryDirectory(prefix="streamrec-bench-", ignore_cleanup_errors=True) as place,
        embedded_broker(Path(place), apache=True) as broker,
    ):
        print(f"{machine}; {broker.kind}, {bench.PARTITIONS} partitions, one process; load {os.getloadavg()[0]:.1f}")
        apply(wanted(Topics(partitions=bench.PARTITIONS)), broker.settings)
        bench.send(bench.bench_events(events), broker.settings)
        for name, counting, every_s in (("idle", False, 5.0), ("every 5 s", True, 5.0), ("every 1 s", True, 1.0)):
            task = bench.Task(name, dict(broker.settings), events, counting, every_s)
            print(bench.line(task, bench.in_a_process_of_its_own(task)), flush=True)


@app.command(epilog="Example: tools/bench scale --log globo --rows 60000 --workers 1,2")
def scale(
    rows: Annotated[int, typer.Option("--rows", min=1_000, help="Rows of each log.")] = 60_000,
    workers: Annotated[str, typer.Option("--workers", metavar="N[,N...]", help="One run each.")] = "1,2,4",
    partitions: Annotated[int, typer.Option("--partitions", min=1, help="Of the events topic.")] = 8,
    only: Annotated[list[str] | None, typer.Option("--log", metavar="NAME", help="Only this log. Repeatable.")] = None,
) -> None:
    """Several workers and one learner: what an event costs, how well it is learned, what a learner at work delays.

    Beside it the same rows in a backtest, which learns in one process. Needs Apache Kafka, and minutes for each run.
    """
    from streamrec.demo.embedded import embedded_broker, embedded_redis
    from tools.benchmarks import scale as bench

    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    print(f"{machine}; the first {rows:,} rows of each log, {partitions} partitions")
    for log in (log for log in bench_logs(rows) if not only or log.name in only):
        for count in _numbers(workers):
            with (
                tempfile.TemporaryDirectory(prefix="streamrec-bench-", ignore_cleanup_errors=True) as place,
                embedded_broker(Path(place, "broker"), apache=True) as broker,
                embedded_redis(Path(place, "redis")) as redis,
            ):
                settings = bench.settings_of(log, partitions, broker.settings, redis.url)
                with bench.fleet(settings, count, Path(place, "fleet")) as running:
                    print(bench.cost(running, log, lambda: send(log, broker, partitions)).line(), flush=True)  # noqa: B023
                    for latency in bench.latencies(running, log) if count == 1 else ():
                        print(latency.line(), flush=True)
        print(bench.backtest_line(log), flush=True)


@app.command(epilog="Example: tools/bench door --seconds 30")
def door(
    seconds: Annotated[float, typer.Option("--seconds", min=1, help="For which the pace is kept.")] = 30.0,
) -> None:
    """50 requests and 300 events a second over HTTP: how long clients of `streamrec serve` wait. Needs Apache Kafka."""
    from itertools import islice

    from streamrec.demo.embedded import embedded_broker, embedded_redis, free_ports
    from streamrec.events import EventType
    from tools.benchmarks import door as bench
    from tools.benchmarks import scale

    log = next(bench_logs(scale.SAMPLE))
    sample = [event for _, event in islice(log.open().events(), scale.SAMPLE)]
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    print(f"{machine}; {scale.REQUESTS_PER_S} requests and {scale.EVENTS_PER_S} events a second for {seconds:.0f} s")
    with (
        tempfile.TemporaryDirectory(prefix="streamrec-bench-", ignore_cleanup_errors=True) as place,
        embedded_broker(Path(place, "broker"), apache=True) as broker,
        embedded_redis(Path(place, "redis")) as redis,
    ):
        settings = scale.settings_of(log, 2, broker.settings, redis.url)
        asked_alone = settings.serving.model_copy(update={"recommend_on": frozenset({EventType.REQUEST})})
        settings = settings.model_copy(update={"serving": asked_alone})
        with scale.fleet(settings, 1, Path(place, "fleet")) as running:
            [port] = free_ports(1)
            gateway = scale.Part("serve", running.config, Path(place, "serve.log"), port)
            try:
                gateway.start()
                for line in bench.measured(running, gateway, f"http://127.0.0.1:{port}", sample, seconds):
                    print(line, flush=True)
            finally:
                gateway.stop()


@app.command(epilog="Example: tools/bench scenarios --task similar/yoochoose100k --requests 500")
def scenarios(
    only: Annotated[list[str] | None, typer.Option("--task", metavar="NAME", help="Only this one. Repeatable.")] = None,
    part: Annotated[
        str, typer.Option("--part", metavar="NAME", help="report, or choose: the rows on which defaults were chosen.")
    ] = "report",
    requests: Annotated[int, typer.Option("--requests", min=10, help="Put to each log at most.")] = 2_000,
) -> None:
    """How well each scenario answers, on real logs, beside what it would be without the rest of the house.

    Needs the folder of logs that STREAMREC_DATA names. Prints the lines of a table in Markdown.
    """
    from tools.benchmarks.scenario_tasks import TASKS
    from tools.benchmarks.scenarios import heading, measure, table

    wanted = only or list(TASKS)
    if unknown := [name for name in wanted if name not in TASKS]:
        raise typer.BadParameter(f"{unknown[0]!r}, expected one of {', '.join(TASKS)}", param_hint="--task")
    if part not in ("choose", "report"):
        raise typer.BadParameter(f"{part!r}, expected choose or report", param_hint="--part")
    data = _logs()
    print("\n".join(heading()))
    for task in (TASKS[name] for name in wanted):
        rows = task.choose if part == "choose" else task.report
        print("\n".join(table(task, measure(task, data, rows, requests))), flush=True)


def _logs() -> Path:
    from streamrec.errors import ConfigError

    folder = os.environ.get("STREAMREC_DATA")
    if not folder:
        raise ConfigError("STREAMREC_DATA is not set; name the folder that holds the logs, one folder each")
    return Path(folder).resolve()


def _peers() -> tuple[str, ...]:
    from tools.benchmarks.rivals import PEERS

    return tuple(PEERS)


def _numbers(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise typer.BadParameter(f"{text!r}, expected whole numbers, as 0,1,2", param_hint="--seeds")
    return [int(part) for part in parts]


def bench_logs(rows: int) -> Iterator[BenchLog]:
    """The real logs where they are, else the sample."""
    from streamrec.demo.sample import sample_log
    from streamrec.events import EventType
    from tools.benchmarks.measure import BenchLog

    folder = os.environ.get("STREAMREC_DATA")
    if not folder:
        print("STREAMREC_DATA is not set: measuring the sample alone")
        yield BenchLog("sample", str(sample_log()), {}, EventType.PURCHASE, rows)
        return
    for name, kind in (("online_retail", EventType.PURCHASE), ("globo", EventType.CLICK)):
        yield BenchLog(name, str(Path(folder, name, "events.parquet")), {"type": "event"}, kind, rows)


def send(log: BenchLog, broker: EmbeddedBroker, partitions: int) -> int:
    """Make the log's topic and fill it; returns the number of events."""
    from streamrec.codec import MSGPACK_HEADERS
    from streamrec.config.groups import Topics
    from streamrec.transport.confluent import KafkaSink
    from streamrec.transport.topics import apply, wanted

    apply(wanted(Topics(events=log.name, partitions=partitions)), broker.settings)
    sink = KafkaSink(broker.settings)
    events = 0
    for record in log.open().records(log.name):
        sink.publish(record.topic, record.key, record.value, MSGPACK_HEADERS)
        events += 1
    sink.flush(FLUSH_LIMIT_S)
    sink.close()
    return events


def tasks(log: BenchLog, events: int, broker: EmbeddedBroker, redis: EmbeddedRedis, place: str) -> Iterator[Task]:
    """Both ways, each with everything on and as a ceiling."""
    from tools.benchmarks.measure import Task

    for learning in (True, False):
        yield Task(log, "backtest", learning, place)
    for learning in (True, False):
        yield Task(log, "broker", learning, place, events, dict(broker.settings), redis.url)


def in_a_process_of_its_own(task: Task) -> Result:
    """Carry out one task.

    Raises:
        EmbeddedError: the process failed, or took longer than half an hour.
    """
    import msgspec

    from tools.benchmarks.measure import TIME_LIMIT_S, Result

    command = [sys.executable, "-m", "tools.benchmarks.measure", msgspec.json.encode(task).decode()]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIME_LIMIT_S + 1, check=False)
    except subprocess.TimeoutExpired:
        raise EmbeddedError(
            f"measuring {task.name} took longer than {TIME_LIMIT_S} s; take fewer rows (--rows)"
        ) from None
    if done.returncode:
        raise EmbeddedError(f"measuring {task.name} ended with status {done.returncode}: {done.stderr[-2_000:]}")
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=Result)


def line(task: Task, result: Result) -> str:
    """One measurement in one line."""
    what = "everything on" if task.learning else "ceiling"
    return (
        f"{task.log.name:>14} {task.way:>9} {what:>14}: {result.rate:8,.0f} events/s, "
        f"{result.events / result.cpu_s:8,.0f} per second of CPU ({result.events:,} events, {result.slates:,} slates, "
        f"{result.seconds:.1f} s), peak {result.peak_mb:,.0f} MB"
    )


def report(measured: Measured) -> None:
    """The figures beside floors and ceilings, and where the time goes."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    speeds = Table(title="Speed", title_justify="left")
    for name in ("log", "way", "events/s", "per CPU s", "floor", "ceiling", "ratio", "peak MB"):
        speeds.add_column(name, no_wrap=True)
    ceilings = {(task.log.name, task.way): result.rate for task, result in measured if not task.learning}
    learning = [(task, result) for task, result in measured if task.learning]
    for task, result in learning:
        ceiling = ceilings[task.log.name, task.way]
        floor = FLOORS[task.way]
        met = "" if result.rate >= floor else " missed"
        speeds.add_row(
            task.log.name,
            task.way,
            f"{result.rate:,.0f}",
            f"{result.events / result.cpu_s:,.0f}",
            f"{floor:,}{met}",
            f"{ceiling:,.0f}",
            f"{result.rate / ceiling:.2f}",
            f"{result.peak_mb:,.0f}",
        )
    console.print(speeds)
    console.print(_steps(learning))


def _steps(measured: Sequence[tuple[Task, Result]]) -> Table:
    """Microseconds per event by step, one column per measurement, the largest first."""
    from rich.table import Table

    table = Table(title="Where the time goes: microseconds per event", title_justify="left")
    table.add_column("step")
    for task, _ in measured:
        table.add_column(f"{task.log.name}\n{task.way}", justify="right")
    totals = {name: sum(result.steps.get(name, 0.0) for _, result in measured) for _, r in measured for name in r.steps}
    least = SMALLEST_SHARE * sum(totals.values())
    shown = [name for name in sorted(totals, key=lambda name: -totals[name]) if totals[name] >= least]
    for name in shown:
        table.add_row(name, *(f"{1e6 * result.steps.get(name, 0.0) / result.events:,.0f}" for _, result in measured))
    small = [sum(s for name, s in result.steps.items() if name not in shown) for _, result in measured]
    table.add_row(
        "smaller steps", *(f"{1e6 * s / result.events:,.0f}" for s, (_, result) in zip(small, measured, strict=True))
    )
    table.add_row("together", *(f"{1e6 * result.seconds / result.events:,.0f}" for _, result in measured))
    return table


def main() -> None:
    """Run, and say in one line what went wrong if something did."""
    logging.getLogger("streamrec.kafka").addHandler(logging.NullHandler())  # a broker just started is warned about
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)
    try:
        app()
    except StreamrecError as error:
        print(f"tools/bench: {error}", file=sys.stderr)
        sys.exit(1)


def _leave(number: int, frame: FrameType | None) -> None:
    """Quietly, through every `finally`."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    main()
