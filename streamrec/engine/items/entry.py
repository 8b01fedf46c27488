"""What is kept of one item of the catalogue."""

from __future__ import annotations

import math
from typing import NamedTuple

from streamrec.engine.items.attributes import Description, description_of
from streamrec.engine.items.bids import millionths
from streamrec.engine.items.item_vectors import Float16
from streamrec.engine.items.text_encoders import TextVectors
from streamrec.events import LATEST_TS_MS, Item

ALWAYS = LATEST_TS_MS + 1
"""When an item closes that does not say when."""


class CatalogueEntry(NamedTuple):
    """Times are in ms, in the log's time."""

    said: Description
    opens: int
    closes: int
    log_boost: float
    added: int | None
    sent: int  # 0 where it is not known
    content: Float16 | None
    bid: int = 0  # millionths, 0 for what is no ad
    budget: int = 0

    @classmethod
    def of(cls, item: Item, sent_ms: int, texts: TextVectors | None) -> CatalogueEntry:
        """What an item says of itself; `texts` makes its content vector, None: it is not needed."""
        return cls(
            said=description_of(item),
            opens=item.available_from or 0,
            closes=ALWAYS if item.available_until is None else item.available_until,
            log_boost=math.log(item.boost),
            added=item.added,
            sent=sent_ms,
            content=texts.of_item(item) if texts else None,
            bid=millionths(item.bid),
            budget=millionths(item.budget),
        )

    @property
    def category(self) -> str | None:
        """The item's first category."""
        return self.said.categories[0] if self.said.categories else None

    def came(self, now_ms: int) -> int:
        """When the item came in, as far as it is known at `now_ms`."""
        if self.added is not None:
            return self.added
        return min(self.sent or now_ms, now_ms)
