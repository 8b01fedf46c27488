"""State, models and positions, saved together: who owns which partition, and where each stands.

In this order, so that whatever dies leaves a whole checkpoint behind: what was published is stored by the log; the
models' snapshot is on disk; then, partition by partition, what changed in its tables, watermark and the snapshot's name
are written at once. Recovery takes the last of these and folds on from its watermark. Last it is noted where published
topics end, so that a new owner finds what was published since.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

from streamrec.config.log_lines import get_logger
from streamrec.errors import StaleEpoch, StateMissing
from streamrec.state import Checkpoint, Key, Kind, PartitionMark, SavedSnapshot, SnapshotStore, Store
from streamrec.state.refusals import dropped
from streamrec.worker.memory import Clocks, Memory
from streamrec.worker.recovery import begin, good_ones, last_good, restore

LOG = get_logger("streamrec.worker.checkpoints")
FLUSH_TIMEOUT_S = 5.0
"""Of one try: between two, the group is heard."""
ENDS_LIMIT_S = 10.0
"""How long brokers may take to say where topics end, in one try."""
MANY_CHANGES = 40_000
"""So many entries of tables waiting to be saved make a checkpoint due, whatever its share of the
time: a store takes only so much in one piece."""
ROLLBACKS_KEPT = 2
"""Good snapshots kept for each component in doubt: the one to go back to, and one more if that was no good."""


@dataclass(frozen=True, slots=True)
class CheckpointPace:
    """How often: at least `interval_s` apart, and no more than `share` of the time."""

    interval_s: float
    share: float


@dataclass(slots=True)
class _Round:
    """One checkpoint on its way: nothing is handled until it is complete, or its partitions are let go."""

    snapshot: str | None
    left: dict[int, int]  # partition -> watermark, of those not committed yet
    writing: Checkpoint | None = None  # taken from memory, so it must be committed or let go


class Checkpoints:
    """Owns partitions on behalf of one worker."""

    def __init__(
        self,
        *,
        memory: Memory,
        store: Store,
        snapshots: SnapshotStore | None,
        pace: CheckpointPace,
        clocks: Clocks,
        accept_loss: bool = False,
    ) -> None:
        """`snapshots` None keeps no models (a backtest). `accept_loss`: what the store lost is only counted."""
        self.pipeline = memory.pipeline
        self.tables = memory.tables
        self.answered = memory.answered
        self.store = store
        self.snapshots = snapshots
        self.positions: dict[int, int] = {}  # per partition held: the next offset its state has not seen
        self.taught: dict[int, int] = {}  # per partition: the models have learned what comes before this offset already
        self.disowned: list[int] = []  # partitions that turned out to have a newer owner, to be let go
        self.skipped_snapshots = 0  # newer ones that could not be used at the start
        self.lost_values = 0  # that the store was given, and holds no longer
        self.unlearned = 0  # records between the one used instead and the state: remembered, never learned
        self._marks: dict[int, PartitionMark] = {}
        self._noted: str | None = None  # where published topics ended, as last noted beside the marks
        self._round: _Round | None = None
        self._pace = pace
        self._accept_loss = accept_loss
        self._clock = clocks.monotonic_s
        self._wall_ms = clocks.wall_ms
        self._restored = False
        self._last_at = self._clock()
        self._last_took = 0.0

    # Owning partitions

    def take_over(self, partitions: Sequence[int]) -> dict[int, int | None]:
        """Become the owner of these partitions; returns where each starts.

        Raises:
            StateMissing: there was a checkpoint, and what it refers to is gone.
            StateError: the store has lost values, or may at any time.
            TransportUnavailable: no broker says where published topics end.
        """
        self._refuse_loss(partitions)
        for partition in partitions:
            self._marks[partition] = self.store.open(partition)
        self._ask_for_former(partitions)
        if not self._restored:
            self._restore_models()
            self._restored = True
        starts = {partition: self._marks[partition].watermark for partition in partitions}
        self.positions |= {partition: start for partition, start in starts.items() if start is not None}
        for partition in partitions:
            for table in self.tables:
                table.take_over(partition, partial(self._load, partition))
        return starts

    def _ask_for_former(self, partitions: Sequence[int]) -> None:
        """Where former owners may have published past the mark; of a partition without a note, none have from now."""
        ends = self.answered.ends(ENDS_LIMIT_S)
        for partition in partitions:
            mark = self._marks[partition]
            self.answered.take_over(partition, mark.watermark, mark.ends)
        begun = {p: self._marks[p].epoch for p in partitions if self._marks[p].ends is None}
        if ends is not None and begun:
            self.store.note_ends(begun, ends)

    def _load(self, partition: int, kind: str, names: Sequence[str]) -> list[bytes | None]:
        return self.store.load([Key(partition, Kind(kind), name) for name in names])

    def let_go(self, partitions: Iterable[int]) -> None:
        """Forget partitions without writing. Models cannot unlearn: how far they have learned is remembered."""
        leaving = list(partitions)
        for partition in leaving:
            self.taught[partition] = max(self.taught.get(partition, 0), self.positions.get(partition, 0))
        for table in self.tables:
            table.drop(leaving)
        self.answered.let_go(leaving)
        self.disowned = [partition for partition in self.disowned if partition not in leaving]
        for partition in leaving:
            self._marks.pop(partition, None)
            self.positions.pop(partition, None)
            if self._round is not None:
                self._round.left.pop(partition, None)
                if self._round.writing is not None and self._round.writing.partition == partition:
                    self._round.writing = None

    def epoch(self, partition: int) -> int | None:
        """Under which the partition is held, None if it is not."""
        mark = self._marks.get(partition)
        return None if mark is None else mark.epoch

    def find_disowned(self) -> None:
        """Ask the store which partitions have a newer owner: nothing is published for these, and they are to be let go.

        Raises:
            StateUnavailable: the store is away.
        """
        marks = self.store.marks()
        newer = {p for p, mark in self._marks.items() if p in marks and marks[p].epoch > mark.epoch}
        self.disowned += sorted(newer - self.answered.gone)
        self.answered.gone |= newer

    @property
    def held(self) -> Collection[int]:
        """The partitions that are ours."""
        return self._marks.keys()

    def refuse_emptied_store(self) -> None:
        """To be called before anything is recorded or opened, by a worker that has run for long too.

        Raises:
            StateMissing: there are models, and the store knows nothing.
        """
        # An emptied store must not come to know a partition again, so that the answer stays the same at the next try,
        # and for others. A partition that was opened but never committed is no sign of loss: its worker died between
        # its first snapshot and first commit.
        if self.snapshots is not None and self.snapshots.latest() is not None and not self.store.marks():
            raise StateMissing(
                f"{self.snapshots.url} holds model snapshots, but the store knows of no partition: it was "
                "emptied, or is another one. Bring its data back, or name another snapshots.url to start afresh"
            )

    def _refuse_loss(self, partitions: Collection[int]) -> None:
        lost = self.store.lost(partitions, accept=self._accept_loss)
        if lost and not self._accept_loss:
            raise dropped(lost)
        if lost:
            LOG.warning("the store no longer holds values that it was given; going on without them", at_least=lost)
            self.lost_values += lost

    def _restore_models(self) -> None:
        if self.snapshots is None:
            return
        # Partitions are committed one after the other: after a crash in between, the newest name is the models' own.
        beginning = begin(self.snapshots, self._marks, partial(restore, self.pipeline))
        if beginning is None:
            return
        snapshot = beginning.snapshot
        self.taught = dict(snapshot.watermarks)
        self.skipped_snapshots, self.unlearned = len(beginning.skipped), sum(beginning.unlearned.values())
        LOG.info("models restored", snapshot=snapshot.reference, watermarks=dict(snapshot.watermarks))

    # Saving

    def due(self) -> bool:
        """Whether it is time for the next one."""
        wait_s = max(self._pace.interval_s, self._last_took / self._pace.share)
        waited = self._clock() - self._last_at >= wait_s or self._waiting() >= MANY_CHANGES
        return waited or bool(self.pipeline.quarantine.sentenced())

    def save(self, flush: Callable[[float], None]) -> dict[int, int]:
        """One checkpoint of the partitions held; returns the positions that are safe now. Nothing new, nothing written.

        One that was cut short goes on where it stopped. Partitions that have a newer owner are left in `disowned`.

        Raises:
            PublishDelayed, StateUnavailable: log, store or disk are away or full; save again before handling anything.
            PublishFailed, StateError: what was published is lost, or the store has lost what it had.
        """
        began = self._clock()
        if self._round is None:
            self._refuse_loss(self._marks)
        if self._round is None and self._anything_new():
            flush(FLUSH_TIMEOUT_S)
            self._round = _Round(self._save_models(), dict(self.positions))
        self.complete()
        self._note_ends()
        self._last_at = self._clock()
        self._last_took = self._last_at - began
        return {p: mark.watermark for p, mark in self._marks.items() if mark.watermark is not None}

    def complete(self) -> None:
        """Go on with a checkpoint that was cut short, if there is one: what comes after must not get into it.

        Raises:
            StateError: as `save`.
        """
        if self._round is not None:
            self._commit(self._round)
            self._round = None

    def _note_ends(self) -> None:
        """Note where published topics end: what is published from now on comes of records past the marks.

        Also where nothing is new: others publish too, and whoever takes over would have to read all of it. What a
        former owner published is to be found by the next one too, until it was met.
        """
        self.answered.settle(self.positions)
        ends = self.answered.ends()
        settled = {p: mark.epoch for p, mark in self._marks.items() if self.answered.settled(p)}
        if ends is not None and ends != self._noted and settled:
            self.store.note_ends(settled, ends)
            self._noted = ends

    def _anything_new(self) -> bool:
        return any(self._marks[partition].watermark != watermark for partition, watermark in self.positions.items())

    def _commit(self, now: _Round) -> None:
        while now.left:
            partition, watermark = next(iter(now.left.items()))
            epoch = self._marks[partition].epoch
            if now.writing is None:
                now.writing = Checkpoint(partition, epoch, watermark, now.snapshot, self._changes(partition))
            try:
                self.store.commit(now.writing)
                self._marks[partition] = PartitionMark(watermark, now.snapshot, epoch)
            except StaleEpoch as error:
                LOG.warning("a partition has a newer owner", partition=partition, error=str(error))
                self.disowned.append(partition)
            del now.left[partition]
            now.writing = None

    def _save_models(self) -> str | None:
        if self.snapshots is None:
            return None
        protect = {mark.snapshot for mark in self.store.marks().values() if mark.snapshot is not None}
        state, schema = self.pipeline.state(), self.pipeline.schema
        suspect, learned = self.pipeline.rollback.suspects(state), self._learned()
        for component in suspect:
            older = self.pipeline.quarantine.before(component)
            protect.update(islice(good_ones(self.snapshots, component, schema, learned, older), ROLLBACKS_KEPT))
        return self.snapshots.save(state, learned, schema, now_ms=self._wall_ms(), protect=protect, suspect=suspect)

    def _learned(self) -> dict[int, int]:
        """How far the models have learned, by partition."""
        # A position may lie before what the models know, where a partition came back with an older state.
        return {p: max(self.taught.get(p, 0), self.positions.get(p, 0)) for p in {*self.taught, *self.positions}}

    # Going back

    def last_good(self, component: str, before: str | None = None) -> SavedSnapshot | None:
        """The newest snapshot, older than `before`, in which this component was not in doubt; None without one."""
        if self.snapshots is None:
            return None
        return last_good(self.snapshots, component, self.pipeline.schema, self._learned(), before)

    def roll_back(self) -> list[str]:
        """Roll each part in quarantine back to its last good snapshot, or to the untaught; returns their names.

        Reads the disk: to be called between steps.
        """
        sentenced = list(self.pipeline.quarantine.sentenced())
        for component in sentenced:
            saved = self.last_good(component, self.pipeline.quarantine.before(component))
            if saved is None:
                self.pipeline.rollback.roll_back(component, None, None)
            else:
                self.pipeline.rollback.roll_back(component, saved.reference, saved.arrays)
            LOG.warning(
                "a component was in danger: rolled back, and on probation now",
                component=component,
                to="the untaught: no good snapshot is left" if saved is None else saved.reference,
            )
        return sentenced

    def _waiting(self) -> int:
        return sum(table.changed for table in self.tables)

    def _changes(self, partition: int) -> dict[Key, bytes]:
        return {
            Key(partition, Kind(kind), name): value
            for table in self.tables
            for (kind, name), value in table.take_changes(partition).items()
        }
