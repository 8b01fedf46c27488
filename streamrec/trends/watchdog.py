"""Ends a process that makes no progress while the log grows.

Faust's consumer has a thread of its own: it goes on telling the group that all is well when the agent hangs, and some
consumers stop without a word. So this looks from outside, in another thread, through another client: it asks the
brokers where the partitions end, and the app what it has stored.

Stated time: `limit_s`, and up to `every_s` more. A process counts as standing still when it

- was handed no partitions for so long (that there are none for it is an answer), or
- has stored nothing of a partition for so long that had records to read when it came, or since.

Where the brokers cannot be asked nothing is held against anybody; flushes fail by themselves then.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from streamrec.config.log_lines import get_logger
from streamrec.errors import TransportError

LOG = get_logger("streamrec.trends")
Offsets = Mapping[int, int]


@dataclass(frozen=True, slots=True)
class PartitionProgress:
    """A partition's offset when it last moved, and when; `end` None: it had unread records even then."""

    position: int
    end: int | None
    since: float


class Watchdog:
    """Compares the offsets stored with the ends of the partitions."""

    def __init__(
        self,
        log_range: Callable[[], tuple[Offsets, Offsets]],
        stored: Callable[[], Offsets | None],
        records_in: Callable[[int, int, int], int],
        give_up: Callable[[str], object],
        limit_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`log_range` says where the partitions begin and end; `stored` is None while partitions are dealt.

        `records_in` counts the records that a partition holds from an offset to another: markers of transactions, and
        what was aborted, take offsets and are none.
        """
        self._log_range = log_range
        self._stored = stored
        self._records_in = records_in
        self._give_up = give_up
        self._limit_s = limit_s
        self._clock = clock
        self._progress: dict[int, PartitionProgress] = {}
        self._unassigned_since: float | None = None

    def watch(self, every_s: float) -> None:
        """Look for as long as the process lives."""

        def look_again() -> None:
            while True:
                time.sleep(every_s)
                try:
                    self.look()
                except TransportError as error:
                    LOG.warning("the watchdog cannot see", error=str(error))
                    self._progress.clear()

        threading.Thread(target=look_again, name="watchdog", daemon=True).start()

    def look(self) -> None:
        """Give up if this process makes no progress.

        Raises:
            TransportError: no broker says where the log ends.
        """
        now, stored = self._clock(), self._stored()
        if stored is None:
            self._progress.clear()
            self._unassigned_since = now if self._unassigned_since is None else self._unassigned_since
            if now - self._unassigned_since > self._limit_s:
                self._give_up(
                    f"no partitions have been handed over for {now - self._unassigned_since:.0f} s: joining hangs"
                )
            return
        self._unassigned_since = None
        begins, ends = self._log_range()
        self._progress = {
            partition: self._progress_of(
                partition, max(position, begins.get(partition, 0)), ends.get(partition, 0), now
            )
            for partition, position in stored.items()
        }
        for partition, progress in self._progress.items():
            end = ends.get(partition, 0)
            grown = end > progress.position if progress.end is None else end > progress.end
            if not grown or now - progress.since <= self._limit_s:
                continue
            if unread := self._records_in(partition, progress.position, end):
                self._give_up(
                    f"partition {partition} has stood at offset {progress.position} for {now - progress.since:.0f} s, "
                    f"{unread} records behind the end of the log: counting hangs"
                )
            self._progress[partition] = PartitionProgress(progress.position, end, now)

    def _progress_of(self, partition: int, position: int, end: int, now: float) -> PartitionProgress:
        before = self._progress.get(partition)
        if before is None:
            return PartitionProgress(position, None if end > position else end, now)
        if position != before.position:
            return PartitionProgress(position, end, now)
        if before.end is not None and end <= before.end:  # it has stood still, and so has the log
            return PartitionProgress(position, end, now)
        return before
