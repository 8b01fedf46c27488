#!/usr/bin/env -S .venv/bin/python
"""Makes the sample in streamrec/data from the whole UCI Online Retail log.

    STREAMREC_DATA=DIR .venv/bin/python tools/make_sample.py

DIR/online_retail holds events.parquet (ts, user_id, item_id, event, value, session_id, quantity; 'anon' for a customer
not named) and items.parquet (item_id, title). The same input gives the same bytes. What is changed, and why, is told in
streamrec/data/README.md.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

HERE = Path(__file__).resolve().parent.parent / "streamrec" / "data"
FIRST_DAY, END_DAY = datetime(2011, 10, 10, tzinfo=UTC), datetime(2011, 10, 31, tzinfo=UTC)
PRODUCT_CODE = r"^\d{5}[A-Z]*$"
MAX_BYTES = 3_000_000
KIND_TITLES = 4
"""A last word of at least so many titles names a kind of thing."""
SMALL_WORDS = frozenset(("a", "and", "for", "in", "of", "on", "or", "the", "to", "with"))
NO_KIND_TEXT = """
50's 60's 70's acrylic alphabet amelie amethyst antique apple apples art assorted asstd babushka bakelike beaded
bird birds birthday black blue boudoir boy brown butterfly calm cat ceramic chic chicken christmas circus cm colour
colours cottage cream crystal daisy dark day design designs diner dinosaur dog doiley doll dolly easter edwardian
egg england english feather felt feltcraft filigree finish flock floral flower flowers folkart font fonts french
garden gift gingham girl girls glass gold green hanging heart hearts hen home house ivory jack jet kitchen kitty
lace large leaf london love magic medium metal mini mistletoe mushroom natural nature orange owl owls pack painted
paisley pantry parade party pears piece pieces pink polkadot poppies posy purple queen rabbit rabbits rect red
regency retro retrospot rose roses round rustic santa scandinavian scottie set shed silver size skull skulls small
spaceboy spot spots stack star stars strawberry string stripe suki sweetheart swirly tea thyme tier toadstool tone
tones tree trees turquoise union vintage white wicker wood wooden woodland yellow zinc
"""
NO_KIND = frozenset(NO_KIND_TEXT.split())
"""Colours, motifs, rooms and materials: the last words of many titles, but kinds of nothing."""


def main() -> None:
    """Read, cut, write, and say how large it became."""
    source = Path(os.environ["STREAMREC_DATA"]) / "online_retail"
    log = purchases(pl.read_parquet(source / "events.parquet"))
    items = catalogue(pl.read_parquet(source / "items.parquet"), set(log["item_id"]))
    written = 0
    for name, frame in (("online_retail.parquet", log), ("online_retail_items.parquet", items)):
        pq.write_table(frame.to_arrow(), HERE / name, compression="zstd", compression_level=19, store_schema=False)
        size = (HERE / name).stat().st_size
        print(f"{name}: {frame.height:,} rows, {size:,} bytes")
        written += size
    if written > MAX_BYTES:
        sys.exit(f"the sample has {written:,} bytes, expected at most {MAX_BYTES:,}: take fewer days")


def purchases(whole: pl.DataFrame) -> pl.DataFrame:
    """Three weeks of product lines, one per basket and product, in an order that teaches nothing."""
    first, end = (int(day.timestamp() * 1000) for day in (FIRST_DAY, END_DAY))
    lines = (
        whole.with_columns(pl.col("item_id").str.to_uppercase())
        .filter(
            (pl.col("event") == "purchase") & (pl.col("quantity") > 0) & (pl.col("value") > 0),
            pl.col("item_id").str.contains(PRODUCT_CODE),
            (pl.col("ts") >= first) & (pl.col("ts") < end),
        )
        .unique(["session_id", "item_id"], keep="first", maintain_order=True)
    )
    guest = pl.concat_str(pl.lit("guest-"), "session_id")
    shuffle = pl.concat_str("session_id", pl.lit("/"), "item_id").map_elements(shuffled, return_dtype=pl.String)
    return lines.sort("ts", "session_id", shuffle, maintain_order=True).select(
        type=pl.lit("purchase"),
        user_id=pl.when(pl.col("user_id") == "anon").then(guest).otherwise(pl.col("user_id")),
        item_id="item_id",
        ts="ts",
        session_id="session_id",
        value=pl.col("value").cast(pl.Float64).round(2),
    )


def shuffled(line: str) -> str:
    """A place in the basket that depends on the line's name alone."""
    return hashlib.blake2b(line.encode(), digest_size=8).hexdigest()


def catalogue(items: pl.DataFrame, sold: set[str]) -> pl.DataFrame:
    """Titles in readable case and a category, for the products in the sample."""
    titles: dict[str, str | None] = {}
    for code, title in sorted(zip(items["item_id"], items["title"], strict=True), key=lambda pair: pair[0].islower()):
        if code.upper() in sold and title:
            titles.setdefault(code.upper(), readable(title))
    last_words = Counter(kind for title in titles.values() if title for kind in possible_kinds(title)[:1])
    kinds = {word for word, count in last_words.items() if count >= KIND_TITLES}
    codes = sorted(sold)
    return pl.DataFrame(
        {
            "item_id": codes,
            "title": [titles.get(code) for code in codes],
            "category": [category(titles.get(code), kinds) for code in codes],
        }
    )


def readable(title: str) -> str:
    """'SET/6  TEA-LIGHTS IN 50'S TIN' is 'Set/6 Tea-Lights in 50's Tin'."""

    def case(match: re.Match[str]) -> str:
        word = match[0].lower()
        return word if (match.start() and word in SMALL_WORDS) or word[0].isdigit() else word.capitalize()

    return re.sub(r"\d*[A-Za-z]+(?:'[A-Za-z]+)*", case, " ".join(title.split()).strip(" ,.*"))


def possible_kinds(title: str) -> list[str]:
    """The title's words that may name a kind of thing, the last first, in the singular."""
    words = re.findall(r"[a-z][a-z'-]+", title.lower().split(" with ")[0])
    candidates = (singular(word) for word in reversed(words) if word not in NO_KIND | SMALL_WORDS)
    return [word for word in candidates if word not in NO_KIND]


def singular(word: str) -> str:
    """Good enough for shop titles: boxes, candles, glasses, dishes."""
    if word.endswith(("xes", "shes", "ches", "sses")):
        return word[:-2]
    if word.endswith("ies"):
        return word[:-3] + "y"
    return word[:-1] if word.endswith("s") and not word.endswith(("ss", "us", "'s")) else word


def category(title: str | None, kinds: set[str]) -> str | None:
    """The last word of the title that names a kind of thing, None where no word does."""
    return next((kind.capitalize() for kind in possible_kinds(title or "") if kind in kinds), None)


if __name__ == "__main__":
    main()
