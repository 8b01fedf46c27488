"""What stands outside: a worker on the configured Kafka and Redis, and each of the connections by itself."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from streamrec.replay.catalogue_file import read_catalogue
from streamrec.wiring.policies import following
from streamrec.wiring.worker import build_worker

if TYPE_CHECKING:
    from streamrec.config.settings import Settings
    from streamrec.engine.rollout.revisions import RolloutStore
    from streamrec.state import Store
    from streamrec.state.backup import RedisCopy
    from streamrec.state.redrive_journal import RedriveJournal
    from streamrec.state.snapshots import SnapshotDirectory
    from streamrec.transport import Follower
    from streamrec.transport.confluent_sink import KafkaSink
    from streamrec.worker.loop import Worker


def connect_worker(settings: Settings) -> Worker:
    """A worker on the configured Kafka and Redis.

    Raises:
        ConfigError: a setting does not fit.
        TableError: the catalogue cannot be read.
    """
    from streamrec.transport.confluent import KafkaSource
    from streamrec.transport.confluent_follower import KafkaFollower
    from streamrec.transport.confluent_tail import KafkaTail
    from streamrec.transport.identity import IdentityReader
    from streamrec.transport.time_order import TimeOrderedSource
    from streamrec.worker.drift import Drift
    from streamrec.worker.http import serve
    from streamrec.worker.memory import Clocks
    from streamrec.worker.validation import log_time

    catalogue = read_catalogue(settings.items, settings.separator) if settings.items is not None else None
    store = build_store(settings)
    partitions = KafkaSource(
        settings.topics.events,
        settings.kafka,
        settings.group_id,
        skip_gaps=settings.checkpoints.on_gap == "skip",
    )
    worker = build_worker(
        settings,
        TimeOrderedSource(
            partitions,
            partial(log_time, max_bytes=settings.limits.max_message_bytes),
            Drift(store.exchange, settings.limits.max_drift_s, Clocks()).limit,
        ),
        kafka_sink(settings),
        store,
        build_snapshots(settings),
        catalogue=catalogue,
        revised=following(settings, build_rollout_store(settings)),
        follower=KafkaFollower(settings.topics.items, settings.kafka),
        trends=KafkaFollower(settings.topics.trends, settings.kafka) if settings.trends.read else None,
        identity=IdentityReader(settings.topics.events, settings.kafka).identity,
        updates=partial(_open_updates, settings) if settings.learner.where != "within" else None,
        tail=KafkaTail([settings.topics.recommendations, settings.topics.outcomes], settings.kafka),
    )
    if settings.metrics_port is not None:
        serve(worker.metrics.registry, worker.health, settings.metrics_port, settings.metrics_host)
    return worker


def _open_updates(settings: Settings, since_ms: int) -> Follower:
    from streamrec.transport.confluent_follower import KafkaFollower

    return KafkaFollower(settings.topics.model_updates, settings.kafka, since_ms=since_ms)


def build_snapshots(settings: Settings) -> SnapshotDirectory:
    """Where snapshots are configured to lie."""
    from streamrec.state.snapshots import SnapshotDirectory

    return SnapshotDirectory(settings.snapshots.url, settings.snapshots.keep)


def build_store(settings: Settings) -> Store:
    """The configured Redis."""
    from streamrec.state.redis import RedisStore

    redis = settings.redis
    return RedisStore(
        redis.full_url(),
        prefix=redis.prefix,
        topic=settings.topics.events,
        ttl_s=redis.user_ttl_s,
        slate_ttl_s=settings.serving.slate_ttl_s,
        timeout_s=redis.timeout_s,
        allow_eviction=redis.allow_eviction,
    )


def build_redis_copy(settings: Settings) -> RedisCopy:
    """Everything that the configured Redis keeps of the topic, to be copied."""
    from streamrec.state.backup import RedisCopy

    redis = settings.redis
    return RedisCopy(redis.full_url(), prefix=redis.prefix, topic=settings.topics.events, timeout_s=redis.timeout_s)


def build_rollout_store(settings: Settings) -> RolloutStore:
    """The rollout's revisions in the configured Redis."""
    from streamrec.state.rollouts import RedisRolloutStore

    redis = settings.redis
    return RedisRolloutStore(
        redis.full_url(), prefix=redis.prefix, topic=settings.topics.events, timeout_s=redis.timeout_s
    )


def build_redriven(settings: Settings) -> RedriveJournal:
    """What the configured Redis remembers of dead letters that were sent back; as long as the dead letters are kept."""
    from streamrec.state.redrive_journal import RedriveJournal
    from streamrec.transport.topics import LONG_RETENTION

    redis, kept_ms = settings.redis, settings.topics.retention_ms * LONG_RETENTION
    return RedriveJournal(
        redis.full_url(),
        prefix=redis.prefix,
        topic=settings.topics.events,
        keep_ms=kept_ms if kept_ms > 0 else None,
        timeout_s=redis.timeout_s,
    )


def kafka_sink(settings: Settings) -> KafkaSink:
    """A producer to the configured Kafka, which places keys as the others do."""
    from streamrec.transport.confluent_sink import KafkaSink
    from streamrec.transport.partitioners import LIBRDKAFKA

    named = LIBRDKAFKA.get(settings.topics.partitioner)
    return KafkaSink(settings.kafka if named is None else {**settings.kafka, "partitioner": named})
