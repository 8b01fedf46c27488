"""The rules of one request: which items are left out, which retrievers propose, what is added to a score, what a slate
is made of.

They are begun when the request is met in the log, with what is known of its user then, and filled in when its
candidates are ranked. It keeps the words of what it did, for the explanation. Knows nothing of topics or stores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from streamrec.engine.arrays.batch import CANDIDATES, NOTHING, Bool, Float32, Float64, Int32, MicroBatch, Queries
from streamrec.engine.arrays.log_shares import FLOOR, log_shares
from streamrec.engine.features import FeatureStore
from streamrec.engine.policies import Constraints
from streamrec.engine.retrieval import Retriever
from streamrec.engine.scenarios.diversity import constraints_of
from streamrec.engine.scenarios.scenario import HOME, Kinship, Scenario, Worth, scenario_of, seeds_of
from streamrec.events import Event, EventType, Filters

UNFOUND = np.float32(-3.0)
"""The log of how well something suits a text that its search has not found."""
WORTHLESS = -30.0
"""The log of what is earned by what earns nothing."""
NO_BOOST: Float32 = np.zeros(CANDIDATES, np.float32)
NO_ITEMS: Int32 = np.empty(0, np.int32)


class Scorer(Protocol):
    """Something that says how well items suit queries, as every model does."""

    def score(self, queries: Queries, rows: slice, items: Int32) -> Float32:
        """(rows, candidates) logarithms of a mass, -inf where nothing is known."""


class Searcher(Protocol):
    """Something that finds items by what a request names."""

    name: str

    def __len__(self) -> int:
        """The items that it looks among."""

    def found(self, text: str | None, seeds: Int32, k: int, hidden: Bool) -> tuple[Int32, Float32]:
        """At most `k` items that are not hidden, best first, and the log of how well each suits beside the best."""


@dataclass(slots=True)
class RequestRules:
    """One request and the rules that hold for it."""

    scenario: Scenario
    event: Event
    partition: int
    seeds: Int32  # the items that the request names, as far as they are known
    brought: Int32 | None = None  # the items that it brings to be ranked, likewise; None: any may be
    left_out: dict[str, Int32] = field(default_factory=dict)  # by why
    filters: tuple[Filters, ...] = ()
    passed: int | None = None  # items that the filters let through
    found: dict[str, tuple[Int32, Float32]] = field(default_factory=dict)  # by searcher: items, how well they suit
    raised: dict[str, Float32] = field(default_factory=dict)  # by why: added to each candidate's score, (CANDIDATES,)
    constraints: Constraints | None = None

    @property
    def apart(self) -> bool:
        """Whether the request must be ranked by itself; others are ranked together."""
        rules = self.scenario.left_out
        return bool(
            self.filters
            or self.brought is not None
            or self.scenario.retrievers
            or self.scenario.worth is not Worth.WANTED
            or rules.older_than_s
            or rules.kinship is not Kinship.ANY
        )

    @property
    def excluded(self) -> Int32:
        """Everything left out by name; some may be named twice."""
        return np.concatenate([NO_ITEMS, *self.left_out.values()])

    @property
    def boost(self) -> Float32:
        """What the rules add to each candidate's score, (CANDIDATES,)."""
        return np.sum([*self.raised.values()], axis=0, dtype=np.float32) if self.raised else NO_BOOST


class ScenarioRules:
    """Makes the rules of each request, from its scenario and its filters."""

    def __init__(
        self,
        scenarios: Mapping[str, Scenario],
        features: FeatureStore,
        models: Sequence[str],
        scorers: Mapping[str, Scorer],
        searchers: Sequence[Searcher],
    ) -> None:
        """`models` are named in the order of their scores; `scorers` are what else a scenario may lean on."""
        self._scenarios = scenarios
        self._features = features
        self._models = list(models)
        self._scorers = scorers
        self._searchers = searchers

    def scenario(self, event: Event) -> Scenario:
        """The scenario that an event asks for; under an unknown name, the rules of HOME hold."""
        return self._scenarios.get(scenario_of(event)) or self._scenarios.get(HOME) or Scenario()

    def begin(self, event: Event, partition: int, row: int) -> RequestRules:
        """The rules for a request, with what is known of its user (`row`) now."""
        scenario = self.scenario(event)
        seen, bought, shown = self._features.seen, self._features.bought, self._features.shown
        known_as = self._features.known_as
        named = seeds_of(event) if event.type is EventType.REQUEST else ()
        request_rules = RequestRules(scenario, event, partition, self._known(named))
        seeds = request_rules.seeds
        if event.candidates and event.type is EventType.REQUEST:
            request_rules.brought = self._known(event.candidates)
        rules, out = scenario.left_out, request_rules.left_out
        if seen is not None:
            out["the user has touched {them} before"] = known_as(seen.of(row))
        if len(seeds) and scenario.name != HOME:
            out["the request names {them}"] = seeds
        if rules.bought_within_s and bought is not None:
            since = event.ts - int(rules.bought_within_s * 1000)
            out[f"bought within {rules.bought_within_s / 86_400:g} days"] = known_as(bought.since(row, since))
        if rules.shown_at_most and shown is not None:
            why = f"shown {rules.shown_at_most:g} times since {{they}} {{were}} last touched"
            out[why] = known_as(shown.above(row, rules.shown_at_most, event.ts))
        request_rules.filters = tuple(one for one in (rules.filters, event.filters) if one not in (None, Filters()))
        return request_rules

    def _known(self, names: Sequence[str]) -> Int32:
        """The items of these names that are known, by index."""
        return np.array([i for i in map(self._features.items.lookup, names) if i != NOTHING], np.int32)

    # While its candidates are ranked

    def hidden(self, request_rules: RequestRules, queries: Queries, query: int, barred: Bool) -> Bool:
        """The items that this request must not be shown, by index; `barred` are those that no user may be."""
        items, catalogue, ads = self._features.items, self._features.catalogue, self._features.ads
        count = len(items)
        hidden: Bool = np.zeros(count, np.bool_)
        hidden[: len(barred)] = barred[:count]
        hidden[catalogue.unheard()] = True
        hidden[items.free] = True
        for filters in request_rules.filters:
            hidden |= ~catalogue.attributes.matching(filters)[:count]
        rules = request_rules.scenario.left_out
        if rules.older_than_s:
            hidden |= items.first_ts[:count] < queries.ts[query] - int(rules.older_than_s * 1000)
        if rules.kinship is not Kinship.ANY:
            hidden |= ~self._akin(request_rules, queries, query)
        if request_rules.scenario.worth is Worth.BID:
            no_ad = np.ones(count, np.bool_)
            no_ad[ads.known()] = False
            hidden |= no_ad
            hidden[ads.barred(request_rules.event.ts, request_rules.partition)] = True
        request_rules.passed = int(count - hidden.sum())
        return hidden

    def _akin(self, request_rules: RequestRules, queries: Queries, query: int) -> Bool:
        """Items of the categories asked for; all of them where it is not known beside what."""
        beside = request_rules.seeds if len(request_rules.seeds) else queries.items[query, :1]
        items, attributes = self._features.items, self._features.catalogue.attributes
        category = items.category[: len(items)]
        names = {name for item in beside.tolist() if item != NOTHING for name in attributes.categories(item)}
        if not names:
            return np.ones(len(category), np.bool_)
        same = attributes.within(sorted(names))
        akin: Bool = same if request_rules.scenario.left_out.kinship is Kinship.SAME else ~same & (category != NOTHING)
        return akin

    def retrievers(
        self, request_rules: RequestRules, usual: Sequence[Retriever], special: Sequence[Retriever]
    ) -> list[Retriever]:
        """The retrievers that propose: the `usual` ones where the scenario names none that exist.

        None do where the request brings its candidates.
        """
        if request_rules.brought is not None:
            return []
        names = request_rules.scenario.retrievers
        named = [retriever for retriever in (*usual, *special) if retriever.name in names]
        return named if named or self._searching(request_rules) else list(usual)

    def _searching(self, request_rules: RequestRules) -> list[Searcher]:
        """The searchers for what the request names."""
        names = request_rules.scenario.retrievers
        return [searcher for searcher in self._searchers if searcher.name in names and len(searcher)]

    def proposed(self, request_rules: RequestRules, hidden: Bool) -> list[Int32]:
        """What is found by what the request names, (1, found) each, where it is asked for; or what it brings."""
        for searcher in self._searching(request_rules):
            request_rules.found[searcher.name] = searcher.found(
                request_rules.event.query, request_rules.seeds, CANDIDATES, hidden
            )
        if request_rules.brought is not None:
            return [request_rules.brought[None]]
        return [found[None] for found, _ in request_rules.found.values()]

    def weigh(self, request_rules: RequestRules, batch: MicroBatch, query: int) -> None:
        """Say what is added to each candidate's score, and what the slate must be made of."""
        items = batch.candidates.items[query]
        used = int((items != NOTHING).sum())
        if used == 0:
            return
        there, scenario = items[:used], request_rules.scenario
        for name, weight in scenario.lean.items():
            suits = self._suits(name, request_rules, batch, query, there)
            if suits is not None and weight:
                request_rules.raised[f"{scenario.name} leans on {name}"] = _padded(weight * suits)
        for category, factor in scenario.boosts.items():
            of_it = self._features.catalogue.attributes.within([category])[there]
            if of_it.any():
                request_rules.raised[f"boosted {factor:g} times: {category}"] = _padded(np.log(factor) * of_it)
        if scenario.worth is Worth.BID:
            score = batch.candidates.utility[query, :used].astype(np.float64)
            utilities = score - self._features.catalogue.boost[there]
            value = self._features.ads.log_value(there, utilities, request_rules.event.ts, request_rules.partition)
            request_rules.raised["ranked by what it earns"] = _padded(np.maximum(value, WORTHLESS) - score)
        request_rules.constraints = constraints_of(scenario.mix, self._features.items, batch, query)

    def _suits(
        self, name: str, request_rules: RequestRules, batch: MicroBatch, query: int, items: Int32
    ) -> Float32 | None:
        """The log of each item's share of what `name` says of them all, FLOOR where it says nothing, (items,)."""
        if name in request_rules.found:
            found, closeness = request_rules.found[name]
            suits = np.full(len(self._features.items), UNFOUND, np.float32)
            suits[found] = np.maximum(closeness, UNFOUND)
            matched: Float32 = suits[items]
            return matched
        if name in self._models:
            features = batch.candidates.features[query, : len(items)]
            share = log_shares(features, len(self._models))[:, self._models.index(name)]
        elif name in self._scorers:
            mass = self._scorers[name].score(batch.queries, slice(query, query + 1), items[None])[0]
            top = mass.max()
            share = (mass - top - np.log(np.exp(mass - top).sum()) if np.isfinite(top) else mass).astype(np.float32)
        else:
            return None
        floored: Float32 = np.maximum(share, np.float32(FLOOR)).astype(np.float32)
        return floored if np.isfinite(share).any() else None


def _padded(values: Float32 | Float64) -> Float32:
    padded = np.zeros(CANDIDATES, np.float32)
    padded[: len(values)] = values
    return padded
