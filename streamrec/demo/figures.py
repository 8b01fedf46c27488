"""What the demonstration measures: speed, lag, latency, and how much of what was bought stood in the slate before it.

Popularity is measured on the very same requests, without look-ahead: its list is made before the basket is counted.
Knows nothing of Kafka or of how figures are shown; times come in as arguments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from streamrec.demo.baskets import Basket
from streamrec.engine.arrays.batch import Float64
from streamrec.evaluation.backtest.lift import Lift, lift
from streamrec.events import Slate

FIRST = 10
"""Places of a slate that count."""


class DecayedCounts:
    """How often each item was bought, a purchase counting half as much after each half-life.

    Kept as log2, where thousands of half-lives are a plain number: mass' = log2(2**mass + 2**(ts / half-life)).
    """

    def __init__(self, half_life_s: float, items: Sequence[str]) -> None:
        self._half_life_ms = half_life_s * 1000.0
        self._items = tuple(items)
        self._place = {item: place for place, item in enumerate(items)}
        self._mass: Float64 = np.full(len(items), -np.inf)  # (items,) log2

    def top(self, k: int) -> list[str]:
        """The `k` most popular items, best first; fewer when fewer were ever bought."""
        order = np.argsort(-self._mass, kind="stable")[:k]
        return [self._items[place] for place in order.tolist() if np.isfinite(self._mass[place])]

    def learn(self, basket: Basket) -> None:
        """Count a basket."""
        places = [self._place[item] for item in sorted(basket.items)]
        np.logaddexp2.at(self._mass, places, basket.ts / self._half_life_ms)


@dataclass(slots=True)
class Hits:
    """Hits of one ranker's first ten items: purchases among them, and baskets with at least one."""

    found: list[bool] = field(default_factory=list)  # (purchases,)
    baskets: int = 0

    @property
    def purchases(self) -> int:
        """How many were among the first ten."""
        return sum(self.found)

    def count(self, basket: Basket, first: frozenset[str]) -> None:
        """Count the items of the basket that are among `first`."""
        found = [item in first for item in sorted(basket.items)]
        self.found += found
        self.baskets += any(found)


@dataclass(frozen=True, slots=True)
class PendingRequest:
    """A request that waits for its slate."""

    basket: Basket
    at_s: float
    popular: Mapping[str, frozenset[str]]  # each popularity's first places at that moment
    handled: int  # events of the log that are handled once this one is answered
    judged: bool


class Figures:
    """Counts from the first request on; everything before `warmup` requests were answered is left out of the rates."""

    def __init__(self, half_lives_s: Mapping[str, float], items: Sequence[str], warmup: int) -> None:
        self.sent = 0
        self.handled = 0
        self.answered = 0
        self.bought = 0
        self.hits = Hits()
        self.popular_hits = {name: Hits() for name in half_lives_s}
        self._popular = {name: DecayedCounts(half_life_s, items) for name, half_life_s in half_lives_s.items()}
        self._warmup = warmup
        self._waiting: dict[str, PendingRequest] = {}
        self._latencies_s: list[float] = []
        self._scoring_since: tuple[float, int] | None = None  # when, and how many events were handled by then
        self._latest_s = 0.0

    # What happens

    def ask(self, basket: Basket, now_s: float, judged: bool = True) -> None:
        """A request is sent; `Basket.request` names it. One not `judged` only tells that all before it is handled."""
        self.sent += 1
        popular = {name: frozenset(counts.top(FIRST)) for name, counts in self._popular.items()}
        self._waiting[basket.request.event_id or ""] = PendingRequest(basket, now_s, popular, self.sent, judged)

    def buy(self, basket: Basket) -> None:
        """The basket's purchases are sent."""
        self.sent += len(basket.purchases)
        for counts in self._popular.values():
            counts.learn(basket)

    def answer(self, slate: Slate, now_s: float) -> Basket | None:
        """A slate has come; returns the basket that it is judged by, None where there is none."""
        asked = self._waiting.pop(slate.request_id or "", None)
        if asked is None:
            return None
        self.answered += 1
        self.handled = max(self.handled, asked.handled)
        self._latest_s = now_s
        if self.answered <= self._warmup or not asked.judged:
            return asked.basket if asked.judged else None
        if self._scoring_since is None:
            self._scoring_since = now_s, self.handled
        self._latencies_s.append(now_s - asked.at_s)
        self.bought += len(asked.basket.items)
        self.hits.count(asked.basket, frozenset(place.item_id for place in slate.items[:FIRST]))
        for name, popular in asked.popular.items():
            self.popular_hits[name].count(asked.basket, popular)
        return asked.basket

    # What it comes to

    @property
    def waiting(self) -> int:
        """Requests not answered yet."""
        return len(self._waiting)

    @property
    def lag(self) -> int:
        """Events sent and not known to be handled."""
        return self.sent - self.handled

    @property
    def scored(self) -> int:
        """Answered requests that count."""
        return len(self._latencies_s)

    @property
    def events_per_s(self) -> float:
        """Events handled per second, since the warm-up."""
        if self._scoring_since is None:
            return 0.0
        since_s, handled = self._scoring_since
        return (self.handled - handled) / max(self._latest_s - since_s, 1e-9)

    def latency_ms(self, quantile: float) -> float:
        """From sending a request to having its slate."""
        return 1000.0 * float(np.quantile(self._latencies_s, quantile)) if self._latencies_s else 0.0

    @property
    def hit_rate(self) -> float:
        """Share of the purchases whose item stood in the first ten places of the slate before their basket."""
        return self.hits.purchases / max(self.bought, 1)

    def popular_rates(self) -> dict[str, float]:
        """The same for each popularity."""
        return {name: hits.purchases / max(self.bought, 1) for name, hits in self.popular_hits.items()}

    def best_popular(self) -> tuple[str, float]:
        """The popularity that did best over the whole run: chosen afterwards, which flatters it."""
        return max(self.popular_rates().items(), key=lambda pair: pair[1])

    def lift(self) -> Lift:
        """How far the slates are ahead of that popularity, purchase by purchase."""
        best, _ = self.best_popular()
        ours, theirs = (np.array(hits.found, np.int64) for hits in (self.hits, self.popular_hits[best]))
        return lift(ours, theirs, np.ones(len(ours), bool), len(ours))
