"""How far partitions may run ahead of one another while there is a backlog, over all workers.

Each worker tells the store the time of the next record of its partitions that are behind, and hears it of the others'.
None hands out a record that is more than `most_s` of log time ahead of the slowest of these. What it hears may be old,
and then is too early, never too late: so the limit holds whenever the others speak.

A partition that has stood still for STILL_S is waited for no longer: its worker is gone, or cannot go on. And a worker
all of whose records are younger than `most_s` by the wall clock waits for nobody: that is what people are doing now.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from streamrec.config.log_lines import get_logger
from streamrec.errors import StateUnavailable
from streamrec.worker.memory import Clocks

LOG = get_logger("streamrec.worker.drift")
OFTEN_S, SELDOM_S = 0.1, 2.0
"""Between two exchanges: while something here is behind, and otherwise."""
STILL_S = 60.0
SAY_EVERY_S = 30.0
AGAIN_S = 10.0
"""After the store was away."""

Exchange = Callable[[Mapping[int, int | None]], Mapping[int, int]]
"""`Store.exchange`."""


class Drift:
    """One worker's view of how far all partitions are."""

    def __init__(self, exchange: Exchange, most_s: float, clocks: Clocks) -> None:
        self._exchange = exchange
        self._most_ms = int(most_s * 1000)
        self._clock = clocks.monotonic_s
        self._wall_ms = clocks.wall_ms
        self._next_at = 0.0
        self._told: dict[int, int | None] = {}
        self._slowest: int | None = None
        self._since: dict[int, tuple[int, float]] = {}  # per partition of others: where it is, and since when
        self._left_behind: set[int] = set()
        self._say_at = 0.0

    def limit(self, heads: Mapping[int, int | None], oldest: int) -> int | None:
        """The time (ms) of the latest record that may be handed out, None for any.

        Args:
            heads: of each partition held, the time of its next record if it is behind, else None.
            oldest: the time of the oldest record that waits here.
        """
        now = self._clock()
        behind = any(ms is not None for ms in heads.values())
        news = heads.keys() != self._told.keys() or (not behind and heads != self._told)
        if heads and (news or now >= self._next_at):
            self._next_at = now + (OFTEN_S if behind else SELDOM_S)
            self._told = dict(heads)  # also where nobody heard it: a store that is away is not asked at every poll
            try:
                others = {p: ms for p, ms in self._exchange(heads).items() if p not in heads}
            except StateUnavailable as error:
                LOG.warning("how far other workers are cannot be told", error=str(error))
                self._next_at = now + AGAIN_S
            else:
                self._slowest = min(self._moving(others, now), default=None)
        if self._slowest is None or oldest > self._wall_ms() - self._most_ms:
            return None
        limit = self._slowest + self._most_ms
        if oldest > limit and now >= self._say_at:
            self._say_at = now + SAY_EVERY_S
            ahead_s = (oldest - self._slowest) // 1000 if self._slowest else None  # of one just taken over
            LOG.info("waiting for slower partitions of others", ahead_s=ahead_s)
        return limit

    def _moving(self, others: Mapping[int, int], now: float) -> list[int]:
        """Where the partitions are that are not standing still."""
        self._since = {
            p: before if (before := self._since.get(p, (ms, now)))[0] == ms else (ms, now) for p, ms in others.items()
        }
        still = {p for p, (_, since) in self._since.items() if now - since >= STILL_S}
        for partition in sorted(still - self._left_behind):
            LOG.warning("a partition stands still; it is not waited for", partition=partition, still_s=STILL_S)
        self._left_behind = still
        return [ms for partition, ms in others.items() if partition not in still]
