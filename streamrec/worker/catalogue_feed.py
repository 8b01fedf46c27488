"""Follows the catalogue's topic between the steps of a worker, and puts each valid item into the catalogue.

An item that cannot be used costs one record: it goes to the dead-letter topic as it came, with the reason, and what was
known of the item stands. Knows nothing of groups, positions or checkpoints: the topic is read whole at every start.
"""

from __future__ import annotations

from collections import deque

from streamrec.codec import brief, decode_item
from streamrec.engine.items.catalogue import Catalogue
from streamrec.errors import BadEvent
from streamrec.events import Item
from streamrec.transport import Follower, Record
from streamrec.worker.validation import DeadLetterHandler

LOOK_RECORDS = 512
"""Looked at between two steps at most: some ten milliseconds of work."""
_ID_BYTES = 1_024


class CatalogueFeed:
    """Keeps a catalogue up to date with a topic."""

    def __init__(
        self, follower: Follower, catalogue: Catalogue, dead_letter: DeadLetterHandler, max_bytes: int, max_depth: int
    ) -> None:
        self.follower = follower
        self._catalogue = catalogue
        self._dead_letter = dead_letter
        self._max_bytes = max_bytes
        self._max_depth = max_depth
        self._seen: deque[Record] = deque()  # and not handled yet

    def look(self, wait_s: float = 0.0) -> None:
        """Take what has come, at most LOOK_RECORDS; what cannot be put aside now is taken up the next time.

        Raises:
            TransportError: the topic cannot be read, or a record not put aside.
        """
        if not self._seen:
            self._seen.extend(self.follower.look(LOOK_RECORDS, wait_s))
        while self._seen:
            self._tell(self._seen[0])
            self._seen.popleft()

    def whole(self) -> bool:
        """True once everything was handled that the topic held at the start."""
        return not self._seen and self.follower.whole()

    def _tell(self, record: Record) -> None:
        try:
            item_id = id_of(record)
            item = item_of(record, self._max_bytes, self._max_depth) if record.value else None
        except BadEvent as error:
            self._dead_letter(record, error)
            return
        if item is None:
            self._catalogue.withdraw(item_id)
        else:
            self._catalogue.take(item, record.timestamp_ms)


def id_of(record: Record) -> str:
    """The item that a record is about: its key.

    Raises:
        BadEvent: it has none, or one that names no item.
    """
    if not record.key:
        raise BadEvent("keyless", "the message has no key, expected the item_id: the catalogue is compacted by it")
    try:
        if len(record.key) > _ID_BYTES:
            raise BadEvent("invalid", f"the key has {len(record.key)} bytes, expected an item_id", "item_id")
        return record.key.decode("utf-8")
    except UnicodeDecodeError:
        raise BadEvent("invalid", "the key is not UTF-8, expected an item_id", "item_id") from None


def item_of(record: Record, max_bytes: int, max_depth: int) -> Item:
    """The item that a record describes.

    Raises:
        BadEvent: it describes none, or another than its key says.
    """
    item = decode_item(record.value or b"", record.headers, max_bytes=max_bytes, max_depth=max_depth)
    if item.item_id.encode("utf-8", "surrogatepass") != record.key:
        came, key = brief(repr(item.item_id), 60), brief(repr(record.key), 60)
        raise BadEvent("invalid", f"field 'item_id' is {came}, expected the message's key, {key}", "item_id")
    return item
