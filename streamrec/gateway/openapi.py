"""The OpenAPI 3.1 document, and a page that shows it without anything from elsewhere.

Routes and parameters are Litestar's; the schemas are msgspec's own, of the types that are decoded.
"""

from __future__ import annotations

from html import escape
from importlib.metadata import version
from typing import Any

import msgspec
from litestar import MediaType, Request, Response, get
from litestar.openapi import OpenAPIConfig

from streamrec.events import Event, Item
from streamrec.gateway.messages import (
    MOST_EVENTS,
    Accepted,
    ApiProblem,
    PostedFeedback,
    Ranking,
    RankRequest,
    Recommendation,
    RecommendationRequest,
)

TYPES = (Event, Item, RecommendationRequest, RankRequest, PostedFeedback, Recommendation, Ranking, Accepted, ApiProblem)
Schema = dict[str, Any]


def _of(kind: type[Any]) -> Schema:
    return {"$ref": f"#/components/schemas/{kind.__name__}"}


def _one_or_more(kind: type[Any]) -> Schema:
    return {"anyOf": [_of(kind), {"type": "array", "items": _of(kind), "minItems": 1, "maxItems": MOST_EVENTS}]}


_BATCHES: dict[str, type[Any]] = {"post_events": Event, "post_feedback": PostedFeedback, "post_items": Item}
BODIES: dict[str, Schema] = {
    **{name: _one_or_more(kind) for name, kind in _BATCHES.items()},
    "recommend": _of(RecommendationRequest),
    "rank": _of(RankRequest),
    "put_item": _of(Item),
}
"""What each operation takes, by its id."""
_SOME: dict[int, Schema] = {202: _of(Accepted), 207: _of(Accepted), 400: {"anyOf": [_of(Accepted), _of(ApiProblem)]}}
ANSWERS: dict[str, dict[int, Schema]] = {
    **dict.fromkeys(_BATCHES, _SOME),
    "recommend": {200: _of(Recommendation)},
    "rank": {200: _of(Ranking)},
    "get_slate": {200: _of(Recommendation)},
    "get_user": {200: {"type": "object"}},
    "get_item": {200: {"type": "object"}},
    "put_item": {202: _of(Accepted)},
    "delete_item": {202: _of(Accepted)},
}
"""What it answers, by its status; every other one is an ApiProblem."""
DONE = {200: "found", 202: "stored", 207: "some were refused", 400: "all were refused"}
_FOUND = ("get_slate", "get_user", "get_item")
PROBLEMS = {
    400: "it cannot be used",
    401: "no key, or an unknown one",
    403: "a key for something else",
    408: "the body was too slow",
    413: "the body is too large",
    415: "an unknown content-encoding",
    429: "too often",
    500: "a fault of the gateway",
    503: "something is away, or too much is going on: send it again after Retry-After",
}
FILLED_IN = {"Event": {"ts"}}
"""Required fields of a type that may be left out here."""


def openapi_config() -> OpenAPIConfig:
    """What Litestar needs to know."""
    return OpenAPIConfig("streamrec", version("streamrec"), use_handler_docstrings=True, render_plugins=[])


def document(routes: Schema) -> Schema:
    """The document, of what Litestar says of the routes."""
    _, schemas = msgspec.json.schema_components(TYPES, ref_template="#/components/schemas/{name}")
    for name, filled in FILLED_IN.items():
        schemas[name]["required"] = [field for field in schemas[name]["required"] if field not in filled]
    for operations in routes["paths"].values():
        for operation in operations.values():
            _describe(operation, operation["operationId"])
    schemes = {
        "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        "bearer": {"type": "http", "scheme": "bearer"},
    }
    return {**routes, "components": {"schemas": schemas, "securitySchemes": schemes}}


def _describe(operation: Schema, name: str) -> None:
    """Say what an operation takes and answers."""
    if name in BODIES:
        operation["requestBody"] = {"required": True, "content": _json(BODIES[name])}
    if name in ANSWERS:
        said = {**PROBLEMS, **({404: "there is none"} if name in _FOUND else {}), **dict.fromkeys(ANSWERS[name], "")}
        schemas = {**dict.fromkeys(said, _of(ApiProblem)), **ANSWERS[name]}
        operation["responses"] = {
            str(status): {"description": words or DONE[status], "content": _json(schemas[status])}
            for status, words in said.items()
        }
        operation["security"] = [{}, {"key": []}, {"bearer": []}]


def _json(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}


@get("/openapi.json", opt={"role": None}, include_in_schema=False)
async def openapi_document(request: Request[Any, Any, Any]) -> Response[dict[str, Any]]:
    """The document, for programs."""
    return Response(document(request.app.openapi_schema.to_schema()))


@get("/docs", opt={"role": None}, include_in_schema=False, media_type=MediaType.HTML)
async def docs(request: Request[Any, Any, Any]) -> Response[str]:
    """The document, to be read."""
    return Response(page(document(request.app.openapi_schema.to_schema())), media_type=MediaType.HTML)


def page(api: dict[str, Any]) -> str:
    """One page of plain HTML, without scripts."""
    rows = []
    for path, operations in api["paths"].items():
        for method, operation in operations.items():
            body = operation.get("requestBody")
            takes = f"<p>takes</p>{_pre(body['content'])}" if body else ""
            answers = "".join(
                f"<dt>{status}<dd>{escape(said['description'])}" for status, said in operation["responses"].items()
            )
            rows.append(
                f"<details><summary><b>{method.upper()}</b> <code>{escape(path)}</code></summary>"
                f"<p>{escape(operation.get('description') or '')}</p>{takes}<dl>{answers}</dl></details>"
            )
    types = "".join(
        f"<details id='{escape(name)}'><summary><code>{escape(name)}</code></summary>{_pre(schema)}</details>"
        for name, schema in api["components"]["schemas"].items()
    )
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>streamrec</title>"
        "<style>body{font:1rem/1.5 system-ui;max-width:60rem;margin:2rem auto;padding:0 1rem}pre{overflow:auto;"
        "background:#8881;padding:1rem}dt{font-weight:bold}</style><h1>streamrec</h1>"
        f"<p>As <a href=openapi.json>OpenAPI {escape(api['openapi'])}</a>.</p>"
        f"{''.join(rows)}<h2>Types</h2>{types}</html>"
    )


def _pre(value: Any) -> str:
    return f"<pre>{escape(msgspec.json.format(msgspec.json.encode(value)).decode())}</pre>"


DOCUMENT, PAGE = openapi_document, docs
