"""Rankers of others in a backtest, beside ours, under the same protocol: the bench is open.

A ranker is any object with two methods. This one recommends what most people have touched:

    class MostPopular:
        name = "most popular"

        def __init__(self):
            self.counts = Counter()

        def learn(self, events):
            self.counts.update(event.item_id for event in events if event.item_id is not None)

        def rank(self, user_id, candidates=None, k=20):
            return [item_id for item_id, _ in self.counts.most_common(k)]

and is run by `streamrec backtest LOG --ranker MODULE:MostPopular --out DIR`.

What it is told and when: events come one after the other in log order, duplicates left out, in lists that end wherever
it is asked for a ranking. So it has learned everything before a moment when it is asked about that moment, and nothing
of it: of a basket, which is what a user does at one time, it is asked once, before the first event. That is no later
than our own models learn, and mostly earlier, for these wait for their learning cuts. Targets, what counts as interest,
what must not be recommended and which rows are scored are the backtest's own. A short list stays short.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from streamrec.engine.arrays.batch import Int8
from streamrec.engine.batch_result import BatchResult
from streamrec.engine.learning.ranking_metrics import SLATE_LENGTH
from streamrec.engine.pipeline import Pipeline
from streamrec.errors import ConfigError, RankerError
from streamrec.events import Event


class Ranker(Protocol):
    """Learns and ranks, in its own way."""

    def learn(self, events: Sequence[Event]) -> None:
        """What happened since it was last told, in log order."""

    def rank(self, user_id: str, candidates: Sequence[str] | None = None, k: int = SLATE_LENGTH) -> Sequence[str]:
        """Ids of at most `k` items it has learned of, best first, each once.

        `candidates` None leaves the choice to the ranker, as a backtest does.
        """


class ForeignRanker:
    """Asks a ranker about every target of a run, and holds it to its word."""

    def __init__(self, name: str, ranker: Ranker, pipeline: Pipeline, listed: Collection[str] = ()) -> None:
        """`listed` are items that may be recommended before the log has shown them."""
        self.name = name
        self._ranker = ranker
        self._pipeline = pipeline
        self._known = set(listed)
        self._untold: list[Event] = []
        self._open: dict[str, tuple[int, list[str]]] = {}  # by user: the time and the ranking of the present moment

    def ranks(self, batch_result: BatchResult) -> Int8:
        """The target's place in its list, 1 to 20, 0 when it is not there: (targets,) of one portion.

        Raises:
            RankerError: it raised an error, or a list is not what was asked for.
        """
        trial = batch_result.trial
        imitated = trial.imitated or (False,) * len(trial.kept)
        examples = {
            logged.place: at
            for at, (logged, not_wished) in enumerate(zip(trial.logged_events, imitated, strict=True))
            if not not_wished
        }
        places = np.zeros(len(trial.kept), np.int8)
        for logged in batch_result.logged_events:
            at = examples.get(logged.place)
            if at is not None:
                ranking = self._ranking(logged.event, trial.rows[at])
                item_id = logged.event.item_id
                places[at] = ranking.index(item_id) + 1 if item_id in ranking else 0
            self._untold.append(logged.event)
        latest = max((logged.event.ts for logged in batch_result.logged_events), default=0)
        self._open = {user: moment for user, moment in self._open.items() if moment[0] == latest}
        return places[np.flatnonzero(trial.kept)]

    def _ranking(self, event: Event, query: int) -> list[str]:
        """As of the moment of an event: made once, before any of it is learned."""
        ts, ranking = self._open.get(event.user_id, (None, []))
        if ts != event.ts:
            self._tell()
            ranking = self._asked(event.user_id, query)
            self._open[event.user_id] = event.ts, ranking
        return ranking

    def _tell(self) -> None:
        if not self._untold:
            return
        told, self._untold = self._untold, []
        self._known.update(event.item_id for event in told if event.item_id is not None)
        self._call("learn", told)

    def _asked(self, user_id: str, query: int) -> list[str]:
        """The first of what it recommends, without what must not be: of that it is asked for as many more."""
        ids = self._pipeline.features.items.ids
        hidden = {ids[item] for item in self._pipeline.hidden(query).tolist()}
        k = SLATE_LENGTH + len(hidden)
        given: Any = self._call("rank", user_id, None, k)
        if isinstance(given, str) or not hasattr(given, "__iter__"):
            raise self._broken(user_id, k, f"a {type(given).__name__}, expected a list of item ids")
        ranking: list[str] = list(given)
        if len(ranking) > k:
            raise self._broken(user_id, k, f"{len(ranking)} items, expected at most {k}")
        unknown = next((item for item in ranking if not isinstance(item, str) or item not in self._known), None)
        if unknown is not None:
            raise self._broken(user_id, k, f"{unknown!r}, expected the id of an item it has learned of")
        if len(set(ranking)) < len(ranking):
            twice = next(item for at, item in enumerate(ranking) if item in ranking[:at])
            raise self._broken(user_id, k, f"{twice!r} twice, expected each item once")
        return [item for item in ranking if item not in hidden][:SLATE_LENGTH]

    def _call(self, method: str, *arguments: object) -> object:
        try:
            return getattr(self._ranker, method)(*arguments)
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            raise RankerError(f"ranker {self.name!r} failed in {method}(): {said}; it ends the backtest") from error

    def _broken(self, user_id: str, k: int, what: str) -> RankerError:
        return RankerError(f"ranker {self.name!r}: rank({user_id!r}, k={k}) gave {what}; mend it and run again")


def load_rankers(named: Sequence[str], taken: Collection[str]) -> Mapping[str, Ranker]:
    """Rankers by name, from MODULE:FACTORY each; modules of the current directory are found too.

    The factory, a class or a function, is called without arguments. A ranker's name is its `name`, else the factory's.

    Raises:
        ConfigError: there is no such module or factory, it makes no ranker, or a name is `taken`.
    """
    rankers: dict[str, Ranker] = {}
    for text in named:
        module_name, colon, factory_name = text.partition(":")
        if not colon:
            raise ConfigError(f"--ranker is {text!r}, expected MODULE:FACTORY, as my_rankers:MostPopular")
        if "" not in sys.path:
            sys.path.insert(0, "")  # as python -m has it
        try:
            ranker = getattr(importlib.import_module(module_name), factory_name)()
        except Exception as error:  # it is others' code: whatever it raises is why there is no ranker
            raise ConfigError(f"--ranker {text}: it cannot be made: {type(error).__name__}: {error}") from error
        missing = [method for method in ("learn", "rank") if not callable(getattr(ranker, method, None))]
        if missing:
            raise ConfigError(f"--ranker {text}: a {type(ranker).__name__} has no {'() and no '.join(missing)}()")
        name = str(getattr(ranker, "name", factory_name))
        if name in rankers or name in taken:
            raise ConfigError(f"--ranker {text}: another list is called {name!r}; give the ranker another `name`")
        rankers[name] = ranker
    return rankers
