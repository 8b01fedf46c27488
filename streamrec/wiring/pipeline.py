"""The pipeline of a configuration: features, models, fusion, policies and rules put together."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from streamrec.config import parts as listed
from streamrec.config.parts import BASELINE
from streamrec.errors import ConfigError
from streamrec.replay.catalogue_file import CatalogueItems
from streamrec.wiring.features import build_features, build_texts
from streamrec.wiring.models import build_model, build_models, build_retrievers, build_searchers
from streamrec.wiring.policies import build_plan, build_policy
from streamrec.wiring.processor import steady_arithmetic

if TYPE_CHECKING:
    from streamrec.config.settings import Settings
    from streamrec.engine.features import FeatureStore
    from streamrec.engine.fusion.fusion import Fusion
    from streamrec.engine.models import Model
    from streamrec.engine.pipeline import Pipeline
    from streamrec.engine.scenarios.scenario import Scenario
    from streamrec.engine.slates.responder import SlateResponder
    from streamrec.engine.users.user_feature import UserFeature


def build_pipeline(
    settings: Settings,
    catalogue: CatalogueItems | None = None,
    *,
    eager: bool = True,
    told: bool = False,
    serving: bool = False,
) -> Pipeline:
    """The recommender of a configuration, untaught.

    Without `eager`, items of the catalogue that do not say when they were added are known from their first event on.
    `told`: a topic will say what the trends are; else they are counted here, if anything needs them. `serving`: it will
    only serve what another one learns, so that nothing is loaded to learn with.

    Raises:
        ConfigError: the positives are not rules, or the parts of the configuration do not fit together.
    """
    from streamrec.engine.arrays.labels import Interest
    from streamrec.engine.learning.prequential import PrequentialRecord
    from streamrec.engine.learning.rate_limits import RateLimits
    from streamrec.engine.micro_batches import Batching
    from streamrec.engine.pipeline import Pipeline, Rankers, Safety
    from streamrec.engine.scenarios.rules import ScenarioRules
    from streamrec.engine.trending.table import TRENDS

    learning, limits = settings.learning, settings.limits
    interest = Interest(learning.positives)
    if limits.max_items < 2 * learning.micro_batch:
        raise ConfigError(
            f"limits.max_items is {limits.max_items}, expected at least {2 * learning.micro_batch}: "
            "twice learning.micro_batch, so that a micro-batch of new items finds room"
        )
    texts, scenarios = build_texts(settings), build_scenarios(settings)
    features = build_features(settings, scenarios.values(), texts, catalogue, eager=eager, told=told, serving=serving)
    items, trends = features.items, features.trends
    by_name = build_models(settings, items, trends, serving=serving)
    models = list(by_name.values())
    follows = trends is not None and TRENDS not in by_name
    unranked = (
        {TRENDS: build_model(settings, listed.models()[TRENDS], items, trends, serving=serving)} if follows else {}
    )
    everywhere, named = build_retrievers({**by_name, **unranked}, features, tuple(unranked))
    fusion = build_fusion(settings, list(by_name), features.user_features)
    steady_arithmetic()
    searchers = build_searchers(items, features.catalogue, texts)
    return Pipeline(
        features=features,
        rankers=Rankers(
            models=models,
            retrievers=everywhere,
            fill=BASELINE,
            unranked=list(unranked.values()),
            special=named,
        ),
        fusion=fusion,
        answers=build_responder(settings, features, models, fusion),
        rules=ScenarioRules(scenarios, features, list(by_name), unranked, searchers),
        interest=interest,
        batching=Batching(learning.micro_batch, learning.micro_batch_s, learning.seed, settings.serving.recommend_on),
        safety=Safety(PrequentialRecord(["fused", *by_name]), RateLimits(limits.max_items), learning.rollback_after),
    )


def build_fusion(settings: Settings, models: Sequence[str], user_features: Sequence[UserFeature]) -> Fusion:
    """Joins the scores of the models of these names, and what user features say of candidates."""
    from streamrec.engine.fusion.fusion import FeedbackUse, Fusion

    fusion = settings.fusion
    use = FeedbackUse.BY_IMPORTANCE if fusion.importance == "inverse" else FeedbackUse.EQUAL
    return Fusion(
        models,
        particles=fusion.particles,
        forgetting=fusion.forgetting,
        seed=settings.learning.seed,
        prior={name: entry.prior_weight for name, entry in listed.models().items() if entry.prior_weight is not None},
        form=fusion.form,
        feedback_use=use if fusion.learn_outcomes else FeedbackUse.IGNORED,
        user_features=user_features,
    )


def build_responder(
    settings: Settings, features: FeatureStore, models: Sequence[Model], fusion: Fusion
) -> SlateResponder:
    """Makes slates, by the plan and the policies of a configuration.

    Raises:
        ConfigError: as `build_plan`.
    """
    from streamrec.engine.policies.registry import PolicyRegistry
    from streamrec.engine.slates.responder import SlateResponder
    from streamrec.engine.trending.table import TRENDS

    trends = features.trends
    return SlateResponder(
        models=models,
        fusion=fusion,
        features=features,
        policies=PolicyRegistry(partial(build_policy, settings)),
        plan=build_plan(settings),
        k=settings.serving.k,
        imitate=settings.rollout.imitate,
        stale=lambda now_ms: (TRENDS,) if trends is not None and trends.table.stale(now_ms) else (),
    )


def build_scenarios(settings: Settings) -> dict[str, Scenario]:
    """The scenarios of a configuration, by name."""
    return {name: given.scenario(name) for name, given in settings.scenarios.items()}
