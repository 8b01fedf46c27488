"""Shows how workers and learners do, anew every second: at a terminal in place, elsewhere one picture after another."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from itertools import islice

import msgspec
from rich.console import Group
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from streamrec.cli.shared.console import PlainConsole
from streamrec.cli.shared.vital_signs import Count, LearnerSigns, Missing, VitalSigns, WorkerSigns, signs
from streamrec.cli.shared.watched import EVERY_S, Watched
from streamrec.codec import harmless
from streamrec.config.settings import Settings
from streamrec.errors import ConfigError

MOST_SHOWN = 12
"""Partitions, the fullest, and reasons, the most frequent."""
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}
"""Where this machine reaches what listens at all of its addresses."""


def run(settings: Settings, *, addresses: Sequence[str], once: bool, as_json: bool) -> None:
    """Show it until interrupted.

    Raises:
        ConfigError: an address is none, or there is none to ask.
    """
    with ExitStack() as closing_all:
        watched = [
            closing_all.enter_context(closing(Watched(address)))
            for address in dict.fromkeys(addresses or _addresses_here(settings))
        ]
        for one in watched:
            one.wait(2)  # a rate takes two
        looks = _looks(watched)
        console = PlainConsole()
        if as_json:
            for found in islice(looks, 1 if once else None):
                print(msgspec.json.encode(found).decode(), flush=True)
        elif once or not console.is_terminal:
            for found in islice(looks, 1 if once else None):
                console.print(picture(found))
        else:
            with Live(console=console, screen=True, auto_refresh=False) as live:
                for found in looks:
                    live.update(picture(found), refresh=True)


def _looks(watched: Sequence[Watched]) -> Iterator[VitalSigns]:
    """How they do now, and again every second, without end."""
    while True:
        yield signs({one.address: one.latest() for one in watched}, int(time.time() * 1000))
        time.sleep(EVERY_S)


def _addresses_here(settings: Settings) -> list[str]:
    ports = [port for port in (settings.metrics_port, settings.learner.metrics_port) if port is not None]
    if not ports:
        raise ConfigError(
            "neither metrics_port nor learner.metrics_port is set; expected --metrics HOST:PORT, of a worker or learner"
        )
    host = settings.metrics_host
    host = EVERYWHERE.get(host, f"[{host}]" if ":" in host else host)
    return [f"{host}:{port}" for port in ports]


def picture(found: VitalSigns) -> Group:
    """Everything, in 80 columns."""
    workers = [one for one in found.processes if isinstance(one, WorkerSigns)]
    learners = [one for one in found.processes if isinstance(one, LearnerSigns)]
    when = f"{datetime.fromtimestamp(found.ts / 1000, UTC):%H:%M:%S}Z"
    parts: list[Text | Table | Padding] = [
        Text(f"{when}  workers: {len(workers)}, learners: {len(learners)}; rates over {found.window_s:.0f} s")
    ]
    if workers:
        parts += [Padding(_workers(found, workers), (1, 0, 0, 0)), _lag(found.lag)]
        parts += [_reasons("dead letters", found.dead_letters), _reasons("refused requests", found.refused_requests)]
    if learners:
        parts.append(Padding(_learners(learners), (1, 0, 0, 0)))
    parts.append(Padding(_health(found.processes), (1, 0, 0, 0)))
    return Group(*parts)


def _workers(found: VitalSigns, workers: Sequence[WorkerSigns]) -> Table:
    table = _table("worker", "events/s", "slates/s", "lag", "p50 ms", "p99 ms", "model", "behind s")
    for one in workers:
        model = f"{one.model_version:,}" if one.model_version else "own"
        behind = f"{one.behind_s:,.1f}" if one.model_version else ""
        rates = _number(one.events_per_s), _number(one.slates_per_s), f"{sum(one.lag.values()):,}"
        table.add_row(one.address, *rates, _ms(one.p50_s), _ms(one.p99_s), model, behind)
    if len(workers) > 1:
        rates = _number(found.events_per_s), _number(found.slates_per_s), f"{sum(found.lag.values()):,}"
        table.add_row("all", *rates, _ms(found.p50_s), _ms(found.p99_s), "", "")
    return table


def _learners(learners: Sequence[LearnerSigns]) -> Table:
    table = _table("learner", "", "examples/s", "lag", "hit rate", "popularity", "out")
    for one in learners:
        standing = one.hit_rate if one.at_work else {}  # who stands by knows what was
        rates = (f"{standing[name]:.4f}" if name in standing else "" for name in ("fused", "popularity"))
        state = "learns" if one.at_work else "stands by"
        examples = _number(one.examples_per_s), f"{one.examples_lag:,}"
        table.add_row(one.address, state, *examples, *rates, ", ".join(one.quarantined))
    return table


def _health(processes: Iterable[WorkerSigns | LearnerSigns | Missing]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    for one in processes:
        table.add_row(one.address, "; ".join(_words(one)))
    return table


def _words(one: WorkerSigns | LearnerSigns | Missing) -> list[str]:
    """How one does, in words."""
    if isinstance(one, Missing):
        return [one.error]
    words = [*one.health] if one.ready else ["not ready", *one.health]
    if isinstance(one, WorkerSigns):
        words += ["reads nothing"] if one.paused else []
        words += ["no learner is heard of"] if one.learner_away else []
    return words


def _lag(lag: Mapping[str, int]) -> Text:
    waiting = [(partition, records) for partition, records in lag.items() if records]
    waiting.sort(key=lambda held: -held[1])
    shown = [f"{partition}: {records:,}" for partition, records in waiting[:MOST_SHOWN]]
    rest = f"none of {len(lag)} partitions" if not waiting else _and_more(len(waiting))
    return Text(harmless(f"lag by partition: {', '.join(shown)}{rest}"))


def _reasons(title: str, counts: Mapping[str, Count]) -> Text:
    shown = [f"{reason} {n.total:,}{f' (+{n.new:,})' if n.new else ''}" for reason, n in counts.items()]
    return Text(harmless(f"{title}: {', '.join(shown[:MOST_SHOWN]) or 'none'}{_and_more(len(shown))}"))


def _and_more(count: int) -> str:
    return f" and {count - MOST_SHOWN} more" if count > MOST_SHOWN else ""


def _table(first: str, *others: str) -> Table:
    table = Table(show_edge=False, box=None, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _number(rate: float | None) -> str:
    return "" if rate is None else f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"


def _ms(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1000:,.0f}"
