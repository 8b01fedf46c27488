"""A learner: the member of its group to whom Kafka gives the examples folds them; any other waits for its turn.

    poll > fold > publish what changed, with the offset that it stands for > every so many examples, a snapshot

Whoever is given the partition begins with the newest snapshot and folds on from there, to the same arrays as whoever
had it before: nothing is published again that was published. Without the partition it holds its membership and
nothing else.

Knows nothing of Kafka or of where snapshots lie: those are ports.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from streamrec.config.log_lines import get_logger
from streamrec.engine.examples import EXAMPLES_PARTITION as EXAMPLES
from streamrec.errors import StateError, StateUnavailable, StreamrecError
from streamrec.learner.catalogue_relay import CatalogueRelay
from streamrec.learner.fold import Arrays, Fold, LastGood
from streamrec.learner.metrics import LearnerMetrics
from streamrec.learner.publishing import Publisher
from streamrec.state import SnapshotStore
from streamrec.transport import Record, Sink, Source
from streamrec.worker.following import SOURCES
from streamrec.worker.health import Health, Need
from streamrec.worker.memory import Clocks
from streamrec.worker.recovery import adopt, last_good, naming

LOG = get_logger("streamrec.learner.loop")
POLL_RECORDS = 128
POLL_TIMEOUT_S = 0.1
WATCH_EVERY_S = 1.0
LEAST_APART_S, SAVING_SHARE = 20.0, 0.05
"""Between snapshots that are kept for a quick start, and the share of the time spent on them at most."""
COUNTED_KEPT = 3
"""Snapshots that parts may go back to which are never let go."""
LAST_WORDS_S = 5.0


@dataclass(frozen=True, slots=True)
class LearnerPorts:
    """What a learner reads from, publishes to and keeps snapshots in."""

    source: Source
    sink: Sink
    snapshots: SnapshotStore
    relay: Callable[[], CatalogueRelay]
    """Made by whoever is at work."""
    publisher: Callable[[Fold], Publisher]
    """Likewise."""


@dataclass(frozen=True, slots=True)
class LearnerPace:
    """How often; what a fold depends on is counted in offsets."""

    publish_every_s: float
    snapshot_every: int
    """Records."""


@dataclass(slots=True)
class _Work:
    """What only the learner at work has."""

    fold: Fold
    publisher: Publisher
    relay: CatalogueRelay


class Learner:
    """One member of the group of learners."""

    def __init__(
        self,
        *,
        build: Callable[[LastGood], Fold],
        ports: LearnerPorts,
        pace: LearnerPace,
        metrics: LearnerMetrics,
        health: Health,
        clocks: Clocks,
    ) -> None:
        """`build` makes an untaught fold, which asks what it is given for snapshots to go back to."""
        self.metrics = metrics
        self.health = health
        self._build = build
        self._ports = ports
        self._pace = pace
        self._clocks = clocks
        self._work: _Work | None = None
        self._stopping = False
        self._published_at = self._watched_at = float("-inf")
        self._caught_up = False
        self._saved_at, self._save_took, self._saved_position = clocks.monotonic_s(), 0.0, 0

    def run(self) -> None:
        """Learn until `stop` is called.

        Raises:
            StreamrecError: it cannot go on; the next learner does, from the newest snapshot.
        """
        source = self._ports.source
        source.subscribe(self)
        try:
            while not self._stopping and not source.exhausted():
                self.health.beat()
                self._take(source.poll(POLL_RECORDS, POLL_TIMEOUT_S))
                self._look_around()
        except BaseException:
            self._drop()  # half a portion may be folded: whoever comes next folds it whole
            raise
        finally:
            self._leave()

    def stop(self) -> None:
        """Finish what is at hand and leave. Safe from a signal handler or another thread."""
        self._stopping = True

    def _leave(self) -> None:
        for close in (self._put_down, partial(self._ports.sink.close, LAST_WORDS_S), self._ports.source.close):
            try:
                close()
            except StreamrecError as error:
                LOG.warning("trouble while stopping", error=str(error))

    def _look_around(self) -> None:
        now, source = self._clocks.monotonic_s(), self._ports.source
        if source.connected():
            self.health.have(Need.LOG)
            self.health.have(Need.PARTITIONS)  # none is an answer too: another one is at work
            if self._work is None:
                self.health.have(Need.MODELS)
        else:
            self.health.lack(Need.LOG, "no broker can be reached")
        if now - self._watched_at >= WATCH_EVERY_S:
            self._watched_at = now
            self.metrics.at_work.set(self._work is not None)
            if self._work is not None:
                self._watch(self._work)
        if self._work is not None:
            if self._caught_up:
                self._work.relay.look(self._work.fold)
            self._publish(self._work)
            self._save_in_time(self._work.fold)

    def _watch(self, work: _Work) -> None:
        lag = self._ports.source.lag().get(EXAMPLES)
        self._caught_up = self._caught_up or lag == 0
        work.publisher.behind = lag or 0
        self.metrics.folded(work.fold, lag or 0)

    # Folding

    def _take(self, records: Sequence[Record]) -> None:
        """Fold records, stopping for a snapshot at every offset that is due for one."""
        start = 0
        while start < len(records) and self._work is not None:
            fold, every = self._work.fold, self._pace.snapshot_every
            due = (fold.position // every + 1) * every
            stop = start
            while stop < len(records) and records[stop].offset < due:
                stop += 1
            for result in fold.take(records[start:stop]):
                self.metrics.tried(result.trial)
                self.metrics.drifted(result.drifts)
            if stop < len(records):  # the next record is past the offset, so all before it is folded
                fold.position = max(fold.position, due)
                self._save(fold, counted=True)
            self._publish(self._work)
            start = stop

    def _publish(self, work: _Work) -> None:
        now = self._clocks.monotonic_s()
        if now - self._published_at >= self._pace.publish_every_s:
            self._published_at = now
            work.publisher.publish(self._clocks.wall_ms())

    # Snapshots

    def _save(self, fold: Fold, *, counted: bool) -> None:
        """Keep what the fold has come to. It is no part of what the fold depends on that this succeeds.

        What is `counted` falls due by offset, so that another fold keeps it too: parts may go back to it. To others,
        which are kept so that a start is quick, none may.
        """
        began = self._clocks.monotonic_s()
        state, schema = fold.state(), fold.pipeline.schema
        suspect = fold.pipeline.rollback.suspects(state) if counted else state.keys()
        snapshots, (good, saved) = self._ports.snapshots, self._kept(fold.position, schema)
        try:
            if not saved:
                marks, now_ms = {EXAMPLES: fold.position}, self._clocks.wall_ms()
                snapshots.save(state, marks, schema, now_ms=now_ms, protect=good[:COUNTED_KEPT], suspect=suspect)
        except StateUnavailable as error:
            self.metrics.unsaved_snapshots.inc()
            LOG.warning("no snapshot could be kept; the next one is tried in time", error=str(error))
        self._saved_at, self._saved_position = self._clocks.monotonic_s(), fold.position
        self._save_took = self._saved_at - began
        self.metrics.snapshot.observe(self._save_took)

    def _save_in_time(self, fold: Fold) -> None:
        wait_s = max(LEAST_APART_S, self._save_took / SAVING_SHARE)
        if fold.position > self._saved_position and self._clocks.monotonic_s() - self._saved_at >= wait_s:
            self._save(fold, counted=False)

    def _kept(self, position: int, schema: str) -> tuple[list[str], bool]:
        """The snapshots that parts may go back to, newest first, and whether there is one of this very offset."""
        snapshots, good, there = self._ports.snapshots, list[str](), False
        for reference in snapshots.references():
            try:
                told = snapshots.describe(reference)
            except StateError:
                continue
            counted = told.schema == schema and bool(told.components.keys() - set(told.suspect))
            there = there or (counted and told.watermarks.get(EXAMPLES) == position)
            good += [reference] if counted else []
        return good, there

    def _last_good(self, fold: Fold, component: str) -> tuple[str, Arrays] | None:
        before = fold.pipeline.quarantine.before(component)
        saved = last_good(self._ports.snapshots, component, fold.pipeline.schema, {EXAMPLES: fold.position}, before)
        return None if saved is None else (saved.reference, saved.arrays)  # type: ignore[return-value]

    # The partition comes and goes (called by the source, inside poll)

    def assigned(self, partitions: Sequence[int]) -> Mapping[int, int | None]:
        """See `transport.Assignee`. Begins with the newest snapshot that can be used, else untaught at the beginning.

        Raises:
            StateError: there are snapshots, and none can be used.
        """
        if EXAMPLES not in partitions:
            return dict.fromkeys(partitions)
        fold = self._build(self._last_good)
        self._restore(fold)
        self._work = _Work(fold, self._ports.publisher(fold), self._ports.relay())
        self._caught_up = False
        self._saved_at = self._clocks.monotonic_s()
        self._saved_position = -1 if fold.translated else fold.position  # what was adopted is saved as soon as may be
        self.health.have(Need.MODELS)
        self.health.have(Need.PARTITIONS)
        LOG.info("the examples are ours to learn from", offset=fold.position)
        return {EXAMPLES: fold.position}

    def revoked(self, partitions: Sequence[int]) -> None:
        """See `transport.Assignee`."""
        if EXAMPLES in partitions:
            self._put_down()

    def lost(self, partitions: Sequence[int]) -> None:
        """See `transport.Assignee`. Another one is at work already: nothing is kept."""
        if EXAMPLES in partitions:
            self._drop()

    def _put_down(self) -> None:
        """Hand over: whoever follows hears everything, and whoever comes next goes on from here."""
        if self._work is None:
            return
        fold = self._work.fold
        self._work.publisher.publish(self._clocks.wall_ms())
        if fold.position > self._saved_position:
            self._save(fold, counted=False)
        LOG.info("another learner goes on", offset=fold.position)
        self._drop()

    def _drop(self) -> None:
        if self._work is not None:
            self._work.relay.close()
            self._work = None

    def _restore(self, fold: Fold) -> None:
        snapshots, failed = self._ports.snapshots, dict[str, StateError]()
        for reference in snapshots.references():
            try:
                saved = snapshots.load(reference)
                with naming(saved):
                    adoption = adopt(fold.pipeline, saved)
                    fold.restore(adoption.arrays, saved.watermarks)
                fold.translated = adoption.translated
                if SOURCES in saved.arrays:  # else nobody follows it: all of it is to be published
                    fold.saved_ms = snapshots.describe(reference).created_ms
            except StateUnavailable:
                raise
            except StateError as error:
                failed[reference] = error
                continue
            for name, why in failed.items():
                LOG.warning("snapshot skipped", snapshot=name, error=str(why))
            self.metrics.skipped_snapshots.reach(len(failed))
            LOG.info("models restored", snapshot=reference, offset=fold.position)
            return
        if failed:
            raise failed[max(failed)]
