"""The catalogue, and the sample that ships with the package."""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from streamrec.demo.sample import sample_items, sample_log
from streamrec.errors import TableError
from streamrec.events import EventType, Item
from streamrec.replay.catalogue_file import CatalogueItems, read_catalogue
from streamrec.replay.logs import open_log

EXPECTED = [
    Item(item_id="1", title="Heat", categories=("Action", "Crime"), price=2.5, tags=("new",)),
    Item(item_id="2", text="Nobody knows its title"),
    Item(item_id="3", title="Tea, with milk", categories=("Drinks",), price=-1.0),
]


def test_every_format_gives_the_same_items(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text(
        "item_id,title,category,price,text,tags,colour\n"
        '1,Heat,Action|Crime,2.5,,new,red\n2,,,,Nobody knows its title,,\n3,"Tea, with milk",Drinks,-1,,,\n'
    )
    rows = [
        {"item_id": 1, "title": "Heat", "categories": ["Action", "Crime"], "price": 2.5, "text": None, "tags": ["new"]},
        {"item_id": 2, "title": None, "categories": None, "price": None, "text": "Nobody knows its title", "tags": []},
        {"item_id": 3, "title": "Tea, with milk", "categories": ["Drinks"], "price": -1.0, "text": "", "tags": None},
    ]
    (tmp_path / "items.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    pl.DataFrame(rows).write_parquet(tmp_path / "items.parquet")
    for suffix in ("csv", "jsonl", "parquet"):
        assert list(read_catalogue(tmp_path / f"items.{suffix}").values()) == EXPECTED


def test_there_is_always_something_to_show() -> None:
    catalogue = CatalogueItems(EXPECTED)
    assert [catalogue.title(item) for item in ("1", "2", "unheard of")] == ["Heat", "2", "unheard of"]
    assert [catalogue.category(item) for item in ("1", "2", "unheard of")] == ["Action", None, None]
    assert "unheard of" not in catalogue
    assert len(catalogue) == 3


def test_bad_rows_are_told_by_number(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_text(f"item_id,title,price\n1,a,cheap\n,b,1\n2,c,2\n2,d,3\n{'x' * 300},e,1\n5,f\n")
    with pytest.raises(TableError) as caught:
        read_catalogue(path)
    said = str(caught.value).splitlines()[1:]
    assert [line.strip()[:6] for line in said] == ["row 0:", "row 1:", "row 3:", "row 4:", "row 5:"]
    for line, words in zip(said, ["'cheap'", "empty", "before", "256 characters", "2 cells"], strict=True):
        assert words in line


def test_bad_rows_are_left_out_up_to_the_share_that_may_be(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_text("item_id,title,price\n1,a,cheap\n2,c,2\n2,d,3\n3,e\n")
    catalogue = read_catalogue(path, max_refused=0.75)
    assert list(catalogue.values()) == [Item(item_id="2", title="c", price=2.0)]
    assert [row for row, _ in catalogue.refused] == [0, 2, 3]
    for share in (0.0, 0.7, math.nan):
        with pytest.raises(TableError, match="row 0: 'price' is 'cheap'"):
            read_catalogue(path, max_refused=share)


@pytest.mark.parametrize("column", ["added", "ts", "available_from", "available_until"])
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_seconds_and_numbers_that_are_dates_are_no_times_of_1970(tmp_path: Path, column: str, suffix: str) -> None:
    path = tmp_path / f"items.{suffix}"
    times = [1_700_000_000_000, 1_700_000_000, 20_240_131, 1]
    frame = pl.DataFrame({"item_id": ["1", "2", "3", "4"], column: times})
    getattr(frame, {"csv": "write_csv", "jsonl": "write_ndjson", "parquet": "write_parquet"}[suffix])(path)
    with pytest.raises(TableError) as caught:
        read_catalogue(path)
    found = [line.strip() for line in str(caught.value).splitlines()[1:]]
    assert [line.partition(",")[0] for line in found] == [
        f"row 1: {column!r} is 1700000000",
        f"row 2: {column!r} is 20240131",
    ]


def test_a_catalogue_needs_ids(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("sku,title\n1,a\n")
    with pytest.raises(TableError, match=r"expected a column 'item_id'.*its columns are sku, title"):
        read_catalogue(tmp_path / "items.csv")


def test_the_sample_is_a_log_that_needs_no_mapping() -> None:
    summary = open_log(sample_log()).check()
    assert summary.events == {EventType.PURCHASE: 39_267}
    assert (summary.ignored_columns, summary.hints, summary.left_out) == ((), (), {})
    assert summary.first_ts is not None
    assert summary.last_ts is not None
    assert datetime.fromtimestamp(summary.first_ts / 1000, UTC).date().isoformat() == "2011-10-10"
    assert datetime.fromtimestamp(summary.last_ts / 1000, UTC).date().isoformat() == "2011-10-30"


def test_the_sample_holds_products_alone_once_per_basket() -> None:
    frame = pl.read_parquet(sample_log())
    assert frame["item_id"].str.contains(r"^\d{5}[A-Z]*$").all()
    assert not frame.select("session_id", "item_id").is_duplicated().any()
    assert frame.group_by("session_id").agg(pl.n_unique("user_id", "ts").name.suffix("_count")).select(
        (pl.col("user_id_count") == 1).all(), pl.col("ts_count").max() <= 2
    ).row(0) == (True, True)
    guests = frame.filter(pl.col("user_id").str.starts_with("guest-"))
    assert (guests["user_id"] == "guest-" + guests["session_id"]).all()
    assert "anon" not in frame["user_id"]


def test_the_order_within_a_basket_of_the_sample_teaches_nothing() -> None:
    frame = pl.read_parquet(sample_log()).with_columns(pl.int_range(pl.len()).over("session_id").alias("place"))
    ordered = frame.with_columns(pl.col("item_id").shift(1).over("session_id").alias("before")).drop_nulls()
    share = (ordered["item_id"] > ordered["before"]).mean()
    assert 0.48 < share < 0.52  # the shop's own order would show here


def test_every_item_of_the_sample_has_a_readable_title_and_no_price() -> None:
    catalogue = read_catalogue(sample_items())
    assert set(catalogue) == set(pl.read_parquet(sample_log())["item_id"])
    titles = [catalogue.title(item) for item in catalogue]
    assert not any(title == item for title, item in zip(titles, catalogue, strict=True))
    assert not any(re.fullmatch(r"[^a-z]+", title) for title in titles)
    assert all(item.price is None for item in catalogue.values())
    assert sum(catalogue.category(item) is not None for item in catalogue) > 0.8 * len(catalogue)


def test_the_sample_is_small_and_says_whose_it_is() -> None:
    assert sample_log().stat().st_size + sample_items().stat().st_size < 3_000_000
    readme = (sample_log().parent / "README.md").read_text()
    for words in ("Daqing Chen", "CC BY 4.0", "10.24432/C5BW33", "What was changed", "39,267"):
        assert words in readme


def test_a_file_may_say_everything_that_a_record_may(tmp_path: Path) -> None:
    said = Item(item_id="a", title="Mug", vector=(0.5, -1.0), added=5, available_from=10, available_until=20, boost=2.0)
    row = {"item_id": "a", "title": "Mug", "vector": [0.5, -1.0], "ts": 5, "available_from": 10, "boost": 2}
    pl.DataFrame([{**row, "available_until": 20}]).write_parquet(tmp_path / "items.parquet")
    until = "1970-01-01T00:00:00.020Z"
    (tmp_path / "items.jsonl").write_text(json.dumps({**row, "available_until": until}))
    (tmp_path / "items.csv").write_text(
        f'item_id,title,vector,added,available_from,available_until,boost\na,Mug,"[0.5, -1.0]",5,10,{until},2\n'
    )
    for suffix in ("parquet", "jsonl", "csv"):
        assert list(read_catalogue(tmp_path / f"items.{suffix}").values()) == [said]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("boost", 0),
        ("boost", 100),
        ("vector", "[1, null]"),
        ("vector", "[]"),
        ("vector", "one two"),
        ("title", "a\x1b[2J"),
        ("tags", "a\x9bb|c"),
        ("available_until", 0),
        ("added", "soon"),
        ("text", "x" * 20_000),
    ],
)
def test_a_row_that_makes_no_item_is_named(tmp_path: Path, field: str, value: object) -> None:
    path = tmp_path / "items.jsonl"
    path.write_text(json.dumps({"item_id": "good"}) + "\n" + json.dumps({"item_id": "bad", field: value}))
    with pytest.raises(TableError, match=f"row 1: .*{field}"):
        read_catalogue(path)
