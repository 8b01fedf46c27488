"""What comes of a portion of the log: slates for those who asked, and a trial of every ranking against what happened.

Knows nothing of how rankings are made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from streamrec.engine.arrays.logged_event import Arrival
from streamrec.engine.attribution.attribution import Memo
from streamrec.engine.learning.trial import Trial
from streamrec.events import Slate

if TYPE_CHECKING:
    from streamrec.engine.learning.prequential import Drift


@dataclass(frozen=True, slots=True)
class Portion:
    """What came of one portion of the log."""

    arrivals: Sequence[Arrival]
    slates: Mapping[tuple[int, int], Slate]  # by the partition and offset of what asked for them
    memos: Mapping[tuple[int, int], Memo]  # what to keep of each slate, to learn from what comes of it
    trial: Trial
    drifts: Sequence[Drift]  # that came to light in it
