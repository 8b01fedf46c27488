"""The window: what happens, what is learned and what is known, as a page in a browser.

Everything is in the HTML that is sent first; after that, parts of it come anew over server-sent events. Looks and
words are in `templates/` and `static/`; all text of others is escaped there. Whoever may see it has a key for `admin`,
which a browser asks for as a password.
"""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from functools import partial
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from jinja2 import Environment, PackageLoader, StrictUndefined
from litestar import MediaType, Response, get, post
from litestar.response import ServerSentEvent, ServerSentEventMessage
from markupsafe import Markup, escape

from streamrec.codec import brief, harmless
from streamrec.engine.slates.wording import TEMPERED, placed, wanted
from streamrec.errors import BadEvent, StateError, TransportUnavailable
from streamrec.events import EXPLORED, EventType, Item, Reason, Slate
from streamrec.gateway.access import Rejected, Role
from streamrec.gateway.asking import Answer
from streamrec.gateway.handlers import Call, Door, door_of
from streamrec.gateway.watching import Shown
from streamrec.state.user_profile import words
from streamrec.worker.dead_letter_text import excerpt
from streamrec.worker.dead_letters import DeadLetter

STREAM_S = 25.0
"""So long a stream of figures lasts, within the bounds of any request; the browser then asks anew."""
ROUND_S = 10.0
MOST_VIEWERS = 50
TRY_S = 5.0
FOUND, HISTORY, LETTERS, ITEMS = 8, 12, 10, 6
NOTHING: Shown = dict.fromkeys(
    ("problem", "user", "item", "id", "title", "known", "entry", "lines", "recent", "remembered", "slate", "degraded")
)
"""What there may be to say of what was looked up."""
_MOMENT = re.compile(r"(\d{4}-\d\d-\d\d) (\d\d:\d\d)Z")
STATIC = {
    "htmx.min.js": "text/javascript",
    "uPlot.iife.min.js": "text/javascript",
    "uPlot.min.css": "text/css",
    "window.css": "text/css",
    "window.js": "text/javascript",
}
"""Beside our own: htmx 2.0.11 and uPlot 1.6.32, as npm has them, with their licences."""
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Vary": "HX-Request",
}
OPTIONS: dict[str, Any] = {"role": Role.ADMIN, "browser": True}


# What is shown


def _sections(door: Door) -> Shown:
    """What the live parts of the page show."""
    watch, now_ms = door.watch, int(time.time() * 1000)
    letters, business = watch.letters, watch.business
    newest = list(letters.newest)[-LETTERS:][::-1]
    whole = [letter for letter in letters.newest if not letter.cut_bytes]
    items = sorted(business.items.items(), key=lambda pair: (-pair[1]["wanted"], -pair[1]["seen"]))[:ITEMS]
    return {
        "now": watch.now(),
        "learning": watch.learning(),
        "business": {
            "total": sum(business.rows.values(), Counter({"seen": 0, "wanted": 0, "bought": 0})),
            "rows": sorted(business.rows.items(), key=lambda pair: -pair[1]["seen"])[:20],
            "items": items,
            "since_ms": business.since_ms,
        },
        "dead": {
            "total": letters.total,
            "kinds": [(kind, count, letters.newest_of[kind]) for kind, count in letters.kinds.most_common(20)],
            "newest": newest,
            "looked": len(whole),
            "accepted": sum(letters.refused_now(letter, now_ms) is None for letter in whole),
        },
        "deadline_ms": door.settings.gateway.deadline_ms,
        "letter": None,
    }


async def _answer(door: Door, kind: str, name: str) -> Shown | None:
    """What is known of a user, an item or a slate."""
    if not name:
        return None
    if kind == "slate":
        kept = door.asking.slates.by_id(name)
        problem = f"{name} is not among the recent slates; in a terminal: streamrec explain {name}"
        return _shown(door, Answer(kept)) if kept is not None else {"problem": problem}
    try:
        find = door.lookups.user if kind == "user" else door.lookups.item
        known = await asyncio.get_running_loop().run_in_executor(door.threads, partial(find, name))
    except StateError as error:
        return {"problem": f"Nothing can be looked up: {error}"}
    if kind == "user":
        return _user(door, name, known)
    entry = door.watch.catalogue.item(name)
    if known is None and entry is None:
        problem = f"No item {name} is in the catalogue, and no worker has saved anything of it."
        return {"problem": f"{problem} A word of its title may find it."}
    return {"item": True, "id": name, "title": entry and entry.title, "known": known, "entry": _fields(entry)}


def _user(door: Door, user_id: str, known: Shown | None) -> Shown:
    if known is None:
        wait_s = door.settings.checkpoints.interval_s
        return {"problem": f"No worker has saved anything of user {user_id}. An event takes about {wait_s:g} s."}
    lines = list(words({**known, "recent": [], "slate": None}, None, str))
    lines[0] = lines[0].removeprefix(f"{user_id}: ")
    if (answered := known["answered_by"]) is not None:
        lines.append(f"is answered by {answered['policy']} ({answered['mode']})")
    slate: Shown = {}
    if known["slate"] is not None:
        published = msgspec.convert(known["slate"], Slate)
        kept = door.asking.slates.by_id(published.rec_id)
        slate = _slate(door, published if kept is None else msgspec.json.decode(kept.json, type=Slate))
    recent = known["recent"]
    profile = {"user": True, "id": user_id, "lines": lines, "recent": recent[:HISTORY], "remembered": len(recent)}
    return {**slate, **profile}


def _shown(door: Door, answer: Answer) -> Shown:
    """A slate, as it was answered."""
    if (refused := answer.slate.refused) is not None:
        return {"problem": f"The request was refused: {refused.detail}"}
    slate = _slate(door, msgspec.json.decode(answer.slate.json, type=Slate))
    return {**slate, "degraded": answer.degraded and answer.degraded.replace("_", " ")}


def _slate(door: Door, slate: Slate) -> Shown:
    reasons = slate.reasons or (Reason(),) * len(slate.items)
    rules = dict.fromkeys(rule for reason in reasons for rule in reason.rules)
    shared = [rule for rule in rules if all(rule in reason.rules for reason in reasons)]
    temperature = door.settings.fusion.temperature
    most = max((abs(share) for item in slate.items for share in item.shares.values()), default=1.0) or 1.0
    places = []
    for item, reason in zip(slate.items, reasons, strict=True):
        own = [rule for rule in reason.rules if rule not in shared]
        drawn = temperature if (item.team or slate.policy) in TEMPERED else None
        explored = any(rule.startswith(EXPLORED) for rule in own)
        places.append(
            {
                "position": item.position,
                "item_id": item.item_id,
                "wanted": wanted(item),
                "bar": max(item.shares.values(), default=0.0) / most,
                "placed": placed(item, slate.policy, drawn, explored=explored)
                if slate.rec_id
                else "seen on many slates",
                "because": reason.because,
                "rules": own,
            }
        )
    explained = bool(slate.reasons) or not slate.rec_id
    return {"slate": slate, "places": places, "rules": shared, "explained": explained}


def _fields(item: Item | None) -> list[tuple[str, str]]:
    plain = {} if item is None else msgspec.to_builtins(item)
    plain.pop("vector", None)
    return [
        (name, ", ".join(map(str, said)) if isinstance(said, list | tuple) else str(said))
        for name, said in plain.items()
        if name != "item_id"
    ]


def _dead_letter(door: Door, address: str) -> Shown | None:
    """One dead letter, and what a worker would say of it now."""
    if not address:
        return None
    letter = door.watch.letters.at(address)
    if letter is None:
        return {"address": address, "gone": True}
    fits, now = _judged(door, letter)
    return {
        "address": letter.address,
        "gone": False,
        "detail": f"{letter.reason}: {letter.detail}",
        "now": now,
        "fits": fits,
        "key": "none" if letter.key is None else letter.key.decode("utf-8", "backslashreplace"),
        "bytes": letter.cut_bytes or len(letter.value or b""),
        "value": excerpt(letter.value, letter.headers),
    }


def _judged(door: Door, letter: DeadLetter) -> tuple[bool, str]:
    if letter.cut_bytes:
        return False, "unknown here, only its beginning is kept"
    refusal = door.watch.letters.refused_now(letter, int(time.time() * 1000))
    return refusal is None, "accepted" if refusal is None else f"refused: {refusal.detail}"


# Routes


@get("/", opt=OPTIONS, include_in_schema=False)
async def window(request: Call) -> Response[str]:
    """The page; for a part of the page that asks (htmx), the answer to `q` alone."""
    door = door_of(request)
    asked = request.query_params
    kind, name = asked.get("kind", "user")[:10], asked.get("q", "").strip()[:256]
    answer = await _answer(door, kind, name)
    if "hx-request" in request.headers:
        return _html(door, "answer.html", answer=answer)
    letter = _dead_letter(door, asked.get("letter", "")[:40])
    return _page(door, answer=answer, q=name, kind=kind, letter=letter)


@post("/window/try", status_code=200, opt=OPTIONS, include_in_schema=False)
async def try_request(request: Call) -> Response[str]:
    """Ask for a slate with reasons, as any caller would, and show it."""
    door = door_of(request)
    async with door.bodies.read(request) as body:
        given = dict(parse_qsl(body.decode("utf-8", "replace"), max_num_fields=20))
    fields: Shown = {name: given[name] for name in ("user_id", "scenario", "item_id", "query") if given.get(name)}
    if given.get("k", "").isdecimal():
        fields["k"] = int(given["k"][:4])
    try:
        asked = {**fields, "type": EventType.REQUEST, "event_id": uuid.uuid4().hex, "explain": True}
        answer = _shown(door, await door.asking.ask(door.intake.event(msgspec.json.encode(asked), {}), TRY_S))
    except (BadEvent, TransportUnavailable) as error:
        answer = {"problem": str(error.detail if isinstance(error, BadEvent) else error)}
    if "hx-request" in request.headers:
        return _html(door, "answer.html", answer=answer)
    return _page(door, answer=answer, tried=fields)


@get("/window/find", opt=OPTIONS, include_in_schema=False)
async def find(request: Call) -> Response[str]:
    """Items by words of their titles, and users of late by how their id begins."""
    door = door_of(request)
    catalogue, asked = door.watch.catalogue, request.query_params.get("q", "").strip()[:256]
    found: list[tuple[str, str, str | None]] = []
    if asked:
        users = dict.fromkeys(user for user in door.asking.slates.users() if user.startswith(asked))
        found += [("user", user_id, None) for user_id in list(users)[:FOUND]]
        found += [("item", item_id, catalogue.title(item_id)) for item_id in catalogue.find(asked, FOUND)]
    return _html(door, "found.html", found=found, q=asked)


@get("/window/letter", opt=OPTIONS, include_in_schema=False)
async def show_dead_letter(request: Call) -> Response[str]:
    """One dead letter."""
    door = door_of(request)
    return _html(door, "letter.html", letter=_dead_letter(door, request.query_params.get("at", "")[:40]))


@get("/window/live", opt=OPTIONS, include_in_schema=False)
async def live(request: Call) -> ServerSentEvent:
    """The parts of the page that change, after each round of figures."""
    door = door_of(request)
    if door.watch.viewers >= MOST_VIEWERS:
        raise Rejected(503, "busy", f"{MOST_VIEWERS} windows are open already", 5.0)

    async def rounds() -> AsyncIterator[ServerSentEventMessage]:
        ends, seen = time.monotonic() + STREAM_S, -1
        door.watch.viewers += 1
        try:
            while (left := ends - time.monotonic()) > 0:
                seen = await door.watch.next_round(seen, min(left, ROUND_S))
                yield ServerSentEventMessage(_rendered(door, "live.html", **_sections(door)), "page", retry=1_000)
        finally:
            door.watch.viewers -= 1

    return ServerSentEvent(rounds(), headers=HEADERS)


@get("/static/{name:str}", opt={"role": None}, include_in_schema=False)
async def static(name: str) -> Response[bytes]:
    """Looks and scripts; nothing of them is from elsewhere."""
    if name not in STATIC:
        raise Rejected(404, "unknown", "there is no such file")
    headers = {"Cache-Control": "max-age=300", "X-Content-Type-Options": "nosniff"}
    return Response(files(__package__).joinpath("static", name).read_bytes(), media_type=STATIC[name], headers=headers)


WINDOW = (window, try_request, find, show_dead_letter, live, static)


# HTML


def _page(door: Door, **more: Any) -> Response[str]:
    values: Shown = {"q": "", "kind": "user", "letter": None, "tried": {}, **more}
    settings, catalogue = door.settings, door.watch.catalogue
    return _html(
        door,
        "page.html",
        **{**_sections(door), **values},
        group=settings.group_id,
        moment=time.time(),
        items=len(catalogue),
        left_out=catalogue.left_out,
        scenarios=list(settings.scenarios),
    )


def _html(door: Door, template: str, **values: Any) -> Response[str]:
    return Response(_rendered(door, template, **values), media_type=MediaType.HTML, headers=HEADERS)


def _rendered(door: Door, template: str, **values: Any) -> str:
    if values.get("answer") is not None:
        values["answer"] = {**NOTHING, **values["answer"]}
    return _TEMPLATES.get_template(template).render(**values, titles=door.watch.catalogue.title)


def _number(value: float | None) -> str:
    """With three digits or more, and a dash where nothing is known."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def _id(name: object) -> Markup:
    """An id, cut where it is long, with the whole in reach."""
    shown = _plain(name)
    return Markup('<span class="id" title="{0}">{0}</span>').format(shown)


def _timed(line: str) -> Markup:
    """A line in words, whose times a browser may tell in its own zone."""
    escaped = str(escape(_plain(line)))
    return Markup(_MOMENT.sub(r'<time datetime="\1T\2Z">\1 \2 UTC</time>', escaped))


def _plain(value: Any) -> Any:
    """Text of others without what could reorder a line."""
    return harmless(value) if type(value) is str else value


def _moment(pattern: str) -> Callable[[float], str]:
    return lambda at_s: f"{datetime.fromtimestamp(at_s, UTC):{pattern}}"


_TEMPLATES = Environment(
    loader=PackageLoader("streamrec.gateway"),
    autoescape=True,
    undefined=StrictUndefined,
    finalize=_plain,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.policies["json.dumps_kwargs"] = {"sort_keys": False}  # the order of lines says which is ours
_TEMPLATES.filters.update(
    num=_number,
    pct=lambda share: f"{share:.1%}",
    id=_id,
    brief=brief,
    timed=_timed,
    iso=_moment("%Y-%m-%dT%H:%M:%SZ"),
    utc=_moment("%Y-%m-%d %H:%M:%S UTC"),
)
