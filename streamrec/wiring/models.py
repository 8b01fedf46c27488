"""What learns, and what proposes items: every model and retriever that `config/parts.py` lists, and the searchers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from streamrec.config import parts as listed
from streamrec.config.parts import BASELINE, ModelEntry
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


def build_models(
    settings: Settings, items: ItemTable, trends: TrendSource | None = None, *, serving: bool = False
) -> dict[str, Model]:
    """The models of a configuration, by name, untaught. `trends` says what is gaining; None: it is counted here.

    `serving`: they will only serve what others learn.

    Raises:
        ConfigError: the popularity that short lists are filled up with is missing, or a model cannot be built.
    """
    if BASELINE not in settings.learning.models:
        raise ConfigError(f"learning.models lacks {BASELINE!r}, which fills short lists up; add it")
    models: dict[str, Model] = {}
    for name, entry in listed.models().items():
        if name in settings.learning.models:
            models[name] = build_model(settings, entry, items, trends, models, serving=serving)
    return models


def build_model(
    settings: Settings,
    entry: ModelEntry,
    items: ItemTable,
    trends: TrendSource | None = None,
    models: Mapping[str, Model] | None = None,
    *,
    serving: bool = False,
) -> Model:
    """The model of an entry, untaught; `models` are those that it may read from, `serving` as in `build_models`.

    Raises:
        ConfigError: it cannot be built.
    """
    from streamrec.engine.models import ModelParts

    made_of = ModelParts(
        entry.name,
        items,
        trends=lambda: build_trends(settings, items, told=False) if trends is None else trends,
        device=partial(torch_device, settings.learning.device),
        seed=settings.learning.seed,
        weighted=settings.fusion.importance == "inverse",
        models=models or {},
        serving=serving,
    )
    model: Model = listed.built(entry, made_of)
    return model


def build_retrievers(
    models: Mapping[str, Any], features: FeatureStore, unranked: Sequence[str] = ()
) -> tuple[list[Retriever], list[Retriever]]:
    """The retrievers that serve every request, and those that propose only where a scenario names them.

    Those that search a model are left out where the model is not in `models`. Of a model that is `unranked`, which the
    fusion does not hear, a retriever proposes only where it is named.

    Raises:
        ConfigError: a retriever cannot be built.
    """
    from streamrec.engine.retrieval import RetrieverParts

    everywhere: list[Retriever] = []
    named: list[Retriever] = []
    for name, entry in listed.retrievers().items():
        if entry.reads is None or entry.reads in models:
            made_of = RetrieverParts(
                name, models, features.items, features.catalogue, features.ads, reads=entry.reads or ""
            )
            serves_all = entry.everywhere and entry.reads not in unranked
            (everywhere if serves_all else named).append(listed.built(entry, made_of))
    return everywhere, named


def build_searchers(items: ItemTable, catalogue: Catalogue, texts: TextVectors | None) -> list[Searcher]:
    """Who finds items by what a request names."""
    from streamrec.engine.retrieval.search import MeaningSearch, WordSearch

    searchers: list[Searcher] = []
    if catalogue.index is not None:
        searchers.append(WordSearch("text", catalogue.index, items))
    if texts is not None:
        searchers += [MeaningSearch("meaning", items, texts.of), MeaningSearch("alike", items)]
    return searchers
