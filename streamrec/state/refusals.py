"""The errors with which stores refuse a checkpoint, in the same words from every store.

Knows nothing of how a store keeps its values.
"""

from __future__ import annotations

from streamrec.errors import StaleEpoch, StateError
from streamrec.state import Checkpoint

LARGEST_WATERMARK = 2**53
"""Beyond it a Lua number no longer tells two offsets apart; Kafka would need 300 years at a million events a second."""


def refuse_malformed(checkpoint: Checkpoint) -> None:
    """Refuse what no store could write atomically or compare exactly.

    Raises:
        StateError: a write belongs to another partition, or the watermark is out of range.
    """
    for key in checkpoint.writes:
        if key.partition != checkpoint.partition:
            raise StateError(
                f"checkpoint of partition {checkpoint.partition} writes {key}, expected keys of its own partition "
                "only; nothing was written: commit each partition by itself"
            )
    if not 0 <= checkpoint.watermark <= LARGEST_WATERMARK:
        raise StateError(
            f"checkpoint of partition {checkpoint.partition} has watermark {checkpoint.watermark}, expected an offset "
            f"from 0 to {LARGEST_WATERMARK}; nothing was written"
        )


def unopened(partition: int) -> StateError:
    """The error for a partition that this store has not opened."""
    return StateError(f"partition {partition} was never opened by this store; call open({partition}) before commit")


def sealed(partition: int) -> StateError:
    """The error for a partition that a command is filling."""
    return StateError(
        f"partition {partition} is sealed: a warm-up is filling it, or was cut short; wait for it, or run `streamrec "
        "warmup` again: it clears what the other one left (and `streamrec topics rescale` and `streamrec restore` go "
        "on where they stopped)"
    )


def resealed(partition: int) -> StaleEpoch:
    """The error for a partition that somebody else has sealed since."""
    return StaleEpoch(f"partition {partition} was sealed by somebody else meanwhile: the same command runs twice")


def stale(checkpoint: Checkpoint, epoch: int) -> StaleEpoch:
    """The error for a partition with a newer owner."""
    return StaleEpoch(
        f"partition {checkpoint.partition} is owned under epoch {epoch}, this checkpoint came from epoch "
        f"{checkpoint.epoch}; nothing was written: forget the partition, its newer owner goes on from the last mark"
    )


def forgotten(checkpoint: Checkpoint) -> StateError:
    """The error for a store that no longer holds what it had confirmed."""
    return StateError(
        f"the store has lost checkpoints of partition {checkpoint.partition} that it had confirmed (was it flushed, "
        "restarted without persistence, or failed over to an older copy?); nothing was written, since the changes "
        "would not fit what is left: restart the worker, it goes on from where the store stands now"
    )


def dropped(values: int) -> StateError:
    """The error for a store that has dropped values by itself, or by somebody else's hand."""
    return StateError(
        f"the store no longer holds {values} or more values that it was given (evicted, or deleted by somebody else): "
        "their users and items would begin anew in silence. Bring its data back; or set `checkpoints.on_gap` to "
        "'skip' to go on without them, counted in streamrec_lost_values_total"
    )


def markless(partition: int) -> StateError:
    """The error for a partition that was opened, and whose mark is gone."""
    return StateError(
        f"the store has lost the mark of partition {partition}, which says how far it was read (evicted, or deleted by "
        "somebody else): all of it would be counted again. Bring its data back, or start over under another "
        "`redis.prefix`"
    )


def backwards(checkpoint: Checkpoint, watermark: int) -> StateError:
    """The error for a watermark that would go back."""
    return StateError(
        f"checkpoint of partition {checkpoint.partition} has watermark {checkpoint.watermark}, expected at least "
        f"{watermark}, which is stored already; nothing was written: a watermark never goes backwards"
    )
