"""A worker on any transport and store: live, on a log of the past, or to warm up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from streamrec.replay.catalogue_file import CatalogueItems
from streamrec.wiring.pipeline import build_pipeline, build_scenarios

if TYPE_CHECKING:
    from streamrec.config.settings import Settings
    from streamrec.engine.attribution.open_slates import Charge, OpenSlates
    from streamrec.engine.batch_result import BatchResult
    from streamrec.engine.pipeline import Pipeline
    from streamrec.engine.rollout.plan import Plan
    from streamrec.state import Store
    from streamrec.state.snapshots import SnapshotDirectory
    from streamrec.transport import Follower, Record, Sink, Source, Tail
    from streamrec.worker.loop import Worker
    from streamrec.worker.topic_watch import Identity
    from streamrec.worker.validation import ValidationLimits

SLATES_HELD = 10_000
"""Users whose open slates are kept in memory, some 8 kB a slate; the others' lie in the store."""


def build_worker(
    settings: Settings,
    source: Source,
    sink: Sink,
    store: Store,
    snapshots: SnapshotDirectory | None,
    *,
    catalogue: CatalogueItems | None = None,
    observer: Callable[[BatchResult], None] | None = None,
    revised: Callable[[], Plan | None] = lambda: None,
    follower: Follower | None = None,
    trends: Follower | None = None,
    identity: Identity | None = None,
    tail: Tail | None = None,
    eager: bool = True,
    updates: Callable[[int], Follower] | None = None,
) -> Worker:
    """A worker on any transport and store; `snapshots` None keeps no model snapshots (a backtest).

    `updates` opens, from a time on (ms), the topic that says what a learner has learned, which began with `snapshots`:
    then this worker does not learn. None: it learns by itself, and keeps snapshots of its own.

    `revised` is asked at the start and after each checkpoint: a plan that is new since, None when there is none.
    `catalogue` is what is known of items at the start, `follower` the topic that says more; `trends` is the topic that
    says what is gaining; `identity` which topic the source reads; `tail` what was published before, None where nobody
    can have published; `eager` as in `build_pipeline`.
    """
    from streamrec.engine.answering import Answering
    from streamrec.engine.items.item_counts import ItemCounts
    from streamrec.engine.trending.topic_counts import TopicTrendCounts
    from streamrec.worker.answered import Answered
    from streamrec.worker.checkpoints import CheckpointPace, Checkpoints
    from streamrec.worker.following import ModelFollowing
    from streamrec.worker.health import Health
    from streamrec.worker.loop import Handling, Hooks, Ports, Worker
    from streamrec.worker.memory import Clocks, Memory
    from streamrec.worker.metrics import Metrics
    from streamrec.worker.step import OutputTopics
    from streamrec.worker.trends_feed import TrendsFeed

    limits, topics = settings.limits, settings.topics
    followed = updates is not None
    pipeline = build_pipeline(settings, catalogue, eager=eager, told=trends is not None, serving=followed)
    statements = pipeline.features.trends
    features = pipeline.features
    item_counts = ItemCounts(limits.max_users)
    open_slates = build_open_slates(settings, features.ads.charge)
    memory = Memory(
        pipeline,
        item_counts,
        open_slates,
        (features.users, item_counts, open_slates, features.ads.accounts),
        Answered(tail, topics.events, topics.recommendations, topics.outcomes),
        Answering(pipeline, statements if isinstance(statements, TopicTrendCounts) else None) if followed else None,
    )
    clocks = Clocks()

    def models(pipeline: Pipeline, metrics: Metrics, health: Health) -> ModelFollowing:
        assert snapshots is not None
        assert updates is not None
        return ModelFollowing(pipeline, snapshots, updates, metrics, health, clocks)

    pace = CheckpointPace(settings.checkpoints.interval_s, settings.checkpoints.share)
    trends_feed = (
        TrendsFeed(trends, statements, limits.max_message_bytes)
        if trends is not None and isinstance(statements, TopicTrendCounts)
        else None
    )
    return Worker(
        memory=memory,
        checkpoints=Checkpoints(
            memory=memory,
            store=store,
            snapshots=None if followed else snapshots,
            pace=pace,
            clocks=clocks,
            accept_loss=settings.checkpoints.on_gap == "skip",
        ),
        ports=Ports(source, sink, store, follower, trends_feed, identity, models if followed else None),
        handling=Handling(
            OutputTopics(topics.recommendations, topics.outcomes, topics.dead_letters, topics.examples),
            build_validation_limits(settings),
            settings.checkpoints.handover_s,
            topics.partitioner,
        ),
        metrics=Metrics(["fused", *pipeline.fusion.models], settings.scenarios),
        health=Health(settings.stuck_s),
        hooks=Hooks(observer, revised),
        clocks=clocks,
    )


def build_validation_limits(settings: Settings) -> ValidationLimits:
    """What is still an event, by a configuration."""
    from streamrec.worker.validation import ValidationLimits

    limits = settings.limits
    return ValidationLimits(
        limits.max_message_bytes,
        limits.max_depth,
        limits.max_bad_in_a_row,
        limits.max_ahead_s,
        limits.max_behind_s,
        limits.require_key,
        {name: scenario.needs for name, scenario in build_scenarios(settings).items()},
    )


def build_rehearsal(
    settings: Settings,
    records: Callable[[], Iterator[Record]],
    observer: Callable[[BatchResult], None],
    catalogue: CatalogueItems | None = None,
) -> Worker:
    """A worker on a log of the past, in this process: nothing is answered, and nothing outlives it."""
    from streamrec.state.memory import MemoryStore
    from streamrec.transport.local import LocalSource

    source = LocalSource(settings.topics.events, records)
    return build_warmup(settings, source, MemoryStore(), observer, catalogue)


def build_warmup(
    settings: Settings,
    past: Source,
    store: Store,
    observer: Callable[[BatchResult], None] | None = None,
    catalogue: CatalogueItems | None = None,
) -> Worker:
    """A worker on a log of the past, over the live store: nothing is answered, and snapshots are left to the caller."""
    from streamrec.transport.local import LocalSink

    # Checkpoints by time there are none; so many changes that memory fills still go to the store.
    never = settings.checkpoints.model_copy(update={"interval_s": 1e9})
    unasked = settings.serving.model_copy(update={"recommend_on": frozenset()})
    quiet = settings.model_copy(update={"serving": unasked, "checkpoints": never})
    return build_worker(
        quiet, past, LocalSink(keep=1), store, None, catalogue=catalogue, observer=observer, eager=False
    )


def build_open_slates(settings: Settings, charge: Charge) -> OpenSlates:
    """The slates that wait for their outcomes: none yet. `charge` is told what clicks on ads cost."""
    from streamrec.engine.attribution.attribution import AttributionRules, RewardRule, SeenRule
    from streamrec.engine.attribution.open_slates import OpenSlateLimits, OpenSlates

    given = settings.attribution
    rules = AttributionRules(
        int(given.window_s * 1000), SeenRule(given.seen), RewardRule(given.reward), dict(given.values)
    )
    room = OpenSlateLimits(SLATES_HELD, given.max_open_per_user, given.max_open)
    return OpenSlates(rules, int(given.lateness_s * 1000), room, charge)
