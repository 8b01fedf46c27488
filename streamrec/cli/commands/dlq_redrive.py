"""Sends dead letters back to the events topic, each once however often the command is run or cut short.

What a letter stands for is the message it was made of, named by topic, partition and offset: a worker that died may
have put the same message aside twice. A message that was sent back is marked in Redis once Kafka has stored it; what a
run sent and could not mark, because it was cut short, the next run finds in the topic before it sends anything.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Protocol

from streamrec.cli.shared.dead_letters import DeadLetterSelection, at, read, refused_now
from streamrec.config.settings import Settings
from streamrec.errors import BadEvent
from streamrec.state.redrive_journal import RedriveJournal
from streamrec.transport import Record
from streamrec.transport.confluent_sink import PARTITIONER_CHOOSES
from streamrec.transport.positions import TopicReader
from streamrec.wiring import build_redriven, kafka_sink
from streamrec.worker.dead_letters import DeadLetter, origin_of, returned

BATCH_LETTERS = 500
BATCH_BYTES = 8 * 1024 * 1024
"""So many letters, or bytes of them, are held in memory, stored by Kafka and marked at a time."""
FLUSH_TIMEOUT_S = 30.0
_MARKED_AT_ONCE = 1_000


class RedriveMemory(Protocol):
    """What is remembered of messages sent back; see `state.redrive_journal`."""

    def known(self, origins: Sequence[str]) -> list[bool]: ...

    def mark(self, origins: Sequence[str]) -> None: ...


@dataclass
class Tally:
    """What became of the letters that were selected."""

    sent: int = 0
    sent_before: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    cut: int = 0
    elsewhere: int = 0


class Redrive:
    """Takes letters and sends them back in batches: asks, sends, has them stored, marks.

    Args:
        topic: where letters may come from and go back to; those of another topic are left.
        memory: what was sent back before.
        refused: why a letter's message would be refused now, if it would.
        send: hands one letter to the log.
        stored: waits until all that was sent is stored, and raises when it is not.
    """

    def __init__(
        self,
        topic: str,
        memory: RedriveMemory,
        refused: Callable[[DeadLetter], BadEvent | None],
        send: Callable[[DeadLetter], None],
        stored: Callable[[], None],
    ) -> None:
        self.tally = Tally()
        self._topic = topic
        self._memory = memory
        self._refused = refused
        self._send = send
        self._stored = stored
        self._batch: list[DeadLetter] = []
        self._bytes = 0

    def take(self, dead_letter: DeadLetter) -> None:
        """One more letter; a full batch is sent."""
        self._batch.append(dead_letter)
        self._bytes += dead_letter.size_bytes
        if len(self._batch) >= BATCH_LETTERS or self._bytes >= BATCH_BYTES:
            self.send()

    def send(self) -> None:
        """Send what was taken and not sent yet; counted as sent once it is stored and marked."""
        batch, self._batch, self._bytes = self._batch, [], 0
        origins = [str(dead_letter.origin) for dead_letter in batch]
        sent: dict[str, None] = {}
        for dead_letter, origin, known in zip(batch, origins, self._memory.known(origins), strict=True):
            if known or origin in sent:
                self.tally.sent_before += 1
            elif self._may_go(dead_letter):
                self._send(dead_letter)
                sent[origin] = None
        if sent:
            self._stored()
            self._memory.mark(list(sent))
            self.tally.sent += len(sent)

    def _may_go(self, dead_letter: DeadLetter) -> bool:
        if dead_letter.origin.topic != self._topic:
            self.tally.elsewhere += 1
            return False
        if dead_letter.cut_bytes:
            self.tally.cut += 1
            return False
        refusal = self._refused(dead_letter)
        if refusal is not None:
            self.tally.refused[refusal.reason] += 1
        return refusal is None


def run(
    settings: Settings,
    selection: DeadLetterSelection,
    addresses: Sequence[str],
    *,
    dry_run: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Send the letters selected, as far as the dead-letter topic reaches now; print what became of them.

    Args:
        settings: of the workers.
        selection: which letters.
        addresses: only these of them; none for all.
        dry_run: say what would be sent, and change nothing.
        force: also what would be refused again.
        as_json: one object, in a shape that stays.

    Raises:
        ConfigError: an address is none.
        StateError: there is no letter at an address, another redrive is under way, or Redis does not answer.
        TransportError: the brokers do not answer, or did not store what was sent.
    """
    topic = settings.topics.events

    def refused(dead_letter: DeadLetter) -> BadEvent | None:
        return None if force else refused_now(dead_letter, settings, int(time.time() * 1000))

    with (
        closing(TopicReader(settings.topics.dead_letters, settings.kafka)) as dead_letters,
        closing(TopicReader(topic, settings.kafka)) as events,
        closing(build_redriven(settings)) as memory,
    ):
        if dry_run:
            redrive = Redrive(topic, _Unchanged(memory), refused, lambda dead_letter: None, lambda: None)
            _take(redrive, dead_letters, selection, addresses)
        else:
            redrive = _sent_back(settings, memory, refused, dead_letters, events, selection, addresses)
    print(_as_json(redrive.tally) if as_json else in_words(redrive.tally, topic, dry_run))


def _sent_back(
    settings: Settings,
    memory: RedriveJournal,
    refused: Callable[[DeadLetter], BadEvent | None],
    dead_letters: TopicReader,
    events: TopicReader,
    selection: DeadLetterSelection,
    addresses: Sequence[str],
) -> Redrive:
    topic = settings.topics.events
    with memory.held(), closing(kafka_sink(settings)) as sink:
        _find_unmarked(memory, events)
        memory.begin(events.end())

        def send(dead_letter: DeadLetter) -> None:
            # Where it came from: whoever sent it may have spread users another way than this producer would.
            there = dead_letter.origin.partition < events.partitions
            partition = dead_letter.origin.partition if there else PARTITIONER_CHOOSES
            memory.go_on()
            sink.publish(topic, dead_letter.key, dead_letter.value, returned(dead_letter), partition=partition)

        redrive = Redrive(topic, memory, refused, send, lambda: sink.flush(FLUSH_TIMEOUT_S))
        _take(redrive, dead_letters, selection, addresses, memory.go_on)
        memory.finish()
    return redrive


def _take(
    redrive: Redrive,
    dead_letters: TopicReader,
    selection: DeadLetterSelection,
    addresses: Sequence[str],
    meanwhile: Callable[[], None] = lambda: None,
) -> None:
    if addresses:
        for dead_letter in [at(dead_letters, address) for address in dict.fromkeys(addresses)]:
            if selection.holds(dead_letter):
                redrive.take(dead_letter)
    else:
        read(dead_letters, selection, redrive.take, meanwhile)
    redrive.send()


def _find_unmarked(memory: RedriveJournal, events: TopicReader) -> None:
    """Mark what a run that was cut short has sent: it lies past where the topic ended when that run began."""
    noted = memory.unfinished()
    if noted is None:
        return
    found: list[str] = []

    def each(record: Record) -> None:
        memory.go_on()
        origin = origin_of(record)
        if origin is not None:
            found.append(str(origin))
        if len(found) >= _MARKED_AT_ONCE:
            memory.mark(found)
            found.clear()

    kept, ends = events.beginning(), events.end()
    starts = {partition: max(noted.get(partition, 0), first) for partition, first in kept.items()}
    events.read({partition: start for partition, start in starts.items() if start < ends[partition]}, each, ends)
    memory.mark(found)


class _Unchanged:
    """A memory that is asked, and told nothing."""

    def __init__(self, memory: RedriveJournal) -> None:
        self._memory = memory

    def known(self, origins: Sequence[str]) -> list[bool]:
        return self._memory.known(origins)

    def mark(self, origins: Sequence[str]) -> None:
        """A dry run leaves no mark."""


def in_words(tally: Tally, topic: str, dry_run: bool) -> str:
    """What became of the letters, a line for each kind of end."""
    lines = [f"{'would be sent' if dry_run else 'sent'} to {topic}: {tally.sent:,} letters"]
    if tally.sent_before:
        lines.append(f"left: {tally.sent_before:,} whose message was sent back before")
    if tally.refused:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in tally.refused.most_common())
        lines.append(f"left: {tally.refused.total():,} that would be refused again ({reasons}); --force sends them")
    if tally.cut:
        lines.append(f"left: {tally.cut:,} of which only the beginning was kept")
    if tally.elsewhere:
        lines.append(f"left: {tally.elsewhere:,} that come from another topic")
    return "\n".join(lines)


def _as_json(tally: Tally) -> str:
    return json.dumps(
        {
            "sent": tally.sent,
            "sent_before": tally.sent_before,
            "refused": dict(tally.refused),
            "cut": tally.cut,
            "elsewhere": tally.elsewhere,
        }
    )
