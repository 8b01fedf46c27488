"""`tools/bench quality`: every protocol and seed as the command line it is, beside peers that are trained in batches.

    bench -> tasks, each a process of its own -> their reports -> one page of results

python -m tools.benchmarks.quality PEER FILE ARGUMENTS    one peer under the protocol that the arguments describe
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

from streamrec.errors import ConfigError, StreamrecError
from streamrec.evaluation.backtest.report import FUSED, POPULARITY
from tools.benchmarks.findings import Findings
from tools.benchmarks.protocols import PROTOCOLS, Protocol
from tools.benchmarks.results_page import Facts, results_page
from tools.benchmarks.tasks import REPORT, Task, carry_out, versions


@dataclass(frozen=True, slots=True)
class Bench:
    """What is to be measured, and where the results go. `limit` takes only so many rows of each log."""

    data: Path
    out: Path
    protocols: Sequence[Protocol]
    seeds: Sequence[int]
    peers: Sequence[str] = ()
    limit: int | None = None

    def runs(self, protocol: Protocol) -> dict[int, Task]:
        """The protocol's command line once per seed."""
        return {seed: self._task(protocol, f"seed-{seed}", seed) for seed in self.seeds}

    def rivals(self, protocol: Protocol) -> dict[str, Task]:
        """Each peer with the first seed."""
        return {peer: self._rival(protocol, peer) for peer in self.peers}

    def left_out(self, protocol: Protocol) -> dict[str, Task]:
        """The first seed without each of the models that its run had; popularity, which fills lists up, stays."""
        metrics = self.runs(protocol)[self.seeds[0]].report()["metrics"]
        models = [name for name in metrics if name != FUSED]
        return {
            model: self._task(
                protocol,
                f"without-{model}",
                self.seeds[0],
                {"STREAMREC_LEARNING__MODELS": ",".join(other for other in models if other != model)},
            )
            for model in models
            if model != POPULARITY
        }

    def findings(self, protocol: Protocol, leave_one_out: bool) -> Findings:
        """What came of the protocol's tasks, which are done."""
        runs = self.runs(protocol)
        return Findings(
            protocol,
            {seed: task.report() for seed, task in runs.items()},
            {peer: task.report() for peer, task in self.rivals(protocol).items()},
            {model: task.report() for model, task in self.left_out(protocol).items()} if leave_one_out else {},
            runs[self.seeds[0]].place,
        )

    def _task(self, protocol: Protocol, what: str, seed: int, environment: Mapping[str, str] | None = None) -> Task:
        place = self.out / protocol.name / what
        arguments = self._arguments(protocol, seed, place)
        command = (sys.executable, "-m", "streamrec.cli", *arguments)
        return Task(f"{protocol.name} {what}", place, command, environment or {})

    def _rival(self, protocol: Protocol, peer: str) -> Task:
        place = self.out / protocol.name / f"peer-{peer}"
        arguments = self._arguments(protocol, self.seeds[0], place)
        command = (sys.executable, "-m", "tools.benchmarks.quality", peer, str(place / REPORT), *arguments)
        return Task(f"{protocol.name} peer {peer}", place, command)

    def _arguments(self, protocol: Protocol, seed: int, place: Path) -> list[str]:
        return [*protocol.arguments(self.data, self.limit), "--seed", str(seed), "--out", str(place)]


def chosen(names: Sequence[str]) -> list[Protocol]:
    """The protocols of these names, all when none is named.

    Raises:
        ConfigError: there is no such protocol.
    """
    unknown = [name for name in names if name not in PROTOCOLS]
    if unknown:
        raise ConfigError(f"there is no protocol {unknown[0]!r}; protocols are {', '.join(PROTOCOLS)}")
    return [protocol for name, protocol in PROTOCOLS.items() if not names or name in names]


def measure(bench: Bench, jobs: int, *, leave_one_out: bool = False) -> tuple[list[Findings], list[str]]:
    """Carry out what is not done yet, `jobs` processes at a time.

    Returns the findings by protocol, and the versions of the code that they are of.

    Raises:
        EmbeddedError: some runs failed; what succeeded is kept.
    """
    tasks = [task for protocol in bench.protocols for task in bench.runs(protocol).values()]
    tasks += [task for protocol in bench.protocols for task in bench.rivals(protocol).values()]
    carry_out(tasks, jobs)
    if leave_one_out:
        lacking = [task for protocol in bench.protocols for task in bench.left_out(protocol).values()]
        carry_out(lacking, jobs)
        tasks += lacking
    return [bench.findings(protocol, leave_one_out) for protocol in bench.protocols], versions(tasks)


def write_page(findings: Sequence[Findings], facts: Facts, page: Path) -> None:
    """Write the page of results, and a picture per log into the folder of the page's name beside it."""
    pictures = page.with_suffix("")
    pictures.mkdir(parents=True, exist_ok=True)
    drawn = {}
    for found in findings:
        picture = pictures / f"{found.protocol.name}.svg"
        picture.write_text(hit_rate_over_time(found), encoding="utf-8")
        drawn[found.protocol.name] = f"{pictures.name}/{picture.name}"
    page.write_text(results_page(findings, facts, drawn), encoding="utf-8")


def hit_rate_over_time(found: Findings) -> str:
    """The first seed's hit rate of the fused list, the best single model and popularity, as SVG."""
    from streamrec.engine.learning.ranking_metrics import hits
    from streamrec.evaluation.backtest.plots import over_time
    from streamrec.evaluation.backtest.report_page import rolling_lines
    from streamrec.evaluation.backtest.slates import fused_ranks, model_ranks, read_slates
    from streamrec.evaluation.plotting import standalone

    slates = read_slates(found.place / "slates.parquet")
    scored, alone = slates["scored"].to_numpy(), model_ranks(slates)
    shown = {FUSED: fused_ranks(slates)} | {name: alone[name] for name in (found.best_model, POPULARITY)}
    lines = rolling_lines(
        slates["ts"].to_numpy()[scored],
        {name: ranks[scored] for name, ranks in shown.items()},
        lambda ranks: hits(ranks, 10),
    )
    return standalone(over_time("Hit rate at 10", lines))


def facts(versions: Sequence[str], jobs: int, limit: int | None) -> Facts:
    """The circumstances, as of today and on this machine."""
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    machine = f"{os.cpu_count()} cores of {_processor()}, {memory_gib:.0f} GiB, Python {platform.python_version()}"
    libraries = ", ".join(f"{name} {metadata.version(name)}" for name in ("numpy", "numba", "river", "torch"))
    return Facts(f"{date.today():%d %B %Y}".lstrip("0"), machine, libraries, versions, jobs, limit)


def _processor() -> str:
    """The processor as it calls itself, where that can be known."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()


def run_peer(peer: str, file: Path, arguments: Sequence[str]) -> None:
    """Measure a peer under the protocol that `streamrec` would carry out for these arguments.

    Raises:
        StreamrecError: the peer needs a library that is not installed, or the log cannot be read.
    """
    from streamrec.cli import app
    from streamrec.cli.commands import backtest
    from tools.benchmarks.rivals import run_rival

    def measured(part: Any, settings: Any, *, out: Path, warmup: float, as_json: bool) -> None:
        began = time.perf_counter()
        metrics = run_rival(peer, part.open(), settings, warmup)
        report = {"metrics": {peer: metrics.as_dict()}, "seconds": time.perf_counter() - began}
        file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")

    setattr(backtest, "run", measured)  # noqa: B010  the command's own parser says what is run
    app(list(arguments), standalone_mode=False)


if __name__ == "__main__":
    try:
        run_peer(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
    except StreamrecError as error:
        sys.exit(f"tools/bench: {error}")
