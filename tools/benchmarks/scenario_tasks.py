"""What is asked in each scenario, at which moments of a real log, and what would have been right.

A moment lies before an event of the log; whoever answers knows the log up to there. Knows nothing of who answers.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from streamrec.events import Event, EventType, Item
from streamrec.replay.catalogue_file import CatalogueItems, read_catalogue
from streamrec.replay.logs import Log, open_log
from streamrec.replay.selection import EVERYTHING, Selection

LEARNED_FIRST = 0.25
"""Of a part: before anything is asked."""
WORDS = 2
"""Of a title, in a query."""
NEWS_S = 7_200.0
"""So young is a new article."""
_WORD = re.compile(r"[^\W\d_]{3,}")


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, put in before the event of that place in the log, and the items that would be right."""

    before: int
    request: Event
    targets: frozenset[str]


Asking = Callable[[Sequence[Event], CatalogueItems, random.Random], Iterator[Asked]]
"""Every moment of a log at which something could be asked."""


@dataclass(frozen=True, slots=True)
class Task:
    """A scenario on a log."""

    scenario: str
    log: str
    """A folder of logs' own name."""
    about: str
    asking: Asking
    choose: tuple[int, int]
    """Rows on which defaults are chosen."""
    report: tuple[int, int]
    """Rows on which nothing is."""
    plain: tuple[str, ...]
    """What it is compared with, under the same rules: retrievers alone, or `text`, the search index alone."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    selection: Selection = EVERYTHING
    skip_unknown_types: bool = False
    listed: Callable[[Item], Item] | None = None
    """What of the log's catalogue is told; None: there is none."""

    @property
    def name(self) -> str:
        return f"{self.scenario}/{self.log}"

    def open(self, data: Path, rows: tuple[int, int]) -> Log:
        """Some rows of the log.

        Raises:
            TableError, LogError: as `open_log`.
        """
        return open_log(
            data / self.log / "events.parquet",
            mapping={"type": "event"},
            skip_unknown_types=self.skip_unknown_types,
            rows=rows,
            selection=self.selection,
        )

    def catalogue(self, data: Path) -> CatalogueItems:
        """What is said of its items."""
        if self.listed is None:
            return CatalogueItems()
        return CatalogueItems(map(self.listed, read_catalogue(data / self.log / "items.parquet").values()))


def moments(
    events: Sequence[Event], catalogue: CatalogueItems, asking: Asking, count: int, draw: random.Random
) -> list[Asked]:
    """At most `count` moments, drawn evenly from all after the first quarter of the log, in its order."""
    begin = int(LEARNED_FIRST * len(events))
    every = [asked for asked in asking(events, catalogue, draw) if asked.before >= begin]
    return sorted(draw.sample(every, min(count, len(every))), key=lambda asked: asked.before)


# When and what is asked


def after_each_item(events: Sequence[Event], catalogue: CatalogueItems, draw: random.Random) -> Iterator[Asked]:
    """Somebody unknown looks at what a session has just touched; right is what that session touches next."""
    latest: dict[str, tuple[int, Event]] = {}
    for at, event in enumerate(events):
        session = event.session_id or event.user_id
        place, before = latest.get(session, (-1, event))
        if place >= 0 and before.item_id != event.item_id:
            yield _asked(place + 1, before.ts, f"visitor-{at}", [event], item_id=before.item_id)
        latest[session] = at, event


def in_each_basket(held: int, field_name: str) -> Asking:
    """With so many items of a basket in hand, by its user before any of it is known; right is the rest of it."""

    def asking(events: Sequence[Event], catalogue: CatalogueItems, draw: random.Random) -> Iterator[Asked]:
        for at, basket in _baskets(events):
            items = list(dict.fromkeys(event.item_id for event in basket))
            if len(items) <= held:
                continue
            hand = draw.sample(items, held)
            rest = [event for event in basket if event.item_id not in hand]
            named = {"basket": tuple(hand)} if field_name == "basket" else {"item_id": hand[0]}
            yield _asked(at, basket[0].ts, basket[0].user_id, rest, **named)

    return asking


def by_title(events: Sequence[Event], catalogue: CatalogueItems, draw: random.Random) -> Iterator[Asked]:
    """Two words of the title of something in a basket, by its user before any of it is known."""
    for at, basket in _baskets(events):
        event = draw.choice(basket)
        words = list(dict.fromkeys(_WORD.findall(catalogue.title(str(event.item_id)).lower())))
        if event.item_id in catalogue and len(words) >= WORDS:
            query = " ".join(draw.sample(words, WORDS))
            yield _asked(at, event.ts, event.user_id, [event], query=query)


def at_each_event(events: Sequence[Event], catalogue: CatalogueItems, draw: random.Random) -> Iterator[Asked]:
    """Somebody unknown asks at the moment of an event; right is its item."""
    for at, event in enumerate(events):
        yield _asked(at, event.ts, f"visitor-{at}", [event])


def at_each_young(events: Sequence[Event], catalogue: CatalogueItems, draw: random.Random) -> Iterator[Asked]:
    """The same where the item came less than NEWS_S ago, by the log, and is known already."""
    first: dict[str | None, int] = {}
    for asked, event in zip(at_each_event(events, catalogue, draw), events, strict=True):
        age_ms = event.ts - first.setdefault(event.item_id, event.ts)
        if 0 < age_ms < NEWS_S * 1000 and asked.before >= 0:
            yield asked


def into_another_category(events: Sequence[Event], catalogue: CatalogueItems, draw: random.Random) -> Iterator[Asked]:
    """By a user at the item liked last, where the next one liked shares no category with it."""
    latest: dict[str, Event] = {}
    for at, event in enumerate(events):
        if event.type is not EventType.RATING or (event.value or 0.0) < 4.0:
            continue
        before = latest.get(event.user_id)
        if before is not None:
            here, there = (catalogue.get(str(one.item_id)) for one in (before, event))
            genres, others = (set(film.categories) if film else set() for film in (here, there))
            if genres and others and not genres & others:
                yield _asked(at, event.ts, event.user_id, [event], item_id=before.item_id)
        latest[event.user_id] = event


def _asked(before: int, ts: int, user_id: str, right: Sequence[Event], **more: Any) -> Asked:
    request = Event(type=EventType.REQUEST, user_id=user_id, ts=ts, **more)
    return Asked(before, request, frozenset(str(event.item_id) for event in right))


def _baskets(events: Sequence[Event]) -> Iterator[tuple[int, Sequence[Event]]]:
    """What one session holds in one row, with the place of its first event."""
    start = 0
    for at in range(1, len(events) + 1):
        if at == len(events) or events[at].session_id != events[start].session_id:
            yield start, events[start:at]
            start = at


# What a catalogue may tell: nothing that only the whole period knows


def title_alone(item: Item) -> Item:
    """Prices are medians of the whole year, and the text is the title once more."""
    return Item(item_id=item.item_id, title=item.title)


def with_genres(item: Item) -> Item:
    """Genres stand in one cell, with spaces between them."""
    genres = tuple(genre for cell in item.categories or () for genre in cell.split())
    return Item(item_id=item.item_id, title=item.title, categories=genres)


RETAIL = {
    "selection": Selection(only_items=r"^\d{5}", anonymous="anon", once_per_session=True),
    "skip_unknown_types": True,
    "listed": title_alone,
    "choose": (0, 50_000),
    "report": (300_000, 350_000),
}
CLICKS: Mapping[str, Any] = {"learning": {"positives": ("click",), "collapse_repeats": True}}
NEWS: Mapping[str, Any] = {"choose": (0, 60_000), "report": (400_000, 460_000)}
POPULAR = ("popularity_minutes", "popularity", "popularity_days")
NEIGHBOURS = ("covisit_recent", "transitions")

TASKS = {
    task.name: task
    for task in (
        Task(
            "similar",
            "yoochoose100k",
            "the product that a stranger's session clicks next, asked with the one just clicked",
            after_each_item,
            (0, 40_000),
            (40_000, 80_000),
            (*POPULAR, *NEIGHBOURS),
            CLICKS,
        ),
        Task(
            "similar",
            "online_retail",
            "the rest of a basket, asked with one item of it",
            in_each_basket(1, "item_id"),
            plain=(*POPULAR, *NEIGHBOURS),
            **RETAIL,  # type: ignore[arg-type]
        ),
        Task(
            "bundle",
            "online_retail",
            "the rest of a basket, asked with two items of it",
            in_each_basket(2, "basket"),
            plain=(*POPULAR, *NEIGHBOURS),
            **RETAIL,  # type: ignore[arg-type]
        ),
        Task(
            "cross_category",
            "ml100k",
            "the next film liked, of no genre of the one liked before",
            into_another_category,
            (0, 40_000),
            (40_000, 80_000),
            (*POPULAR, *NEIGHBOURS),
            {"learning": {"exclude_seen": True}},
            listed=with_genres,
        ),
        Task(
            "new_items",
            "globo",
            "the article clicked, less than two hours old; none older is shown",
            at_each_young,
            plain=POPULAR,
            settings={**CLICKS, "scenarios": {"new_items": {"leave_out": {"older_than_s": NEWS_S}}}},
            **NEWS,
        ),
        Task(
            "trending",
            "globo",
            "the article that a stranger clicks",
            at_each_event,
            plain=POPULAR,
            settings={**CLICKS, "trends": {"rehearse": True}},
            **NEWS,
        ),
        Task(
            "search",
            "online_retail",
            "something bought, asked with two words of its title",
            by_title,
            plain=("text",),
            **RETAIL,  # type: ignore[arg-type]
        ),
    )
}
"""By name, in the order in which they are carried out."""


def numbered(asked: Asked, scenario: str, number: int) -> Event:
    """The request as it is sent: for that scenario, with a name to know its slate by."""
    return msgspec.structs.replace(asked.request, scenario=scenario, event_id=f"{scenario}-{number}", k=10)
