"""The fold over the topic of examples: what was learned is a function of its records, in their order, and nothing else.

    decode > leave out what was learned before > items of the catalogue > rank > learn > roll back what does harm

What else is to be learned from comes through the same topic, so that there is one order: each change of the catalogue
stands in it as a record of its own. Snapshots and rollbacks fall due by offsets, never by a clock. So whoever folds
the same records, from whichever snapshot, comes to the same arrays, bit for bit. Knows nothing of groups, nor of when
results are published.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import msgspec
import numpy as np

from streamrec.config.log_lines import get_logger
from streamrec.engine.arrays.batch import Array
from streamrec.engine.batch_result import BatchResult
from streamrec.engine.example_learning import ExampleLearning
from streamrec.engine.examples import EXAMPLES_PARTITION, Example
from streamrec.engine.pipeline import Pipeline
from streamrec.errors import BadEvent
from streamrec.events import Item
from streamrec.learner.catalogue_relay import FILE, RelayedItem, relayed_item
from streamrec.transport import Record
from streamrec.worker.following import SOURCES

LOG = get_logger("streamrec.learner.fold")
CATALOGUE, EXAMPLES = "catalogue", "examples"
"""Components of a snapshot, beside the pipeline's and SOURCES."""

Arrays = dict[str, dict[str, Array]]
LastGood = Callable[["Fold", str], tuple[str, Mapping[str, Mapping[str, Array]]] | None]
"""The last good snapshot for a component of a fold to go back to: reference and arrays; None when there is none."""


class Fold:
    """Models, and how far they have learned."""

    def __init__(
        self, pipeline: Pipeline, *, last_good: LastGood, max_items: int, max_bytes: int, max_depth: int
    ) -> None:
        """`max_items` of the catalogue are kept; the other bounds are of its records."""
        self.pipeline = pipeline
        self.position = 0  # the first offset that is not folded
        self.latest_ms = 0  # when the newest record that is folded was sent
        self.saved_ms = 0  # when the snapshot was made that it began with
        self.translated = frozenset[str]()  # components that it has otherwise than that snapshot
        self.repeats = 0  # examples left out: learned before, or of a worker that has been replaced
        self.unreadable = 0
        self.rolled_back: list[str] = []  # components, since they were last taken from here
        self.learned: dict[int, tuple[int, int, int]] = {}  # by source partition: the newest offset, epoch and source
        self.told: dict[int, int] = {}  # by partition of the catalogue's topic: the newest offset
        self._learning = ExampleLearning(pipeline, self._roll_back)
        self._last_good = last_good
        self._items: OrderedDict[str, RelayedItem] = OrderedDict()  # in the order of their last change
        self._max_items = max_items
        self._bounds = max_bytes, max_depth

    @property
    def examples(self) -> int:
        """Examples learned from so far."""
        return self._learning.examples

    def said_of(self, item_id: str) -> RelayedItem | None:
        """What the catalogue has said last of an item, None where it says nothing."""
        return self._items.get(item_id)

    def tell(self, items: Iterable[Item]) -> None:
        """What a catalogue file says, to one that has folded nothing."""
        for offset, item in enumerate(items):
            self._tell(RelayedItem(item.item_id, FILE, offset, 0, item))

    def take(self, records: Sequence[Record]) -> Iterator[BatchResult]:
        """Fold some records, in order. Yields each chunk's result after it was ranked and before it is learned."""
        waiting: list[Example] = []
        for record in records:
            try:
                item = relayed_item(record, *self._bounds)
                example = self._learning.read(record.value or b"") if item is None else None
            except BadEvent as error:
                self.unreadable += 1
                LOG.warning("a record is passed over", topic=record.topic, offset=record.offset, error=str(error))
                continue
            if item is not None and item.offset > self.told.get(item.partition, -1):
                yield from self._learning.process(waiting)
                waiting = []
                self._tell(item)
            elif example is not None and self._new(example):
                waiting.append(example)
        yield from self._learning.process(waiting)
        if records:
            self.position, self.latest_ms = records[-1].offset + 1, records[-1].timestamp_ms

    def _new(self, example: Example) -> bool:
        offset, epoch, source = self.learned.get(example.partition, (-1, -1, 0))
        if 0 not in (source, example.source) and source != example.source:
            offset, epoch = -1, -1  # workers went on to another topic, whose offsets begin anew
        if example.epoch < epoch or example.offset <= offset:
            self.repeats += 1
            return False
        self.learned[example.partition] = example.offset, example.epoch, example.source or source
        return True

    def _tell(self, item: RelayedItem) -> None:
        self.told[item.partition] = item.offset
        catalogue = self.pipeline.features.catalogue
        self._items.pop(item.item_id, None)
        if item.item is None:
            catalogue.withdraw(item.item_id)
            return
        self._items[item.item_id] = item
        while len(self._items) > self._max_items:
            self._items.popitem(last=False)
        catalogue.take(item.item, item.sent_ms)

    def _roll_back(self) -> None:
        """Each part in quarantine goes back to where it was last good: at a learning cut, so at an offset."""
        for component in list(self.pipeline.quarantine.sentenced()):
            saved = self._last_good(self, component)
            self.pipeline.rollback.roll_back(component, *(saved or (None, None)))
            self.rolled_back.append(component)
            LOG.warning(
                "a component was in danger: rolled back, and on probation now",
                component=component,
                to="the untaught: no good snapshot is left" if saved is None else saved[0],
            )

    # Snapshots

    def state(self) -> Arrays:
        """Everything that the next record is folded into."""
        marks = [(partition, *mark) for partition, mark in sorted(self.learned.items())]
        told = sorted(self.told.items())
        return {
            **self.pipeline.state(),
            EXAMPLES: self._learning.state(),
            SOURCES: {
                "learned": np.array(marks, np.int64).reshape(-1, 4),
                "told": np.array(told, np.int64).reshape(-1, 2),
            },
            CATALOGUE: {"items": _bytes_array(_ENCODER.encode(list(self._items.values())))},
        }

    def restore(self, arrays: Mapping[str, Mapping[str, Array]], watermarks: Mapping[int, int]) -> None:
        """The inverse of `state`, for one that has folded nothing yet; `watermarks` say what the arrays stand for.

        Those of a worker that learned by itself stand for what comes before them in its source, and for no examples.
        """
        if SOURCES not in arrays:
            self.pipeline.restore(arrays)
            self.learned = {partition: (offset - 1, 0, 0) for partition, offset in watermarks.items()}
            return
        catalogue = self.pipeline.features.catalogue
        for item in _DECODER.decode(arrays[CATALOGUE]["items"].tobytes()):
            self._items[item.item_id] = item
            if item.item is not None:
                catalogue.take(item.item, item.sent_ms)
        self.pipeline.restore(arrays)
        self._learning.restore(arrays[EXAMPLES])
        self.learned = {partition: (*mark,) for partition, *mark in arrays[SOURCES]["learned"].tolist()}
        self.told = {int(p): int(offset) for p, offset in arrays[SOURCES]["told"].tolist()}
        self.position = watermarks[EXAMPLES_PARTITION]


def begun(pipeline: Pipeline, starts: Mapping[int, int], items: Iterable[Item]) -> Arrays:
    """The state of a fold whose pipeline has learned a history in place, beside users.

    Args:
        pipeline: what has learned.
        starts: by source partition, the first offset that is yet to be learned from.
        items: the catalogue that it knew.
    """
    fold = Fold(pipeline, last_good=lambda fold, component: None, max_items=sys.maxsize, max_bytes=0, max_depth=0)
    fold.learned = {partition: (start - 1, 0, 0) for partition, start in starts.items()}
    fold.tell(items)
    return fold.state()


def _bytes_array(data: bytes) -> Array:
    return np.frombuffer(data, np.uint8).copy()


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(list[RelayedItem])
