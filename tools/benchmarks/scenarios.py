"""How well each scenario answers: requests put in between the events of a real log, answered by what is known by then.

One pass over a part of a log through the recommender itself. What it is compared with is asked at the same moment, of
the same tables, under the same rules. Greedy slates, so that figures do not depend on a draw.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from streamrec.config.settings import Settings, load_settings
from streamrec.engine.arrays.batch import NOBODY, NOTHING, Excluded
from streamrec.engine.pipeline import Pipeline
from streamrec.events import Event
from streamrec.wiring import build_pipeline, run_engine
from tools.benchmarks.estimates import short
from tools.benchmarks.scenario_tasks import Asked, Task, moments, numbered

SHOWN = 10
"""Places of a slate."""
PLAIN_SEARCH = "text"
SEED = 1
"""Of which moments are drawn."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What came of every request put to one of those compared."""

    found: list[float] = field(default_factory=list)  # of the targets, as many as there are places for
    reciprocal: list[float] = field(default_factory=list)  # of the first target's place, 0 when it has none

    def add(self, shown: Sequence[str], targets: frozenset[str]) -> None:
        """Judge one slate, best first."""
        places = [place for place, item in enumerate(shown[:SHOWN], 1) if item in targets]
        self.found.append(len(places) / min(SHOWN, len(targets)))
        self.reciprocal.append(1.0 / places[0] if places else 0.0)

    def __str__(self) -> str:
        margin = 1.96 * float(np.std(self.found)) / max(len(self.found), 1) ** 0.5
        return f"{short(float(np.mean(self.found)))} ± {short(margin)} | {short(float(np.mean(self.reciprocal)))}"


def measure(
    task: Task,
    data: Path,
    rows: tuple[int, int],
    count: int,
    *,
    scenarios: Sequence[str] = (),
    changed: Mapping[str, Any] | None = None,
) -> dict[str, Figures]:
    """Figures of the task's scenario, or of several, and of each it is compared with, by name.

    Args:
        task: what is asked of which log.
        data: the folder of logs.
        rows: the part of the log.
        count: requests at most.
        scenarios: who answers each request; the task's own when there are none.
        changed: rules of scenarios, laid over the built-in ones.

    Raises:
        TableError, LogError: the log or its catalogue cannot be read.
    """
    catalogue = task.catalogue(data)
    events = [event for _, event in task.open(data, rows).events()]
    every = moments(events, catalogue, task.asking, count, random.Random(SEED))
    pipeline = build_pipeline(settings_of(task, changed), catalogue, eager=False)
    run = _Run(pipeline, task.plain, {})
    run.over(events, every, scenarios or (task.scenario,))
    return run.figures


def settings_of(task: Task, changed: Mapping[str, Any] | None = None) -> Settings:
    """The fast preset's defaults and what the log needs, with greedy slates."""
    given = {**task.settings, "fusion": {"policy": "greedy", "explore": 0.0}}
    scenarios = {**given.get("scenarios", {}), **(changed or {})}
    fast = load_settings(preset="fast").learning.models
    learning = {"models": fast, **given.get("learning", {})}
    return Settings.model_validate({**given, "preset": "fast", "learning": learning, "scenarios": scenarios})


@dataclass(slots=True)
class _Run:
    """One pass."""

    pipeline: Pipeline
    plain: Sequence[str]
    figures: dict[str, Figures]
    _asked: dict[str, Asked] = field(default_factory=dict)  # by the request's name, until it is answered

    def over(self, events: Sequence[Event], every: Sequence[Asked], scenarios: Sequence[str]) -> None:
        self.figures |= {name: Figures() for name in (*scenarios, *self.plain)}
        log = list(self._log(events, every, scenarios))
        for batch_result in run_engine(self.pipeline, log):
            requests = {offset: log[offset] for _, offset in batch_result.slates}
            for (_, offset), slate in batch_result.slates.items():
                asked = self._asked[str(requests[offset].event_id)]
                self.figures[slate.scenario].add([place.item_id for place in slate.items], asked.targets)
            self._compare(scenarios[0])
            for request in requests.values():
                del self._asked[str(request.event_id)]

    def _log(self, events: Sequence[Event], every: Sequence[Asked], scenarios: Sequence[str]) -> Iterator[Event]:
        """The events, and the requests in their places."""
        waiting = list(reversed(every))
        for at, event in enumerate(events):
            while waiting and waiting[-1].before == at:
                asked = waiting.pop()
                for scenario in scenarios:
                    request = numbered(asked, scenario, len(waiting))
                    self._asked[str(request.event_id)] = asked
                    yield request
            yield event

    def _compare(self, scenario: str) -> None:
        """What the others would have shown to whoever asked in this portion; nobody has learned of it yet."""
        pipeline = self.pipeline
        items = pipeline.features.items
        for query, request_rules in pipeline.rules_by_query.items():
            if request_rules.scenario.name != scenario:
                continue
            asked = self._asked[str(request_rules.event.event_id)]
            hidden = pipeline.rules.hidden(request_rules, pipeline.batch.queries, query, NOBODY)
            excluded = Excluded.of([request_rules.excluded], hidden)
            for name in self.plain:
                if name == PLAIN_SEARCH:
                    shown = self._searched(str(request_rules.event.query))
                else:
                    [retriever] = [one for one in pipeline.retrievers if one.name == name]
                    rows = slice(query, query + 1)
                    best = retriever.candidates(pipeline.batch.queries, rows, SHOWN, excluded)[0]
                    shown = [items.ids[item] for item in best.tolist() if item != NOTHING]
                self.figures[name].add(shown, asked.targets)

    def _searched(self, text: str) -> list[str]:
        """By words alone, of the items that the log has brought already."""
        index = self.pipeline.features.catalogue.index
        names = [] if index is None else index.search(text, SHOWN * SHOWN)[0]
        return [name for name in names if self.pipeline.features.items.lookup(name) != NOTHING]


def heading() -> list[str]:
    """The head of the table, as Markdown."""
    return ["| log | who answers | requests | found@10 | MRR@10 |", "|---|---|---|---|---|"]


def table(task: Task, figures: Mapping[str, Figures]) -> list[str]:
    """Its lines: the scenario, the best of the popularities, and the others."""
    popular = [name for name in figures if name.startswith("popularity")]
    best = max(popular, key=lambda name: float(np.mean(figures[name].found)), default=None)
    lines = []
    for name, one in figures.items():
        if name not in popular or name == best:
            who = f"**{name}**" if name == task.scenario else f"`{name}` alone"
            lines.append(f"| {task.log} | {who} | {len(one.found):,} | {one} |")
    return lines
