"""What a worker holds in memory, and the clocks it looks at: shared by its loop, its step and its checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from streamrec.engine.answering import Answering
from streamrec.engine.attribution.open_slates import OpenSlates
from streamrec.engine.items.item_counts import ItemCounts
from streamrec.engine.partition_tables import PartitionTable
from streamrec.engine.pipeline import Pipeline
from streamrec.worker.answered import Answered


@dataclass(frozen=True, slots=True)
class Clocks:
    """Time, as it can be set in tests."""

    monotonic_s: Callable[[], float] = time.monotonic
    wall_ms: Callable[[], int] = lambda: int(time.time() * 1000)


@dataclass(frozen=True, slots=True)
class Memory:
    """What a worker holds in memory of its partitions, and the models."""

    pipeline: Pipeline
    item_counts: ItemCounts
    open_slates: OpenSlates
    tables: Sequence[PartitionTable]
    """All that is saved with a partition, these two among them."""
    answered: Answered
    """What former owners published past their checkpoints."""
    answering: Answering | None = None
    """Where the models learn elsewhere: what asks of them, and says what there is to learn."""
