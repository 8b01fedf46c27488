"""Compiles ahead what the first events and the first request of each kind would have to wait for, some seconds each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import product
from typing import TYPE_CHECKING, Protocol

from streamrec.config.groups import HASHED, Limits
from streamrec.events import Event, EventType, Filters, Item, Slate
from streamrec.replay.catalogue_file import CatalogueItems

if TYPE_CHECKING:
    from streamrec.config.settings import Settings

USERS, ITEMS = 3, 25  # so that each user comes by every item
KINDS = ("even", "odd")
BEGAN_MS, APART_MS = 1_700_000_000_000, 1_000


class Trainee(Protocol):
    """What learns and recommends: see `Recommender`."""

    def learn(self, events: Iterable[Event], /) -> int:
        """Learn what users did."""

    def recommend(
        self,
        user_id: str,
        *,
        scenario: str,
        item_id: str | None,
        basket: Sequence[str] | None,
        query: str | None,
        filters: Filters | None,
    ) -> Slate:
        """The slate for a user now."""


def compile_ahead(settings: Settings, recommender: Callable[[Settings, CatalogueItems], Trainee]) -> None:
    """Let a small recommender of this configuration, which is thrown away, learn and answer every scenario.

    Where compiled code is in its cache already, it is loaded: seconds, where compiling takes a minute.
    """
    micro_batch = min(settings.learning.micro_batch, 2 * ITEMS)
    small = settings.model_copy(
        update={
            "learning": settings.learning.model_copy(update={"micro_batch": micro_batch, "encoder": HASHED}),
            "limits": Limits(max_items=4 * micro_batch, max_users=64),
        }
    )
    listed = [_listed(n) for n in range(ITEMS)]
    names = [item.item_id for item in listed]
    shop = recommender(small, CatalogueItems(listed))
    visits = [
        Event(type=EventType.PURCHASE, user_id=f"user{n % USERS}", item_id=name, ts=BEGAN_MS + n * APART_MS)
        for n, name in enumerate(4 * names)
    ]
    shop.learn(visits[: 3 * ITEMS])
    wanted = Filters(categories=KINDS, tags=("all",), price_min=0.0)
    for scenario, user, filters in product(settings.scenarios, ("user0", "stranger"), (None, wanted)):
        shop.recommend(user, scenario=scenario, item_id=names[0], basket=names[:3:2], query="all", filters=filters)
    shop.learn(visits[3 * ITEMS :])  # what came of these slates, too


def _listed(n: int) -> Item:
    title, kind = f"all {n}", KINDS[n % len(KINDS)]
    return Item(item_id=f"item{n}", title=title, categories=(kind,), tags=("all",), price=1.0, bid=1.0, budget=9.0)
