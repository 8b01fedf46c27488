"""What is remembered of users and items: the tables, and every user feature that is listed and asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from streamrec.config import parts as listed
from streamrec.config import user_features as listed_features
from streamrec.config.groups import HASHED
from streamrec.config.parts import ModelNeed
from streamrec.errors import ConfigError
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
    from streamrec.engine.users.user_feature import UserFeature, UserFeatureParts

RESERVED = ("v", "user_id")
"""Keys of a stored user that are no feature's."""
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
    serving: bool = False,
) -> FeatureStore:
    """The features of a configuration: no user yet, and what the catalogue says of its items.

    `texts` makes vectors of words, where anything needs them; the rest as in `build_pipeline`.

    Raises:
        ConfigError: as `build_user_features`.
    """
    from streamrec.engine.ads.ads import Ads
    from streamrec.engine.ads.click_probability import ClickProbability
    from streamrec.engine.features import FeatureStore
    from streamrec.engine.items.item_table import ItemTable
    from streamrec.engine.items.uncertainty import Uncertainty
    from streamrec.engine.users.user_feature import UserFeatureParts
    from streamrec.engine.users.user_table import UserTable

    learning, limits = settings.learning, settings.limits
    items = ItemTable(limits.max_items, learning.content_width)
    known = build_catalogue(settings, items, texts, catalogue, eager=eager)
    # Twice as many: users forget no item that the models, which are met later, may still know.
    user_items = ItemTable(2 * limits.max_items, 1) if serving else items
    made_of = UserFeatureParts(
        user_items,
        items,
        known,
        learning.session_gap_s,
        learning.collapse_repeats,
        settings.serving.requests_at_once,
        settings.serving.requests_per_s,
    )
    by_name: Mapping[str, Any] = build_user_features(settings, list(scenarios), made_of)
    features = tuple(by_name.values())
    trends_wanted = told or settings.trends.rehearse or listed.needed(learning.models, ModelNeed.TRENDS)
    return FeatureStore(
        users=UserTable(limits.max_users, features, user_items),
        user_items=user_items,
        user_features=features,
        items=items,
        catalogue=known,
        uncertainty=Uncertainty(limits.max_items),
        trends=build_trends(settings, items, told=told) if trends_wanted else None,
        ads=Ads(items, known.bids, ClickProbability(), settings.topics.partitions),
        history=by_name["history"],
        counts=by_name["counts"],
        duplicates=by_name["duplicates"],
        seen=by_name.get("seen"),
        bought=by_name.get("bought"),
        shown=by_name.get("shown"),
        pace=by_name["pace"],
    )


def build_user_features(
    settings: Settings, scenarios: Sequence[Scenario], made_of: UserFeatureParts
) -> dict[str, UserFeature]:
    """The user features that a configuration asks for, by name, without any user yet.

    Raises:
        ConfigError: one cannot be built, or two use one name for what is theirs alone.
    """
    entries = listed_features.user_features()
    features = {
        name: listed_features.built(entry, made_of) for name, entry in entries.items() if entry.on(settings, scenarios)
    }
    own: Mapping[str, Callable[[UserFeature], Iterable[str]]] = {
        "stored key": lambda feature: feature.keys,
        "column of queries": lambda feature: feature.columns(),
        "input of the fusion": lambda feature: feature.names,
    }
    for what, names_of in own.items():
        names = Counter(name for feature in features.values() for name in names_of(feature))
        twice = [name for name, count in names.items() if count > 1 or name in RESERVED]
        if twice:
            using = [name for name, feature in features.items() if twice[0] in names_of(feature)]
            raise ConfigError(f"{what} {twice[0]!r} of user feature {using[-1]!r} is taken; give it another name")
    return features


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

    wanted = settings.serving.search or listed.needed(settings.learning.models, ModelNeed.TEXTS)
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
