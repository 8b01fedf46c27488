"""The JSON Schema of an event, generated from the type that decodes it, so that the two cannot differ."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from streamrec.events import ITEMLESS_TYPES, Event


def run() -> None:
    """Print to standard output."""
    print(json.dumps(event_schema(), indent=2))


def event_schema() -> dict[str, Any]:
    """JSON Schema, draft 2020-12. Limits on size and depth of a message are settings, so they are not in it."""
    schema = msgspec.json.schema(Event)
    itemless = {"properties": {"type": {"enum": sorted(kind.value for kind in ITEMLESS_TYPES)}}}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A streamrec event",
        **schema,
        # What the type checks in code: every other event names its item.
        "if": itemless,
        "else": {"required": ["item_id"], "properties": {"item_id": {"type": "string"}}},
    }
