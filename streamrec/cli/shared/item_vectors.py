"""Vectors for the items of a catalogue file, on their way into the topic.

Only what is sent is embedded: an item that the topic describes in the same words keeps the vector it has there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec
from rich.progress import track

from streamrec.cli.shared.console import PlainConsole
from streamrec.codec import encode
from streamrec.engine.items.text_encoders import Encoder, described, text_of
from streamrec.engine.items.tokens import words
from streamrec.errors import ConfigError
from streamrec.events import MAX_VECTOR, Item

Message = tuple[str, bytes | None]
"""An item's id and what is sent for it; None withdraws it."""
DECIMALS = 5
"""Of a number in a message: finer ones make it longer, and no cosine better."""
NUMBER_BYTES = DECIMALS + 4


class Embedding:
    """Gives a vector to those items of a file that have words and no vector.

    Raises:
        ConfigError: the encoder's vectors are longer than an item's may be.
    """

    def __init__(self, catalogue: Mapping[str, Item], encoder: Encoder) -> None:
        if encoder.width > MAX_VECTOR:
            raise ConfigError(
                f"learning.encoder makes vectors of {encoder.width} numbers, expected at most {MAX_VECTOR}, as many as "
                "an item may have; choose another model, or give the file a shorter `vector`"
            )
        self._catalogue = catalogue
        self._encoder = encoder
        self._lacking = {item.item_id for item in catalogue.values() if item.vector is None and words(text_of(item), 1)}

    def size(self, item_id: str) -> int:
        """How many bytes it adds to an item's message, at most."""
        return self._encoder.width * NUMBER_BYTES if item_id in self._lacking else 0

    def stripped(self, item: Item) -> Item | None:
        """What the topic says of an item as the file could say it; None where the file cannot: it lacks its vector."""
        if item.item_id not in self._lacking:
            return item
        if item.vector is None or len(item.vector) != self._encoder.width:
            return None
        return msgspec.structs.replace(item, vector=None)

    def added(self, messages: Sequence[Message]) -> Iterator[Message]:
        """The messages with vectors in them; says how far it is on the error stream, withdrawn items last."""
        kept = [message for message in messages if message[0] not in self._lacking or message[1] is None]
        items = [self._catalogue[item_id] for item_id, value in messages if item_id in self._lacking and value]
        embedded = described(items, self._encoder)
        for item in track(embedded, "embedding", len(items), console=PlainConsole(stderr=True), disable=not items):
            vector = tuple(round(number, DECIMALS) for number in item.vector or ())
            yield item.item_id, encode(msgspec.structs.replace(item, vector=vector))
        yield from kept
