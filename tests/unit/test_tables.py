"""Tables: the same table gives the same values in every format, and what cannot be read is told in words."""

from __future__ import annotations

import csv
import gzip
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from streamrec.codec import decode_event
from streamrec.errors import TableError
from streamrec.evaluation.ope.action_rows import RowOptions
from streamrec.evaluation.ope.tables import COLUMN, ActionLog, TableOptions, read_actions
from streamrec.events import Event, Item
from streamrec.replay import parquet_files, text_files
from streamrec.replay.catalogue_file import read_catalogue
from streamrec.replay.in_hand import items_of, records_of
from streamrec.replay.logs import open_log
from streamrec.replay.tables import open_table

Rows = list[dict[str, Any]]
TS = 1_600_000_000_000
WHOLE: dict[str, pa.DataType] = {
    str(kind): kind
    for kind in (
        pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64(),
        pa.float16(), pa.float32(), pa.float64(), pa.decimal128(38, 2), pa.decimal128(19, 0), pa.decimal256(50, 2),
        pa.dictionary(pa.int32(), pa.int64()),
    )
}  # fmt: skip
TEXT: dict[str, pa.DataType] = {
    str(kind): kind
    for kind in (pa.string(), pa.large_string(), pa.binary(), pa.large_binary(), pa.dictionary(pa.int8(), pa.string()))
}
TIMES = {str(kind): kind for kind in (pa.int64(), pa.float64(), *map(pa.timestamp, ("ms", "us", "ns")))}
TIMES["timestamp with a zone"] = pa.timestamp("us", "Europe/Lisbon")


def parquet(path: Path, rows: Rows, kinds: dict[str, pa.DataType] | None = None, **options: Any) -> Path:
    """The rows as parquet, the columns named in `kinds` of these types."""
    columns = {name: [row.get(name) for row in rows] for name in rows[0]}
    arrays = {name: pa.array(values) for name, values in columns.items()}
    for name, kind in (kinds or {}).items():
        values = arrays[name].cast(pa.int64()) if pa.types.is_timestamp(kind) else arrays[name]
        arrays[name] = (
            values.cast(pa.timestamp("ms")).cast(kind) if pa.types.is_timestamp(kind) else typed(values, kind)
        )
    pq.write_table(pa.table(arrays), path, **options)
    return path


def typed(values: pa.Array, kind: pa.DataType) -> pa.Array:
    if pa.types.is_dictionary(kind):
        return values.cast(kind.value_type).dictionary_encode()
    if pa.types.is_float16(kind):
        return values.cast(pa.float32()).cast(kind)
    return values.cast(kind)


def text(path: Path, rows: Rows, write: Callable[[Any], str] = str, **options: Any) -> Path:
    """The rows as csv; `write` says how a number is written."""
    with path.open("w", newline="", encoding=options.pop("encoding", "utf-8")) as file:
        writer = csv.writer(file, **options)
        writer.writerow(rows[0])
        for row in rows:
            writer.writerow(["" if v is None else v if isinstance(v, str) else write(v) for v in map(row.get, rows[0])])
    return path


def lines(path: Path, rows: Rows, change: Callable[[Any], Any] = lambda value: value, bom: bytes = b"") -> Path:
    """The rows as jsonl, their numbers as `change` has them."""
    said = [{k: v if isinstance(v, str) or v is None else change(v) for k, v in row.items()} for row in rows]
    path.write_bytes(bom + b"".join(json.dumps(row).encode() + b"\n" for row in said))
    return path


def events(path: Path, **options: Any) -> list[Event]:
    return [event for _, event in open_log(path, **options).events()]


def said_by(frame: Any) -> list[Event]:
    return [decode_event(record.value, record.headers) for record in records_of(frame, "topic", 0)]


def written_of_numbers(folder: Path, rows: Rows) -> Iterator[Path]:
    """A table whose ids, values and places are whole numbers, in every way in which tables write them."""
    ids = ("user_id", "item_id", "session_id", "value", "position")
    for name, kind in WHOLE.items():
        yield parquet(folder / f"{name}.parquet", rows, dict.fromkeys(ids, kind))
    for name, kind in TIMES.items():
        yield parquet(folder / f"ts {name}.parquet", rows, {"ts": kind})
    for fraction in ("", ".0", ".00"):
        yield text(folder / f"fraction {fraction}.csv", rows, lambda number, fraction=fraction: f"{number}{fraction}")
        yield lines(folder / f"text {fraction}.jsonl", rows, lambda number, fraction=fraction: f"{number}{fraction}")
    yield lines(folder / "numbers.jsonl", rows)
    yield lines(folder / "floats.jsonl", rows, float)


numbers = st.integers(1, 100)
number_rows = st.lists(
    st.fixed_dictionaries(
        {
            "type": st.sampled_from(["view", "purchase"]), "user_id": numbers, "item_id": numbers, "ts": st.just(TS),
            "session_id": st.none() | numbers, "value": st.none() | numbers, "position": st.none() | numbers,
        }
    ),
    min_size=1,
    max_size=6,
)  # fmt: skip
ONCE = settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],  # an example takes a second: looking for the smallest takes minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@ONCE
@given(number_rows)
def test_whole_numbers_are_the_same_ids_and_values_however_they_are_written(tmp_path: Path, rows: Rows) -> None:
    ids = ("user_id", "item_id", "session_id")
    expected = said_by([row | {name: row[name] and str(row[name]) for name in ids} for row in rows])
    assert [event.user_id for event in expected] == [str(row["user_id"]) for row in rows]
    for path in written_of_numbers(tmp_path, rows):
        assert events(path) == expected, path.name
        if path.suffix == ".parquet" and "256" not in path.name:
            assert said_by(pl.read_parquet(path, glob=False)) == expected, path.name
    assert said_by(pl.read_csv(tmp_path / "fraction .00.csv", infer_schema=False)) == expected


unicode_text = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=8)
any_text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=9)
text_rows = st.lists(
    st.fixed_dictionaries(
        {
            "type": st.sampled_from(["search", "view"]), "user_id": unicode_text,
            "item_id": unicode_text | st.sampled_from(["007", "1e5", "1.10", "1.1", "nan", "true", "8000.0"]),
            "ts": st.just(TS), "query": st.none() | any_text,
            "context": st.none() | st.sampled_from(['{"a": "x, y"}', '{"n": 1.5, "b": true, "z": null}']),
        }
    ),
    min_size=1,
    max_size=6,
)  # fmt: skip


@ONCE
@given(text_rows)
def test_text_is_the_same_whatever_is_around_it(tmp_path: Path, rows: Rows) -> None:
    texts = ("user_id", "item_id", "query", "context")
    expected = events(lines(tmp_path / "plain.jsonl", rows))
    for name, kind in TEXT.items():
        assert events(parquet(tmp_path / f"{name}.parquet", rows, dict.fromkeys(texts, kind))) == expected, name
    for name, options in {
        "plain": {}, "bom": {"encoding": "utf-8-sig"},
        "unix": {"lineterminator": "\n", "quoting": csv.QUOTE_NONNUMERIC},
        "quoted": {"quoting": csv.QUOTE_ALL},
    }.items():  # fmt: skip
        assert events(text(tmp_path / f"{name}.csv", rows, **options)) == expected, name
    for separator in ";\t|":
        path = text(tmp_path / "separated.csv", rows, delimiter=separator)
        assert events(path, separator=separator) == expected, separator
    assert events(lines(tmp_path / "bom.jsonl", rows, bom=b"\xef\xbb\xbf")) == expected
    assert said_by(pl.read_parquet(tmp_path / "string.parquet")) == expected


@pytest.mark.parametrize("names", [["8000", "8000.0"], ["1.0", "1.1"], ["1.0", "1.00"], ["8000.0", "POST"], ["007.0"]])
@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet", "frame"])
def test_two_names_never_become_one(tmp_path: Path, names: list[str], form: str) -> None:
    rows: Rows = [{"type": "view", "user_id": "u", "item_id": name, "ts": TS} for name in names]
    write: dict[str, Callable[[], list[Event]]] = {
        "csv": lambda: events(text(tmp_path / "log.csv", rows)),
        "jsonl": lambda: events(lines(tmp_path / "log.jsonl", rows)),
        "parquet": lambda: events(parquet(tmp_path / "log.parquet", rows)),
        "frame": lambda: said_by(pl.DataFrame(rows)),
    }
    assert [event.item_id for event in write[form]()] == names


def test_names_that_keep_their_fraction_are_counted_and_said(tmp_path: Path) -> None:
    rows: Rows = [{"type": "view", "user_id": "7.0", "item_id": name, "ts": TS} for name in ("8.0", "8", "9.0")]
    hints = open_log(text(tmp_path / "log.csv", rows)).check().hints
    assert [hint[:34] for hint in hints] == ["2 rows have a 'item_id' such as 80"]


def test_what_a_column_writes_is_judged_over_the_whole_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "BATCH_ROWS", 2)
    names = ["1.0", "2.0", "3.0", "4.0", "4"]
    rows: Rows = [{"type": "view", "user_id": "7.0", "item_id": name, "ts": TS} for name in names]
    part = events(text(tmp_path / "log.csv", rows), rows=(0, 2))
    assert [(event.user_id, event.item_id) for event in part] == [("7", "1.0"), ("7", "2.0")]


def test_floats_that_have_lost_digits_are_no_ids(tmp_path: Path) -> None:
    for kind, least in ((pa.float32(), 2**24), (pa.float64(), 2**53)):
        rows: Rows = [{"type": "view", "user_id": float(id_), "item_id": "i", "ts": TS} for id_ in (least, least * 2)]
        with pytest.raises(TableError, match="row 1: 'user_id' is"):
            events(parquet(tmp_path / "log.parquet", rows, {"user_id": kind}))


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet", "frame"])
def test_numbers_may_have_blanks_around_them_or_be_truth_values_or_missing(tmp_path: Path, suffix: str) -> None:
    base = {"type": "view", "user_id": "u", "item_id": "i", "ts": f" {TS}.0 "}
    values = [" 4.5 ", "True", "false", "NaN", " "]
    rows: Rows = [{**base, "value": value} for value in values]
    path = tmp_path / f"log.{suffix}"
    match suffix:
        case "csv":
            found = events(text(path, rows))
        case "jsonl":
            found = events(lines(path, rows))
        case "parquet":
            found = events(parquet(path, rows))
        case _:
            found = said_by(pl.DataFrame(rows))
    assert [(event.value, event.ts) for event in found] == [(value, TS) for value in (4.5, 1.0, 0.0, None, None)]


def test_a_context_is_the_same_as_json_struct_map_or_member(tmp_path: Path) -> None:
    base = {"type": "view", "user_id": "u", "item_id": "i", "ts": TS}
    maps = [{"n": 1.5, "page": "home"}, {"n": float("nan"), "page": "007"}, {"n": None, "page": None}]
    expected = [{"n": 1.5, "page": "home"}, {"page": "007"}, None]
    rows: Rows = [{**base, "context": context} for context in maps]
    struct = parquet(tmp_path / "struct.parquet", rows)
    assert [event.context for event in events(struct)] == expected
    assert [event.context for event in said_by(pl.read_parquet(struct))] == expected
    cells: Rows = [{**base, "n": context["n"], "page": context["page"]} for context in maps]
    mapping = {"context.n": "n", "context.page": "page"}
    for path in (parquet(tmp_path / "cells.parquet", cells), text(tmp_path / "cells.csv", cells)):
        assert [event.context for event in events(path, mapping=mapping)] == expected, path


def test_an_item_is_the_same_in_every_format(tmp_path: Path) -> None:
    rows: Rows = [{"item_id": 8000.0, "category": 7.0, "price": 2.5, "vector": [1.0, 0.5], "ts": TS, "boost": 2.0}]
    rows += [{"item_id": 8001.0, "category": None, "price": None, "vector": None, "ts": TS, "boost": None}]
    expected = [
        Item(item_id="8000", categories=("7",), price=2.5, vector=(1.0, 0.5), added=TS, boost=2.0),
        Item(item_id="8001", added=TS),
    ]
    paths = [
        parquet(tmp_path / "floats.parquet", rows),
        parquet(tmp_path / "decimals.parquet", rows, dict.fromkeys(("item_id", "price"), pa.decimal128(38, 2))),
        lines(tmp_path / "items.jsonl", rows),
        text(tmp_path / "items.csv", rows, lambda value: json.dumps(value)),
    ]
    for path in paths:
        assert list(read_catalogue(path).values()) == expected, path
    named = [{("added" if name == "ts" else name): value for name, value in row.items()} for row in rows]
    assert list(items_of(named).values()) == list(items_of(pl.DataFrame(named)).values()) == expected


def slates_of(places: list[int]) -> Rows:
    """Slates of places in some order; the reward comes at the last, and the second decides what the target earns."""
    return [
        {
            "slate": slate, "position": place, "item": 1 + (slate % 2 if place == 2 else 0),
            "propensity": 0.5 if place == 2 else 1.0, "target": float(slate % 2) if place == 2 else 1.0,
            "reward": float(place == max(places) and slate % 2), "sex": bool(slate % 3), "age": slate % 5 + 0.5,
        }
        for slate in range(20)
        for place in places
    ]  # fmt: skip


@settings(parent=ONCE, max_examples=5)
@given(st.permutations(range(1, 13)))
def test_actions_are_the_same_rounds_in_every_format(tmp_path: Path, places: list[int]) -> None:
    rows = slates_of(places)
    kinds = dict.fromkeys(("slate", "position", "item"), pa.float64())
    options = TableOptions(rows=RowOptions(where={"sex": "true"}, features=("age", "sex")))
    logs: list[ActionLog] = [
        read_actions(path, options)
        for path in (
            parquet(tmp_path / "whole.parquet", rows), parquet(tmp_path / "floats.parquet", rows, kinds),
            parquet(tmp_path / "text.parquet", rows, dict.fromkeys(kinds, pa.string())),
            text(tmp_path / "log.csv", rows), lines(tmp_path / "log.jsonl", rows),
            text(tmp_path / "floats.csv", rows, lambda v: str(v if isinstance(v, bool) else float(v))),
        )
    ]  # fmt: skip
    first = logs[0].logged(COLUMN)
    assert logs[0].places == tuple(map(str, range(1, 13)))
    assert (first.rounds.logged[first.rounds.step == 1] == 0.5).all()
    for log in logs:
        found = log.logged(COLUMN)
        for name in ("slate", "reward", "logged", "target", "step"):
            assert getattr(found.rounds, name).tolist() == getattr(first.rounds, name).tolist(), (log.path, name)
        assert log.context.dense.tolist() == logs[0].context.dense.tolist(), log.path
        assert (log.items, log.places, log.item.tolist()) == (logs[0].items, logs[0].places, logs[0].item.tolist())


def test_a_target_table_finds_its_places_however_they_are_written(tmp_path: Path) -> None:
    log = read_actions(parquet(tmp_path / "log.parquet", slates_of([1, 2])), TableOptions())
    table: Rows = [{"item": item, "position": place, "probability": 0.5} for item in (1, 2) for place in (1, 2, 7, 8)]
    for path in (text(tmp_path / "t.csv", table, lambda v: str(float(v))), parquet(tmp_path / "t.parquet", table)):
        assert set(log.logged(str(path)).rounds.target.tolist()) == {0.5}
    twice = parquet(tmp_path / "twice.parquet", table + table[:1])
    with pytest.raises(TableError, match="item '1' is there twice"):
        log.logged(str(twice))
    others = text(tmp_path / "others.csv", [{**row, "position": "top"} for row in table[:1]])
    with pytest.raises(TableError, match="they sum to 1: 0, 2: 0"):
        log.logged(str(others))


def test_refused_actions_are_counted_and_take_their_slates_with_them(tmp_path: Path) -> None:
    rows = slates_of([1, 2])
    rows[3]["propensity"] = 0.0
    path = text(tmp_path / "log.csv", rows)
    with pytest.raises(
        TableError, match=r"1 of 40 rows cannot be used.*\n  row 3: 'propensity' is '0.0', expected prob"
    ):
        read_actions(path, TableOptions())
    log = read_actions(path, TableOptions(rows=RowOptions(max_refused=0.05)))
    assert len(log.reward) == 38
    assert "1 rows cannot be used and were left out, the first is row 3" in log.notes[0]
    assert "1 more rows were left out with them" in log.notes[1]
    none: Rows = [{**row, "reward": "much"} for row in rows]
    with pytest.raises(TableError, match="40 of 40 rows cannot be used"):
        read_actions(text(tmp_path / "none.csv", none), TableOptions(rows=RowOptions(max_refused=1.0)))


# What is no table, in words

HEADER = "type,user_id,item_id,ts\n"
ROW = f"view,u,i,{TS}\n"
JSON_ROW = json.dumps({"type": "view", "user_id": "u", "item_id": "i", "ts": TS}) + "\n"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("log.csv", b"", "it has no rows"),
        ("log.csv", HEADER.encode(), "it has no rows; its columns are type, user_id, item_id, ts"),
        ("log.jsonl", b"\n\n", "it has no rows"),
        ("log.csv", (HEADER + ROW).encode("utf-16"), "begins as UTF-16"),
        ("log.jsonl", JSON_ROW.encode("utf-16"), "begins as UTF-16"),
        ("log.csv", (HEADER + ROW).encode("utf-16-le"), "the header in line 1 is no text in UTF-8"),
        ("log.csv", gzip.compress((HEADER + ROW).encode(), mtime=0), "begins as gzip"),
        ("log.csv.gz", (HEADER + ROW).encode(), "can be read to its end"),
        ("log.csv.gz", gzip.compress((HEADER + ROW * 999).encode(), mtime=0)[:-20], "can be read to its end"),
        ("log.csv", b"PK\x03\x04 and more", "begins as a zip archive or a spreadsheet"),
        ("log.csv", HEADER.replace("item_id", "ts").encode(), "the column 'ts' is there twice"),
        ("log.csv", (HEADER + ROW).replace(",", ";").encode(), "--separator ';'"),
        ("log.csv", (HEADER + ROW).replace(",", "\t").encode(), r"--separator '\\t'"),
        ("log.csv", (HEADER + ROW + 'view,"u,i,1\n' + ROW).encode(), "row 1, which begins in line 3, does not end"),
        ("log.csv", (HEADER + ROW + 'view,"u" u,i,1\n').encode(), "row 1: ',' expected after '\"' \\(line 3\\)"),
        ("log.csv", (HEADER + ROW + "view,\xfc,i,1\n").encode("latin-1"), "row 1: the row is not UTF-8 text"),
        ("log.csv", (HEADER + f"view,u\0,i,{TS}\n").encode(), "row 0: 'user_id' is 'u\\\\x00'"),
        ("log.csv", (HEADER + "x" * 5_000_000).encode(), "row 0, which begins in line 2, does not end"),
        ("log.jsonl", b'{"value": NaN}\n', "row 0: the line is no JSON object: NaN is not JSON"),
        ("log.jsonl", b"[\n{}\n]\n", "row 0: the line is no JSON object: .*line 1"),
        ("log.jsonl", (JSON_ROW + '{"a": "' + "x" * 5_000_000 + '"}\n').encode(), "row 1: the line has more than 4,19"),
        ("log.jsonl", b'{"a":' + b"[" * 100_000, "row 0: the line is no JSON object"),
        ("log.jsonl", json.dumps(dict.fromkeys(map(str, range(11_000)))).encode(), "more than 10,000 columns"),
    ],
)  # fmt: skip
def test_what_is_no_table_is_told_in_words(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(TableError, match=words):
        open_log(path).check()


def test_one_broken_line_costs_no_other(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(HEADER + ROW + 'view,"u" u,i,1\n' + ROW)
    (tmp_path / "log.jsonl").write_text(JSON_ROW + "x" * 5_000_000 + "\n" + JSON_ROW)
    for name in ("log.csv", "log.jsonl"):
        [batch] = open_table(tmp_path / name).batches(["user_id"])
        assert batch.rows.tolist() == [0, 2]
        assert [row for row, _ in batch.broken] == [1]


COLUMNS: dict[str, pa.Array] = {
    "type": pa.array(["view"]), "user_id": pa.array(["u"]), "item_id": pa.array(["i"]), "ts": pa.array([TS]),
}  # fmt: skip
NO_UTF8 = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xffa")])


@pytest.mark.parametrize(
    ("column", "values", "words"),
    [
        ("ts", pa.array([1], pa.time32("s")), "row 0: 'ts' is 1.* \\(Time\\)"),
        ("ts", pa.array([1], pa.time64("us")), "row 0: 'ts' is 1.* \\(Time\\)"),
        ("ts", pa.array([1], pa.duration("s")), "row 0: 'ts' is 1.* \\(Duration"),
        ("ts", pa.array([2**31 - 1], pa.date32()), "row 0: 'ts' is"),
        ("ts", pa.array([[1]]), "row 0: 'ts' is \\[1\\]"),
        ("user_id", pa.array([b"\xff"]), "row 0: 'user_id' is b'\\\\xff'"),
        ("user_id", NO_UTF8, "row 0: 'user_id' is b'\\\\xffa'"),
        ("user_id", pa.array([True]), "row 0: 'user_id' is True"),
        ("user_id", pa.array([1], pa.timestamp("s")), "row 0: 'user_id' is 1"),
        ("user_id", pa.array([{"a": 1}]), "row 0: 'user_id' is {'a': 1}"),
        ("type", pa.array([b"\xff"]), "row 0: 'type' is '', which is no event type"),
        ("ts", pa.array([TS], pa.timestamp("ms", "Mars/Olympus")), "column 'ts' is of the type timestamp.*Mars"),
        ("context", pa.array([{"at": 1}], pa.struct({"at": pa.date32()})), "row 0: 'context' is a Struct"),
    ],
)
def test_a_column_of_another_type_is_told_with_its_row(
    tmp_path: Path, column: str, values: pa.Array, words: str
) -> None:
    pq.write_table(pa.table(COLUMNS | {column: values}), tmp_path / "log.parquet")
    with pytest.raises(TableError, match=words):
        open_log(tmp_path / "log.parquet").check()


def test_two_columns_of_one_name_are_refused_by_name(tmp_path: Path) -> None:
    pq.write_table(pa.table([[1], [2]], names=["ts", "ts"]), tmp_path / "log.parquet")
    with pytest.raises(TableError, match="the column 'ts' is there twice"):
        open_table(tmp_path / "log.parquet")


# Files and folders


@pytest.mark.parametrize("ending", ["csv.gz", "jsonl.gz", "csv.zst", "jsonl.zst"])
def test_compressed_files_are_read_as_they_are(tmp_path: Path, ending: str) -> None:
    plain = HEADER + ROW * 3 if ending.startswith("csv") else JSON_ROW * 3
    kind = "gzip" if ending.endswith("gz") else "zstd"
    with pa.CompressedOutputStream(str(tmp_path / f"log.{ending}"), kind) as file:
        file.write(plain.encode())
    assert [event.user_id for event in events(tmp_path / f"log.{ending}")] == ["u"] * 3


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_folder_of_parts_is_one_table(tmp_path: Path, suffix: str) -> None:
    folder = tmp_path / f"log.{suffix}"
    folder.mkdir()
    for mark in ("_SUCCESS", ".part-0.crc"):
        (folder / mark).touch()
    for part in (1, 0, 2):
        rows: Rows = [{"type": "view", "user_id": f"{part}.0", "item_id": f"{n}", "ts": TS} for n in range(3)]
        write = {"csv": text, "jsonl": lines, "parquet": parquet}[suffix]
        write(folder / f"part-0000{part}.{suffix}", rows)
    found = list(open_log(folder, rows=(2, 7)).events())
    assert [row for row, _ in found] == [2, 3, 4, 5, 6]
    assert [event.user_id for _, event in found] == ["0", "1", "1", "1", "2"]


def test_a_folder_that_is_no_table_is_told(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"expected one with files of one kind.*it holds nothing"):
        open_table(tmp_path)
    (tmp_path / "day=1").mkdir()
    with pytest.raises(TableError, match="'day=1' in it is a folder"):
        open_table(tmp_path)
    (tmp_path / "day=1").rmdir()
    (tmp_path / "a.csv").write_text(HEADER + ROW)
    (tmp_path / "b.csv").write_text("type,user_id\nview,u\n")
    with pytest.raises(TableError, match=r"b\.csv: its columns are type, user_id, but"):
        open_table(tmp_path)
    (tmp_path / "b.csv").rename(tmp_path / "b.jsonl")
    with pytest.raises(TableError, match="files of one kind"):
        open_table(tmp_path)


# Bounds


def test_a_batch_holds_few_rows_where_they_are_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: Rows = [{"item_id": str(n), "text": "x" * 1_000} for n in range(100)]
    for files in (text_files, parquet_files):
        monkeypatch.setattr(files, "BATCH_BYTES", 10_000)
    for path in (
        text(tmp_path / "a.csv", rows),
        lines(tmp_path / "a.jsonl", rows),
        parquet(tmp_path / "a.parquet", rows),
    ):
        batches = list(open_table(path).batches(["item_id", "text"]))
        assert max(len(batch.rows) for batch in batches) <= 11, path
        assert [row for batch in batches for row in batch.rows.tolist()] == list(range(100)), path


def test_a_cell_that_is_too_large_is_refused_with_its_row(tmp_path: Path) -> None:
    rows: Rows = [
        {"item_id": "a", "text": "x"},
        {"item_id": "b", "text": "x" * 1_100_000},
        {"item_id": "c", "text": None},
    ]
    for dictionary in (True, False):
        path = parquet(tmp_path / "items.parquet", rows, use_dictionary=dictionary)
        [batch] = open_table(path).batches(["item_id", "text"])
        assert batch.frame["item_id"].to_list() == ["a", "c"]
        assert batch.broken == ((1, "a cell has 1,100,000 bytes, at most 1,048,576"),)


MEASURED = """
import resource, sys
from pathlib import Path
from streamrec.errors import TableError
from streamrec.replay.catalogue_file import read_catalogue
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read_catalogue(Path(sys.argv[1]))
except TableError as error:
    print(str(error)[:300], file=sys.stderr)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_what_unpacks_to_more_than_memory_is_read_in_portions_or_refused(tmp_path: Path) -> None:
    long = pa.array(["x" * 900_000])
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 700, pa.int32()), long)
    table = pa.table({"item_id": pa.array(map(str, range(700))), "title": column})
    pq.write_table(table, tmp_path / "items.parquet")  # 630 MB of titles
    with gzip.open(tmp_path / "items.csv.gz", "wb", 1) as file:
        file.write(b"item_id,title\n")
        for _ in range(250):
            file.write(b"x" * 1_000_000)
    for name, words, most in (
        ("items.parquet", "expected text, no longer than 1024", 300_000_000),
        ("items.csv.gz", "does not end", 100_000_000),
    ):
        path = tmp_path / name
        assert path.stat().st_size < 2_000_000
        run = subprocess.run([sys.executable, "-c", MEASURED, str(path)], capture_output=True, text=True, check=True)
        assert words in run.stderr
        assert int(run.stdout) * 1024 < most, name  # ru_maxrss is in kB
