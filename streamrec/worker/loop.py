"""The loop around the step: polls, steps and checkpoints, and partitions that come and go.

Bad input costs one record. While store, disk or log are away or full, nothing is read and the worker waits, still a
member of its group. A fault of ours, or of what cannot heal, stops it; what was not checkpointed is done again by the
next one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from streamrec.config.log_lines import get_logger
from streamrec.engine.batch_result import BatchResult
from streamrec.engine.pipeline import Pipeline
from streamrec.engine.rollout.plan import Plan
from streamrec.errors import StaleEpoch, StateError, StateUnavailable, StreamrecError
from streamrec.state import Key, Store
from streamrec.transport import Follower, Record, Sink, Source
from streamrec.worker.backpressure import Brake
from streamrec.worker.catalogue_feed import CatalogueFeed
from streamrec.worker.checkpoints import FLUSH_TIMEOUT_S, Checkpoints
from streamrec.worker.following import ModelFollowing
from streamrec.worker.health import Health, Need
from streamrec.worker.memory import Clocks, Memory
from streamrec.worker.metrics import Metrics
from streamrec.worker.placement import Placement
from streamrec.worker.retry import AWAY, Retry
from streamrec.worker.step import OutputTopics, StateAccess, StepProcessor
from streamrec.worker.topic_watch import Identity, TopicWatch
from streamrec.worker.trends_feed import TrendsFeed
from streamrec.worker.validation import ValidationLimits

LOG = get_logger("streamrec.worker.loop")
POLL_RECORDS = 512
POLL_TIMEOUT_S = 0.1
INSIST_S = 60.0
"""How long something is tried where the group cannot be heard meanwhile; a member may be silent for five minutes."""
DISOWNED_S = 60.0
"""A partition that the store says is another's, while the group says it is ours, is a contradiction after so long."""
UNHEARD_S = 0.5
"""Once so long has passed since the last poll, the store is asked whose the partitions are before more is published: a
worker that froze must not go on with its step. Shorter than any session."""
WATCH_EVERY_S = 1.0
"""How often the lag is looked at."""
MODELS_WAIT_S = 20.0
"""How long a worker that starts reads updates of the models before it goes on with what it has."""
LAST_WORDS_S = 5.0
"""How long a worker that cannot go on tries to publish what it had to say."""


@dataclass(frozen=True, slots=True)
class Ports:
    """What a worker reads from, publishes to and saves to."""

    source: Source
    sink: Sink
    store: Store
    catalogue: Follower | None = None
    """Read whole before the first event, and followed between steps."""
    trends: TrendsFeed | None = None
    """Likewise, but it is not waited for long."""
    identity: Identity | None = None
    """Says which topic the source reads; None where that cannot change."""
    models: Callable[[Pipeline, Metrics, Health], ModelFollowing] | None = None
    """Follows models that are learned elsewhere; None where they learn here."""


@dataclass(frozen=True, slots=True)
class Handling:
    """How messages are judged, where results go, and how long a handover may take."""

    output_topics: OutputTopics
    validation_limits: ValidationLimits
    handover_s: float
    """Bounds the checkpoint of partitions that leave."""
    partitioner: str
    """How producers are to place keys."""


@dataclass(frozen=True, slots=True)
class Hooks:
    """What is called from the loop."""

    observer: Callable[[BatchResult], None] | None = None
    """Sees every batch result after it was published and before it is learned (reports, tests)."""
    revised: Callable[[], Plan | None] = lambda: None
    """Asked at the start and after each checkpoint for a new plan of which policy answers which user, if any."""


class Worker:
    """Reads a source, as the owner of some of its partitions."""

    def __init__(
        self,
        *,
        memory: Memory,
        checkpoints: Checkpoints,
        ports: Ports,
        handling: Handling,
        metrics: Metrics,
        health: Health,
        hooks: Hooks,
        clocks: Clocks,
    ) -> None:
        self.pipeline = memory.pipeline
        self.metrics = metrics
        self.health = health
        self._open_slates = memory.open_slates
        self._answered = memory.answered
        self._checkpoints = checkpoints
        self._source = ports.source
        self._sink = ports.sink
        self._store = ports.store
        self._trends = ports.trends
        self._topic = TopicWatch(ports.source.topic, ports.identity, ports.store, clocks.monotonic_s)
        self._placement = Placement(handling.partitioner)
        self._placement_told = False
        self._handover_s = handling.handover_s
        self._revised = hooks.revised
        self._clock = clocks.monotonic_s
        self.fold = StepProcessor(
            memory=memory,
            access=StateAccess(
                ports.store.load,
                self._load_surely,
                self._save,
                self._look_out,
                checkpoints.epoch,
                lambda: self._topic.source,
            ),
            sink=ports.sink,
            output_topics=handling.output_topics,
            validation_limits=handling.validation_limits,
            metrics=metrics,
            observer=hooks.observer,
            wall_ms=clocks.wall_ms,
        )
        catalogue, validation_limits = ports.catalogue, handling.validation_limits
        self._catalogue = (
            CatalogueFeed(
                catalogue,
                self.pipeline.features.catalogue,
                self.fold.dead_letter,
                validation_limits.max_message_bytes,
                validation_limits.max_depth,
            )
            if catalogue is not None
            else None
        )
        self._models = None if ports.models is None else ports.models(self.pipeline, metrics, health)
        if catalogue is not None:
            health.lack(Need.CATALOGUE, f"topic {catalogue.topic!r} is not read to its end yet")
        self._brake = Brake(ports.source, metrics)
        self._retry = Retry(ports.source, self._brake, health, self._clock)
        self._watched_at, self._drained = float("-inf"), True
        self._heard_at = self._clock()  # when it was last known whose the partitions are
        self._disowned_at: dict[int, float] = {}  # partitions that are another's, until the group says so too
        self._poll_records = min(POLL_RECORDS, self.fold.most_records)

    @property
    def newcomers(self) -> int:
        """Users met that the store did not know."""
        return self.pipeline.features.users.newcomers

    # The loop

    def run(self) -> None:
        """Work until `stop` is called or the source can give no more; then save a checkpoint and leave.

        Raises:
            StreamrecError: the worker cannot go on. Nothing past its last checkpoint is committed.
        """
        self._source.subscribe(self)
        try:
            self._read_catalogue()
            self._read_models()
            if self._trends is not None:
                self._trends.read(POLL_TIMEOUT_S, lambda: self._retry.stop_by is None)
            self._retry.endure(self._follow)
            while self._retry.stop_by is None and not self._source.exhausted():
                self._look_around()
                self._heard_at = self._clock()
                records = self._source.poll(self._poll_records, POLL_TIMEOUT_S)
                self._drained = len(records) < self._poll_records
                self._handle(records)
                if self._checkpoints.due():
                    self._retry.endure(self.checkpoint)
            self._retry.endure(self.checkpoint)
            self._source.close()
            self._sink.close()
        except BaseException:
            self._abandon()
            raise
        finally:
            if self._catalogue is not None:
                self._catalogue.follower.close()
            if self._trends is not None:
                self._trends.close()
            if self._models is not None:
                self._models.close()
            self._store.close()

    def stop(self) -> None:
        """Finish the step at hand, save a checkpoint and leave. Safe from a signal handler or another thread."""
        self._retry.stop_by = self._clock() + self._handover_s

    def _abandon(self) -> None:
        """Leave without saving: what was done since the last checkpoint is done again by the next worker."""
        self._retry.stop_by = self._clock()
        self._checkpoints.let_go(list(self._checkpoints.positions))  # closing must not save half a step
        for close in (partial(self._sink.close, LAST_WORDS_S), self._source.close):  # dead letters say why we stop
            try:
                close()
            except StreamrecError as error:
                LOG.warning("trouble while stopping", error=str(error))

    def _read_catalogue(self) -> None:
        """To where it ends as of now: what was withdrawn must not be on the first slate."""
        if self._catalogue is None:
            return
        while self._retry.stop_by is None and not self._catalogue.whole():
            self._retry.endure(partial(self._catalogue.look, POLL_TIMEOUT_S))
        self.health.have(Need.CATALOGUE)

    def _read_models(self) -> None:
        """To where they are as of now; a learner that is away is not waited for, nor brokers for long."""
        if self._models is None:
            return
        end = self._clock() + MODELS_WAIT_S
        while self._retry.stop_by is None and not self._models.whole() and self._clock() < end:
            self._retry.endure(partial(self._models.look, POLL_TIMEOUT_S))

    def _look_around(self) -> None:
        """What has to be known before the next poll."""
        self.health.beat()
        if self._models is not None:
            self._retry.endure(self._models.look)
            self._models.tell(self.fold.taught)
        if self._catalogue is not None:
            self._retry.endure(self._catalogue.look)
        if self._trends is not None:
            self._trends.look()
        self._brake.watch(self._sink.fullness())
        if self._source.connected():
            self.health.have(Need.LOG)
        else:
            self.health.lack(Need.LOG, "no broker can be reached")
        if self._clock() - self._watched_at >= WATCH_EVERY_S:
            self._watched_at, lag = self._clock(), self._source.lag()
            self.health.watch(lag if self._source.connected() else {}, self._source.stopped(), self._drained)
            self.metrics.behind(lag, self.health.standstill_s())
        for partition, since in self._disowned_at.items():
            if self._clock() - since > DISOWNED_S:
                raise StaleEpoch(
                    f"partition {partition} has been another worker's for {DISOWNED_S:.0f} s, but the consumer group "
                    "gives it to this one: does a second group, or a warm-up, use the same redis.prefix and topic?"
                )

    def _handle(self, records: Sequence[Record]) -> None:
        """One step, once what it needs is there; of partitions that left meanwhile, nothing."""
        self.metrics.misplaced.inc(self._placement.check(records, self._topic.partitions))
        epochs = {record.partition: self._checkpoints.epoch(record.partition) for record in records}
        self.health.read(epochs)

        def attempt() -> None:
            self.step([r for r in records if self._checkpoints.epoch(r.partition) == epochs[r.partition]])

        self._retry.endure(attempt)

    # Step and checkpoint

    def step(self, records: Sequence[Record]) -> None:
        """Handle some records, in order.

        Raises:
            StateUnavailable, PublishDelayed, TransportUnavailable: nothing was handled yet; the same step may be taken
                later.
            StreamrecError: the worker cannot go on.
        """
        self._checkpoints.complete()
        self._answered.look(self._sink.flush)
        self._checkpoints.positions |= self.fold.step(records, self._checkpoints.taught)
        self._let_go_disowned()

    def checkpoint(self) -> None:
        """Save state, models and positions together.

        Raises:
            StateUnavailable, PublishDelayed: not everything is saved yet; call again before anything else is handled.
        """
        self._save()
        self._let_go_disowned()
        if self._placement.misplaced and not self._placement_told:
            LOG.warning("keys are on other partitions than they belong to", detail=self._placement.told())
            self._placement_told = True
        self.metrics.skipped.reach(self._source.skipped_records)
        self.metrics.lost_values.reach(self._checkpoints.lost_values)
        if self._models is None:
            self.metrics.show_learning(self.pipeline)
            self.metrics.judged(self._checkpoints.roll_back(), self.pipeline.quarantine.standing())
        self.metrics.wait(self._open_slates)
        catalogue = self.pipeline.features.catalogue
        self.metrics.listed(len(catalogue), catalogue.dropped)
        if self._trends is not None and self.pipeline.features.trends is not None:
            self.metrics.told(self.pipeline.features.trends.table.age_s, self._trends.refused)
        self._follow()

    def _save(self) -> None:
        self._topic.look()
        with self.metrics.checkpoint.time():
            safe = self._checkpoints.save(self._sink.flush)
        self._source.commit(safe)

    def _follow(self) -> None:
        plan = self._revised()
        if plan is not None:
            LOG.info(
                "another rollout plan",
                policy=plan.policy,
                mode=plan.mode.value,
                baseline=plan.baseline,
                share=plan.share,
            )
            self.pipeline.answers.follow(plan)

    def _load_surely(self, keys: Sequence[Key]) -> list[bytes | None]:
        try:
            return self._retry.insist(lambda: self._store.load(keys), INSIST_S)
        except StateUnavailable as error:  # half a step cannot be taken again
            raise StateError(f"in the middle of a step: {error}") from error

    def _look_out(self) -> None:
        """Whose partitions are when it was long ago that the group was heard."""
        if self._clock() - self._heard_at < UNHEARD_S:
            return
        try:
            self._retry.insist(self._checkpoints.find_disowned, INSIST_S)
        except StateUnavailable as error:  # half a step cannot be taken again
            raise StateError(f"in the middle of a step: {error}") from error
        self._heard_at = self._clock()

    # Partitions come and go (called by the source, inside poll)

    def assigned(self, partitions: Sequence[int]) -> Mapping[int, int | None]:
        """See `transport.Assignee`.

        Raises:
            StateUnavailable, TransportUnavailable: store or brokers stayed away for a minute.
            StateError: the topic is not the one whose positions are stored.
        """
        for look in (self._checkpoints.refuse_emptied_store, self._topic.check):
            self._retry.insist(look, INSIST_S)
        starts = self._retry.insist(lambda: self._checkpoints.take_over(partitions), INSIST_S)
        self.metrics.began(self._checkpoints.skipped_snapshots, self._checkpoints.unlearned)
        self._settle(partitions)
        if self._models is None:
            self.health.have(Need.MODELS)
        return starts

    def revoked(self, partitions: Sequence[int]) -> None:
        """See `transport.Assignee`. What cannot be saved within `handover_s` is done again by the new owner."""
        saved = False
        try:
            self._retry.insist(self._save, self._handover_s)
            saved = True
        except AWAY as error:
            LOG.warning("partitions go without a checkpoint", partitions=list(partitions), error=str(error))
            self.metrics.unsaved.inc(len(partitions))
        self._let_go(partitions)
        if not saved:
            self._fall_silent()

    def lost(self, partitions: Sequence[int]) -> None:
        """See `transport.Assignee`."""
        LOG.warning(
            "partitions were lost; what was not checkpointed is done again by their new owner",
            partitions=list(partitions),
        )
        self._let_go(partitions)
        self._fall_silent()
        self.health.lack(Need.PARTITIONS, f"{list(partitions)} were lost; joining the group again")

    def _fall_silent(self) -> None:
        """What waits to be sent for partitions that left must not come once their new owner has looked.

        All of it is past the last checkpoint, so that whoever takes over does it again.

        Raises:
            PublishDelayed: other partitions are held, whose records wait among them: the worker has to begin anew.
        """
        if self._checkpoints.held:
            self._sink.flush(FLUSH_TIMEOUT_S)
        else:
            self._sink.forget()

    def _let_go(self, partitions: Sequence[int]) -> None:
        self._checkpoints.let_go(partitions)
        self.fold.validator.let_go(partitions)
        for partition in partitions:
            self.fold.taught.pop(partition, None)
        self._settle(partitions)

    def _let_go_disowned(self) -> None:
        """Partitions of which the store says that they have a newer owner; the group will say so too."""
        theirs, self._checkpoints.disowned = self._checkpoints.disowned, []
        if not theirs:
            return
        self.metrics.disowned.inc(len(theirs))
        self._let_go(theirs)
        self._source.disown(theirs)
        self._disowned_at |= dict.fromkeys(theirs, self._clock())
        self.health.lack(Need.PARTITIONS, f"{theirs} have another owner; waiting for the group to agree")

    def _settle(self, partitions: Sequence[int]) -> None:
        """The group has spoken on these."""
        for partition in partitions:
            self._disowned_at.pop(partition, None)
        if not self._disowned_at:
            self.health.have(Need.PARTITIONS)
