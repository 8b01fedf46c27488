"""A learner on any transport and snapshot store, and the one on the configured Kafka."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamrec.replay.catalogue_file import read_catalogue
from streamrec.wiring.connections import build_snapshots, kafka_sink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from streamrec.config.settings import Settings
    from streamrec.events import Item
    from streamrec.learner.fold import Fold, LastGood
    from streamrec.learner.loop import Learner
    from streamrec.state import SnapshotStore
    from streamrec.transport import Follower, Sink, Source


MADE_ANEW = (
    "examples were deleted before they were learned (see topics.retention_ms), or the topic was made anew: stop all, "
    "and begin with another snapshots.url, which `streamrec warmup` fills from a history"
)


def build_learner(
    settings: Settings,
    source: Source,
    sink: Sink,
    snapshots: SnapshotStore,
    *,
    catalogue: Callable[[], Follower],
    updates: Callable[[int], Follower],
    listed: Iterable[Item] = (),
) -> Learner:
    """A learner on any transport.

    `catalogue` opens the catalogue's topic, `updates` the topic of updates, from a time on (ms); by whoever is at work.
    `listed` are the items of a catalogue file.
    """
    from streamrec.config.parts import models
    from streamrec.learner.catalogue_relay import CatalogueRelay
    from streamrec.learner.loop import Learner, LearnerPace, LearnerPorts
    from streamrec.learner.metrics import LearnerMetrics
    from streamrec.learner.publishing import Publisher
    from streamrec.worker.health import Health
    from streamrec.worker.memory import Clocks

    topics, learner = settings.topics, settings.learner
    metrics = LearnerMetrics(["fused", *(name for name in models() if name in settings.learning.models)])
    return Learner(
        build=lambda last_good: build_fold(settings, last_good),
        ports=LearnerPorts(
            source,
            sink,
            snapshots,
            lambda: CatalogueRelay(catalogue(), sink, topics.examples, listed),
            lambda fold: Publisher(fold, sink, topics.model_updates, metrics, lambda: updates(fold.saved_ms)),
        ),
        pace=LearnerPace(learner.publish_every_s, learner.snapshot_every),
        metrics=metrics,
        health=Health(settings.stuck_s),
        clocks=Clocks(),
    )


def build_fold(settings: Settings, last_good: LastGood = lambda fold, component: None) -> Fold:
    """An untaught fold over the examples; `last_good` gives the snapshots that its parts may go back to."""
    from streamrec.learner.fold import Fold
    from streamrec.wiring.pipeline import build_pipeline

    limits, pipeline = settings.limits, build_pipeline(settings)
    plan = pipeline.answers.plan
    for name in {plan.policy, plan.baseline, *dict(plan.arms), *plan.interleave, *plan.evaluate}:
        pipeline.answers.policies.policy(name)  # one that nobody asked for yet would learn nothing
    # Whoever learns trends counts them by the examples: what a topic says of them is in no order with these.
    return Fold(
        pipeline,
        last_good=last_good,
        max_items=limits.max_catalogue,
        max_bytes=limits.max_message_bytes,
        max_depth=limits.max_depth,
    )


def connect_learner(settings: Settings) -> Learner:
    """A learner on the configured Kafka, with snapshots where they are configured to lie.

    Raises:
        ConfigError: a setting does not fit.
    """
    from streamrec.transport.confluent import KafkaSource
    from streamrec.transport.confluent_follower import KafkaFollower
    from streamrec.worker.http import serve

    topics = settings.topics
    learner = build_learner(
        settings,
        KafkaSource(topics.examples, settings.kafka, settings.learners_group, remedy=MADE_ANEW),
        kafka_sink(settings),
        build_snapshots(settings),
        catalogue=lambda: KafkaFollower(topics.items, settings.kafka),
        updates=lambda since_ms: KafkaFollower(topics.model_updates, settings.kafka, since_ms=since_ms),
        listed=read_catalogue(settings.items, settings.separator).values() if settings.items is not None else (),
    )
    if settings.learner.metrics_port is not None:
        serve(learner.metrics.registry, learner.health, settings.learner.metrics_port, settings.metrics_host)
    return learner
