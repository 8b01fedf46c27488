"""The application: routes, who is let in, what refusals look like, and the bounds around every request.

Knows nothing of how it is served.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import msgspec
from litestar import Litestar, MediaType, Response
from litestar.config.cors import CORSConfig
from litestar.connection import ASGIConnection
from litestar.enums import ScopeType
from litestar.exceptions import HTTPException
from litestar.handlers import BaseRouteHandler
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from streamrec.config.log_lines import get_logger
from streamrec.errors import BadEvent, StateUnavailable, TransportUnavailable
from streamrec.gateway.access import Access, Rejected, Role, basic_password
from streamrec.gateway.handlers import REQUEST_ID, ROUTES, Call, Door
from streamrec.gateway.messages import ApiProblem
from streamrec.gateway.metrics import OTHER, GatewayMetrics
from streamrec.gateway.openapi import DOCUMENT, PAGE, openapi_config
from streamrec.gateway.window import WINDOW

LOG = get_logger("streamrec.gateway")
REQUEST_LIMIT_S = 30.0
"""From the first byte of a request to the last of its answer: whoever sends or reads more slowly is hung up on."""
ALWAYS_ANSWERED = frozenset({"/livez", "/readyz", "/metrics"})
_HANGS_UP = frozenset({408, 413})
_CORS_HEADERS = ["x-api-key", "authorization", "content-type", "content-encoding", "x-request-id", "x-deadline-ms"]

Opened = Callable[[], AbstractAsyncContextManager[Door]]


def application(opened: Opened, cors_origins: tuple[str, ...], max_waiting: int, metrics: GatewayMetrics) -> ASGIApp:
    """The ASGI application; `opened` connects, in the event loop that serves."""

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        async with opened() as door:
            app.state.door = door
            yield

    api = Litestar(
        [*ROUTES, DOCUMENT, PAGE, *WINDOW],
        lifespan=[lifespan],
        guards=[_let_in],
        cors_config=CORSConfig(list(cors_origins), allow_headers=_CORS_HEADERS) if cors_origins else None,
        exception_handlers={
            BadEvent: lambda call, error: _problem(400, error.reason, error.detail, error.field),
            Rejected: _rejected,
            StateUnavailable: _store_away,
            TransportUnavailable: _log_away,
            HTTPException: _http_problem,
            Exception: _broken,
        },
        openapi_config=openapi_config(),
        request_max_body_size=None,  # `bodies.py` bounds them, unpacked too
        logging_config=None,
    )
    return Bounds(api, metrics, max_waiting)


def _let_in(call: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    role = handler.opt.get("role", Role.ADMIN)
    if role is not None:
        access: Access = call.app.state.door.access
        access.check_page(call.headers.get("origin"), call.headers.get("host", ""))
        authorization = call.headers.get("authorization")
        key = basic_password(authorization) if handler.opt.get("browser") else None
        access.check(call.headers.get("x-api-key", key), authorization, role)


# Refusals

_WORDS = {404: "unknown", 405: "method"}


def _problem(
    status: int, reason: str, detail: str, field: str | None = None, headers: dict[str, str] | None = None
) -> Response[bytes]:
    body = msgspec.json.encode(ApiProblem(reason=reason, detail=detail, field=field))
    return Response(body, status_code=status, media_type=MediaType.JSON, headers=headers)


def _http_problem(call: Call, error: HTTPException) -> Response[bytes]:
    return _problem(error.status_code, _WORDS.get(error.status_code, "refused"), error.detail)


def _rejected(call: Call, error: Rejected) -> Response[bytes]:
    headers = {} if error.retry_s is None else {"Retry-After": str(max(1, round(error.retry_s)))}
    if error.status == 401:
        asks_people = call.route_handler.opt.get("browser")
        headers["WWW-Authenticate"] = 'Basic realm="streamrec", charset="UTF-8"' if asks_people else "Bearer"
    if error.status in _HANGS_UP:
        headers["Connection"] = "close"
    return _problem(error.status, error.reason, error.detail, headers=headers)


def _log_away(call: Call, error: TransportUnavailable) -> Response[bytes]:
    return _problem(503, "unavailable", str(error), headers={"Retry-After": "1"})


def _store_away(call: Call, error: StateUnavailable) -> Response[bytes]:
    LOG.warning("a lookup was not answered", error=str(error))  # it names servers, which is nobody else's affair
    detail = "users and items cannot be looked up just now; send it again"
    return _problem(503, "unavailable", detail, headers={"Retry-After": "1"})


def _broken(call: Call, error: Exception) -> Response[bytes]:
    LOG.error("a request could not be answered", path=call.scope.get("path_template"), exc_info=error)
    return _problem(500, "internal", "this is a fault of the gateway; its log says more")


# Bounds


class Bounds:
    """Around the application: how many requests at once, how long each, what is counted; and paths as they were sent.

    An id in a path may hold a slash, percent-encoded: the router gets the path undecoded, and handlers decode names.
    """

    def __init__(self, app: ASGIApp, metrics: GatewayMetrics, max_waiting: int) -> None:
        self._app = app
        self._metrics = metrics
        self._max_waiting = max_waiting
        self._waiting = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        scope["path"] = scope["raw_path"].decode("ascii")
        started, answer = time.monotonic(), _Sending(send, scope)
        self._waiting += 1
        self._metrics.waiting.set(self._waiting)
        try:
            if self._waiting > self._max_waiting and scope["path"] not in ALWAYS_ANSWERED:
                await answer.refuse(503, "busy", "too many requests are being answered; send it again")
                return
            async with asyncio.timeout(REQUEST_LIMIT_S):
                await self._app(scope, receive, answer)
        except TimeoutError:
            if answer.status == 0:
                await answer.refuse(503, "late", f"there was no answer within {REQUEST_LIMIT_S:.0f} s")
            else:
                raise
        finally:
            self._waiting -= 1
            self._metrics.waiting.set(self._waiting)
            path = scope.get("path_template") or OTHER
            self._metrics.requests.labels(path, str(answer.status)).inc()
            self._metrics.seconds.labels(path).observe(time.monotonic() - started)


class _Sending:
    """Sends an answer, which repeats the request's id."""

    def __init__(self, send: Send, scope: Scope) -> None:
        self._send = send
        self._id = next((value for name, value in scope["headers"] if name == REQUEST_ID.encode()), None)
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if self._id is not None:
                message["headers"] = [*message["headers"], (REQUEST_ID.encode(), self._id)]
        await self._send(message)

    async def refuse(self, status: int, reason: str, detail: str) -> None:
        body = msgspec.json.encode(ApiProblem(reason=reason, detail=detail))
        headers = [(b"content-type", b"application/json"), (b"retry-after", b"1"), (b"connection", b"close")]
        headers.append((b"content-length", str(len(body)).encode()))
        await self({"type": "http.response.start", "status": status, "headers": headers})
        await self({"type": "http.response.body", "body": body, "more_body": False})
