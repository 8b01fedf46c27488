"""The sample log as baskets: what one customer bought at one time, each worth one request for a slate.

Knows nothing of where they are sent.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from streamrec.events import Event, EventType
from streamrec.replay.logs import open_log


@dataclass(frozen=True, slots=True)
class Basket:
    """Purchases of one user, session and time, in the log's order."""

    number: int
    purchases: tuple[Event, ...]

    @property
    def user_id(self) -> str:
        return self.purchases[0].user_id

    @property
    def ts(self) -> int:
        """Milliseconds since 1970."""
        return self.purchases[0].ts

    @property
    def items(self) -> frozenset[str]:
        """What was bought."""
        return frozenset(event.item_id for event in self.purchases if event.item_id is not None)

    @property
    def request(self) -> Event:
        """Asks for a slate just before the basket; named, so that the answer can be told apart."""
        first = self.purchases[0]
        return Event(
            type=EventType.REQUEST,
            user_id=first.user_id,
            ts=first.ts,
            session_id=first.session_id,
            event_id=f"request-{self.number}",
        )


def read_baskets(log: Path, rows: int | None) -> list[Basket]:
    """The baskets of the first `rows` rows of a log, of all rows without.

    Raises:
        TableError, LogError: the log cannot be read.
    """
    return list(_grouped(event for _, event in open_log(log, rows=(0, rows)).events()))


def _grouped(events: Iterator[Event]) -> Iterator[Basket]:
    visits = groupby(events, key=lambda event: (event.user_id, event.ts, event.session_id))
    for number, (_, purchases) in enumerate(visits):
        yield Basket(number, tuple(purchases))
