"""The routes: what each takes, does and answers. What it may be asked by whom stands beside it (`role`).

A handler reads its body itself, so that what is too large or comes from nobody is refused unread; what it takes is
written into the OpenAPI document by `openapi.py`.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol
from urllib.parse import unquote

import msgspec
from litestar import MediaType, Request, Response, delete, get, post, put
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from streamrec.codec import JSON_HEADERS, MSGPACK, MSGPACK_HEADERS, encode
from streamrec.config.settings import Settings
from streamrec.errors import BadEvent
from streamrec.events import Event, EventType, Item
from streamrec.gateway.access import Access, Rejected, Role
from streamrec.gateway.asking import Answer, Asking
from streamrec.gateway.bodies import BodyReader
from streamrec.gateway.intake import Fields, Intake, parts
from streamrec.gateway.messages import Accepted, PostedFeedback, RankRequest, RecommendationRequest, Refused, Terms
from streamrec.gateway.metrics import GatewayMetrics
from streamrec.gateway.publishing import ConfirmedPublisher, Outgoing
from streamrec.gateway.reading import TopicFeed
from streamrec.gateway.slates import KeptSlate
from streamrec.gateway.watching import WindowView

Call = Request[Any, Any, Any]
Known = dict[str, Any]
REQUEST_ID = "x-request-id"
DEADLINE = "x-deadline-ms"
_A_BREATH = 256
"""After so many parts of a batch, others get their turn."""
_TERMS = frozenset(Terms.__struct_fields__)
_RANK_FIELDS = frozenset(RankRequest.__struct_fields__)
_REQUEST_FIELDS = frozenset(RecommendationRequest.__struct_fields__)
_FEEDBACK_FIELDS = frozenset(PostedFeedback.__struct_fields__)


class Lookups(Protocol):
    """What is stored of users and items; from any thread."""

    def user(self, user_id: str) -> Known | None:
        """A user as `streamrec user --json` prints one, None for a user never seen."""

    def item(self, item_id: str) -> Known | None:
        """An item as `streamrec item --json` prints one, None for an item never seen."""

    def close(self) -> None:
        """Let go of connections."""


@dataclass(frozen=True, slots=True)
class Door:
    """What the routes work with."""

    settings: Settings
    access: Access
    bodies: BodyReader
    intake: Intake
    publisher: ConfirmedPublisher
    asking: Asking
    reader: TopicFeed[KeptSlate]
    lookups: Lookups
    threads: ThreadPoolExecutor
    log: Callable[[], str | None]
    """What is amiss with the log, None where nothing is; blocks for a second at most."""
    metrics: GatewayMetrics
    watch: WindowView
    """What the window shows."""


def door_of(call: Call) -> Door:
    """What the application was made with."""
    door: Door = call.app.state.door
    return door


# Events and feedback


@post("/v1/events", status_code=202, opt={"role": Role.WRITE}, operation_id="post_events")
async def post_events(request: Call) -> Response[Accepted]:
    """Store events in the log: one, or a list of at most 10,000.

    202 when all are stored; 207 when some were refused, with the reason for each; 400 when all were. `ts` is now where
    it is left out. Under an `X-Request-Id`, events without an `event_id` get one, so that a repeat changes nothing.
    """
    door = door_of(request)
    request_id = _request_id(request)

    def event(raw: msgspec.Raw, number: int) -> Outgoing:
        named = {} if request_id is None else {"event_id": f"{request_id}-{number}" if number else request_id}
        return _record(door, door.intake.event(raw, named))

    return await _batch(door, request, event)


@post("/v1/feedback", status_code=202, opt={"role": Role.WRITE}, operation_id="post_feedback")
async def post_feedback(request: Call) -> Response[Accepted]:
    """Store what a user did with an item of a slate, or a list of that; as `post_events`."""
    door = door_of(request)
    request_id = _request_id(request)

    def event(raw: msgspec.Raw, number: int) -> Outgoing:
        fields: Known = {**door.intake.fields(raw, _FEEDBACK_FIELDS)}
        if "rec_id" not in fields:
            raise BadEvent("invalid", "field 'rec_id' is missing, expected the slate's", "rec_id")
        if "user_id" not in fields:
            fields["user_id"] = _user_of(door, fields["rec_id"])
        if request_id is not None:
            fields.setdefault("event_id", f"{request_id}-{number}" if number else request_id)
        return _record(door, door.intake.event(msgspec.json.encode(fields), {}))

    return await _batch(door, request, event)


def _user_of(door: Door, rec_id: msgspec.Raw) -> str:
    named = msgspec.json.decode(rec_id)
    slate = door.asking.slates.by_id(named) if isinstance(named, str) else None
    if slate is None:
        raise BadEvent("invalid", "field 'user_id' is missing, and the slate is not among the recent ones", "user_id")
    return slate.user_id


def _record(door: Door, event: Event) -> Outgoing:
    return Outgoing(door.settings.topics.events, event.user_id.encode(), encode(event, MSGPACK), MSGPACK_HEADERS)


async def _batch(door: Door, request: Call, take: Callable[[msgspec.Raw, int], Outgoing]) -> Response[Accepted]:
    """Publish what `take` makes of each part of the body."""
    records, refused = [], []
    async with door.bodies.read(request) as body:
        for number, raw in enumerate(parts(body)):
            try:
                records.append(take(raw, number))
            except BadEvent as error:
                refused.append(Refused(index=number, reason=error.reason, detail=error.detail, field=error.field))
            if number % _A_BREATH == _A_BREATH - 1:
                await asyncio.sleep(0)
        if records:
            await door.publisher.publish(records)
    return Response(Accepted(accepted=len(records), refused=refused), status_code=_status(records, refused))


def _status(records: list[Outgoing], refused: list[Refused]) -> int:
    if not refused:
        return 202
    return 207 if records else 400


# Slates


@post("/v1/recommendations", status_code=200, opt={"role": Role.ASK}, operation_id="recommend")
async def recommend(request: Call) -> Response[bytes]:
    """Ask for a slate, and wait for it until the deadline: `deadline_ms`, `X-Deadline-Ms`, or `gateway.deadline_ms`.

    Where it does not come in time, the answer is the user's latest slate or what is popular, and `degraded` says why.
    A `request_id` (or `X-Request-Id`) that is sent again is answered by the same slate.
    """
    door = door_of(request)
    async with door.bodies.read(request) as body:
        fields = door.intake.fields(body, _REQUEST_FIELDS)
    event, deadline_s = _request_of(door, request, fields)
    return _answered(await door.asking.ask(event, deadline_s))


@post("/v1/rank", status_code=200, opt={"role": Role.ASK}, operation_id="rank")
async def rank(request: Call) -> Response[bytes]:
    """Order `candidates`, at most 100 items, for a user: as `recommend`, with a score for each."""
    door = door_of(request)
    async with door.bodies.read(request) as body:
        fields = door.intake.fields(body, _RANK_FIELDS)
    event, deadline_s = _request_of(door, request, fields)
    candidates = event.candidates
    if candidates is None:
        raise BadEvent("invalid", "field 'candidates' is missing, expected 1 to 100 items", "candidates")
    if event.k is None:
        event = msgspec.structs.replace(event, k=len(candidates))
    return _answered(await door.asking.ask(event, deadline_s), candidates)


def _request_of(door: Door, request: Call, fields: Fields) -> tuple[Event, float]:
    """The event that asks, and in how many seconds the answer has to be there."""
    given = msgspec.json.encode({name: fields[name] for name in _TERMS & fields.keys()})
    try:
        own = msgspec.json.decode(given, type=Terms)
        header = request.headers.get(DEADLINE)
        deadline_ms = own.deadline_ms
        if deadline_ms is None and header is not None:
            deadline_ms = msgspec.convert({"deadline_ms": header}, Terms, strict=False).deadline_ms
    except msgspec.ValidationError as error:
        raise BadEvent("invalid", str(error)) from None
    request_id = own.request_id or _request_id(request) or uuid.uuid4().hex
    of_event = {name: value for name, value in fields.items() if name not in _TERMS}
    asked = {**of_event, "type": EventType.REQUEST, "event_id": request_id}
    event = door.intake.event(msgspec.json.encode(asked), {})
    return event, (deadline_ms or door.settings.gateway.deadline_ms) / 1000


def _answered(answer: Answer, candidates: Sequence[str] = ()) -> Response[bytes]:
    why = answer.slate.refused
    if why is not None:
        raise Rejected(429 if why.reason == "too_many_requests" else 400, why.reason, why.detail)
    return Response(answer.json(candidates), media_type=MediaType.JSON, status_code=200)


@get("/v1/slates/{rec_id:str}", opt={"role": Role.ASK}, operation_id="get_slate")
async def get_slate(request: Call, rec_id: str) -> Response[bytes]:
    """A slate of late, with its reasons where it was asked with `explain`."""
    slate = door_of(request).asking.slates.by_id(_named(rec_id))
    if slate is None:
        raise Rejected(404, "unknown", "there is no such slate among the recent ones")
    return Response(slate.json, media_type=MediaType.JSON)


# What is stored


@get("/v1/users/{user_id:str}", opt={"role": Role.ADMIN}, operation_id="get_user")
async def get_user(request: Call, user_id: str) -> Response[Known]:
    """What is known of a user, as `streamrec user --json` has it but for titles."""
    return await _looked_up(request, "user", user_id)


@get("/v1/items/{item_id:str}", opt={"role": Role.ASK}, operation_id="get_item")
async def get_item(request: Call, item_id: str) -> Response[Known]:
    """What is known of an item, as `streamrec item --json` has it."""
    return await _looked_up(request, "item", item_id)


async def _looked_up(request: Call, kind: str, name: str) -> Response[Known]:
    door = door_of(request)
    find = door.lookups.user if kind == "user" else door.lookups.item
    known = await asyncio.get_running_loop().run_in_executor(door.threads, partial(find, _named(name)))
    if known is None:
        raise Rejected(404, "unknown", f"no worker has saved anything of this {kind} yet")
    return Response(known)


# The catalogue


@post("/v1/items", status_code=202, opt={"role": Role.ADMIN}, operation_id="post_items")
async def post_items(request: Call) -> Response[Accepted]:
    """Add or replace items of the catalogue: one, or a list of at most 10,000; answers as `post_events`."""
    door = door_of(request)
    return await _batch(door, request, lambda raw, number: _item_record(door, door.intake.item(raw)))


@put("/v1/items/{item_id:str}", status_code=202, opt={"role": Role.ADMIN}, operation_id="put_item")
async def put_item(request: Call, item_id: str) -> Response[Accepted]:
    """Add or replace an item of the catalogue."""
    door = door_of(request)
    async with door.bodies.read(request) as body:
        item = door.intake.item(body, _named(item_id))
    await door.publisher.publish([_item_record(door, item)])
    return Response(Accepted(accepted=1), status_code=202)


@delete("/v1/items/{item_id:str}", status_code=202, opt={"role": Role.ADMIN}, operation_id="delete_item")
async def delete_item(request: Call, item_id: str) -> Response[Accepted]:
    """Withdraw an item from the catalogue."""
    door = door_of(request)
    await door.publisher.publish([Outgoing(door.settings.topics.items, _named(item_id).encode(), None)])
    return Response(Accepted(accepted=1), status_code=202)


def _item_record(door: Door, item: Item) -> Outgoing:
    return Outgoing(door.settings.topics.items, item.item_id.encode(), encode(item), JSON_HEADERS)


# For whoever keeps it running


@get("/livez", opt={"role": None}, operation_id="livez", media_type=MediaType.TEXT)
async def livez(request: Call) -> Response[str]:
    """200 while slates are read and events published, else 503: then it should be started anew."""
    door = door_of(request)
    failures = [door.reader.failure, None if door.publisher.alive else "the thread that publishes has ended"]
    return _lines([failure for failure in failures if failure], "alive")


@get("/readyz", opt={"role": None}, operation_id="readyz", media_type=MediaType.TEXT)
async def readyz(request: Call) -> Response[str]:
    """200 when nothing that is needed is missing, else 503 and a line for each thing that is."""
    door = door_of(request)
    away = await asyncio.get_running_loop().run_in_executor(door.threads, door.log)
    unread = None if door.reader.whole else "the recent slates are not read yet"
    return _lines([f"log: {why}" for why in (away, unread) if why], "ready")


@get("/metrics", opt={"role": Role.ADMIN}, operation_id="metrics", media_type=MediaType.TEXT)
async def metrics(request: Call) -> Response[bytes]:
    """Counters and latencies, for Prometheus."""
    return Response(generate_latest(door_of(request).metrics.registry), media_type=CONTENT_TYPE_LATEST)


ROUTES = (
    post_events,
    post_feedback,
    recommend,
    rank,
    get_slate,
    get_user,
    get_item,
    post_items,
    put_item,
    delete_item,
    livez,
    readyz,
    metrics,
)


def _lines(wrong: list[str], well: str) -> Response[str]:
    return Response(
        "".join(f"{line}\n" for line in wrong or [well]), status_code=503 if wrong else 200, media_type=MediaType.TEXT
    )


def _request_id(request: Call) -> str | None:
    given = request.headers.get(REQUEST_ID)
    if given is not None and not (0 < len(given) <= 200 and given.isprintable()):
        raise BadEvent("invalid", f"{REQUEST_ID} has {len(given)} characters, expected 1 to 200 printable ones")
    return given


def _named(quoted: str) -> str:
    """A name as it stands in a path, where everything but letters and digits may be percent-encoded."""
    try:
        name = unquote(quoted, errors="strict")
    except UnicodeDecodeError:
        raise BadEvent("invalid", "the name in the path is not UTF-8") from None
    if not 0 < len(name) <= 256 or any(ord(c) < 32 or 127 <= ord(c) < 160 for c in name):
        raise BadEvent("invalid", "the name in the path is empty, too long or has control characters")
    return name
