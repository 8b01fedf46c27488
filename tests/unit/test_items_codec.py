"""Items as bytes: they come back as they were, and what is none is refused with a reason, whatever it is."""

from __future__ import annotations

import io
import json
from pathlib import Path

import msgspec
import pytest
import typer

from streamrec.cli.commands.items_load import UNUSABLE, Withdrawal, compared, digest
from streamrec.codec import JSON, MSGPACK, decode_item, encode
from streamrec.engine.arrays.batch import NOTHING
from streamrec.engine.items.catalogue import Catalogue
from streamrec.engine.items.item_table import ItemTable
from streamrec.errors import BadEvent, ConfigError
from streamrec.events import LATEST_TS_MS, MAX_VECTOR, Item
from streamrec.transport import Record
from streamrec.transport.local_follower import LocalFollower
from streamrec.worker.catalogue_feed import CatalogueFeed
from tests.support.effort import least_cpu_s

PACKED = (("content-type", MSGPACK.encode()),)
FULL = Item(
    item_id="a\u200d小",
    title="Mug",
    text="any\ntext",
    categories=("mugs", "kitchen"),
    price=2.5,
    tags=("new",),
    vector=tuple(n / 7 for n in range(MAX_VECTOR)),
    added=5,
    available_from=10,
    available_until=LATEST_TS_MS,
    boost=0.5,
    bid=0.35,
    budget=100.0,
)


@pytest.mark.parametrize("item", [FULL, Item(item_id="b")], ids=["full", "bare"])
def test_an_item_comes_back_as_it_was_in_either_format(item: Item) -> None:
    assert decode_item(encode(item, JSON)) == item
    assert decode_item(encode(item, MSGPACK), PACKED) == item


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"item_id": ""}, "item_id"),
        ({"item_id": "a\n"}, "item_id"),
        ({"item_id": 7}, "item_id"),
        ({"title": "t" * 1_025}, "title"),
        ({"title": "\x1b]0;owned\x07"}, "title"),
        ({"text": "t" * 16_385}, "text"),
        ({"categories": ["c"] * 33}, "categories"),
        ({"categories": "mugs"}, "categories"),
        ({"categories": [""]}, "categories"),
        ({"categories": ["a\x00"]}, "categories"),
        ({"tags": ["t"] * 65}, "tags"),
        ({"tags": [["deep"]]}, "tags"),
        ({"price": 1e300}, "price"),
        ({"vector": []}, "vector"),
        ({"vector": [0.0] * (MAX_VECTOR + 1)}, "vector"),
        ({"vector": [1e7]}, "vector"),
        ({"vector": ["1"]}, "vector"),
        ({"added": LATEST_TS_MS + 1}, "added"),
        ({"available_from": -1}, "available_from"),
        ({"available_from": 20, "available_until": 20}, "available_until"),
        ({"available_until": 0}, "available_until"),
        ({"boost": 0.05}, "boost"),
        ({"boost": 10.5}, "boost"),
        ({"bid": 0.0, "budget": 1.0}, "bid"),
        ({"bid": 1e10, "budget": 1e10}, "bid"),
        ({"bid": "1"}, "bid"),
        ({"bid": 1.0, "budget": -1.0}, "budget"),
        ({"bid": 1.0}, "budget"),
        ({"budget": 1.0}, "bid"),
        ({"bid": 1.0, "budget": 0.5}, "budget"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_what_no_item_has_is_refused_and_named(fields: dict[str, object], named: str) -> None:
    value = {"item_id": "a", **fields}
    for content, headers in ((json.dumps(value).encode(), ()), (msgspec.msgpack.encode(value), PACKED)):
        with pytest.raises(BadEvent) as caught:
            decode_item(content, headers)
        assert (caught.value.reason, caught.value.field) == ("invalid", named)
        assert caught.value.detail.isprintable()


def test_numbers_that_are_none_are_refused() -> None:
    for number in (float("nan"), float("inf")):
        for field, value in (("price", number), ("vector", [number]), ("boost", number)):
            with pytest.raises(BadEvent, match=field):
                decode_item(msgspec.msgpack.encode({"item_id": "a", field: value}), PACKED)


@pytest.mark.parametrize(
    ("value", "headers", "reason"),
    [
        (b"{", (), "malformed"),
        (b"\xff\xfe", (), "malformed"),
        (b"[" * 60_000, (), "too_deep"),
        (b"\x91" * 60_000, PACKED, "too_deep"),
        (b'{"item_id": "' + b"x" * 70_000, (), "too_large"),
        (b'{"vector": ' + b"[" * 30_000, (), "too_deep"),
        (b'{"tags": [' + b'"a",' * 15_000, (), "malformed"),
        (b"\xdd\xff\xff\xff\xff", PACKED, "invalid"),
        (b"{}", (("content-type", b"text/xml"),), "content_type"),
    ],
)
def test_hostile_bytes_are_refused_at_once(value: bytes, headers: tuple, reason: str) -> None:  # type: ignore[type-arg]
    def refuse() -> None:
        with pytest.raises(BadEvent) as caught:
            decode_item(value, headers)
        assert caught.value.reason == reason

    assert least_cpu_s(refuse) < 0.5


def record(key: bytes | None, value: bytes | None) -> Record:
    return Record("items", 0, 0, key, value)


def test_a_bad_record_is_put_aside_and_what_was_known_stands() -> None:
    table = ItemTable(64)
    catalogue = Catalogue(table, 10)
    buried: list[tuple[bytes | None, str]] = []
    good = encode(Item(item_id="a", categories=("mugs",)))
    follower = LocalFollower(
        "items",
        [
            record(b"a", good),
            record(b"a", b'{"item_id": "a", "boost": "high"}'),
            record(b"b", good),
            record(None, good),
            record(b"\xff", None),
            record(b"x" * 2_000, None),
            record(b"c", encode(Item(item_id="c"))),
            record(b"c", b""),
        ],
    )
    feed = CatalogueFeed(follower, catalogue, lambda one, error: buried.append((one.key, error.reason)), 65_536, 8)
    assert not feed.whole()
    feed.look()
    assert feed.whole()
    assert [reason for _, reason in buried] == ["invalid", "invalid", "keyless", "invalid", "invalid"]
    assert (len(catalogue), catalogue.category("a"), catalogue.category("c")) == (1, "mugs", None)
    catalogue.arrive(1_000, 4)
    assert table.lookup("a") != NOTHING
    assert table.lookup("c") == NOTHING


def test_what_could_not_be_put_aside_is_taken_up_again() -> None:
    catalogue, buried = Catalogue(ItemTable(64), 10), list[str]()

    def dead_letter(one: Record, error: BadEvent) -> None:
        buried.append(error.reason)
        if len(buried) == 1:
            raise ConnectionError("away")

    follower = LocalFollower("items", [record(b"a", b"{"), record(b"b", encode(Item(item_id="b")))])
    feed = CatalogueFeed(follower, catalogue, dead_letter, 65_536, 8)
    with pytest.raises(ConnectionError):
        feed.look()
    assert not feed.whole()
    feed.look()
    assert (buried, len(catalogue), feed.whole()) == (["malformed", "malformed"], 1, True)


def test_only_what_differs_has_to_be_sent() -> None:
    wanted = {name: encode(Item(item_id=name)) for name in ("new", "same", "changed", "mended")}
    said = {name: digest(wanted[name]) for name in ("same",)}
    said |= {"changed": digest(b"other"), "mended": UNUSABLE, "gone": digest(b"gone")}
    messages, difference = compared(wanted, said, withdraw=False)
    assert dict(messages) == {name: wanted[name] for name in ("new", "changed", "mended")}
    assert (difference.new, difference.changed, difference.same, difference.withdrawn) == (1, 2, 1, 0)
    messages, difference = compared(wanted, said, withdraw=True)
    assert ("gone", None) in messages
    assert difference.messages == len(messages) == 4


class Terminal(io.StringIO):
    """Somebody who answers."""

    def isatty(self) -> bool:
        return True


def test_who_would_withdraw_most_of_the_catalogue_is_asked_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", Terminal("n\ny\n"))
    with pytest.raises(typer.Abort):
        Withdrawal(0.2).confirm(3_958, 3_960, Path("wrong.csv"))
    Withdrawal(0.2).confirm(3_958, 3_960, Path("right.csv"))
    asked = capsys.readouterr()
    assert asked.err.count("3,958 of 3,960 items in the topic are not in ") == 2
    assert asked.out.strip() == ""


def test_a_withdrawal_that_nobody_can_confirm_is_refused_beyond_its_share(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    Withdrawal(0.2).confirm(20, 100, Path("new.csv"))
    Withdrawal(1.0).confirm(100, 100, Path("new.csv"))
    with pytest.raises(ConfigError, match=r"21 of 100 items .* expected at most 20% .* --yes"):
        Withdrawal(0.2).confirm(21, 100, Path("new.csv"))
    assert len(capsys.readouterr().err.splitlines()) == 2
