"""The vocabulary: what users do, what is recommended to them, and what came of it.

Frozen types, validated as they are decoded. This module knows nothing of Kafka, Redis, models or clocks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from html import escape
from typing import Annotated

import msgspec
from msgspec import Meta

LATEST_TS_MS = 4_102_444_800_000
"""2100-01-01: a later timestamp is a unit mistake (microseconds sent as milliseconds), never a visit."""

LARGEST_NUMBER = 2**63 - 1
"""No number of an event is further from 0: every store, format and sum downstream can hold it."""

CONTROL_CHARACTERS = "[\\x00-\\x1f\\x7f-\\x9f]"
"""A regular expression. No name holds any: names are printed, logged and typed."""

_NAMED = Meta(extra_json_schema={"not": {"pattern": "[\\u0000-\\u001f\\u007f-\\u009f]"}})
_has_control = re.compile(CONTROL_CHARACTERS).search

Identifier = Annotated[str, Meta(min_length=1, max_length=256), _NAMED]
Number = Annotated[float, Meta(ge=-LARGEST_NUMBER, le=LARGEST_NUMBER)]
Timestamp = Annotated[int, Meta(ge=0, le=LATEST_TS_MS, description="milliseconds since 1970-01-01T00:00Z")]
ContextKey = Annotated[str, Meta(max_length=256)]
ContextValue = (
    Annotated[str, Meta(max_length=1024)] | bool | Annotated[int, Meta(ge=-LARGEST_NUMBER, le=LARGEST_NUMBER)] | Number
)


MAX_BASKET = 32
"""Items of a request's basket at most."""
MAX_CANDIDATES = 100
"""Items that a request brings to be ranked, at most: no more are ever scored for one."""

Label = Annotated[str, Meta(min_length=1, max_length=256), _NAMED]


class EventType(StrEnum):
    """What a user did."""

    VIEW = "view"
    CLICK = "click"
    ADD_TO_CART = "add_to_cart"
    PURCHASE = "purchase"
    RATING = "rating"
    LIKE = "like"
    DISLIKE = "dislike"
    SKIP = "skip"
    IMPRESSION = "impression"
    SEARCH = "search"
    REQUEST = "request"


EVENT_TYPES = tuple(EventType)
"""In declaration order: an event type's place here is its code in every array."""

TYPE_CODES: Mapping[EventType, int] = {kind: code for code, kind in enumerate(EVENT_TYPES)}
ITEMLESS_TYPES = frozenset({EventType.REQUEST, EventType.SEARCH})
"""The types that may come without an item; a request that names one asks for what goes with it (its seed)."""


class Filters(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What a request wants its items to be, by what the catalogue says of them; everything given has to hold.

    An item is in one of `categories`, in none of `without_categories`, has all `tags`, and costs between `price_min`
    and `price_max`; an item without a price does not.
    """

    categories: Annotated[tuple[Label, ...], Meta(max_length=32)] = ()
    without_categories: Annotated[tuple[Label, ...], Meta(max_length=32)] = ()
    tags: Annotated[tuple[Label, ...], Meta(max_length=16)] = ()
    price_min: Number | None = None
    price_max: Number | None = None


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One thing a user did, or a request for a slate.

    Of a request: `item_id` is the item that others are to go with, `basket` several of them, `query` a text to search
    for, `filters` what the items must be. With `candidates`, these alone are ranked.
    """

    type: EventType
    user_id: Identifier
    ts: Timestamp
    item_id: Identifier | None = None
    event_id: Identifier | None = None
    session_id: Identifier | None = None
    value: Number | None = None
    rec_id: Identifier | None = None
    position: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    context: Annotated[dict[ContextKey, ContextValue], Meta(max_length=64)] | None = None
    query: Annotated[str, Meta(max_length=1024)] | None = None
    k: Annotated[int, Meta(ge=1, le=100)] | None = None
    scenario: Annotated[str, Meta(min_length=1, max_length=64), _NAMED] | None = None
    explain: bool | None = False
    basket: Annotated[tuple[Identifier, ...], Meta(max_length=MAX_BASKET)] | None = None
    filters: Filters | None = None
    candidates: Annotated[tuple[Identifier, ...], Meta(min_length=1, max_length=MAX_CANDIDATES)] | None = None

    def __post_init__(self) -> None:
        if self.item_id is None and self.type not in ITEMLESS_TYPES:
            raise ValueError(f"a {self.type.value!r} event needs `item_id`")
        # Spelled out: this runs for every event, and a loop takes three times as long.
        if not (
            self.user_id.isprintable()
            and (self.item_id is None or self.item_id.isprintable())
            and (self.event_id is None or self.event_id.isprintable())
            and (self.session_id is None or self.session_id.isprintable())
            and (self.rec_id is None or self.rec_id.isprintable())
            and (self.scenario is None or self.scenario.isprintable())
            and (not self.basket or all(item_id.isprintable() for item_id in self.basket))
            and (not self.candidates or all(item_id.isprintable() for item_id in self.candidates))
        ):
            self._refuse_control_characters()

    def _refuse_control_characters(self) -> None:
        # Not everything unprintable is one: names in many scripts hold joiners and wide spaces.
        for field in NAMES:
            if _has_control(getattr(self, field) or ""):
                raise ValueError(f"`{field}` is a name with control characters, expected none")
        for field in LISTS_OF_NAMES:
            if any(_has_control(item_id) for item_id in getattr(self, field) or ()):
                raise ValueError(f"`{field}` has a name with control characters, expected none")


NAMES = ("user_id", "item_id", "event_id", "session_id", "rec_id", "scenario")
"""The fields of an event that name something."""
LISTS_OF_NAMES = ("basket", "candidates")


class SlateItem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One place of a slate.

    `propensity` is the probability with which the policy put the item here, given the positions before it.
    `shares` says which model wanted it: each model's part of the score, in log-odds.
    `scores` is what each model says of it: the log of its share of the model's mass over the candidates.
    `rank` is its place in the order of the mean score, from 1: far below its position, chance raised it.
    `team` is the policy that picked it, where two are interleaved.
    """

    item_id: str
    position: int
    score: float
    propensity: float
    shares: dict[str, float]
    scores: dict[str, float] = {}
    rank: int = 0
    team: str | None = None


class Proposal(msgspec.Struct, frozen=True, kw_only=True):
    """An item that a policy would have put at a position, drawn from its own distribution over slates."""

    item_id: str
    score: float
    scores: dict[str, float] = {}


class Alternative(msgspec.Struct, frozen=True, kw_only=True):
    """What another policy would have done with the same request and candidates, position by position.

    `propensities` are its probabilities of the items that were shown, each given the shown items before it.
    `proposals` is the slate it would have drawn itself.
    """

    propensities: tuple[float, ...]
    proposals: tuple[Proposal, ...]


EXPLORED = "explored:"
"""How the rule begins that says that a place was likelier given by exploration than earned."""


class Reason(msgspec.Struct, frozen=True, kw_only=True):
    """Why an item is on a slate: the user's events that weighed most, and the rules applied.

    `because` holds, heaviest first, events of the user and how much the item's score would fall without each.
    """

    because: tuple[tuple[str, float], ...] = ()
    rules: tuple[str, ...] = ()


class RequestRefusal(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a request got no items, as its dead letter says; with the reason `too_many_requests` there is none."""

    reason: str
    detail: str
    field: str | None = None


class TextTable(msgspec.Struct, frozen=True):
    """Rows of text for people: lines in a terminal, a table in a notebook. The first column is the rows' name.

    >>> print(TextTable("two pets", ("", "legs"), (("cat", "4"), ("<budgie>", "2"))))
    two pets
              legs
    cat          4
    <budgie>     2
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __str__(self) -> str:
        lines = (self.columns, *self.rows)
        widths = [max(len(line[at]) for line in lines) for at in range(len(self.columns))]
        padded = (
            "  ".join(cell.ljust(width) if at == 0 else cell.rjust(width) for at, (cell, width) in enumerate(pairs))
            for pairs in (zip(line, widths, strict=True) for line in lines)
        )
        return "\n".join([self.title, *(line.rstrip() for line in padded)])

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{escape(column)}</th>" for column in self.columns)
        body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in self.rows)
        return (
            f"<table><caption>{escape(self.title)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        )


class Slate(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The ordered list published for one request. Prints as a table, in a terminal and in a notebook.

    `estimated_from` is the number of Monte Carlo draws that the propensities are estimated from; 0: they are exact.
    `mode` says how the policy came to be asked (`streamrec.engine.rollout`), `arm` which part of an experiment the user
    is in.
    `alternatives` has what other policies, by name, would have done; `reasons`, one per item, only when asked for.
    `stale` names what the slate had to do without because it was too old.
    `refused` says why there are no items, where the request could not be used: `policy` and `version` are empty then.
    `model_version` is the offset in the topic of examples that the models stood for; None where they learn in place.
    """

    rec_id: str
    user_id: str
    ts: int
    items: tuple[SlateItem, ...]
    policy: str
    version: str
    candidates: int
    scenario: str = "home"
    session_id: str | None = None
    request_id: str | None = None
    estimated_from: int = 0
    mode: str = "online"
    arm: str | None = None
    alternatives: dict[str, Alternative] = {}
    reasons: tuple[Reason, ...] = ()
    stale: tuple[str, ...] = ()
    refused: RequestRefusal | None = None
    model_version: int | None = None

    def table(self, titles: Mapping[str, str] | None = None) -> TextTable:
        """One row per place; with the items' `titles` by id, where they are known."""
        named = {} if titles is None else {"title": [titles.get(item.item_id, "") for item in self.items]}
        columns = {
            "item": [item.item_id for item in self.items],
            **named,
            "score": [f"{item.score:.3f}" for item in self.items],
            "propensity": [f"{item.propensity:.3g}" for item in self.items],
        }
        rows = zip((str(item.position) for item in self.items), *columns.values(), strict=True)
        came = f"{len(self.items)} of {self.candidates} candidates by {self.policy}"
        if self.refused is not None:
            came = f"refused: {self.refused.detail}"
        return TextTable(f"{self.scenario} for {self.user_id}: {came}", ("", *columns), tuple(rows))

    def __str__(self) -> str:
        return str(self.table())

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()


class Evidence(StrEnum):
    """How it is known that an item of a slate was seen."""

    IMPRESSION = "impression"
    RESPONSE = "response"
    ASSUMED = "assumed"


class Counterfactual(msgspec.Struct, frozen=True, kw_only=True):
    """What another policy would have done at the position of an outcome.

    `propensity` is its probability of the item that was shown, given the shown items before it; `proposal` what it
    would have put here itself.
    """

    propensity: float
    proposal: Proposal | None = None


class Outcome(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What came of one item that was shown and seen; there is one, and one alone, for each.

    `reward` is in [-1, 1]: what came of it within the attribution window, 0 for nothing. `type` is the event that is
    worth most, None for nothing; `ts` is that event's time, for nothing the slate's. Times are in ms.
    `seen` says how it is known that the user saw the item.
    """

    outcome_id: str
    rec_id: str
    user_id: str
    item_id: str
    position: int
    propensity: float
    reward: float
    ts: int
    type: EventType | None = None
    shown_ts: int = 0
    seen: Evidence = Evidence.ASSUMED
    policy: str = ""
    version: str = ""
    scenario: str = "home"
    mode: str = "online"
    arm: str | None = None
    team: str | None = None
    estimated_from: int = 0
    candidates: int = 0
    score: float = 0.0
    scores: dict[str, float] = {}
    alternatives: dict[str, Counterfactual] = {}


class WindowTrend(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How often an item was wanted within the last `window_s` seconds of log time, and within as many before these.

    `rate` is per hour; `acceleration` in doublings, shrunk towards 0 where there are few events
    (equations: `engine/trending/windows.py`). `rank` is the item's place by acceleration among those that gain.
    """

    window_s: int
    count: int
    before: int
    rate: float
    acceleration: float
    rank: int | None = None


class Trend(msgspec.Struct, frozen=True, kw_only=True):
    """What one input partition says of an item as of `ts`, the partition's own log time in ms.

    All figures are of the users of that partition alone; readers add `count` and `before` up over partitions.
    """

    item_id: str
    partition: int
    ts: int
    windows: tuple[WindowTrend, ...]


MAX_VECTOR = 1_024
"""Numbers of an item's vector at most."""
LEAST_BOOST, MOST_BOOST = 0.1, 10.0
LEAST_AMOUNT, MOST_AMOUNT = 1e-6, 1e9
"""Of money, in the site's own currency: amounts are counted in millionths, and no sum of a day outgrows 64 bits."""

Component = Annotated[float, Meta(ge=-1e6, le=1e6)]
Amount = Annotated[float, Meta(ge=LEAST_AMOUNT, le=MOST_AMOUNT)]


class Item(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What the catalogue says of an item. Times are in ms, and are held to the log's own clock.

    `added` is when the item came in: before that it is unknown. It may be shown from `available_from` on and
    before `available_until`. The logarithm of `boost` is added to its score. `vector` is an embedding of its text, its
    picture or both; all items' are equally long.

    An item with a bid is an ad: `bid` is what a click on it is worth to the advertiser, `budget` what may be spent on
    it in one day of the log (UTC).
    """

    item_id: Identifier
    title: Annotated[str, Meta(max_length=1024), _NAMED] | None = None
    text: Annotated[str, Meta(max_length=16_384)] | None = None
    categories: Annotated[tuple[Label, ...], Meta(max_length=32)] = ()
    price: Number | None = None
    tags: Annotated[tuple[Label, ...], Meta(max_length=64)] = ()
    vector: Annotated[tuple[Component, ...], Meta(min_length=1, max_length=MAX_VECTOR)] | None = None
    added: Timestamp | None = None
    available_from: Timestamp | None = None
    available_until: Timestamp | None = None
    boost: Annotated[float, Meta(ge=LEAST_BOOST, le=MOST_BOOST)] = 1.0
    bid: Amount | None = None
    budget: Amount | None = None

    def __post_init__(self) -> None:
        named = {
            "item_id": (self.item_id,),
            "title": (self.title or "",),
            "categories": self.categories,
            "tags": self.tags,
        }
        for field, names in named.items():
            if any(not name.isprintable() and _has_control(name) for name in names):
                raise ValueError(f"`{field}` is a name with control characters, expected none")
        if (self.available_from or 0) >= (LATEST_TS_MS + 1 if self.available_until is None else self.available_until):
            raise ValueError("`available_until` is not after `available_from`, expected a later time")
        if self.bid is None and self.budget is not None:
            raise ValueError("`bid` is missing, expected one beside `budget`")
        if self.bid is not None and self.budget is None:
            raise ValueError("`budget` is missing, expected one beside `bid`")
        if self.bid is not None and self.budget is not None and self.budget < self.bid:
            raise ValueError("`budget` is less than `bid`, expected enough for one click a day")
