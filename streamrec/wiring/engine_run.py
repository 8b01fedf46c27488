"""Runs an engine without a worker: events in, batch results out. For tests, tools and questions about the past.

Nothing is stored, deduplicated or published: whoever wants that runs a worker (`build_worker`), or a `Recommender`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streamrec.engine.arrays.logged_event import LoggedEvent
    from streamrec.engine.batch_result import BatchResult
    from streamrec.engine.pipeline import Pipeline
    from streamrec.events import Event, Slate

POLL = 512


def run_engine(
    pipeline: Pipeline, events: Iterable[Event | LoggedEvent], *, first: int = 0, poll: int = POLL
) -> Iterator[BatchResult]:
    """Handle events in order, so many at a time, as they are drawn; users who are not in memory begin anew.

    A batch result is to be looked at before the next is drawn: then its examples are learned.

    Args:
        pipeline: what handles them.
        events: one that has no place in a log yet gets one in partition 0, counted from `first`.
        first: see events.
        poll: how many are handed over at once; changes nothing in what comes of them.
    """
    logged_events = iter(logged(events, first))
    while polled := list(islice(logged_events, poll)):
        bring_in(pipeline, polled)
        yield from pipeline.process(polled)


def answers(pipeline: Pipeline, events: Iterable[Event | LoggedEvent], *, first: int = 0) -> list[Slate]:
    """The slates that come of events, in order."""
    return [slate for result in run_engine(pipeline, events, first=first) for slate in result.slates.values()]


def logged(events: Iterable[Event | LoggedEvent], first: int = 0) -> Iterator[LoggedEvent]:
    """Events with their places in a log, partition 0 from `first` on where they have none."""
    from streamrec.engine.arrays.logged_event import LoggedEvent  # many commands import this room and run no engine

    for at, event in enumerate(events):
        yield event if isinstance(event, LoggedEvent) else LoggedEvent(event, 0, first + at)


def bring_in(
    pipeline: Pipeline,
    logged_events: Sequence[LoggedEvent],
    stored: Mapping[tuple[int, str], bytes | None] | None = None,
) -> None:
    """Bring the users of some events into memory: as they were `stored` by partition and id, else untouched."""
    users = pipeline.features.users
    lacking = users.missing((logged.partition, logged.event.user_id) for logged in logged_events)
    users.admit(lacking, [(stored or {}).get(user) for user in lacking], logged_events[0].event.ts)
