"""Whatever a file holds, its reader gives rows or an error in words: small tables, damaged at random."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from streamrec.errors import StreamrecError
from streamrec.evaluation.ope.action_rows import RowOptions
from streamrec.evaluation.ope.tables import LOGGED, UNIFORM, TableOptions, read_actions
from streamrec.replay.catalogue_file import read_catalogue
from streamrec.replay.logs import open_log

ROUNDS = int(os.environ.get("STREAMREC_FUZZ_ROUNDS", "120"))
"""Damaged files of each kind; a longer run is a larger number."""

TABLE = pl.DataFrame(
    {
        "type": ["view", "search", "rating", "purchase"] * 3, "user_id": [f"ü{n % 3}" for n in range(12)],
        "item_id": [f"i,{n}" for n in range(12)], "ts": [1_600_000_000_000 + n for n in range(12)],
        "value": [4.5, None, 3.0, 1.0] * 3, "position": [1, 2, 3, 4] * 3, "query": ['a "b"\nc', None, "x", "y"] * 3,
        "context": ['{"page": "home", "n": 1.5}', None, "{}", None] * 3, "price": [2.5, 1.0, None, 0.0] * 3,
        "title": ["Tea, with milk", "Mug", None, ""] * 3, "category": ["a|b", '["c"]', None, "d"] * 3,
        "vector": ["[1, 2]", None, None, None] * 3, "reward": [0.0, 1.0, 0.0, 0.5] * 3,
        "propensity": [0.5, 1.0, 0.25, 0.1] * 3, "slate": [n // 4 for n in range(12)],
    }
)  # fmt: skip
TYPED = TABLE.with_columns(
    pl.from_epoch("ts", "ms"),
    pl.struct("price", "title").alias("context"),
    pl.Series("vector", [[0.5, 1.0]] * 12, pl.Array(pl.Float32, 2)),
    pl.col("category").str.split("|"),
    pl.col("user_id").cast(pl.Categorical),
    pl.col("price").cast(pl.Decimal(20, 4)),
    pl.col("item_id").cast(pl.Binary),
)
JSON_BITS = [b"NaN", b"null", b"{}", b"[1]", b'"\\ud800"', b"1e999", b"9" * 40, b"true", b"-0.0", b"[" * 3_000]
CSV_BITS = [b'"', b'""', b",", b"\r", b"\n", b";", b"\t", b"\0", b"inf", b"nan", b"1_0", b"-1", b"1e400", b"2024-13-01"]
BYTES = [b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", b"\xed\xa0\x80", b"\x80" * 9, b"PAR1", b"\x1f\x8b"]


def written(suffix: str, folder: Path) -> bytes:
    path = folder / f"valid{suffix}"
    if suffix == ".parquet":
        TABLE.write_parquet(path)
    elif suffix == ".typed.parquet":
        TYPED.write_parquet(path, compression="uncompressed", use_pyarrow=True)
    else:
        plain = TABLE.write_csv().encode() if ".csv" in suffix else TABLE.write_ndjson().encode()
        kind = {".gz": "gzip", ".zst": "zstd"}.get(path.suffix)
        if kind is None:
            return plain
        with pa.CompressedOutputStream(str(path), kind) as file:
            file.write(plain)
    return path.read_bytes()


def damaged(valid: bytes, chance: random.Random) -> bytes:
    """The file with a few of its bytes, lines, cells or its encoding changed."""
    content = bytearray(valid)
    for _ in range(chance.choice([1, 1, 1, 2, 5])):
        at = chance.randrange(len(content) + 1)
        end = min(at + chance.choice([0, 1, 1, 4, 40]), len(content))
        match chance.randrange(7):
            case 0:
                content = content[:at]
            case 1:
                content[at:end] = bytes(chance.randrange(256) for _ in range(end - at))
            case 2:
                content[at:end] = chance.choice([*JSON_BITS, *CSV_BITS, *BYTES])
            case 3:
                content[at:at] = content[at : at + chance.choice([8, 80, 800])]
            case 4:
                names = [b"user_id", b"ts", b"item_id", b"value", b"vector", b"", b"a" * 7]
                content = content.replace(chance.choice(names[:5]), chance.choice(names), chance.choice([1, -1]))
            case 5:
                head, _, tail = bytes(content).partition(b"\n")
                content = bytearray(
                    chance.choice([tail, head, head + b"\n" + head + b"\n" + tail, tail + b"\n" + head])
                )
            case _ if chance.random() < 0.2:
                text = bytes(content).decode("utf-8", "replace")
                content = bytearray(
                    text.encode(chance.choice(["utf-16", "latin-1", "utf-16-be", "utf-8-sig"]), "replace")
                )
    return bytes(content)


def read_log(path: Path) -> None:
    log = open_log(path, mapping={"context.title": "title"}, skip_unknown_types=True)
    log.check()
    assert sum(1 for _ in log.events()) >= 0


def read_rounds(path: Path) -> None:
    rows = RowOptions(features=("price", "title"), max_refused=1.0)
    log = read_actions(path, TableOptions(mapping={"item": "item_id"}, rows=rows))
    for target in (LOGGED, UNIFORM):
        assert len(log.logged(target).rounds) == len(log.reward) > 0


READERS: dict[str, Callable[[Path], object]] = {"log": read_log, "catalogue": read_catalogue, "actions": read_rounds}


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".jsonl", ".jsonl.zst", ".parquet", ".typed.parquet"])
def test_a_damaged_table_gives_rows_or_an_error_in_words(tmp_path: Path, suffix: str) -> None:
    valid, path = written(suffix, tmp_path), tmp_path / f"table{suffix}"
    read = refused = 0
    for number in range(ROUNDS):
        chance = random.Random(f"{suffix} {number}")
        path.write_bytes(damaged(valid, chance))
        name = chance.choice(list(READERS))
        try:
            READERS[name](path)
        except StreamrecError as error:
            refused += path.name in str(error)
        except BaseException as error:  # also polars' own, which are no `Exception`
            pytest.fail(f"round {number}, read as {name}: {type(error).__name__}: {error}")
        else:
            read += 1
    assert read > 0
    assert read + refused == ROUNDS


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet", ".typed.parquet"])
def test_each_reader_reads_the_table_before_it_is_damaged(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"table{suffix}"
    path.write_bytes(written(suffix, tmp_path))
    read_log(path)
    read_rounds(path)
    assert len(read_catalogue(path)) == 12
