"""Historical logs: what is read, what is refused and in which words."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
import tracemalloc
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from streamrec import codec
from streamrec.cli.commands import replay
from streamrec.cli.shared.logs import LogPart, checked
from streamrec.config.settings import Settings
from streamrec.errors import LogError, TableError
from streamrec.events import LATEST_TS_MS, Event, EventType, Filters
from streamrec.replay import parquet_files, text_files
from streamrec.replay import selection as selecting
from streamrec.replay.logs import Log, RowLimits, open_log
from streamrec.replay.selection import Selection
from streamrec.replay.time_units import IN_MS, TimeUnit
from streamrec.transport.local import LocalSink
from streamrec.wiring import build_validation_limits
from streamrec.worker.validation import event_of

ROWS: list[dict[str, Any]] = [
    {"type": "view", "user_id": "u1", "item_id": "7", "ts": 1_600_000_000_000, "session_id": "s1", "value": None},
    {"type": "rating", "user_id": "u2", "item_id": "8", "ts": 1_600_000_000_000, "session_id": None, "value": 4.5},
    {"type": "purchase", "user_id": "ü3", "item_id": "7", "ts": 1_600_000_000_250, "session_id": "s1", "value": 2.0},
]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """The same rows in the format that the name asks for."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    if path.suffix == ".parquet":
        pl.DataFrame(rows, infer_schema_length=None).write_parquet(path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
    return path


def events(path: Path, **options: Any) -> list[Event]:
    return [event for _, event in open_log(path, **options).events()]


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(TableError) as caught:
        open_log(path, **options).check()
    return str(caught.value)


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_every_format_gives_the_same_events(tmp_path: Path, suffix: str) -> None:
    expected = [Event(**{**row, "type": EventType(row["type"])}) for row in ROWS]
    assert events(write(tmp_path / f"log{suffix}", ROWS)) == expected


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
@pytest.mark.parametrize("rows", [(0, 0), (0, 2), (1, None), (None, 1), (2, 99), (3, None)])
def test_a_part_keeps_the_row_numbers_of_the_whole(
    tmp_path: Path, suffix: str, rows: tuple[int | None, int | None]
) -> None:
    path = write(tmp_path / f"log{suffix}", ROWS)
    whole = list(open_log(path).events())
    log = open_log(path, rows=rows)
    assert list(log.events()) == whole[slice(*rows)]
    assert len(log) == len(whole[slice(*rows)])


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_batches_and_row_groups_leave_no_seams(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "BATCH_ROWS", 4)
    monkeypatch.setattr(parquet_files, "BATCH_ROWS", 4)
    rows = [{"type": "view", "user_id": f"u{n}", "item_id": "i", "ts": 10**12 + n} for n in range(23)]
    path = write(tmp_path / f"log{suffix}", rows)
    if suffix == ".parquet":
        pl.DataFrame(rows).write_parquet(path, row_group_size=5)
    assert [(row, event.user_id) for row, event in open_log(path, rows=(3, 19)).events()] == [
        (n, f"u{n}") for n in range(3, 19)
    ]


def test_a_record_is_the_event_in_msgpack_at_the_offset_of_its_row(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", ROWS)
    records = list(open_log(path, rows=(1, 3)).records("user-events"))
    assert [(record.topic, record.partition, record.offset) for record in records] == [
        ("user-events", 0, 1),
        ("user-events", 0, 2),
    ]
    assert records[1].key == "ü3".encode()
    assert [codec.decode_event(record.value, record.headers) for record in records] == events(path)[1:]


def test_columns_are_mapped_and_constants_fill_in(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", [{"who": "a", "what": 5, "when": 10**12, "price": "2.50", "shop": "x", "k": 7}])
    mapping = {"user_id": "who", "item_id": "what", "ts": "when", "type": "@purchase", "k": ""}
    [event] = events(path, mapping=mapping | {"context.price": "price", "context.shop": "shop"})
    assert event == Event(
        type=EventType.PURCHASE, user_id="a", item_id="5", ts=10**12, context={"price": 2.5, "shop": "x"}
    )
    assert open_log(path, mapping=mapping).check().ignored_columns == ("price", "shop", "k")


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_a_context_column_is_read_and_dotted_columns_join_it(tmp_path: Path, suffix: str) -> None:
    rows = [
        {"type": "view", "user_id": "a", "item_id": "i", "ts": 1, "context": {"page": "home", "n": 3}, "os": 2},
        {"type": "view", "user_id": "a", "item_id": "i", "ts": 2, "context": None, "os": None},
    ]
    path = write(tmp_path / f"log{suffix}", rows)
    assert [event.context for event in events(path, mapping={"context.os": "os"})] == [
        {"page": "home", "n": 3, "os": 2},
        None,
    ]


def test_ids_that_are_numbers_become_text(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    pl.DataFrame({"type": ["view"], "user_id": [17850.0], "item_id": [22], "ts": [1]}).write_parquet(path)
    [event] = events(path)
    assert (event.user_id, event.item_id) == ("17850", "22")


def test_times_may_be_iso_text_or_timestamps_of_any_unit_and_zone(tmp_path: Path) -> None:
    texts = ["2020-09-13T12:26:40Z", "2020-09-13 14:26:40.250+02:00", "2020-09-13T12:26:41", "1600000002000"]
    rows = [{"type": "view", "user_id": "a", "item_id": "i", "ts": text} for text in texts]
    moments = [1_600_000_000_000, 1_600_000_000_250, 1_600_000_001_000, 1_600_000_002_000]
    assert [event.ts for event in events(write(tmp_path / "log.csv", rows))] == moments
    for unit in ("ms", "us", "ns"):
        for zone in (None, "UTC", "Europe/Lisbon"):
            when = pl.Series([datetime.fromtimestamp(ms / 1000, UTC) for ms in moments]).dt.cast_time_unit(unit)
            when = when.dt.replace_time_zone(None) if zone is None else when.dt.convert_time_zone(zone)
            pl.DataFrame({"type": ["view"] * 4, "user_id": "a", "item_id": "i", "ts": when}).write_parquet(
                tmp_path / "log.parquet"
            )
            assert [event.ts for event in events(tmp_path / "log.parquet")] == moments


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_a_missing_column_is_named_with_what_there_is(tmp_path: Path, suffix: str) -> None:
    said = refusal(write(tmp_path / f"log{suffix}", [{"event": "view", "user_id": "a", "item_id": "i", "ts": 1}]))
    assert "no column holds 'type'" in said
    assert "--map type=COLUMN" in said
    assert "its columns are event, user_id, item_id, ts" in said


def test_a_mapping_to_nothing_and_from_nothing_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", ROWS)
    assert "there is no column 'prize' for 'value'" in refusal(path, mapping={"value": "prize"})
    assert "'usr' is no event field" in refusal(path, mapping={"usr": "user_id"})
    assert "rows 2:1 cannot be taken of 3" in refusal(path, rows=(2, 1))
    assert "translated to 'buy'" in refusal(path, types={"purchase": "buy"})


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("ts", "yesterday", "'ts' is 'yesterday', expected milliseconds since 1970"),
        ("ts", "-1", "'ts' is '-1', expected milliseconds"),
        ("ts", str(1_600_000_000_000_000), "before the year 2100"),
        ("ts", "", "'ts' is empty"),
        ("user_id", "", "'user_id' is empty"),
        ("item_id", "", "'item_id' is empty, and a 'rating' event needs one"),
        ("item_id", "x" * 257, "expected text of 1 to 256 characters"),
        ("value", "much", "'value' is 'much', expected a finite number"),
        ("value", "inf", "'value' is 'inf', expected a finite number"),
        ("position", "0", "'position' is '0', expected a whole number from 1 to 10000"),
        ("position", "1.5", "expected a whole number"),
        ("context", "[1]", "expected a flat map"),
        ("context", '{"a": {"b": 1}}', "expected a flat map"),
    ],
)
def test_an_unreadable_value_is_told_with_its_row(tmp_path: Path, field: str, value: str, expected: str) -> None:
    rows = [{**row, "position": 1, "context": '{"a": 1}'} for row in ROWS]
    rows[1] = {**rows[1], field: value}
    said = refusal(write(tmp_path / "log.csv", rows))
    assert "row 1: " in said
    assert "row 0" not in said
    assert expected in said


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ({"value": [1.0, float("inf")]}, "'value' is inf"),
        ({"user_id": [1.0, 1.5]}, "'user_id' is 1.5"),
        ({"position": [1, 0]}, "'position' is 0"),
        ({"ts": [1.0, 2.5]}, "'ts' is 2.5"),
    ],
)
def test_typed_columns_are_held_to_the_same_limits(tmp_path: Path, column: dict[str, Any], expected: str) -> None:
    frame = {"type": ["view"] * 2, "user_id": ["a"] * 2, "item_id": ["i"] * 2, "ts": [1, 2]} | column
    pl.DataFrame(frame).write_parquet(tmp_path / "log.parquet")
    assert f"row 1: {expected}, expected" in refusal(tmp_path / "log.parquet")


def test_unsorted_rows_are_told_also_across_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "BATCH_ROWS", 2)
    rows = [{"type": "view", "user_id": "a", "item_id": "i", "ts": ts} for ts in (10, 20, 15, 15, 30, 29)]
    path = write(tmp_path / "log.jsonl", rows)
    said = refusal(path)
    assert "3 of 6 rows" in said
    assert "row 2: 'ts' is 15, before the 20 of row 1" in said
    assert "row 5: 'ts' is 29, before the 30 of row 4" in said
    with pytest.raises(LogError, match="row 2"):
        events(path)


def test_unknown_types_are_listed_and_can_be_translated_or_left_out(tmp_path: Path) -> None:
    kinds = ["clickout item", "sort", "sort", "view", ""]
    path = write(tmp_path / "log.csv", [{**ROWS[0], "type": kind} for kind in kinds])
    said = refusal(path)
    assert "row 1: 'type' is 'sort', which is no event type" in said
    assert "... and 1 more: unknown type 'sort'" in said
    assert "--skip-unknown-types" in said
    log = open_log(path, types={"clickout item": "click", "sort": ""}, skip_unknown_types=True)
    assert [(row, event.type.value) for row, event in log.events()] == [(0, "click"), (3, "view")]
    summary = log.check()
    assert summary.left_out == {"sort": 2, "": 1}
    assert summary.events == {EventType.CLICK: 1, EventType.VIEW: 1}


def test_what_is_said_of_a_log_is_said_as_it_stands_there(tmp_path: Path) -> None:
    """Brackets are no markup to the terminal's library."""
    rows = [ROWS[0], {**ROWS[0], "type": "[/b]"}, {**ROWS[0], "value": "[/i]"}]
    log = held(write(tmp_path / "[-u].csv", rows), max_refused=0.4, types={"[/b]": ""})
    said = io.StringIO()
    checked(log, Console(file=said, width=200))
    assert said.getvalue().splitlines() == [
        "[-u].csv: 3 rows from 2020-09-13 12:26 to 2020-09-13 12:26: 1 view",
        "left out: 1 of type '[/b]'",
        "refused 1 rows (invalid value), the first is row 2: 'value' is '[/i]', expected a finite number of at most "
        "64 bits",
    ]


def test_rows_left_out_are_not_held_against_the_log(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", [ROWS[0], {**ROWS[1], "type": "sort", "item_id": "", "value": "x"}, ROWS[2]])
    assert [row for row, _ in open_log(path, types={"sort": ""}).events()] == [0, 2]


def test_a_request_needs_no_item(tmp_path: Path) -> None:
    path = write(tmp_path / "log.jsonl", [{"type": "request", "user_id": "a", "ts": 1, "item_id": None, "k": 5}])
    assert events(path) == [Event(type=EventType.REQUEST, user_id="a", ts=1, k=5)]


def test_many_problems_are_counted_but_not_all_listed(tmp_path: Path) -> None:
    rows = [{**ROWS[0], "value": f"much {n}"} for n in range(50)]
    said = refusal(write(tmp_path / "log.csv", [*rows, ROWS[0]]))
    assert "50 of 51 rows" in said
    assert [said.count(f"row {n}: 'value' is 'much {n}'") for n in range(4)] == [1, 1, 1, 0]
    assert "... and 47 more: invalid value" in said
    assert "--max-refused 0.981" in said
    assert refusal(write(tmp_path / "log.csv", rows)).count("--max-refused") == 0  # nothing would be left


def test_a_wrong_type_column_does_not_fill_the_screen(tmp_path: Path) -> None:
    rows = [{**ROWS[0], "type": f"kind {n}"} for n in range(500)]
    said = refusal(write(tmp_path / "log.csv", rows))
    assert "500 of 500 rows" in said
    assert len(said.splitlines()) < 30


def test_broken_lines_are_told_with_their_row(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text(json.dumps(ROWS[0]) + "\n\n{nonsense\n" + json.dumps(ROWS[2]) + "\n")
    assert "row 1: the line is no JSON object" in refusal(tmp_path / "log.jsonl")
    (tmp_path / "log.csv").write_text("type,user_id,item_id,ts\nview,a,i,1\nview,a\n")
    assert "row 1: the row has 2 cells, expected 4" in refusal(tmp_path / "log.csv")


def test_a_file_that_is_not_what_its_name_says_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log.parquet").write_bytes(b"PAR1 but no more")
    assert "expected a parquet file" in refusal(tmp_path / "log.parquet")
    (tmp_path / "log.csv").write_bytes(b"type,user_id,item_id,ts\nview,\xff,i,1\n")
    assert "row 0: the row is not UTF-8 text" in refusal(tmp_path / "log.csv")
    assert "there is no such file" in refusal(tmp_path / "none.csv")
    (tmp_path / "log.xlsx").write_bytes(b"")
    assert "expected a file ending in .parquet, .csv, .jsonl" in refusal(tmp_path / "log.xlsx")


NOW_MS = 1_800_000_000_000
LIMITS = build_validation_limits(Settings())


def dated(path: Path, *times: object) -> Path:
    return write(path, [{"type": "view", "user_id": "u", "item_id": "i", "ts": ts} for ts in times])


def held(path: Path, max_refused: float = 0.0, **options: Any) -> Log:
    """The log as commands read it."""
    return open_log(path, row_limits=RowLimits(LIMITS, NOW_MS, max_refused), **options)


@pytest.mark.parametrize(
    ("ts", "words"),
    [
        (1_600_000_000, "1980 or later: seconds? If all rows have them, use --ts-unit s"),
        (1_600_000_000_000_000, "before the year 2100: microseconds? If all rows have them, use --ts-unit us"),
        (1_600_000_000_000_000_000, "before the year 2100: nanoseconds? If all rows have them, use --ts-unit ns"),
        (20_240_131, "1980 or later: a date? Write it as 2024-01-31T00:00:00"),
        (20_240_131_123_000, "before the year 2100: a date? Write it as 2024-01-31T12:30:00"),
        (160_000_000_000, "1980 or later\n"),  # 1975
        (0, "1980 or later\n"),
        (NOW_MS + 86_400_001, "after the message was sent, which for a log is now\n"),
        (LATEST_TS_MS, "after the message was sent, which for a log is now\n"),
    ],
)
@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_a_date_that_every_worker_would_refuse_is_told_with_what_it_looks_like(
    tmp_path: Path, suffix: str, ts: int, words: str
) -> None:
    with pytest.raises(LogError) as caught:
        held(dated(tmp_path / f"log{suffix}", NOW_MS, ts)).check()
    assert "row 1: " in str(caught.value)
    assert words in f"{caught.value}\n"


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
@pytest.mark.parametrize("unit", list(TimeUnit))
def test_numbers_count_what_is_said(tmp_path: Path, suffix: str, unit: TimeUnit) -> None:
    times = [round(ms / IN_MS[unit]) for ms in (1_600_000_000_000, 1_600_000_001_000)]
    log = held(dated(tmp_path / f"log{suffix}", *times), unit=unit)
    assert [event.ts for _, event in log.events()] == [1_600_000_000_000, 1_600_000_001_000]


def test_a_unit_holds_for_numbers_alone_and_seconds_may_have_fractions(tmp_path: Path) -> None:
    path = dated(tmp_path / "log.csv", "1600000000.25", "2020-09-13T12:26:41Z")
    assert [event.ts for _, event in held(path, unit=TimeUnit.S).events()] == [1_600_000_000_250, 1_600_000_001_000]
    stamps = pl.Series([1_600_000_000_250_000], dtype=pl.Int64).cast(pl.Datetime("us"))
    pl.DataFrame({"type": "view", "user_id": "u", "item_id": "i", "ts": stamps}).write_parquet(tmp_path / "l.parquet")
    assert [event.ts for _, event in held(tmp_path / "l.parquet", unit=TimeUnit.NS).events()] == [1_600_000_000_250]


def test_a_wrong_unit_is_told_too_and_two_units_in_one_file_are_never_both_right(tmp_path: Path) -> None:
    path = dated(tmp_path / "log.csv", 1_600_000_000, 1_600_000_001_000)
    with pytest.raises(LogError, match=r"1 of 2 rows(.|\n)*row 0: field 'ts' is 1600000000, .* seconds\?"):
        held(path).check()
    with pytest.raises(LogError, match=r"1 of 2 rows(.|\n)*row 1: 'ts' is '1600000001000', .* milliseconds\?"):
        held(path, unit=TimeUnit.S).check()


def test_a_row_with_a_wrong_date_is_not_what_later_rows_are_measured_by(tmp_path: Path) -> None:
    log = held(dated(tmp_path / "log.csv", NOW_MS - 2, LATEST_TS_MS, NOW_MS - 1, 5, NOW_MS), max_refused=0.4)
    assert [row for row, _ in log.events()] == [0, 2, 4]
    assert log.check().last_ts == NOW_MS


REQUESTS = [
    {"type": "request", "user_id": "u", "ts": NOW_MS, "item_id": None, "scenario": "nosuch"},
    {"type": "request", "user_id": "u", "ts": NOW_MS, "item_id": "i", "scenario": "similar"},
    {"type": "request", "user_id": "u", "ts": NOW_MS, "item_id": None, "scenario": "similar"},
    {"type": "request", "user_id": "u", "ts": NOW_MS, "item_id": None, "scenario": "bundle", "basket": '["a", "b"]'},
]


def test_requests_that_no_worker_would_answer_are_told(tmp_path: Path) -> None:
    with pytest.raises(LogError) as caught:
        held(write(tmp_path / "log.jsonl", REQUESTS)).check()
    said = str(caught.value)
    assert "2 of 4 rows" in said
    assert "row 0: field 'scenario' is 'nosuch', expected one of home, similar" in said
    assert "row 2: field 'item_id' is missing: a request of scenario 'similar' needs it" in said


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_request_brings_its_basket_and_filters(tmp_path: Path, suffix: str) -> None:
    rows = [{**REQUESTS[3], "filters": '{"tags": ["blue"]}', "explain": "true"}, REQUESTS[1]]
    asked, plain = events(write(tmp_path / f"log{suffix}", rows))
    assert (asked.basket, asked.filters, asked.explain) == (("a", "b"), Filters(tags=("blue",)), True)
    assert (plain.basket, plain.filters, plain.explain) == (None, None, None)
    rows[0] |= {"basket": '["a", 5]', "filters": '{"colour": "blue"}'}
    said = refusal(write(tmp_path / f"log{suffix}", rows))
    assert "row 0: 'basket' is '[\"a\", 5]', expected at most 32 item ids" in said
    assert "row 0: 'filters' is" in said


def test_a_struct_of_filters_has_its_members_in_every_row(tmp_path: Path) -> None:
    filters = [{"tags": ["blue"], "price_min": None}, {"tags": None, "price_min": 2.0}, None]
    rows = {"type": ["request"] * 3, "user_id": "u", "item_id": "i", "ts": NOW_MS, "filters": filters}
    pl.DataFrame(rows).write_parquet(tmp_path / "log.parquet")
    found = [event.filters for event in events(tmp_path / "log.parquet")]
    assert found == [Filters(tags=("blue",)), Filters(price_min=2.0), None]


def test_a_row_that_no_message_has_room_for_is_told(tmp_path: Path) -> None:
    context = json.dumps({f"k{n}": "x" * 1024 for n in range(64)})
    with pytest.raises(LogError, match=r"row 1: the message has \d+ bytes, expected at most 65536"):
        held(write(tmp_path / "log.csv", [ROWS[0], {**ROWS[0], "context": context}])).check()


def test_a_name_with_control_characters_in_a_basket_is_told(tmp_path: Path) -> None:
    rows = [{**REQUESTS[3], "basket": '["a\\u0007"]'}]
    assert "row 0: `basket` has a name with control characters" in refusal(write(tmp_path / "log.csv", rows))


@pytest.mark.parametrize(("share", "passes"), [(0.0, False), (0.3, False), (0.4, True), (1.0, True), (math.nan, False)])
def test_so_many_rows_as_may_be_are_left_out_and_counted_by_reason(tmp_path: Path, share: float, passes: bool) -> None:
    rows = [ROWS[0], {**ROWS[0], "value": "much", "position": 0}, ROWS[1], {**ROWS[1], "ts": 5}, ROWS[2]]
    log = held(write(tmp_path / "log.csv", rows), max_refused=share)
    if not passes:
        with pytest.raises(LogError, match="2 of 5 rows cannot be used"):
            log.check()
        with pytest.raises(LogError, match="2 of 5 rows cannot be used"):
            list(log.events())
        return
    assert [row for row, _ in log.events()] == [0, 2, 4]
    refusals = log.check().refusals
    assert refusals.rows == 2
    assert refusals.as_dict() == {
        "invalid value": {
            "rows": 1,
            "first_row": 1,
            "detail": "'value' is 'much', expected a finite number of at most 64 bits",
        },
        "invalid position": {
            "rows": 1,
            "first_row": 1,
            "detail": "'position' is '0', expected a whole number from 1 to 10000",
        },
        "past ts": {
            "rows": 1,
            "first_row": 3,
            "detail": "field 'ts' is 5, expected milliseconds since 1970, and 1980 or later",
        },
    }


def test_broken_lines_count_as_rows_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text(f"type,user_id,item_id,ts\nview,a,i,{NOW_MS}\nview,a\nview,b,i,{NOW_MS}\n")
    log = held(path, max_refused=0.5)
    assert [row for row, _ in log.events()] == [0, 2]
    assert log.check().refusals.by_reason["unreadable"].rows == 1


def test_what_is_allowed_but_seldom_meant_is_noted(tmp_path: Path) -> None:
    rated = {**ROWS[1], "value": None, "event_id": "e"}
    rows = [{**ROWS[0], "event_id": None, "shop": "x"}, rated, rated, {**rated, "user_id": "u9"}]
    hints = "\n".join(open_log(write(tmp_path / "log.csv", rows), rows=(0, 9)).check().hints)
    assert "columns that become no event field: shop" in hints
    assert "the log ends at row 4: 5 of the rows asked for are not there" in hints
    assert "1 rows repeat an event_id of their user" in hints
    assert "3 ratings have no 'value'" in hints
    assert not open_log(write(tmp_path / "ms.csv", ROWS)).check().hints


def bought(*lines: str) -> list[dict[str, Any]]:
    """Purchases, each written 'user session item'; '-' is nothing."""
    cells = [[None if cell == "-" else cell for cell in line.split()] for line in lines]
    return [
        {"type": "purchase", "user_id": user, "session_id": session, "item_id": item, "ts": 10**12 + n}
        for n, (user, session, item) in enumerate(cells)
    ]


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_other_items_than_asked_for_are_left_out_and_counted(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"log{suffix}", bought("a 1 22191", "a 1 POST", "a 1 84077", "b 2 DOT22191"))
    log = open_log(path, selection=Selection(only_items=r"^\d{5}"))
    assert [row for row, _ in log.events()] == [0, 2]
    assert log.check().deselected == {"of other items than asked for": 2}


def test_what_is_left_out_is_not_held_against_the_log(tmp_path: Path) -> None:
    rows = bought("a 1 22191", "a 1 POST", "a 1 84077")
    rows[1] |= {"ts": 5, "value": "much"}
    log = open_log(write(tmp_path / "log.csv", rows), selection=Selection(only_items=r"^\d{5}"))
    assert log.check().rows == 3
    assert [row for row, _ in log.events()] == [0, 2]


def test_rows_without_an_item_are_kept_whatever_items_are_asked_for(tmp_path: Path) -> None:
    rows = [{"type": "request", "user_id": "a", "ts": 1, "item_id": None}, {**ROWS[0], "item_id": "POST"}]
    log = open_log(write(tmp_path / "log.jsonl", rows), selection=Selection(only_items="^9"))
    assert [event.type for _, event in log.events()] == [EventType.REQUEST]


@pytest.mark.parametrize(("pattern", "why"), [("(", "unclosed group"), ("(?=a)", "look-around")])
def test_a_pattern_that_is_none_is_refused_at_once(tmp_path: Path, pattern: str, why: str) -> None:
    said = refusal(write(tmp_path / "log.csv", ROWS), selection=Selection(only_items=pattern))
    assert f"--only-items {pattern!r} cannot be used" in said
    assert why in said


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_a_nameless_session_is_a_user_of_its_own(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"log{suffix}", bought("anon 1 x", "ann 1 x", "anon 2 x", "anon 1 y"))
    users = [event.user_id for event in events(path, selection=Selection(anonymous="anon"))]
    assert users == ["anon:1", "ann", "anon:2", "anon:1"]


def test_a_nameless_row_without_a_session_is_told_with_its_row(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", bought("anon 1 x", "anon - x", "ann - x", f"anon {'s' * 253} x"))
    said = refusal(path, selection=Selection(anonymous="anon"))
    assert "2 of 4 rows" in said
    assert "row 1: 'session_id' is empty, and a row of the anonymous user 'anon' needs one" in said
    limits = "text of 1 to 256 characters without control characters, its session's included"
    assert f"row 3: 'user_id' is 'anon', expected {limits}" in said


@pytest.mark.parametrize(
    ("selection", "option"),
    [(Selection(anonymous="anon"), "--anonymous"), (Selection(once_per_session=True), "--once-per-session")],
)
def test_options_about_sessions_need_a_column_of_them(tmp_path: Path, selection: Selection, option: str) -> None:
    rows = [{"type": "view", "user_id": "a", "item_id": "i", "ts": 1, "visit": "v"}]
    path = write(tmp_path / "log.csv", rows)
    said = refusal(path, selection=selection)
    assert f"{option} needs sessions" in said
    assert "--map session_id=COLUMN" in said
    assert open_log(path, selection=selection, mapping={"session_id": "visit"}).check().rows == 1


def test_a_session_counts_an_item_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "BATCH_ROWS", 2)  # repeats are found across batches too
    lines = ["a 1 x", "a 1 y", "a 1 x", "b 1 x", "a 2 x", "a - x", "a - x", "a 1 y"]
    log = open_log(write(tmp_path / "log.csv", bought(*lines)), selection=Selection(once_per_session=True))
    assert [row for row, _ in log.events()] == [0, 1, 3, 4, 5, 6]
    assert log.check().deselected == {"that repeat an item of their session": 2}


def test_a_look_and_a_purchase_of_the_same_item_both_count(tmp_path: Path) -> None:
    rows = bought("a 1 x", "a 1 x", "a 1 x")
    rows[0]["type"] = "view"
    log = open_log(write(tmp_path / "log.csv", rows), selection=Selection(once_per_session=True))
    assert [event.type.value for _, event in log.events()] == ["view", "purchase"]


def test_nameless_sessions_are_told_apart_before_repeats_are_looked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", bought("anon 1 x", "anon 2 x", "anon 1 x", "anon 1 POST"))
    log = open_log(path, selection=Selection("^[a-z]", "anon", True))
    assert [(row, event.user_id) for row, event in log.events()] == [(0, "anon:1"), (1, "anon:2")]
    assert log.check().deselected == {
        "of other items than asked for": 1,
        "that repeat an item of their session": 1,
    }


def test_the_memory_for_repeats_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selecting, "REMEMBERED", 2)
    path = write(tmp_path / "log.csv", bought("a 1 x", "a 1 y", "a 1 x", "a 1 z", "a 1 x", "a 1 y"))
    log = open_log(path, selection=Selection(once_per_session=True))
    assert [row for row, _ in log.events()] == [0, 1, 3, 5]  # y was forgotten, x was met again and again


def test_an_interrupted_replay_is_recognised_by_everything_that_chooses_its_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", ROWS)
    selections = [Selection(), Selection(only_items="^7"), Selection(anonymous="u1"), Selection(once_per_session=True)]
    parts = [LogPart(path, selection=selection) for selection in selections]
    parts += [LogPart(path, rows=(0, 2)), LogPart(path, skip_unknown_types=True), LogPart(path, types={"a": "view"})]
    parts.append(LogPart(path, unit=TimeUnit.S))
    assert len({part.digest("topic") for part in parts}) == len(parts)
    assert LogPart(path).digest("topic") == LogPart(path, selection=Selection()).digest("topic")


def test_a_resumed_replay_still_knows_what_came_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = LocalSink()
    monkeypatch.setattr("streamrec.wiring.kafka_sink", lambda settings: sink)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    path = write(tmp_path / "log.csv", bought("a 1 x", "a 1 y", "a 1 x", "a 1 z"))
    part, settings = LogPart(path, selection=Selection(once_per_session=True)), Settings()
    bookmark = replay.Bookmark(part.digest("user-events", str(settings.kafka["bootstrap.servers"])))
    bookmark.write(replay.Mark("run", 2))
    replay.run(part, settings, speed=None, resume=True)
    sent = [codec.decode_event(record.value, record.headers) for record in sink.records("user-events")]
    assert [(event.item_id, event.event_id) for event in sent] == [("z", "run-3")]
    assert bookmark.read() is None


json_values = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.integers(0, 99) | st.floats() | st.text()
wild_fields = st.sampled_from(Event.__struct_fields__)
wild_rows = st.dictionaries(wild_fields, json_values, max_size=2).map(lambda wild: ROWS[0] | wild)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(wild_rows, min_size=1, max_size=2))
def test_whatever_passes_the_check_is_an_event_that_the_service_accepts(
    tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    path = tmp_path / "wild.jsonl"
    with path.open("wb") as file:
        file.writelines(msgspec.json.encode(row) + b"\n" for row in rows)
    log = held(path, max_refused=1.0)
    refusals = log.check().refusals
    taken = list(log.records("user-events"))
    for record in taken:
        event_of(replace(record, timestamp_ms=NOW_MS), LIMITS)
    assert len(taken) + refusals.rows == len(rows)
    with contextlib.suppress(LogError):
        held(path).check()
        assert not refusals.rows


def test_a_long_log_is_read_in_bounded_memory(tmp_path: Path) -> None:
    count = 200_000
    frame = {"type": ["view"] * count, "user_id": "a", "item_id": "i", "ts": range(count)}
    pl.DataFrame(frame).write_parquet(tmp_path / "log.parquet")
    log = open_log(tmp_path / "log.parquet")
    tracemalloc.start()
    assert sum(1 for _ in log.events()) == count
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000  # all events at once would take ten times that


@pytest.mark.skipif(not os.environ.get("STREAMREC_DATA"), reason="STREAMREC_DATA names no folder of real logs")
@pytest.mark.parametrize("name", ["globo", "ml100k", "online_retail", "trivago100k", "yoochoose100k"])
def test_real_logs_are_read(name: str) -> None:
    path = Path(os.environ["STREAMREC_DATA"]) / name / "events.parquet"
    types = {"clickout item": "click"}
    log = open_log(path, mapping={"type": "event"}, types=types, skip_unknown_types=True, rows=(1_000, 31_000))
    summary = log.check()
    assert sum(summary.events.values()) + sum(summary.left_out.values()) == 30_000
    assert sum(1 for _ in log.events()) == sum(summary.events.values()) > 3_000
