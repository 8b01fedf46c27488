"""What the window keeps of topics, within bounds: the catalogue, dead letters, what came of slates.

Fed by `reading.py`, in the event loop. Knows nothing of HTTP.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeVar

from msgspec import structs

from streamrec.codec import brief, decode
from streamrec.errors import BadEvent
from streamrec.events import EventType, Item, Outcome
from streamrec.transport import Record
from streamrec.worker.catalogue_feed import id_of, item_of
from streamrec.worker.dead_letters import DeadLetter, opened
from streamrec.worker.validation import ValidationLimits, event_of

MOST_ITEMS = 200_000
"""Of the catalogue; without their vectors and long texts, some 500 bytes each."""
MOST_LETTERS, MOST_LETTER_BYTES = 500, 131_072
_PART_BYTES = 4_096
MOST_KINDS, MOST_COUNTED = 1_000, 50_000
"""Pairs of reason and field, or ways to be answered; items whose outcomes are counted."""
SINCE_S = 86_400.0
"""At the start, dead letters and outcomes are read from so long ago."""

_TEXT_CHARS = 500

Name = TypeVar("Name")


class CatalogueChange(NamedTuple):
    """What a record of the catalogue says of an item; None: it was withdrawn."""

    item_id: str
    item: Item | None


class KnownItems:
    """What the items topic says of each item, for titles and for whoever searches them."""

    def __init__(self, known: Iterable[Item] = ()) -> None:
        self._items: dict[str, Item] = {}
        self._found_by: dict[str, str] = {}  # the id and the title, in small letters
        self.left_out = 0
        self.hear([CatalogueChange(item.item_id, _light(item)) for item in known])

    def __len__(self) -> int:
        return len(self._items)

    @staticmethod
    def reader(limits: ValidationLimits) -> Callable[[Record], CatalogueChange]:
        """Reads the records of the topic, as workers do."""

        def read(record: Record) -> CatalogueChange:
            item_id = id_of(record)
            if not record.value:
                return CatalogueChange(item_id, None)
            return CatalogueChange(item_id, _light(item_of(record, limits.max_message_bytes, limits.max_depth)))

        return read

    def hear(self, entries: Sequence[CatalogueChange]) -> None:
        """Take what was published; beyond MOST_ITEMS, new items are left out and counted."""
        for item_id, item in entries:
            if item is None:
                self._items.pop(item_id, None)
                self._found_by.pop(item_id, None)
            elif item_id not in self._items and len(self._items) >= MOST_ITEMS:
                self.left_out += 1
            else:
                self._items[item_id] = item
                self._found_by[item_id] = f"{item_id} {item.title or ''}".casefold()

    def item(self, item_id: str) -> Item | None:
        """What is said of an item."""
        return self._items.get(item_id)

    def title(self, item_id: str) -> str | None:
        """How it is called, where that is known."""
        item = self._items.get(item_id)
        return None if item is None else item.title

    def find(self, words: str, most: int) -> list[str]:
        """Items whose id and title have all of these words somewhere, in the order in which they came."""
        wanted = words.casefold().split()
        found: list[str] = []
        for item_id, text in self._found_by.items():
            if all(word in text for word in wanted):
                found.append(item_id)
                if len(found) == most:
                    break
        return found


def _light(item: Item) -> Item:
    return structs.replace(item, vector=None, text=None if item.text is None else brief(item.text, _TEXT_CHARS))


class DeadLetters:
    """Counts of dead letters by reason and field, and the newest of them."""

    def __init__(self, limits: ValidationLimits) -> None:
        self._limits = limits
        self.kinds: Counter[tuple[str, str]] = Counter()
        self.newest_of: dict[tuple[str, str], str] = {}  # what is wrong with the newest of each
        self.newest: deque[DeadLetter] = deque(maxlen=MOST_LETTERS)  # the newest last
        self.total = 0

    def hear(self, letters: Sequence[DeadLetter]) -> None:
        """Take what was put aside."""
        for letter in letters:
            kind = letter.reason, letter.field
            if kind not in self.kinds and len(self.kinds) >= MOST_KINDS:
                kind = ("others", "")
            self.total += 1
            self.kinds[kind] += 1
            self.newest_of[kind] = letter.detail
            self.newest.append(letter)

    def at(self, address: str) -> DeadLetter | None:
        """The letter at PARTITION-OFFSET, while it is among the newest."""
        return next((letter for letter in self.newest if letter.address == address), None)

    def refused_now(self, letter: DeadLetter, now_ms: int) -> BadEvent | None:
        """Why a worker would refuse the message, were it sent now; None when it would not."""
        topic, partition, offset = letter.origin
        try:
            event_of(Record(topic, partition, offset, letter.key, letter.value, letter.headers, now_ms), self._limits)
        except BadEvent as error:
            return error
        return None

    @staticmethod
    def read(record: Record) -> DeadLetter | None:
        """The letter in a record, of a large one the beginning; None where there is none."""
        letter = opened(record)
        if letter is None or letter.size_bytes <= MOST_LETTER_BYTES:
            return letter
        value = letter.value or b""
        return replace(letter, value=value[:_PART_BYTES], headers=(), cut_bytes=letter.cut_bytes or len(value) or 1)


class Business:
    """What came of the items that were seen, by scenario and by who chose them."""

    def __init__(self) -> None:
        self.since_ms: int | None = None
        self.rows: dict[tuple[str, str, str], Counter[str]] = {}
        self.items: dict[str, Counter[str]] = {}

    @staticmethod
    def read(record: Record) -> Outcome:
        """The outcome in a record.

        Raises:
            BadEvent: it holds none.
        """
        return decode(record.value or b"", record.headers, Outcome)

    def hear(self, outcomes: Sequence[Outcome]) -> None:
        """Take what was published."""
        for outcome in outcomes:
            who = (outcome.scenario, outcome.team or outcome.policy, outcome.arm or outcome.mode)
            _count(self.rows, who if who in self.rows or len(self.rows) < MOST_KINDS else ("others", "", ""), outcome)
            if outcome.item_id in self.items or len(self.items) < MOST_COUNTED:
                _count(self.items, outcome.item_id, outcome)
            shown_ms = outcome.shown_ts or outcome.ts
            self.since_ms = min(self.since_ms or shown_ms, shown_ms)


def _count(counts: dict[Name, Counter[str]], name: Name, outcome: Outcome) -> None:
    row = counts.setdefault(name, Counter())
    row["seen"] += 1
    row["wanted"] += outcome.reward > 0
    row["bought"] += outcome.type is EventType.PURCHASE
