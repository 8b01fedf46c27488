"""The result of one chunk of the log: slates for its requests, and every ranking beside what happened.

Knows nothing of how rankings are made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from streamrec.engine.arrays.logged_event import LoggedEvent
from streamrec.engine.attribution.attribution import ServedSlate
from streamrec.engine.learning.trial import Trial
from streamrec.events import Slate

if TYPE_CHECKING:
    from streamrec.engine.examples import Example
    from streamrec.engine.learning.prequential import DriftAlarm


@dataclass(frozen=True, slots=True)
class BatchResult:
    """The result of one chunk of the log."""

    logged_events: Sequence[LoggedEvent]
    slates: Mapping[tuple[int, int], Slate]  # by the partition and offset of what asked for them
    served_slates: Mapping[tuple[int, int], ServedSlate]  # what to keep of each slate, to learn from what comes of it
    trial: Trial
    drifts: Sequence[DriftAlarm]  # that came to light in it
    examples: Mapping[tuple[int, int], Example] = field(default_factory=dict)
    """What the events teach, by their places, where that is learned elsewhere."""
