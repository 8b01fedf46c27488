"""What is remembered of users and items, for all parts of the pipeline: tables, and every user feature.

What concerns a user moves with every event; what concerns items moves at learning cuts. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from streamrec.engine.ads.ads import ADS, Ads
from streamrec.engine.arrays.batch import NOTHING, Array, Columns, Int32, MicroBatch, Queries
from streamrec.engine.arrays.feedback import SlateFeedback
from streamrec.engine.arrays.timeline import Timeline
from streamrec.engine.following.served import Served
from streamrec.engine.items.catalogue import Catalogue
from streamrec.engine.items.item_table import ItemTable
from streamrec.engine.items.uncertainty import Uncertainty
from streamrec.engine.trending.table import TrendSource
from streamrec.engine.users.counts import Counts
from streamrec.engine.users.deduplication import Deduplication
from streamrec.engine.users.fatigue import Fatigue
from streamrec.engine.users.history import TOUCHES, History
from streamrec.engine.users.price_level import price_named
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
    user_items: ItemTable
    """By whose indices users' rows name items: `items`, unless these are learned elsewhere and only followed here."""
    user_features: Sequence[UserFeature]
    """All that are listed and asked for. Those that are named below are more than features: what must not be shown, who
    is late, and what came twice hangs on them."""
    items: ItemTable
    """The items that models know, by their indices."""
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

    @property
    def followed(self) -> bool:
        """Whether the models learn elsewhere: then users name items by indices of their own."""
        return self.user_items is not self.items

    # As the log is met

    def item_of(self, event: Event, *, judged: bool) -> tuple[int, bool]:
        """The event's item, by the users' index, and whether the log had it before; only what is touched or judged
        gets an index.
        """
        if event.item_id is None:
            return NOTHING, False
        items = self.user_items
        index = items.lookup(event.item_id)
        before = index != NOTHING
        if not before:
            if not judged and TYPE_CODES[event.type] not in TOUCHES:
                return NOTHING, False
            index = items.intern(event.item_id, event.ts)
        category = self.catalogue.category(event.item_id) if before else self.category_of(event)
        if category is not None and (self.followed or not before):  # else the catalogue has told it
            items.categorise(index, category)
        if self.followed:
            items.last_ts[index] = max(items.last_ts[index], event.ts)
        return index, before

    def known_as(self, user_items: Int32) -> Int32:
        """Items that users' rows name, as the models know them; NOTHING where they do not, in the same shape."""
        if not self.followed:
            return user_items
        ids, lookup = self.user_items.ids, self.items.lookup
        known = [NOTHING if item == NOTHING else lookup(ids[item]) for item in user_items.ravel().tolist()]
        return np.array(known, np.int32).reshape(user_items.shape)

    def rename(self, queries: Queries, rows: slice) -> None:
        """From here on these queries name items and categories as the models do, and no longer as users' rows do."""
        if not self.followed:
            return
        queries.items[rows] = self.known_as(queries.items[rows])
        names, code = self.user_items.category_names(), self.items.known_category
        kinds = queries.categories[rows]
        known = [NOTHING if kind == NOTHING else code(names[kind]) for kind in kinds.ravel().tolist()]
        queries.categories[rows] = np.array(known, np.int32).reshape(kinds.shape)

    def price_of(self, event: Event) -> float | None:
        """Of the event's item: the catalogue's, else the one that the event names."""
        listed = None if event.item_id is None else self.catalogue.price(event.item_id)
        return listed if listed else price_named(event.context)  # 0 says nothing of what people like to pay

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
            if event.rec_id is None and not self.followed:  # else it counted as a slate's
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
        if not self.followed:
            self.note_shown([place.item_id for place in slate.items], slate.ts)
        if self.shown is not None:
            row = self.users.touch((partition, slate.user_id))
            items = self.user_items
            named = [place.item_id for place in slate.items if items.room or items.lookup(place.item_id) != NOTHING]
            self.shown.add(row, [items.intern(item_id, slate.ts) for item_id in named], slate.ts)

    def note_shown(self, item_ids: Sequence[str], ts: int) -> None:
        """These were put on a slate: there is less doubt of them, and what came in by the catalogue had a chance."""
        indices = [index for index in map(self.items.lookup, item_ids) if index != NOTHING]
        self.uncertainty.note_shown(indices, ts)
        if len(self.catalogue):
            self.catalogue.note_shown(indices)

    def forget_idle(self, reserved: int) -> None:
        """Where the models learn elsewhere: users forget what nobody touched for longest, if that takes room."""
        if self.followed:
            forgotten = self.user_items.make_room(reserved)
            if len(forgotten):
                self.users.forget_items(forgotten)

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

    def parts(self) -> dict[str, Served]:
        """What answering needs of what is remembered of items, by component."""
        return {ITEMS: self.items, LISTING: self.catalogue, UNCERTAINTY: self.uncertainty, ADS: self.ads}

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
