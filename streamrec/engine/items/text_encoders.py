"""What makes vectors of texts: hashed words, or a sentence-transformers model.

    Hashed             needs nothing, and knows words by their letters: "sofa" and "couch" have nothing in common
    SentenceEncoder    a network trained on sentences (Reimers and Gurevych: Sentence-BERT, EMNLP 2019), from a
                       directory or from what the hub's cache holds; nothing is downloaded

Items and what people search for are encoded by the same one, so that their inner products are cosines.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import msgspec
import numpy as np

from streamrec.engine.arrays.batch import Float32
from streamrec.engine.items.item_vectors import Float16, content_of_text, content_of_vector, words_of_item
from streamrec.engine.items.tokens import words
from streamrec.errors import ConfigError
from streamrec.events import Item

REMEMBERED = 512
"""Texts whose vectors are kept: people search for the same things."""
BATCH = 64
"""Items encoded at a time."""


class Encoder(Protocol):
    """Makes vectors of one width, of any length; zero where there are no words."""

    width: int

    def encode(self, texts: Sequence[str]) -> Float32:
        """What people search for, (texts, width)."""

    def describe(self, items: Sequence[Item]) -> Float32:
        """Items by what the catalogue says of them in words, (items, width)."""


class Hashed:
    """Words hashed into place, as in `features.content`."""

    def __init__(self, width: int) -> None:
        self.width = width

    def encode(self, texts: Sequence[str]) -> Float32:
        return np.array([content_of_text(text, self.width) for text in texts], np.float32).reshape(-1, self.width)

    def describe(self, items: Sequence[Item]) -> Float32:
        return np.array([words_of_item(item, self.width) for item in items], np.float32).reshape(-1, self.width)


class SentenceEncoder:
    """A sentence-transformers model, by its directory or its name in the hub's cache, on a torch device.

    Raises:
        ConfigError: sentence-transformers is not installed, or there is no such model here.
    """

    def __init__(self, model: str, device: str = "cpu") -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise ConfigError(
                f"learning.encoder is {model!r}, which needs sentence-transformers ({error}): "
                "pip install 'streamrec[text]', or set learning.encoder = \"hashed\""
            ) from None
        try:
            self._model: Any = SentenceTransformer(model, device=device, local_files_only=True)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"learning.encoder is {model!r}, expected the directory of a sentence-transformers model, or a name "
                f"that the hub's cache holds ({str(error).splitlines()[0]}); give the directory, or fetch the model: "
                f"hf download {model}"
            ) from None
        width = self._model.get_embedding_dimension()
        if width is None:
            raise ConfigError(f"learning.encoder is {model!r}, which does not say how long its vectors are")
        self.width = int(width)

    def encode(self, texts: Sequence[str]) -> Float32:
        out = np.zeros((len(texts), self.width), np.float32)
        telling = [at for at, text in enumerate(texts) if words(text, 1)]
        if telling:
            out[telling] = self._model.encode(
                [texts[at] for at in telling], batch_size=BATCH, show_progress_bar=False, normalize_embeddings=True
            )
        return out

    def describe(self, items: Sequence[Item]) -> Float32:
        return self.encode([text_of(item) for item in items])


class TextVectors:
    """Vectors as items have them, `width` wide and of length one: of items, and of what people search for."""

    def __init__(self, encoder: Encoder, width: int) -> None:
        self.encoder = encoder
        self.width = width
        self._remembered: OrderedDict[str, Float32] = OrderedDict()

    def of(self, text: str) -> Float32:
        """What a text is about, zero where it has no words, (width,); an inner product with an item's is a cosine."""
        if text in self._remembered:
            self._remembered.move_to_end(text)
            return self._remembered[text]
        # Alone: what comes with it would change the last bits.
        vector = content_of_vector(self.encoder.encode([text])[0], self.width)
        found = np.zeros(self.width, np.float32) if vector is None else vector.astype(np.float32)
        found.setflags(write=False)
        self._remembered[text] = found
        if len(self._remembered) > REMEMBERED:
            self._remembered.popitem(last=False)
        return found

    def of_item(self, item: Item) -> Float16 | None:
        """The vector that the catalogue gives, or else one of its words; None where there is nothing to make it of."""
        given = self.encoder.describe([item])[0] if item.vector is None else item.vector
        return content_of_vector(given, self.width)


def described(items: Iterable[Item], encoder: Encoder) -> Iterator[Item]:
    """The items in their order, each with a vector that had none and has words; encoded BATCH at a time."""
    waiting: list[Item] = []
    for item in items:
        waiting.append(item)
        if len(waiting) == BATCH:
            yield from _described(waiting, encoder)
            waiting.clear()
    yield from _described(waiting, encoder)


def text_of(item: Item) -> str:
    """An item in words, as a sentence encoder reads it."""
    parts = (item.title or "", item.text or "", ", ".join(item.categories), ", ".join(item.tags))
    return ". ".join(part for part in parts if part)


def _described(items: Sequence[Item], encoder: Encoder) -> Iterator[Item]:
    vectors = iter(encoder.describe([item for item in items if item.vector is None]).tolist())
    for item in items:
        vector = None if item.vector is not None else tuple(next(vectors))
        yield msgspec.structs.replace(item, vector=vector) if vector is not None and any(vector) else item
