"""The published JSON Schema accepts what the decoder accepts and refuses what it refuses; the page tells the same."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest
from typer.testing import CliRunner

from streamrec import codec
from streamrec.cli import app
from streamrec.codec import decode_event, encode_event
from streamrec.config.groups import Limits
from streamrec.engine.users.deduplication import REMEMBERED
from streamrec.errors import BadEvent
from streamrec.events import (
    EVENT_TYPES,
    LARGEST_NUMBER,
    LATEST_TS_MS,
    Event,
    EventType,
    Filters,
    Item,
    Outcome,
    Slate,
    SlateItem,
    Trend,
    WindowTrend,
)

DOCS = Path(__file__).parents[2] / "docs"
EVENTS, SLATES, SEE, TRUST = (
    (DOCS / page).read_text(encoding="utf-8")
    for page in ("02-events-and-items.md", "03-slates.md", "05-see.md", "06-trust.md")
)
VIEW = {"type": "view", "user_id": "u", "ts": 1, "item_id": "a"}


@pytest.fixture(scope="module")
def schema() -> jsonschema.Draft202012Validator:
    printed = CliRunner().invoke(app, ["schema"])
    assert printed.exit_code == 0
    jsonschema.Draft202012Validator.check_schema(json.loads(printed.stdout))
    return jsonschema.Draft202012Validator(json.loads(printed.stdout))


def is_event(value: bytes) -> bool:
    try:
        decode_event(value)
    except BadEvent:
        return False
    return True


@pytest.mark.parametrize("kind", EVENT_TYPES)
def test_the_schema_accepts_events_of_every_type(schema: jsonschema.Draft202012Validator, kind: EventType) -> None:
    event = Event(
        type=kind, user_id="u", ts=1_700_000_000_000, item_id="a", event_id="e",
        session_id="s", value=2.5, rec_id="0-1",
        position=3, context={"device": "phone", "age": 3, "night": True, "lat": 1.5}, query="mug", k=5, scenario="cart",
    )  # fmt: skip
    schema.validate(json.loads(encode_event(event)))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"item_id": None},
        {"type": "request", "item_id": None},
        {"type": "search", "item_id": ..., "query": "mug"},
        {"item_id": ...},
        {"ts": ...},
        {"ts": -1},
        {"ts": LATEST_TS_MS},
        {"ts": LATEST_TS_MS + 1},
        {"ts": "1"},
        {"type": "glance"},
        {"user_id": ""},
        {"user_id": "u" * 256},
        {"user_id": "u" * 257},
        {"value": "2"},
        {"value": None},
        {"position": 0},
        {"position": 10_000},
        {"k": 0},
        {"k": 100},
        {"k": 101},
        {"context": {"a": None}},
        {"context": {"a": {"b": 1}}},
        {"context": {str(n): n for n in range(64)}},
        {"context": {str(n): n for n in range(65)}},
        {"query": "q" * 1024},
        {"query": "q" * 1025},
        {"scenario": ""},
        {"scenario": "a\x1b"},
        {"user_id": "a\0"},
        {"item_id": "a\n"},
        {"session_id": "\x9b2J"},
        {"event_id": "наталья\u200d\u00a0小"},
        {"explain": None},
        {"value": LARGEST_NUMBER},
        {"value": 1e19},
        {"context": {"n": LARGEST_NUMBER, "x": -1.5e18}},
        {"context": {"n": LARGEST_NUMBER + 2}},
        {"context": {"x": 1e300}},
        {"context": {"c" * 256: "t" * 1024}},
        {"context": {"c" * 257: 1}},
        {"context": {"c": "t" * 1025}},
        {"context": {"c": "any\ntext"}},
        {"colour": "red"},
    ],
)
def test_schema_and_decoder_agree(schema: jsonschema.Draft202012Validator, changes: dict[str, object]) -> None:
    value = {key: came for key, came in {**VIEW, **changes}.items() if came is not ...}
    assert schema.is_valid(value) == is_event(json.dumps(value).encode())


def test_schema_and_decoder_do_not_agree_by_refusing_everything(schema: jsonschema.Draft202012Validator) -> None:
    assert schema.is_valid(VIEW)
    assert is_event(json.dumps(VIEW).encode())


def section(title: str, page: str = EVENTS) -> str:
    found = re.search(rf"^##+ {re.escape(title)}\n(.*?)(?=^##+ |\Z)", page, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def fields_named(title: str, page: str) -> set[str]:
    """The fields that have a row of their own, or share one; of a field of a field, `NAME` in `FIELD`."""
    rows = re.findall(r"^\| ((?:`[\w\[\].]+`(?:, )?)+)(?: in `\w+`)? \|", section(title, page), re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`([\w\[\].]+)`", row)]
    return {
        name.removeprefix("items[].").removeprefix("windows[].")
        for name in named
        if not name.startswith(("reasons[]", "alternatives[]"))
    }


@pytest.mark.parametrize(
    ("title", "page", "kinds"),
    [
        ("An event", EVENTS, (Event, Filters)),
        ("An item", EVENTS, (Item,)),
        ("A slate", SLATES, (Slate, SlateItem)),
        ("An outcome", TRUST, (Outcome,)),
        ("A trend", SEE, (Trend, WindowTrend)),
    ],
    ids=["event", "item", "slate", "outcome", "trend"],
)
def test_the_pages_have_a_row_for_every_field_and_no_other(title: str, page: str, kinds: tuple[type, ...]) -> None:
    assert fields_named(title, page) == {name for kind in kinds for name in kind.__struct_fields__}


def test_the_page_names_every_type_and_every_reason() -> None:
    assert set(re.findall(r"^\| `(\w+)` \| [^|]+ \| (?:yes|no)", section("Types"), re.MULTILINE)) == set(EVENT_TYPES)
    source = Path(codec.__file__).parent
    raised = re.compile(r"BadEvent\(\s*\"(\w+)\"")
    reasons = {
        reason
        for name in ("codec.py", "worker/validation.py")
        for reason in raised.findall((source / name).read_text())
    }
    assert len(reasons) >= 9
    assert set(re.findall(r"^\| `(\w+)` \|", section("What becomes of bad messages"), re.MULTILINE)) >= reasons


def test_the_page_states_the_limits_that_hold() -> None:
    limits = Limits()
    assert f"last {REMEMBERED} event ids" in EVENTS
    for number in (limits.max_message_bytes, limits.max_bad_in_a_row, LATEST_TS_MS):
        assert f"{number:,}" in EVENTS


def test_every_example_of_the_page_is_an_event() -> None:
    good, bad = EVENTS.split("## What becomes of bad messages")
    for page in (good, SLATES, SEE):
        examples = re.findall(r"^(\{\"type\".*\})$", page, re.MULTILINE)
        assert len(examples) >= (1 if page is SEE else 4)
        for example in examples:
            assert decode_event(example.encode())
    refused, accepted = re.findall(r"^(\{\"type\".*\})$", bad, re.MULTILINE)
    assert not is_event(refused.encode())
    assert is_event(accepted.encode())
