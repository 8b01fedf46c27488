"""How well every list does, measured before it learns: progressive loss and hit rate, and when they drift.

    share = exp(score of the target) / sum of exp(score) over the candidates of its query
    loss  = -log share, in nats; WORST at most, and where the target is no candidate or unknown to the list
    hit   = 1 if the target stands in the first ten

Test-then-learn figures (Dawid: Present position and potential developments, JRSS A 1984; Gama et al.: On evaluating
stream learning algorithms, Machine Learning 2013). Drift is Page-Hinkley's test (Page: Continuous inspection schemes,
Biometrika 1954) on the mean losses of blocks of examples, and another on their hit rates: a list can lose its first
places and keep its shares, or the other way round. The threshold is so many spreads of such a mean, taken from the
differences between neighbours, which neither a trend nor a change of level blows up (von Neumann, Annals of
Mathematical Statistics 1941).

Observes only. Everything is counted in examples of the log, so how it was cut into polls changes nothing; the state is
a few numbers per list, and a restored one goes on as if nothing had happened. Knows nothing of how lists are made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from enum import StrEnum

import numpy as np

from streamrec.engine.arrays.batch import Array, Float64, MicroBatch
from streamrec.engine.arrays.compiled import compiled
from streamrec.engine.learning.page_hinkley import PageHinkley
from streamrec.engine.learning.trial import Trial

WORST = 10.0
"""A share below exp(-10) says no more than this: one unknown target must not outweigh a hundred known ones."""
HIT = 10
"""Places that count as a hit."""
BLOCK = 32
"""Examples whose mean is looked at as one: single losses are far from normal, and a test for each would cost more."""
RECENT_KEPT = 0.5 ** (1 / 512)
"""Of the recent means by each example: half of it is gone after 512."""
JUMPS_KEPT = 0.5 ** (1 / 256)
"""Of the mean squared jump from block to block by each block."""
SLACK = 0.75
"""Spreads above the usual that are nothing yet; a lasting change of twice as much is what the test finds soonest."""
ALARM = 20.0
"""Spreads, added up beyond the slack, that are an alarm. By the loss it stayed silent on the fused list over 230,000
examples of four public logs; had that list collapsed half-way, it would have said so after 32 to 704 examples. By the
hit rate it stayed silent over 200,000; had every hit gone half-way, it would have said so after 96 to 2,720, the later
the rarer hits were."""
FIRST_BLOCKS = 40
"""Blocks that come before the test begins, and again before the first alarm, and between two."""


class Measure(StrEnum):
    """By what a list is held to do worse."""

    LOSS = "loss"
    HIT_RATE = "hit rate"


LEAST_SPREADS: Mapping[Measure, float] = {Measure.LOSS: 0.05, Measure.HIT_RATE: 1 / BLOCK}
"""Nats, and one hit of a block; a list that never changes has no spread of its own."""


@dataclass(frozen=True, slots=True)
class ListStanding:
    """How well a list does."""

    loss: float  # nats per example
    hit_rate: float


@dataclass(frozen=True, slots=True)
class DriftAlarm:
    """A list does lastingly worse than it used to."""

    name: str
    """`fused`, or the model whose list it is."""
    ts: int
    """When it was noticed: time of the last example of the block, ms."""
    place: str
    """Where it was noticed: topic, partition and offset of that example."""
    before: ListStanding
    """What was usual."""
    after: ListStanding
    """The mean since the change began."""
    measure: Measure = Measure.LOSS
    """By which it was noticed."""


class PrequentialRecord:
    """Progressive figures of some lists, the fused one first, in the order of `Trial.ranks`."""

    def __init__(self, lists: Sequence[str]) -> None:
        self.lists = tuple(lists)
        self.examples = 0
        count = len(self.lists)
        self._total = np.zeros((3, count))  # sums over all examples: 1, loss, hits
        self._recent = np.zeros((3, count))  # the same, decayed
        self._block = np.zeros((3, count))  # the same, over the block that is not full yet
        self._watches = tuple(Watch(count, measure) for measure in Measure)

    def tried(self, trial: Trial, batch: MicroBatch, examples: slice) -> list[DriftAlarm]:
        """Take a chunk's rankings, whose targets are these examples of the batch, before they are learned.

        Returns the drifts that came to light, in log order.
        """
        kept = np.flatnonzero(trial.kept)
        losses = np.full((len(self.lists), len(kept)), WORST)
        candidates, rows = batch.candidates, batch.examples.query[examples][kept]
        _losses(
            candidates.utility, candidates.scores, candidates.items, rows, batch.examples.item[examples][kept], losses
        )
        blocks = np.empty((len(kept) // BLOCK + 1, 3, len(self.lists)))
        ends = np.empty(len(blocks), np.int64)
        full = _count(losses, trial.ranks[:, kept], self._total, self._recent, self._block, blocks, ends)
        self.examples += len(kept)
        drifts = []
        for block, end in zip(blocks[:full], ends[:full].tolist(), strict=True):
            logged = trial.logged_events[int(kept[end])]
            for watch in self._watches:
                for at, before, after in watch.look(block[1:] / block[0]):
                    drifts.append(
                        DriftAlarm(self.lists[at], logged.event.ts, logged.place, before, after, watch.measure)
                    )
        return drifts

    def recent(self) -> dict[str, ListStanding]:
        """The decayed means by list; empty before the first example."""
        return self._standings(self._recent)

    def overall(self) -> dict[str, ListStanding]:
        """The means over all examples by list; empty before the first example."""
        return self._standings(self._total)

    def _standings(self, sums: Float64) -> dict[str, ListStanding]:
        counted = np.flatnonzero(sums[0]).tolist()  # not those of models that were added since the last example
        return {self.lists[at]: _standing(sums[:, at]) for at in counted}

    def state(self) -> dict[str, Array]:
        return {
            "examples": np.array([self.examples], np.int64),
            "sums": np.stack([self._total, self._recent, self._block]),
            **{f"{watch.measure}.{name}": array for watch in self._watches for name, array in watch.state().items()},
        }

    def restore(self, arrays: Mapping[str, Array]) -> None:
        self.examples = int(arrays["examples"][0])
        self._total, self._recent, self._block = (np.array(sums) for sums in arrays["sums"])
        for watch in self._watches:
            before = f"{watch.measure}."
            own = {name[len(before) :]: array for name, array in arrays.items() if name.startswith(before)}
            if own:  # a snapshot of before watched otherwise: what is usual has to show anew
                watch.restore(own)


class Watch:
    """Whether what is usual of some lists still holds. An improvement becomes what is usual without a word."""

    def __init__(self, lists: int, measure: Measure = Measure.LOSS) -> None:
        self.measure = measure
        self._blocks = 0
        self._previous = np.zeros(lists)  # what was looked at of the block before: the worse, the larger
        self._jumps = np.zeros((2, lists))  # decayed sums over blocks: 1, half the squared difference to the one before
        self._usual = np.zeros((3, lists))  # sums over blocks since it is as it is: 1, loss, hit rate
        self._since = np.zeros((3, lists))  # the part of them since it may have become worse
        self._tests = [PageHinkley() for _ in range(lists)]

    def look(self, means: Float64) -> list[tuple[int, ListStanding, ListStanding]]:
        """Take a block's mean losses and hit rates, (2, lists).

        Returns the lists that do lastingly worse: their place, what was usual, and what is now.
        """
        self._blocks += 1
        worse = means[0].copy() if self.measure is Measure.LOSS else 1.0 - means[1]  # (lists,)
        if self._blocks > 1:
            jumps = np.stack([np.ones_like(self._previous), (worse - self._previous) ** 2 / 2])
            self._jumps = JUMPS_KEPT * self._jumps + jumps
        self._previous = worse
        if self._blocks <= FIRST_BLOCKS:
            return []
        block = np.stack([np.ones_like(self._previous), *means])
        self._usual += block
        self._since += block
        spreads = np.maximum(np.sqrt(self._jumps[1] / self._jumps[0]), LEAST_SPREADS[self.measure])
        tested = zip(self._tests, worse.tolist(), spreads.tolist(), strict=True)
        return [(at, *found) for at, test in enumerate(tested) if (found := self._tested(at, *test)) is not None]

    def _tested(
        self, at: int, test: PageHinkley, worse: float, spread: float
    ) -> tuple[ListStanding, ListStanding] | None:
        threshold = ALARM * spread
        test.update(worse, delta=SLACK * spread, threshold=threshold, least_count=FIRST_BLOCKS)
        if test.rise == 0.0:  # if it has become worse, then most likely from here on
            self._since[:, at] = 0.0
        if not test.alarm:
            return None
        before, after = self._usual[:, at] - self._since[:, at], self._since[:, at].copy()
        self._usual[:, at] = after
        return (_standing(before), _standing(after)) if test.rise > threshold else None

    def state(self) -> dict[str, Array]:
        return {
            "blocks": np.array([self._blocks], np.int64),
            "previous": self._previous.copy(),
            "jumps": self._jumps.copy(),
            "usual": self._usual.copy(),
            "since": self._since.copy(),
            "tests": np.array([astuple(test) for test in self._tests], np.float64),  # (lists, 7)
        }

    def restore(self, arrays: Mapping[str, Array]) -> None:
        self._blocks = int(arrays["blocks"][0])
        for name in ("previous", "jumps", "usual", "since"):
            setattr(self, f"_{name}", np.array(arrays[name]))
        self._tests = [PageHinkley(*numbers) for numbers in arrays["tests"].tolist()]


def _standing(sums: Float64) -> ListStanding:
    count, loss, hit_rate = sums.tolist()
    return ListStanding(loss / count, hit_rate / count)


@compiled
def _losses(utility, scores, items, rows, targets, out):  # type: ignore[no-untyped-def]
    """Fills `out` (1 + models, examples): the fused list first; what is unknown to a list is left as it is."""
    for e in range(len(rows)):
        place = -1
        for c in range(items.shape[1]):
            if items[rows[e], c] == targets[e]:
                place = c
        if place < 0:
            continue
        for m in range(len(out)):
            mine = utility[rows[e]] if m == 0 else scores[m - 1, rows[e]]
            if mine[place] == -np.inf:
                continue
            top = mine.max()
            total = 0.0
            for score in mine:
                if score > -np.inf:
                    total += np.exp(score - top)
            out[m, e] = min(np.log(total) + top - mine[place], WORST)


@compiled
def _count(losses, ranks, total, recent, block, blocks, ends):  # type: ignore[no-untyped-def]
    """Adds examples one by one; copies every block that is full, and the example that filled it. Returns how many."""
    full = 0
    for e in range(losses.shape[1]):
        for m in range(len(losses)):
            hit = 1.0 if 1 <= ranks[m, e] <= HIT else 0.0
            for at, value in enumerate((1.0, losses[m, e], hit)):
                total[at, m] += value
                recent[at, m] = RECENT_KEPT * recent[at, m] + value
                block[at, m] += value
        if block[0, 0] == BLOCK:
            blocks[full] = block
            ends[full] = e
            block[:] = 0.0
            full += 1
    return full
