"""Follows the models that a learner teaches: the newest snapshot, then every update after it, between steps.

The models change at once and whole, from the offset of one update to that of the next. While the learner is away the
worker goes on with what it has, and says how old that is. Knows nothing of how models learn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from streamrec.config.log_lines import get_logger
from streamrec.engine.examples import EXAMPLES_PARTITION as EXAMPLES
from streamrec.engine.following.changes import FollowedArrays
from streamrec.engine.following.messages import UpdateAssembler
from streamrec.engine.pipeline import Pipeline
from streamrec.errors import StateError, StateUnavailable, UpdateGap, UpdateRefused
from streamrec.state import SnapshotStore
from streamrec.transport import Follower, Record
from streamrec.worker.health import Health, Need
from streamrec.worker.memory import Clocks
from streamrec.worker.metrics import Metrics
from streamrec.worker.recovery import adopt, naming

LOG = get_logger("streamrec.worker.following")
STANDING = "standing"
"""The header of an update that says how the learner stands."""
LOOK_RECORDS = 2
"""Messages asked for at a time, some ten milliseconds each."""
LEAST_LOOK_S, LOOK_SHARE = 0.02, 0.25
"""So long are updates taken over between two steps, or that share of the time since, if it is more: slates come first,
and the models do not fall behind."""
SOURCES = "sources"
"""A component that every snapshot of a learner has."""
AWAY_S = 10.0
"""A learner that has said nothing for so long is away."""
AGAIN_S = 5.0
"""Between two looks for a snapshot that leads on."""
MARGIN_MS = 60_000
"""Updates are read from so long before the snapshot was made: clocks differ."""


class LearnerStanding(msgspec.Struct, frozen=True):
    """How a learner stood when it published."""

    behind: int  # records of the examples that it had yet to learn from
    latest_ms: int  # when the last one that it learned from was sent
    said_ms: int  # when it said so
    learned: dict[int, int]  # by partition of the source: the newest offset that it has learned from


class ModelFollowing:
    """The models of one worker."""

    def __init__(
        self,
        pipeline: Pipeline,
        snapshots: SnapshotStore,
        updates: Callable[[int], Follower],
        metrics: Metrics,
        health: Health,
        clocks: Clocks,
    ) -> None:
        """`updates` opens the topic of updates from a time on, ms."""
        self._pipeline = pipeline
        self._snapshots = snapshots
        self._open = updates
        self._metrics = metrics
        self._health = health
        self._clocks = clocks
        self._arrays = FollowedArrays()
        self._assembler = UpdateAssembler(pipeline.schema, 0)
        self._updates: Follower | None = None
        self._standing: LearnerStanding | None = None
        self._heard_at = self._looked_at = clocks.monotonic_s()
        self._begin_at = float("-inf")  # the next time that a snapshot is looked for
        self._begun = False  # with a snapshot, or an update
        self._refused = ""
        self._away_told = False

    @property
    def version(self) -> int:
        """The offset in the examples that the models stand for."""
        return self._assembler.version

    def whole(self) -> bool:
        """True once every update was taken over that there was at the start."""
        return self._updates is not None and self._updates.whole()

    def look(self, wait_s: float = 0.0) -> None:
        """Take over what has come, so much at most that a slate need not wait for it.

        Raises:
            TransportError: the topic cannot be read, and that will not pass.
            StateUnavailable: snapshots cannot be read just now.
        """
        if self._updates is None and not self._begin():
            return
        now = self._clocks.monotonic_s()
        until = now + max(LEAST_LOOK_S, LOOK_SHARE * (now - self._looked_at))
        while self._updates is not None and (records := self._updates.look(LOOK_RECORDS, wait_s)):
            self._take_all(records)
            wait_s = 0.0
            if self._clocks.monotonic_s() >= until:
                break
        self._looked_at = self._clocks.monotonic_s()

    def _take_all(self, records: Sequence[Record]) -> None:
        for record in records:
            try:
                self._take(record)
            except UpdateGap as error:
                LOG.warning("updates of the models are missing", detail=str(error))
                self._metrics.update_gaps.inc()
                self._stop_reading()
                break
            except UpdateRefused as error:
                self._refuse(error)

    def close(self) -> None:
        """Let go of the topic."""
        self._stop_reading()

    # From a snapshot on

    def _begin(self) -> bool:
        """Go to the newest snapshot that leads further than the models are, and read what came after it."""
        now = self._clocks.monotonic_s()
        if now < self._begin_at:
            return False
        self._begin_at = now + AGAIN_S
        since_ms = 0
        for reference in self._snapshots.references():
            try:
                told = self._snapshots.describe(reference)
                newer = told.watermarks.get(EXAMPLES, 0) > self.version
                if SOURCES in told.components and (newer or not self._begun):
                    self._restore(reference)
                    since_ms = max(0, told.created_ms - MARGIN_MS)
                    break
            except StateUnavailable:
                raise
            except StateError as error:
                LOG.warning("snapshot skipped", snapshot=reference, error=str(error))
        self._updates = self._open(since_ms)
        return True

    def _restore(self, reference: str) -> None:
        saved, arrays = self._snapshots.load(reference), FollowedArrays()
        with naming(saved):
            adopted = adopt(self._pipeline, saved).arrays
            parts = self._pipeline.parts(adopted)
            self._pipeline.rollback.refuse_foreign(adopted)
            arrays.take(adopted, parts)
        arrays.serve(parts)
        self._arrays = arrays
        self._stand_at(UpdateAssembler(self._pipeline.schema, saved.watermarks[EXAMPLES]))
        LOG.info("models restored", snapshot=reference, offset=self.version)

    def _stop_reading(self) -> None:
        if self._updates is not None:
            self._updates.close()
            self._updates = None

    # Update by update

    def _take(self, record: Record) -> None:
        standing = dict(record.headers).get(STANDING)
        if standing is not None:
            self._standing = _DECODER.decode(standing)
            self._heard_at = self._clocks.monotonic_s()
            self._health.have(Need.MODELS)  # untaught ones, where nothing was learned yet
        changes = self._assembler.take(record.value or b"")
        if changes is None:
            return
        changed = self._arrays.apply(changes)
        self._arrays.serve(self._pipeline.parts(changed), changed)
        self._stand_at(self._assembler)

    def _stand_at(self, assembler: UpdateAssembler) -> None:
        self._assembler, self._begun = assembler, True
        self._pipeline.follow(assembler.version)
        self._health.have(Need.MODELS)
        self._refused = ""

    def _refuse(self, error: UpdateRefused) -> None:
        self._metrics.refused_model_updates.inc()
        if str(error) != self._refused:
            LOG.warning("an update of the models cannot be used", error=str(error))
            self._refused = str(error)

    # How far behind

    def unlearned(self, taught: Mapping[int, int]) -> int:
        """How many events the models are behind what was `taught`, the newest offset by partition of the source."""
        learned = {} if self._standing is None else self._standing.learned
        return sum(max(0, offset - learned.get(partition, -1)) for partition, offset in taught.items())

    def _behind_s(self) -> float:
        """How old the oldest example was that the learner had yet to learn from, and how long it is silent."""
        silent_s = self._clocks.monotonic_s() - self._heard_at
        standing = self._standing
        waiting_s = 0.0 if standing is None or not standing.behind else (standing.said_ms - standing.latest_ms) / 1000
        return max(0.0, waiting_s) + (silent_s if silent_s > AWAY_S else 0.0)

    def away(self) -> bool:
        """Whether nothing is heard of a learner."""
        return self._clocks.monotonic_s() - self._heard_at > AWAY_S

    def tell(self, taught: Mapping[int, int]) -> None:
        """Show how far the models are behind what was taught."""
        events, seconds, away = self.unlearned(taught), self._behind_s(), self.away()
        self._metrics.followed(self.version, events, seconds, away=away)
        if away:
            self._health.note(
                Need.MODELS, f"no learner is heard of for {seconds:.0f} s; slates go on at {self.version}"
            )
        else:
            self._health.note(Need.MODELS, f"at {self.version}, {events} events and {seconds:.1f} s behind")
        if away != self._away_told:
            self._away_told = away
            if away:
                LOG.warning("no learner is heard of; slates go on with the models as they are", offset=self.version)
            else:
                LOG.info("a learner is heard of again", offset=self.version)


_DECODER = msgspec.json.Decoder(LearnerStanding)
