"""What is remembered of users and items: the tables, and every family of features."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from streamrec.config import parts as listed
from streamrec.config.groups import HASHED
from streamrec.config.parts import Need
from streamrec.replay.catalogue_file import CatalogueItems
from streamrec.wiring.processor import torch_device

if TYPE_CHECKING:
    from streamrec.config.settings import Settings
    from streamrec.engine.features import FeatureStore
    from streamrec.engine.items.catalogue import Catalogue
    from streamrec.engine.items.item_table import ItemTable
    from streamrec.engine.items.text_encoders import Encoder, TextVectors
    from streamrec.engine.scenarios.scenario import Scenario
    from streamrec.engine.trending.table import TrendSource

STATEMENTS_PER_ITEM = 4
"""Statements on trends that are kept, for each of limits.max_items: one for each partition that wanted an item."""


def build_features(
    settings: Settings,
    scenarios: Iterable[Scenario],
    texts: TextVectors | None,
    catalogue: CatalogueItems | None = None,
    *,
    eager: bool = True,
    told: bool = False,
) -> FeatureStore:
    """Nobody met yet, and what the catalogue says of its items.

    What was bought and shown is remembered only where one of the `scenarios` leaves it out; `texts` makes vectors of
    words, where anything needs them; `eager` and `told` as in `build_pipeline`.
    """
    from streamrec.engine.ads.ads import Ads
    from streamrec.engine.ads.click_probability import ClickProbability
    from streamrec.engine.arrays.labels import GAINS
    from streamrec.engine.features import FeatureStore
    from streamrec.engine.items.item_table import ItemTable
    from streamrec.engine.items.uncertainty import Uncertainty
    from streamrec.engine.users.affinity import Affinity
    from streamrec.engine.users.counts import Counts
    from streamrec.engine.users.deduplication import Deduplication
    from streamrec.engine.users.fatigue import Fatigue
    from streamrec.engine.users.history import History
    from streamrec.engine.users.price_level import PriceLevel
    from streamrec.engine.users.purchases import Purchases
    from streamrec.engine.users.seen import SeenItems
    from streamrec.engine.users.user_table import UserFeature, UserTable

    learning, limits = settings.learning, settings.limits
    items = ItemTable(limits.max_items, learning.content_width)
    known = build_catalogue(settings, items, texts, catalogue, eager=eager)
    left_out = [scenario.left_out for scenario in scenarios]
    history = History(0, learning.session_gap_s, learning.collapse_repeats)
    counts = Counts(0)
    affinity = Affinity(0, items.category, GAINS, items.category_names, items.category_code)
    prices = PriceLevel(0, known.attributes.price, GAINS)
    duplicates = Deduplication(0)
    seen = SeenItems() if learning.exclude_seen else None
    bought = Purchases() if any(rules.bought_within_s for rules in left_out) else None
    shown = Fatigue() if any(rules.shown_at_most for rules in left_out) else None
    always: list[UserFeature] = [history, counts, affinity, prices, duplicates]
    optional: list[UserFeature | None] = [seen, bought, shown]
    trends_wanted = told or settings.trends.rehearse or listed.needed(learning.models, Need.TRENDS)
    return FeatureStore(
        users=UserTable(limits.max_users, always + [one for one in optional if one is not None], items),
        items=items,
        catalogue=known,
        history=history,
        counts=counts,
        affinity=affinity,
        prices=prices,
        duplicates=duplicates,
        uncertainty=Uncertainty(limits.max_items),
        seen=seen,
        bought=bought,
        shown=shown,
        trends=build_trends(settings, items, told=told) if trends_wanted else None,
        ads=Ads(items, known.bids, ClickProbability(), settings.topics.partitions),
    )


def build_catalogue(
    settings: Settings, items: ItemTable, texts: TextVectors | None, catalogue: CatalogueItems | None, *, eager: bool
) -> Catalogue:
    """What the catalogue says of its items, which is all that is known of most of them at the start."""
    from streamrec.engine.items.catalogue import Catalogue
    from streamrec.engine.items.text_encoders import described
    from streamrec.engine.retrieval.text_index import TextIndex

    known = Catalogue(
        items,
        settings.limits.max_catalogue,
        eager=eager,
        listed_only=settings.serving.listed_only,
        texts=texts,
        index=TextIndex() if settings.serving.search else None,
    )
    listed = (catalogue or {}).values()
    for item in described(listed, texts.encoder) if texts else listed:
        known.take(item)
    return known


def build_trends(settings: Settings, items: ItemTable, *, told: bool) -> TrendSource:
    """Who knows what is gaining: `told` by the trends topic, or by counting in this process."""
    from streamrec.engine.trending.local_counts import LocalTrendCounts
    from streamrec.engine.trending.table import TrendTable
    from streamrec.engine.trending.topic_counts import TopicTrendCounts

    trends = settings.trends
    table = TrendTable(items.capacity, trends.windows_s, trends.stale_after_s)
    return (
        TopicTrendCounts(table, items, STATEMENTS_PER_ITEM * items.capacity)
        if told
        else LocalTrendCounts(table, trends.emit_every_s)
    )


def build_texts(settings: Settings) -> TextVectors | None:
    """Vectors of what is said in words, None where nothing needs them.

    Raises:
        ConfigError: as `build_encoder`.
    """
    from streamrec.engine.items.text_encoders import TextVectors

    wanted = settings.serving.search or listed.needed(settings.learning.models, Need.TEXTS)
    return TextVectors(build_encoder(settings), settings.learning.content_width) if wanted else None


def build_encoder(settings: Settings) -> Encoder:
    """What makes vectors of texts.

    Raises:
        ConfigError: `learning.encoder` is a model that is not here, or what runs it is not installed.
    """
    from streamrec.engine.items.text_encoders import Hashed, SentenceEncoder

    learning = settings.learning
    if learning.encoder == HASHED:
        return Hashed(learning.content_width)
    return SentenceEncoder(learning.encoder, torch_device(learning.device))
