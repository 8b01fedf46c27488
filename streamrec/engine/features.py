"""What is remembered of users and items, by everybody for everybody: tables, and every family of features.

What concerns a user moves with every event; what concerns items moves at learning cuts. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from streamrec.engine.ads.ads import ADS, Ads
from streamrec.engine.arrays.batch import NOTHING, Array, Int32, MicroBatch
from streamrec.engine.arrays.feedback import Lesson
from streamrec.engine.arrays.timeline import Steps
from streamrec.engine.items.catalogue import Listing
from streamrec.engine.items.item_table import ItemTable
from streamrec.engine.items.uncertainty import Doubt
from streamrec.engine.trending.table import Teller
from streamrec.engine.users.affinity import Affinity
from streamrec.engine.users.counts import Counts
from streamrec.engine.users.deduplication import Duplicates
from streamrec.engine.users.fatigue import Shown
from streamrec.engine.users.history import TOUCHES, History
from streamrec.engine.users.price_level import Prices
from streamrec.engine.users.purchases import Bought
from streamrec.engine.users.seen import Seen
from streamrec.engine.users.user_table import UserTable
from streamrec.events import TYPE_CODES, Event, EventType, Slate

NOTHING_SEEN: Int32 = np.empty(0, np.int32)

ITEMS, LISTING, DOUBT = "items", "listing", "doubt"
"""Components of a snapshot, beside ADS."""


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What is remembered of users and items."""

    users: UserTable
    items: ItemTable
    listing: Listing
    history: History
    counts: Counts
    affinity: Affinity
    prices: Prices
    duplicates: Duplicates
    doubt: Doubt
    seen: Seen | None
    bought: Bought | None
    shown: Shown | None
    trends: Teller | None
    ads: Ads

    # As the log is met

    def item_of(self, event: Event, *, judged: bool) -> tuple[int, bool]:
        """The event's item index and whether the log had it before; only what is touched or judged gets an index."""
        if event.item_id is None:
            return NOTHING, False
        index = self.items.lookup(event.item_id)
        if index != NOTHING:
            return index, True
        if not judged and TYPE_CODES[event.type] not in TOUCHES:
            return NOTHING, False
        index = self.items.intern(event.item_id, event.ts)
        category = self.category_of(event)
        if category is not None:
            self.items.categorise(index, category)
        return index, False

    def category_of(self, event: Event) -> str | None:
        """Of the event's item: the catalogue's word, else what the event itself says in its context."""
        listed = None if event.item_id is None else self.listing.category(event.item_id)
        said = (event.context or {}).get("category")
        return listed or (said if isinstance(said, str) else None)

    def seen_by(self, row: int) -> Int32:
        """What must not be shown to a user because they know it already; nothing, unless that is the rule."""
        return NOTHING_SEEN if self.seen is None else self.seen.of(row)

    def touched(self, event: Event, row: int, item: int) -> None:
        """The user of that row did something with an item: for rules that look at it, at once."""
        if item == NOTHING:
            return
        if event.type is EventType.IMPRESSION:
            if event.rec_id is None:  # else it counted as a slate's
                self.doubt.note_shown([item], event.ts)
            return
        if self.seen is not None:
            self.seen.add(row, item)
        if self.bought is not None and event.type is EventType.PURCHASE:
            self.bought.add(row, item, event.ts)
        if self.shown is not None:
            self.shown.touch(row, item)

    def fold(self, steps: Steps, batch: MicroBatch) -> None:
        """Users remember the steps; queries and examples see what came before each."""
        for family in (self.history, self.counts, self.affinity, self.prices):
            family.fold(steps, batch.queries, batch.examples)

    def answered(self, slate: Slate, partition: int) -> None:
        """There is less doubt of what was shown, what came in by the catalogue had a chance, and its user may tire."""
        found = (self.items.lookup(place.item_id) for place in slate.items)
        indices = [index for index in found if index != NOTHING]
        self.doubt.note_shown(indices, slate.ts)
        if len(self.listing):
            self.listing.note_shown(indices)
        if self.shown is not None:
            row = self.users.touch((partition, slate.user_id))
            self.shown.add(row, indices, slate.ts)

    # At a learning cut

    def learn(self, batch: MicroBatch, lessons: Sequence[Lesson]) -> None:
        """What happened to items since the last cut counts from now on."""
        self.ads.learn(lessons)
        self.doubt.learn(batch)
        examples = slice(0, batch.learned)
        self.items.seen(batch.examples.item[examples], batch.examples.ts[examples])
        self.listing.settle()

    def make_room(self, now_ms: int, reserved: int) -> Int32:
        """Forget items where it takes that for `reserved` others to find room; returns them.

        The log's clock is at `now_ms`. Whoever else knows of them forgets them too, then `listing.readmit` may follow.
        """
        self.listing.arrive_expected(now_ms, reserved)
        forgotten = self.items.make_room(self.listing.needed(reserved))
        if len(forgotten):
            self.listing.forget(forgotten)
            self.doubt.forget(forgotten)
            self.users.forget_items(forgotten)
        return forgotten

    # Snapshots: users are in none, they live in the store

    def state(self) -> dict[str, dict[str, Array]]:
        """What is remembered of items, by component."""
        return {
            ITEMS: self.items.state(),
            LISTING: self.listing.state(),
            DOUBT: self.doubt.state(),
            ADS: self.ads.state(),
        }

    def restore(self, arrays: Mapping[str, Mapping[str, Array]]) -> None:
        """The inverse of `state`. Snapshots of before knew of items alone."""
        self.items.restore(arrays[ITEMS])
        if LISTING in arrays:
            self.listing.restore(arrays[LISTING])
        else:
            self.listing.look_anew()
        if DOUBT in arrays:
            self.doubt.restore(arrays[DOUBT])
        if ADS in arrays:
            self.ads.restore(arrays[ADS])
