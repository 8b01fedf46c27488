"""Who learns, and who proposes items: every model, retriever and searcher by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from streamrec.errors import ConfigError
from streamrec.wiring.features import build_trends
from streamrec.wiring.processor import torch_device

if TYPE_CHECKING:
    from streamrec.config.settings import Settings
    from streamrec.engine.features import FeatureStore
    from streamrec.engine.items.catalogue import Catalogue
    from streamrec.engine.items.item_table import ItemTable
    from streamrec.engine.items.text_encoders import TextVectors
    from streamrec.engine.models import Model
    from streamrec.engine.retrieval import Retriever
    from streamrec.engine.scenarios.rules import Searcher
    from streamrec.engine.trending.table import TrendSource

MINUTE_S, HOUR_S, DAY_S = 60.0, 3_600.0, 86_400.0
BASELINE = "popularity"
"""The popularity that every list is filled up with and compared to."""
HALF_LIVES_S: Mapping[str, float] = {
    "popularity_minutes": 5 * MINUTE_S,
    BASELINE: 6 * HOUR_S,
    "popularity_days": 14 * DAY_S,
}
"""Which one matters differs by log and by hour, and the fusion finds out."""
RECENT_FADE = 0.75
"""Of co-visitation as the last few items see it."""


def build_models(settings: Settings, items: ItemTable, trends: TrendSource | None = None) -> dict[str, Model]:
    """The models of a configuration, by name, untaught. `trends` says what is gaining; None: it is counted here.

    Raises:
        ConfigError: the popularity that short lists are filled up with is missing.
    """
    from streamrec.engine.models.content import ContentModel
    from streamrec.engine.models.covisit import CoVisitation, CoVisitationView
    from streamrec.engine.models.popularity import Popularity
    from streamrec.engine.models.repeats import Repeats
    from streamrec.engine.models.sessions import SessionNeighbours
    from streamrec.engine.models.transitions import Transitions
    from streamrec.engine.models.trends import TrendModel
    from streamrec.engine.trending.table import TRENDS

    capacity, seed = settings.limits.max_items, settings.learning.seed
    wanted = settings.learning.models
    if BASELINE not in wanted:
        raise ConfigError(f"learning.models lacks {BASELINE!r}, which fills short lists up; add it")
    models: dict[str, Model] = {}

    def covisit_recent(name: str) -> Model:
        whole = models.get("covisit")
        if isinstance(whole, CoVisitation):  # one table is enough for both
            return CoVisitationView(name, whole.table, RECENT_FADE)
        return CoVisitation(name, 90 * DAY_S, capacity, fade=RECENT_FADE)

    # What loads river or torch, half a second and two, is imported where it is wanted.

    def clicks(name: str) -> Model:
        from streamrec.engine.models.clicks import ClickModel

        return ClickModel(name, items, weighted=settings.fusion.importance == "inverse")

    def factors(name: str) -> Model:
        from streamrec.engine.models.factors import Factorisation

        return Factorisation(name, capacity, seed=seed)

    def sequence(name: str) -> Model:
        from streamrec.engine.models.sequence import SequenceModel

        return SequenceModel(name, capacity, device=torch_device(settings.learning.device), seed=seed)

    makers: dict[str, Callable[[str], Model]] = {
        **{name: partial(Popularity, half_life_s=life, capacity=capacity) for name, life in HALF_LIVES_S.items()},
        "covisit": lambda name: CoVisitation(name, 90 * DAY_S, capacity),
        "covisit_recent": covisit_recent,
        "transitions": lambda name: Transitions(name, 7 * DAY_S, capacity),
        "sessions": lambda name: SessionNeighbours(name, capacity),
        "repeats": lambda name: Repeats(name, capacity),
        "content": lambda name: ContentModel(name, items),
        "clicks": clicks,
        "factors": factors,
        "sequence": sequence,
        TRENDS: lambda name: TrendModel(name, build_trends(settings, items, told=False) if trends is None else trends),
    }
    for name, make in makers.items():
        if name in wanted:
            models[name] = make(name)
    return models


def build_retrievers(models: Mapping[str, Any], catalogue: Catalogue) -> list[Retriever]:
    """Every retriever that serves everybody, over what the models learn and what the catalogue lists."""
    from streamrec.engine.models.content import POOL
    from streamrec.engine.retrieval.fresh import Fresh
    from streamrec.engine.retrieval.nearest import Nearest
    from streamrec.engine.retrieval.neighbours import Neighbours
    from streamrec.engine.retrieval.popular import Popular

    spreading = ("repeats", "transitions", "covisit", "covisit_recent", "sessions")
    popularities = [name for name in HALF_LIVES_S if name in models]
    retrievers: list[Retriever] = [Neighbours(name, models[name]) for name in spreading if name in models]
    if "sequence" in models:
        retrievers.append(Nearest("nearest", models["sequence"], models[popularities[-1]]))
    if "content" in models:
        retrievers.append(Nearest("content", models["content"], models["content"], POOL))
    if "trends" in models:
        retrievers.append(Popular("trends", models["trends"]))
    retrievers.append(Fresh("fresh", catalogue))
    return retrievers + [Popular(name, models[name]) for name in popularities]


def build_special_retrievers(features: FeatureStore, unranked: Mapping[str, Any]) -> list[Retriever]:
    """Those that propose only where a scenario names them; `unranked` are models that the fusion does not hear."""
    from streamrec.engine.retrieval.ads import AdRetriever
    from streamrec.engine.retrieval.newest import Newest
    from streamrec.engine.retrieval.popular import Popular

    return [
        Newest("newest", features.items),
        AdRetriever("ads", features.ads),
        *(Popular(name, model) for name, model in unranked.items()),
    ]


def build_searchers(items: ItemTable, catalogue: Catalogue, texts: TextVectors | None) -> list[Searcher]:
    """Who finds items by what a request names."""
    from streamrec.engine.retrieval.search import MeaningSearch, WordSearch

    searchers: list[Searcher] = []
    if catalogue.index is not None:
        searchers.append(WordSearch("text", catalogue.index, items))
    if texts is not None:
        searchers += [MeaningSearch("meaning", items, texts.of), MeaningSearch("alike", items)]
    return searchers
