"""What is remembered of users and items, for all parts of the pipeline: tables, and every user feature.

What concerns a user moves with every event; what concerns items moves at learning cuts. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from streamrec.engine.ads.ads import ADS, Ads
from streamrec.engine.arrays.batch import NOTHING, Array, Columns, Int32, MicroBatch
from streamrec.engine.arrays.feedback import SlateFeedback
from streamrec.engine.arrays.timeline import Timeline
from streamrec.engine.items.catalogue import Catalogue
from streamrec.engine.items.item_table import ItemTable
from streamrec.engine.items.uncertainty import Uncertainty
from streamrec.engine.trending.table import TrendSource
from streamrec.engine.users.counts import Counts
from streamrec.engine.users.deduplication import Deduplication
from streamrec.engine.users.fatigue import Fatigue
from streamrec.engine.users.history import TOUCHES, History
from streamrec.engine.users.purchases import Purchases
from streamrec.engine.users.request_pace import RequestPace
from streamrec.engine.users.seen import SeenItems
from streamrec.engine.users.user_feature import UserFeature
from streamrec.engine.users.user_table import UserTable
from streamrec.events import TYPE_CODES, Event, EventType, Slate

NOTHING_SEEN: Int32 = np.empty(0, np.int32)

ITEMS, LISTING, UNCERTAINTY = "items", "listing", "doubt"
"""Components of a snapshot, beside ADS."""


@dataclass(frozen=True, slots=True)
class FeatureStore:
    """What is remembered of users and items."""

    users: UserTable
    user_features: Sequence[UserFeature]
    """All that are listed and asked for. Those that are named below are more than features: what must not be shown, who
    is late, and what came twice hangs on them."""
    items: ItemTable
    catalogue: Catalogue
    uncertainty: Uncertainty
    trends: TrendSource | None
    ads: Ads
    history: History
    counts: Counts
    duplicates: Deduplication
    seen: SeenItems | None
    bought: Purchases | None
    shown: Fatigue | None
    pace: RequestPace

    @property
    def columns(self) -> Columns:
        """What user features add to queries."""
        return {name: column for feature in self.user_features for name, column in feature.columns().items()}

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
        listed = None if event.item_id is None else self.catalogue.category(event.item_id)
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
                self.uncertainty.note_shown([item], event.ts)
            return
        if self.seen is not None:
            self.seen.add(row, item)
        if self.bought is not None and event.type is EventType.PURCHASE:
            self.bought.add(row, item, event.ts)
        if self.shown is not None:
            self.shown.touch(row, item)

    def fold(self, steps: Timeline, batch: MicroBatch) -> None:
        """Users remember the steps; queries and examples see what came before each."""
        for feature in self.user_features:
            feature.fold(steps, batch.queries, batch.examples)

    def answered(self, slate: Slate, partition: int) -> None:
        """There is less doubt of what was shown, what came in by the catalogue had a chance, and its user may tire."""
        found = (self.items.lookup(place.item_id) for place in slate.items)
        indices = [index for index in found if index != NOTHING]
        self.uncertainty.note_shown(indices, slate.ts)
        if len(self.catalogue):
            self.catalogue.note_shown(indices)
        if self.shown is not None:
            row = self.users.touch((partition, slate.user_id))
            self.shown.add(row, indices, slate.ts)

    # At a learning cut

    def learn(self, batch: MicroBatch, feedback: Sequence[SlateFeedback]) -> None:
        """What happened to items since the last cut counts from now on."""
        self.ads.learn(feedback)
        self.uncertainty.learn(batch)
        examples = slice(0, batch.learned)
        self.items.seen(batch.examples.item[examples], batch.examples.ts[examples])
        self.catalogue.settle()

    def make_room(self, now_ms: int, reserved: int) -> Int32:
        """Forget items where it takes that for `reserved` others to find room; returns them.

        The log's clock is at `now_ms`. Whoever else knows of them forgets them too, then `listing.readmit` may follow.
        """
        self.catalogue.arrive_expected(now_ms, reserved)
        forgotten = self.items.make_room(self.catalogue.needed(reserved))
        if len(forgotten):
            self.catalogue.forget(forgotten)
            self.uncertainty.forget(forgotten)
            self.users.forget_items(forgotten)
        return forgotten

    # Snapshots: users are in none, they live in the store

    def state(self) -> dict[str, dict[str, Array]]:
        """What is remembered of items, by component."""
        return {
            ITEMS: self.items.state(),
            LISTING: self.catalogue.state(),
            UNCERTAINTY: self.uncertainty.state(),
            ADS: self.ads.state(),
        }

    def restore(self, arrays: Mapping[str, Mapping[str, Array]]) -> None:
        """The inverse of `state`. Snapshots of before knew of items alone."""
        self.items.restore(arrays[ITEMS])
        if LISTING in arrays:
            self.catalogue.restore(arrays[LISTING])
        else:
            self.catalogue.look_anew()
        if UNCERTAINTY in arrays:
            self.uncertainty.restore(arrays[UNCERTAINTY])
        if ADS in arrays:
            self.ads.restore(arrays[ADS])
