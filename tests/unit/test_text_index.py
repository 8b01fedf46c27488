"""What people search for is found: all words first, then some; the catalogue as it is, and nothing else, decides."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrec.config.groups import Limits, Serving
from streamrec.config.settings import Settings
from streamrec.engine.items.item_table import ItemTable
from streamrec.engine.items.tokens import words
from streamrec.engine.retrieval import search, text_index
from streamrec.engine.retrieval.search import WordSearch
from streamrec.engine.retrieval.text_index import LEAST_IDF, TextIndex
from streamrec.events import Item
from streamrec.replay.catalogue_file import CatalogueItems
from streamrec.wiring import build_pipeline

SHOP = (
    Item(item_id="holder", title="White hanging heart T-light holder", categories=("decoration",)),
    Item(item_id="candle", title="Heart candle", text="Burns white for forty hours", categories=("decoration",)),
    Item(item_id="mug", title="Mug", text="With a red heart", tags=("kitchen", "Crème")),
    Item(item_id="lamp", title="Lampe à pétrole", text="émaillée, vert foncé"),
    Item(item_id="cloth", title="Table cloth", tags=("kitchen",)),
    Item(item_id="nameless"),
)


def index(items: Iterable[Item] = SHOP) -> TextIndex:
    made = TextIndex()
    for item in items:
        made.take(item)
    return made


def found(made: TextIndex, text: str, k: int = 10) -> list[str]:
    names, scores = made.search(text, k)
    assert len(names) == len(scores) == len(set(names)) <= k
    assert scores.dtype == np.float32
    assert (scores > 0).all()
    return names


def test_items_with_all_words_come_before_those_with_some() -> None:
    assert found(index(), "white heart")[:2] == ["holder", "candle"]  # of which the shorter says it more
    assert found(index(), "white heart") == ["holder", "candle", "mug"]
    assert found(index(), "white heart", 1) == ["holder"]


def test_titles_texts_categories_and_tags_are_searched_and_titles_count_most() -> None:
    assert found(index(), "decoration") == ["holder", "candle"]
    assert set(found(index(), "kitchen")) == {"mug", "cloth"}
    assert found(index(), "heart")[0] in ("candle", "holder")
    assert found(index(), "forty") == ["candle"]


@pytest.mark.parametrize("text", ["PETROLE", "pétrole", "pe\u0301trole", "lampe petrole", "foncé", "FONCE"])
def test_case_and_accents_do_not_matter(text: str) -> None:
    assert found(index(), text) == ["lamp"]


def test_a_word_that_is_still_being_typed_finds_what_it_may_become() -> None:
    assert found(index(), "can") == ["candle"]
    assert found(index(), "white he")[0] in ("candle", "holder")
    assert found(index(), "he white") == ["holder", "candle"]  # and only the last one is
    assert found(index(), "c") == []


def test_words_that_nobody_has_are_passed_over() -> None:
    assert found(index(), "xyzzy hanging plugh") == ["holder"]
    assert found(index(), "xyzzy") == []


@pytest.mark.parametrize("text", ["", "   ", "!?", "\x00", "\ud800", "***", '"', "🙂"])
def test_a_query_without_words_finds_nothing(text: str) -> None:
    assert found(index(), text) == []


@pytest.mark.parametrize(
    "text",
    ['heart" OR "mug', "heart AND", "NOT heart", "title: heart", "heart*", "^heart", "(heart", "NEAR(heart white, 2)"],
)
def test_a_query_is_text_and_not_syntax(text: str) -> None:
    assert "candle" in found(index(), text)


@given(text=st.text(max_size=200))
def test_no_query_is_an_error(text: str) -> None:
    found(MADE, text, 3)


MADE = index()


def test_words_between_which_there_is_no_space_are_found_one_by_one() -> None:
    made = index([Item(item_id="tea", title="緑茶セット"), Item(item_id="set", title="食器セット")])
    assert found(made, "緑茶") == ["tea"]
    assert words("緑茶 green-tea 2er") == ["緑", "茶", "green", "tea", "2er"]


def test_what_changes_or_is_withdrawn_counts_at_the_next_search() -> None:
    made = index()
    made.take(Item(item_id="mug", title="Cup"))
    assert "mug" not in found(made, "heart")
    assert found(made, "cup") == ["mug"]
    made.withdraw("mug")
    made.withdraw("mug")
    made.withdraw("never there")
    assert found(made, "cup") == []
    assert len(made) == len(SHOP) - 2  # and the nameless


def test_the_same_catalogue_gives_the_same_list_however_it_came_about() -> None:
    plain, worn = index(), TextIndex()
    for round_ in range(30):
        for item in SHOP:
            worn.take(Item(item_id=item.item_id, title=f"heart white kitchen {round_}"))
            if round_ % 3 == 0:
                worn.withdraw(item.item_id)
    for item in reversed(SHOP):
        worn.take(item)
    for text in ("heart", "white heart", "decoration kitchen", "ki"):
        names, scores = plain.search(text, 10)
        other, others = worn.search(text, 10)
        assert names == other
        assert scores.tobytes() == others.tobytes()


def test_of_equals_the_lower_id_is_first_wherever_the_list_ends() -> None:
    made = index(Item(item_id=f"i{n:03}", title="grey mug") for n in reversed(range(300)))
    for k in (1, 7, 100, 299):
        assert found(made, "mug", k) == [f"i{n:03}" for n in range(k)]


def test_scores_are_those_of_the_formula() -> None:
    counts = {  # of white, of heart, and words in all
        "holder": (3.0, 3.0, 7),
        "candle": (1.0, 3.0, 8),
        "mug": (0.0, 1.0, 7),
    }
    average = (7 + 8 + 7 + 6 + 3) / 5
    idf = [max(math.log((5 - having + 0.5) / (having + 0.5)), LEAST_IDF) for having in (2, 3)]
    expected = {
        name: sum(w * tf * 2.2 / (tf + 1.2 * (0.25 + 0.75 * length / average)) for w, tf in zip(idf, tfs, strict=True))
        for name, (*tfs, length) in counts.items()
    }
    names, scores = index().search("white heart", 10)
    assert names == ["holder", "candle", "mug"]
    assert scores == pytest.approx([expected[name] for name in names], rel=1e-6)


def test_what_everything_has_costs_no_more_than_so_many_postings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_index, "MOST_POSTINGS", 1_000)
    common = "the set of what all things here are made from"
    made = index(Item(item_id=f"i{n:03}", title=f"{common} n{n} of {n % 7}") for n in range(400))
    for asked in (
        "the",
        "the set of",
        common,
        f"{common} n123",
        " ".join(f"n{n}" for n in range(300)),
        f"{common} n12",
    ):
        before = made.postings_read
        assert found(made, asked[:1_024], 5)
        assert 0 < made.postings_read - before <= 1_000
    assert found(made, f"{common} n123", 5)[0] == "i123"  # a rare word counts, wherever it stands
    assert found(made, "x" * 5_000 + " " + "set " * 5_000) == []  # words after the first 1,024 characters do not count


def test_a_word_that_more_items_have_than_are_looked_at_is_still_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_index, "MOST_POSTINGS", 10)
    made = index(Item(item_id=f"i{n:03}", title="the mug") for n in range(50))
    assert found(made, "mug", 3) == ["i000", "i001", "i002"]


def test_what_may_not_be_shown_takes_no_place_from_what_may() -> None:
    table = ItemTable(600)
    for n in range(500):
        table.intern(f"i{n:03}", 1)
    hidden = np.ones(500, np.bool_)
    hidden[[450, 470, 499]] = False
    looking = WordSearch("text", index(Item(item_id=f"i{n:03}", title="grey mug") for n in range(500)), table)
    items, suits = looking.found("mug", np.empty(0, np.int32), 2, hidden)
    assert items.tolist() == [450, 470]
    assert suits.tolist() == [0.0, 0.0]


def test_of_more_contents_than_are_compared_those_touched_last_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "MOST_COMPARED", 5)
    table = ItemTable(64)
    for n in range(20):
        table.content.set(table.intern(f"i{n}", n), np.eye(1, table.content.width, dtype=np.float16)[0])
    looking = search.MeaningSearch("alike", table)
    assert set(looking.found(None, np.array([3], np.int32), 10, np.zeros(20, np.bool_))[0].tolist()) == set(
        range(15, 20)
    )
    hidden = np.arange(20) >= 4
    assert set(looking.found(None, np.array([3], np.int32), 10, hidden)[0].tolist()) == set(range(4))


def test_the_listing_tells_the_index_what_is_listed() -> None:
    settings = Settings.model_validate({"preset": "fast"}).model_copy(
        update={"limits": Limits(max_items=512, max_users=50, max_catalogue=3)}
    )
    catalogue = build_pipeline(settings, CatalogueItems(SHOP[:2])).features.catalogue
    assert catalogue.index is not None
    assert catalogue.index.search("heart", 10)[0] == ["holder", "candle"]
    catalogue.withdraw("candle")
    assert catalogue.index.search("heart", 10)[0] == ["holder"]
    for item in SHOP[2:5]:  # and the holder is the longest unchanged of four
        catalogue.take(item)
    assert catalogue.index.search("heart", 10)[0] == ["mug"]
    without = build_pipeline(settings.model_copy(update={"serving": Serving(search=False)}), CatalogueItems(SHOP))
    assert without.features.catalogue.index is None
