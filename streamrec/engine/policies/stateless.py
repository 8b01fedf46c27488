"""What policies share that learn nothing beyond the fusion's posterior."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from streamrec.engine.arrays.batch import Array
from streamrec.engine.arrays.feedback import SlateFeedback
from streamrec.engine.following.served import Arrays, ChangedRows, Rows


class Unlearned:
    """Has no state of its own."""

    def learn(self, feedback: Sequence[SlateFeedback]) -> None:
        """The fusion learns; this only reads its posterior."""

    def served(self) -> dict[str, Rows]:
        return {}

    def serve(self, arrays: Arrays, changed: ChangedRows | None = None) -> None:
        """There is nothing to serve by but the fusion's posterior."""

    def state(self) -> dict[str, Array]:
        return {}

    def restore(self, arrays: Mapping[str, Array]) -> None:
        """Nothing was saved."""
