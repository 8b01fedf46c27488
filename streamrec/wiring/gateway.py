"""The gateway on the configured Kafka and Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from threading import Lock
from typing import TYPE_CHECKING

from streamrec.errors import TransportUnavailable
from streamrec.gateway.access import Access
from streamrec.gateway.application import application
from streamrec.gateway.asking import Asking
from streamrec.gateway.bodies import BodyReader
from streamrec.gateway.handlers import Door
from streamrec.gateway.intake import Intake
from streamrec.gateway.keeping import SINCE_S as KEPT_SINCE_S
from streamrec.gateway.keeping import Business, DeadLetters, KnownItems
from streamrec.gateway.metrics import GatewayMetrics
from streamrec.gateway.publishing import ConfirmedPublisher
from streamrec.gateway.reading import TopicFeed
from streamrec.gateway.slates import SINCE_S, KeptSlate
from streamrec.gateway.watching import WindowView
from streamrec.replay.catalogue_file import read_catalogue
from streamrec.transport.confluent_follower import KafkaFollower
from streamrec.transport.confluent_tail import KafkaTail
from streamrec.wiring.connections import kafka_sink
from streamrec.wiring.lookups import StoredLookups
from streamrec.wiring.worker import build_validation_limits

if TYPE_CHECKING:
    from litestar.types import ASGIApp

    from streamrec.config.settings import Settings

LOOKUPS_AT_ONCE = 8
ASK_S = 1.0


def build_gateway(settings: Settings) -> ASGIApp:
    """The application that `streamrec serve` serves. Connects in the background: what is away now may come later.

    Raises:
        ConfigError: a setting does not fit.
    """
    given, metrics = settings.gateway, GatewayMetrics()
    access = Access.of(given)
    sink = kafka_sink(settings.model_copy(update={"kafka": {"linger.ms": 1, **settings.kafka}}))
    topics, limits = settings.topics, build_validation_limits(settings)
    slates, items, letters, outcomes = (
        KafkaFollower(topic, settings.kafka, since_ms=int((time.time() - since_s) * 1000) if since_s else 0)
        for topic, since_s in (
            (topics.recommendations, SINCE_S),
            (topics.items, 0),
            (topics.dead_letters, KEPT_SINCE_S),
            (topics.outcomes, KEPT_SINCE_S),
        )
    )
    catalogue = KnownItems(
        () if settings.items is None else read_catalogue(settings.items, settings.separator).values()
    )
    lookups = StoredLookups(settings)
    amiss = _amiss(settings)

    @asynccontextmanager
    async def opened() -> AsyncIterator[Door]:
        publisher = ConfirmedPublisher(sink)
        asking = Asking(
            settings.topics.events, publisher, settings.serving.k, lambda why: metrics.degraded.labels(why).inc()
        )
        watch = WindowView(given.metrics, catalogue, DeadLetters(limits), metrics)
        reader = TopicFeed(slates, KeptSlate.read, asking.hear)
        watch.feeds = (
            reader,
            TopicFeed(items, KnownItems.reader(limits), catalogue.hear),
            TopicFeed(letters, DeadLetters.read, watch.letters.hear),
            TopicFeed(outcomes, Business.read, watch.business.hear),
        )
        sampling = asyncio.create_task(watch.sample())
        threads = ThreadPoolExecutor(LOOKUPS_AT_ONCE, "streamrec-lookup")
        try:
            yield Door(
                settings=settings,
                access=access,
                bodies=BodyReader(given.max_body_bytes),
                intake=Intake(limits, given.unknown_fields == "ignore"),
                publisher=publisher,
                asking=asking,
                reader=reader,
                lookups=lookups,
                threads=threads,
                log=amiss,
                metrics=metrics,
                watch=watch,
            )
        finally:
            publisher.close()
            sampling.cancel()
            for feed in watch.feeds:
                feed.close()
            threads.shutdown(wait=False, cancel_futures=True)
            lookups.close()

    return application(opened, given.cors_origins, given.max_waiting, metrics)


def _amiss(settings: Settings) -> Callable[[], str | None]:
    """Says what is amiss with the log, None where nothing is; asks brokers at most once a second."""
    topic = settings.topics.recommendations
    tail, lock = KafkaTail([topic], settings.kafka), Lock()
    asked_at, said, partitions = float("-inf"), None, 0

    def look() -> str | None:
        nonlocal partitions
        try:
            there = len(tail.ends(ASK_S)[topic])
        except TransportUnavailable as error:
            return str(error)
        partitions = partitions or there
        if there != partitions:
            return f"topic {topic!r} has {there} partitions, and {partitions} are read: start this gateway anew"
        return None if there else f"topic {topic!r} does not exist; `streamrec topics apply`"

    def amiss() -> str | None:
        nonlocal asked_at, said
        with lock:
            if time.monotonic() - asked_at > ASK_S:
                said = look()
                asked_at = time.monotonic()
            return said

    return amiss
