"""Puts a catalogue file into the items topic.

The topic is read from its beginning first, and only what differs is sent: a file that is loaded again changes nothing.
Items get vectors on the way where there is an encoder. Joins no group and commits nothing.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path

import typer

from streamrec.cli.shared.item_vectors import Embedding, Message
from streamrec.codec import JSON_HEADERS, brief, encode
from streamrec.config.groups import HASHED
from streamrec.config.settings import Settings
from streamrec.errors import BadEvent, ConfigError, TableError
from streamrec.replay.catalogue_file import CatalogueItems, read_catalogue
from streamrec.transport import Record
from streamrec.worker.catalogue_feed import id_of, item_of

FLUSH_TIMEOUT_S = 60.0
MAX_LISTED = 20


@dataclass(frozen=True, slots=True)
class Difference:
    """How a file differs from the topic: how many items are new, changed, the same and withdrawn."""

    new: int = 0
    changed: int = 0
    same: int = 0
    withdrawn: int = 0

    @property
    def messages(self) -> int:
        """How many it takes."""
        return self.new + self.changed + self.withdrawn


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """That items which the file does not have leave: up to this share of the topic's without a question."""

    unasked: float

    def confirm(self, withdrawn: int, said: int, file: Path) -> None:
        """Say how many leave, and ask whether so many shall.

        Raises:
            ConfigError: they are too many to leave unasked, and there is nobody to ask.
            typer.Abort: they shall not.
        """
        if not withdrawn:
            return
        words = f"{withdrawn:,} of {said:,} items in the topic are not in {file.name} and will be withdrawn"
        if withdrawn <= self.unasked * said:
            print(words, file=sys.stderr)
        elif sys.stdin.isatty():
            typer.confirm(f"{words}. Go on?", abort=True, err=True)
        else:
            raise ConfigError(
                f"{words}, expected at most {self.unasked:.0%} of them (--max-withdrawn); nothing was sent: is it the "
                "whole catalogue? If so, add --yes"
            )


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """How a file is loaded, as it was typed.

    Without `withdrawal`, items that the file does not have stay. `embed` says whether items get vectors from
    `learning.encoder`; None: if that is a model. `max_refused` is the share of rows that may be left out because they
    are no items.
    """

    withdrawal: Withdrawal | None = None
    dry_run: bool = False
    embed: bool | None = None
    max_refused: float = 0.0


def run(settings: Settings, file: Path, plan: LoadPlan, *, as_json: bool) -> None:
    """Send what differs, and print how much that was.

    Raises:
        TableError: the file cannot be read, holds no item, or rows that are none or too large for a worker; nothing was
            sent.
        ConfigError: rows were refused whose items would be withdrawn; so many would be that somebody has to confirm
            it; or the encoder is not there.
        TransportError: no broker answers, there is no such topic, or something was not stored.
    """
    from streamrec.transport.confluent_sink import PARTITIONER_CHOOSES
    from streamrec.transport.positions import TopicReader
    from streamrec.wiring import kafka_sink

    catalogue = read_catalogue(file, settings.separator, plan.max_refused)
    if not catalogue:
        raise TableError(f"{file} holds no item; give the right file")
    if plan.withdrawal is not None and catalogue.refused:
        row, why = catalogue.refused[0]
        raise ConfigError(
            f"{file}: row {row} cannot be used ({why}), and --withdraw would withdraw its item; correct it, or leave "
            "one of --withdraw and --max-refused away"
        )
    embedding = _embedding(settings, catalogue, plan.embed)
    wanted = {item.item_id: encode(item) for item in catalogue.values()}
    _refuse_too_large(file, wanted, embedding, settings.limits.max_message_bytes)
    with closing(TopicReader(settings.topics.items, settings.kafka)) as topic:
        said, places = _said(topic.read_whole, settings, embedding)
    messages, difference = compared(wanted, said, withdraw=plan.withdrawal is not None)
    if not plan.dry_run:
        if plan.withdrawal is not None:
            plan.withdrawal.confirm(difference.withdrawn, len(said), file)
        with closing(kafka_sink(settings)) as sink:
            for item_id, value in embedding.added(messages) if embedding else messages:
                # Where it lies: whoever sent it may place keys another way, and what is said last must come last.
                partition = places.get(item_id, PARTITIONER_CHOOSES)
                sink.publish(settings.topics.items, item_id.encode(), value, JSON_HEADERS, partition=partition)
            sink.flush(FLUSH_TIMEOUT_S)
    if as_json:
        sent = {**asdict(difference), "sent": 0 if plan.dry_run else difference.messages}
        refused = [{"row": row, "detail": why} for row, why in catalogue.refused]
        print(json.dumps({**sent, "refused_rows": catalogue.refused_rows, "refused": refused}))
        return
    for row, why in catalogue.refused:
        print(f"refused row {row}: {why}")
    if catalogue.refused:
        print(f"{catalogue.refused_rows:,} rows were refused")
    done = "would be sent" if plan.dry_run else "sent"
    print(
        f"{difference.new:,} new, {difference.changed:,} changed, {difference.same:,} the same, "
        f"{difference.withdrawn:,} withdrawn: {difference.messages:,} messages {done} to {settings.topics.items}"
    )


def compared(
    wanted: Mapping[str, bytes], said: Mapping[str, bytes], *, withdraw: bool
) -> tuple[list[Message], Difference]:
    """What has to be sent so that the topic says what is wanted, and how much of each kind.

    Args:
        wanted: encoded items by id.
        said: digests of the encoded items that the topic holds, by id; `UNUSABLE` where it holds none.
        withdraw: whether items that are not wanted leave.
    """
    kinds: Counter[str] = Counter()
    messages: list[Message] = []
    for item_id, value in wanted.items():
        kind = "new" if item_id not in said else "same" if said[item_id] == digest(value) else "changed"
        kinds[kind] += 1
        if kind != "same":
            messages.append((item_id, value))
    if withdraw:
        gone = [item_id for item_id in said if item_id not in wanted]
        kinds["withdrawn"] = len(gone)
        messages += [(item_id, None) for item_id in gone]
    return messages, Difference(**kinds)


UNUSABLE = b""
"""The digest of what is no item, or lacks something."""


def digest(value: bytes) -> bytes:
    """Of an encoded item: whether two say the same."""
    return blake2b(value, digest_size=16).digest()


def _embedding(settings: Settings, catalogue: CatalogueItems, embed: bool | None) -> Embedding | None:
    from streamrec.wiring import build_encoder

    hashed = settings.learning.encoder == HASHED
    if embed and hashed:
        raise ConfigError(
            f"--embed, and learning.encoder is {HASHED!r}, which workers do themselves; set learning.encoder to a "
            "sentence-transformers model, its directory or its name"
        )
    return None if hashed or embed is False else Embedding(catalogue, build_encoder(settings))


def _said(
    read: Callable[[Callable[[Record], None]], None], settings: Settings, embedding: Embedding | None
) -> tuple[dict[str, bytes], dict[str, int]]:
    """The digest of what a topic says of each item now, withdrawn ones left out; and the partition of every item."""
    said: dict[str, bytes] = {}
    places: dict[str, int] = {}

    def take(record: Record) -> None:
        try:
            item_id = id_of(record)
        except BadEvent:
            return
        said.pop(item_id, None)
        places[item_id] = record.partition
        if not record.value:
            return
        try:
            item = item_of(record, settings.limits.max_message_bytes, settings.limits.max_depth)
        except BadEvent:
            said[item_id] = UNUSABLE
            return
        known = embedding.stripped(item) if embedding else item
        said[item_id] = UNUSABLE if known is None else digest(encode(known))

    read(take)
    return said, places


def _refuse_too_large(file: Path, wanted: Mapping[str, bytes], embedding: Embedding | None, most: int) -> None:
    too_large = [
        item_id
        for item_id, value in wanted.items()
        if len(value) + (embedding.size(item_id) if embedding else 0) > most
    ]
    if too_large:
        named = ", ".join(brief(repr(item_id), 60) for item_id in too_large[:MAX_LISTED])
        raise TableError(
            f"{file}: {len(too_large)} items take more than limits.max_message_bytes ({most}) as a message, and "
            f"workers would put them aside: {named}; shorten their text, or raise the limit here and at the workers"
        )
