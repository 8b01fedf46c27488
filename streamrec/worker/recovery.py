"""Which snapshot to begin with when the newest cannot be used, and which to go back to when a model can no longer be.

To begin with: those that partitions' marks name, newest first; then older ones here that stand for a partition held.
One of another list of models is adopted. To go back to, for one component: the newest of the same list in which it was
not in doubt. Either way a snapshot that cannot be used is passed over, never believed in part.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from streamrec.config.log_lines import get_logger
from streamrec.engine.adoption import Adoption, adopted
from streamrec.engine.arrays.fitting import MISFIT
from streamrec.engine.pipeline import Pipeline
from streamrec.errors import StateError, StateMissing, StateUnavailable
from streamrec.state import PartitionMark, SavedSnapshot, SnapshotStore

LOG = get_logger("streamrec.worker.recovery")


@dataclass(frozen=True, slots=True)
class RestoredModels:
    """The snapshot that was begun with, and at what price."""

    snapshot: SavedSnapshot
    skipped: tuple[str, ...]  # references of newer ones that could not be used
    unlearned: Mapping[int, int]  # records per partition that users remember and no model has learned


def restore(pipeline: Pipeline, saved: SavedSnapshot) -> None:
    """Have a pipeline go on from a snapshot, also from one of another list of models.

    Raises:
        StateError: it cannot be used; what is said names it, and the model that does not fit.
    """
    with naming(saved):
        pipeline.restore(adopt(pipeline, saved).arrays)


def adopt(pipeline: Pipeline, saved: SavedSnapshot) -> Adoption:
    """A snapshot as this pipeline is to restore it; what that keeps of another list of models is logged.

    Raises:
        StateError: as `adopted`.
    """
    adoption = adopted(saved.arrays, saved.schema, pipeline)
    if adoption.translated:
        LOG.warning(
            "the snapshot is of another list of models or user features: what both have is kept",
            snapshot=saved.reference,
            kept=list(adoption.kept),
            begun_untaught=list(adoption.begun),
            dropped=list(adoption.dropped),
        )
    return adoption


@contextmanager
def naming(saved: SavedSnapshot) -> Iterator[None]:
    """What is said of a snapshot that cannot be used names it.

    Raises:
        StateError: it cannot.
    """
    try:
        yield
    except StateUnavailable:
        raise
    except StateError as error:
        raise StateError(f"snapshot {saved.reference} cannot be used: {error}") from error
    except MISFIT as error:
        raise StateError(
            f"snapshot {saved.reference} does not fit: {error!r}; go back to the settings it was made with, "
            "or use an older one"
        ) from error


def begin(
    snapshots: SnapshotStore, marks: Mapping[int, PartitionMark], take: Callable[[SavedSnapshot], None]
) -> RestoredModels | None:
    """Load the newest snapshot that can be used and let `take` have it; None where no mark names one.

    `take` raises a StateError where the snapshot is not for it.

    Raises:
        StateMissing, SnapshotCorrupt: none can be used; what is said is of the newest that a mark names.
        StateUnavailable: the disk gives nothing just now.
    """
    named = {mark.snapshot for mark in marks.values() if mark.snapshot is not None}
    failed: dict[str, StateError] = {}
    for reference in [*sorted(named, reverse=True), *_older(snapshots, named, marks)]:
        try:
            snapshot = snapshots.load(reference)
            take(snapshot)
        except StateUnavailable:
            raise
        except StateError as error:
            failed[reference] = error
            continue
        return _told(snapshot, failed, marks, by_name=reference in named)
    if failed:
        # A partition that another worker left behind may name a snapshot of that worker's directory.
        here = [reference for reference, error in failed.items() if not isinstance(error, StateMissing)]
        raise failed[max(here or failed)]
    return None


def _older(snapshots: SnapshotStore, named: Collection[str], held: Collection[int]) -> Iterator[str]:
    """Those that no mark names any more, newest first; asked for only when the named ones have failed."""
    for reference in snapshots.references() if named else ():
        if reference < max(named) and reference not in named:
            try:
                ours = any(partition in held for partition in snapshots.describe(reference).watermarks)
            except StateError:
                ours = True  # `load` will say what is wrong with it
            if ours:
                yield reference


def _told(
    snapshot: SavedSnapshot, failed: Mapping[str, StateError], marks: Mapping[int, PartitionMark], by_name: bool
) -> RestoredModels:
    # With a directory for each worker, that others' snapshots are not here is no damage.
    damaged = {name: error for name, error in failed.items() if not (by_name and isinstance(error, StateMissing))}
    if not damaged:
        return RestoredModels(snapshot, (), {})
    unlearned = {
        partition: mark.watermark - snapshot.watermarks.get(partition, 0)
        for partition, mark in marks.items()
        if (mark.watermark or 0) > snapshot.watermarks.get(partition, 0) and mark.watermark is not None
    }
    for error in damaged.values():
        LOG.warning("snapshot skipped", error=str(error))
    LOG.warning(
        "models begin with an older snapshot; between it and the last checkpoint lie records that users remember and "
        "models have not learned",
        snapshot=snapshot.reference,
        unlearned_by_partition=unlearned,
    )
    return RestoredModels(snapshot, tuple(damaged), unlearned)


def good_ones(
    snapshots: SnapshotStore, component: str, schema: str, standing: Mapping[int, int], before: str | None = None
) -> Iterator[str]:
    """References of the snapshots that a component may go back to, newest first.

    Args:
        shelf: where to look; other workers may keep theirs there too.
        component: by its name in snapshots.
        schema: that it must have been saved under.
        standing: how far the models of this process have learned, by partition: a snapshot that stands for anything
            beyond was made by others.
        before: only those older than this one.
    """
    for reference in snapshots.references():
        if before is not None and reference >= before:
            continue
        try:
            told = snapshots.describe(reference)
        except StateError:
            continue
        ours = all(standing.get(partition, -1) >= offset for partition, offset in told.watermarks.items())
        if ours and told.schema == schema and component in told.components and component not in told.suspect:
            yield reference


def last_good(
    snapshots: SnapshotStore, component: str, schema: str, standing: Mapping[int, int], before: str | None = None
) -> SavedSnapshot | None:
    """The newest of `good_ones` that can still be read, None when there is none."""
    for reference in good_ones(snapshots, component, schema, standing, before):
        try:
            return snapshots.load(reference)
        except StateError as error:
            LOG.warning("a component cannot go back to a snapshot", component=component, error=str(error))
    return None
