"""A store in Redis, 6.2 or newer: one server, a master under Sentinels, or a cluster.

One Lua script per checkpoint decides and writes; what spans partitions takes a command for each. Knows nothing of
Kafka, events, models or what the values mean.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from streamrec.errors import ConfigError, StateError, StateUnavailable
from streamrec.state import Checkpoint, Key, Kind, PartitionMark
from streamrec.state.connection import Command, Servers
from streamrec.state.keys import KeySpace
from streamrec.state.refusals import (
    backwards,
    forgotten,
    markless,
    refuse_malformed,
    resealed,
    sealed,
    stale,
    unopened,
)

MAX_WRITES = 200_000
MAX_BYTES = 256 * 1024 * 1024
"""Of one checkpoint. Redis serves nobody else while a script runs: 20,000 values of 500 bytes take it about 40 ms."""
HEADS_TTL_S = 3600
LONGEST_TTL_S = 100 * 365 * 24 * 3600
SENTINELS = 256
"""Values of a partition that are watched: of a loss of 2% of them all, these notice 99 times in 100."""
DAY_S = 24 * 3600
KEYS_PER_MGET = 512
MGETS_AT_ONCE = 64


@dataclass(slots=True)
class _Turns:
    """Checkpoints of one partition since it was opened here: how many were sent, and the last one confirmed."""

    sent: int = 0
    confirmed: int = 0


class RedisStore:
    """State per partition in Redis.

    Guarantees: a checkpoint is visible whole or not at all, and only from the partition's newest owner. A checkpoint is
    sent again, once, when the connection breaks: it carries its turn, and the script writes a turn once and never after
    a later one, so neither the repeat nor a first copy that arrives late can undo anything. A store that has lost
    confirmed checkpoints (flushed, or failed over to an older copy) is noticed at the next commit and not written to.
    Values expire `ttl_s` (users, items) and `slate_ttl_s` (slates) seconds after they were last written; marks never.
    Durable as far as the server is: use AOF, and `maxmemory-policy noeviction`. What the server drops all the same is
    noticed by `lost`: by its own count of evicted keys, and by some values of each partition that are watched.

    Args:
        url: see `streamrec.state.redis_url`; a password in it never shows in an error.
        timeout_s: how long connecting, and one answer, may take.
        allow_eviction: take a server, too, that may evict keys when its memory is full.

    Raises:
        ConfigError: a URL that is none, or a time or name out of range.
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str,
        topic: str,
        ttl_s: int,
        slate_ttl_s: int,
        timeout_s: float = 10.0,
        allow_eviction: bool = False,
    ) -> None:
        for name, seconds in (("ttl_s", ttl_s), ("slate_ttl_s", slate_ttl_s)):
            # SET refuses an expiry out of range only when the script has come to it: too late for all or nothing.
            if not 1 <= seconds <= LONGEST_TTL_S:
                raise ConfigError(f"{name} is {seconds}, expected 1 to {LONGEST_TTL_S} seconds")
        self._keys = KeySpace(prefix, topic)
        self._ttl_s = int(ttl_s)  # a fraction, too, SET would refuse half way
        self._slate_ttl_s = int(slate_ttl_s)
        self._allow_eviction = allow_eviction
        self._redis = Servers(url, timeout_s)
        self._open = self._redis.script("open.lua")
        self._seal = self._redis.script("seal.lua")
        self._unseal = self._redis.script("unseal.lua")
        self._commit = self._redis.script("commit.lua")
        self._kept = self._redis.script("kept.lua")
        self._known = self._redis.script("known.lua")
        self._record = self._redis.script("record.lua")
        self._note = self._redis.script("note.lua")
        self._turns: dict[int, _Turns] = {}
        self._own_seal = uuid.uuid4().hex

    def __repr__(self) -> str:
        return f"RedisStore({self._redis.where!r}, prefix={self._keys.prefix!r}, topic={self._keys.topic!r})"

    def open(self, partition: int) -> PartitionMark:
        """Become the owner of `partition`: raises its epoch and returns where it stands.

        Raises:
            StateError: somebody else has sealed the partition.
            StateUnavailable: Redis did not answer; the epoch may have grown, which does no harm.
        """
        with self._redis.named_errors(f"opening partition {partition}"):
            fields = self._open([self._keys.mark(partition)], [self._own_seal])
            # Another slot, so not in the script; after it, so that whatever is listed has a mark, unless it was lost.
            self._redis.client.sadd(self._keys.registry, partition)
        if fields is None:
            raise sealed(partition)
        self._turns[partition] = _Turns()
        return _mark(*fields)

    def seal(self, partitions: Collection[int], *, keep: bool = False) -> None:
        """Empty these partitions, and let nobody but this store open them until `unseal`; see `Store`.

        Looks through all keys of the server once.

        Raises:
            StateError: Redis did not answer; some partitions may be sealed, and values left: seal them again.
        """
        with self._redis.named_errors(f"sealing {len(partitions)} partitions"):
            for partition in partitions:
                keys = [self._keys.mark(partition), self._keys.sentinels(partition), self._keys.uncopied(partition)]
                self._seal(keys, [self._own_seal, int(keep)])
                self._redis.client.sadd(self._keys.registry, partition)
            for some in self._values_of(partitions):
                self._keep_for_a_day(some) if keep else self._remove(some)

    def unseal(self, partition: int, watermark: int | None, snapshot: str | None) -> None:
        """Let anybody open the partition, to start there; watermark None is a partition never seen before.

        Raises:
            StaleEpoch: somebody else has sealed it since; nothing was changed.
            StateError: Redis did not answer; the partition may still be sealed.
        """
        start = ["" if watermark is None else watermark, snapshot or ""]
        with self._redis.named_errors(f"unsealing partition {partition}"):
            ours = self._unseal([self._keys.mark(partition)], [self._own_seal, *start])
        if not ours:
            raise resealed(partition)

    def load(self, keys: Sequence[Key]) -> list[bytes | None]:
        """The stored values, None where there is none, in the order of `keys` (one partition or many).

        Raises:
            StateUnavailable: Redis did not answer.
        """
        values: list[bytes | None] = [None] * len(keys)
        chunks = list(_chunks_of_one_partition(keys))
        for start in range(0, len(chunks), MGETS_AT_ONCE):
            some = chunks[start : start + MGETS_AT_ONCE]
            with self._redis.named_errors(f"loading {len(keys)} values"):
                answers = self._redis.together(
                    [("MGET", *(self._keys.value(keys[place]) for place in places)) for places in some]
                )
            for places, found in zip(some, answers, strict=True):
                for place, value in zip(places, found, strict=True):
                    values[place] = value
        return values

    def commit(self, checkpoint: Checkpoint) -> None:
        """Write values, watermark and snapshot reference atomically.

        Raises:
            StaleEpoch: the partition has a newer owner; nothing was written, and the refusal is counted in its mark.
            StateError: the partition was not opened here, a key belongs to another one, the watermark goes backwards,
                the checkpoint is too large, or Redis has lost earlier ones: nothing was written.
            StateUnavailable: Redis has no memory left and wrote nothing; or it did not answer in time, and may or may
                not have written; a later commit that repeats these writes settles it.
        """
        refuse_malformed(checkpoint)
        self._refuse_oversized(checkpoint)
        turns = self._turns.get(checkpoint.partition)
        if turns is None:
            raise unopened(checkpoint.partition)
        turns.sent += 1  # never reused, even when this one fails: a copy of it may still be on its way
        turn = turns.sent
        with self._redis.named_errors(f"committing partition {checkpoint.partition}"):
            verdict, detail = self._commit(*self._script_input(checkpoint, turn, turns.confirmed))
        if verdict == b"written":
            turns.confirmed = turn
        elif verdict == b"stale":
            raise stale(checkpoint, int(detail))
        elif verdict == b"backwards":
            raise backwards(checkpoint, int(detail))
        else:
            raise forgotten(checkpoint)

    def note_ends(self, epochs: Mapping[int, int], ends: str) -> None:
        """See `Store`.

        Raises:
            StateUnavailable: Redis did not answer; some may be noted and others not.
        """
        with self._redis.named_errors("noting where topics end"):
            for partition, epoch in epochs.items():
                self._note([self._keys.mark(partition)], [epoch, ends])

    def lost(self, partitions: Collection[int], *, accept: bool = False) -> int:
        """See `Store`. A server's evicted keys may be another system's, where several share it.

        Raises:
            StateError: its `maxmemory-policy` lets the server evict, or the mark of one of these partitions is gone.
            StateUnavailable: Redis did not answer.
        """
        with self._redis.named_errors("looking for lost values"):
            servers = self._redis.masters()
            opened = self._redis.client.smembers(self._keys.registry)
            for server in servers.values():
                policy = server.get("maxmemory_policy", "noeviction")  # some that speak the protocol know none
                if policy != "noeviction" and not self._allow_eviction:
                    raise StateError(
                        f"Redis at {self._redis.where} has maxmemory-policy {policy} and forgets users and positions "
                        "when its memory is full, expected noeviction: set it on the server, or `redis.allow_eviction`"
                    )
            found: dict[int, tuple[int, int, int]] = {}
            for partition in partitions:
                keys = [self._keys.mark(partition), self._keys.sentinels(partition)]
                server = servers.get(self._redis.master_of(keys[0]), {})
                if not server:
                    raise StateUnavailable(f"a master of Redis at {self._redis.where} has changed; ask again")
                found[partition] = self._kept(keys, [server["run_id"], server["evicted_keys"], int(accept)])
        known = {int(partition) for partition in opened} | self._turns.keys()
        for partition, (marked, sentinels, _) in found.items():
            if not marked and (sentinels or partition in known):
                raise markless(partition)
        return max(sum(gone for _, gone, _ in found.values()), *(evicted for _, _, evicted in found.values()), 0)

    def marks(self) -> dict[int, PartitionMark]:
        """Every partition ever opened, and where it stands. Raises no epoch."""
        partitions = self._partitions()
        fields = ["watermark", "snapshot", "epoch", "seal", "refused", "ends"]
        with self._redis.named_errors("reading marks"):
            answers = self._redis.together([("HMGET", self._keys.mark(partition), *fields) for partition in partitions])
        stored = dict(zip(partitions, answers, strict=True))
        return {partition: _mark(*fields) for partition, fields in stored.items() if fields[2] is not None}

    def exchange(self, heads: Mapping[int, int | None]) -> dict[int, int]:
        """Tell how far partitions that are behind have come, and hear it of all.

        Raises:
            StateUnavailable: Redis did not answer.
        """
        behind = [part for partition, ms in heads.items() if ms is not None for part in (partition, ms)]
        caught_up = [partition for partition, ms in heads.items() if ms is None]
        key = self._keys.heads
        telling: list[Command] = [("HSET", key, *behind), ("EXPIRE", key, HEADS_TTL_S)] if behind else []
        if caught_up:
            telling.append(("HDEL", key, *caught_up))
        with self._redis.named_errors("exchanging how far partitions are"):
            told: dict[bytes, bytes] = self._redis.together([*telling, ("HGETALL", key)])[-1]
        return {int(partition): int(ms) for partition, ms in told.items()}

    def scan(self) -> Iterator[Key]:
        """Of every value, in no order; any may come twice.

        Raises:
            StateUnavailable: Redis did not answer.
        """
        doing = "looking through all keys"
        with self._redis.named_errors(doing), self._redis.unchanged(doing):
            for value in self._redis.client.scan_iter(self._keys.values, count=KEYS_PER_MGET):
                yield self._keys.key(value)

    def find(self, kind: Kind, name: str) -> dict[int, bytes]:
        """The values stored under one name, by partition."""
        partitions = self._partitions()
        values = self.load([Key(partition, kind, name) for partition in partitions])
        return {partition: value for partition, value in zip(partitions, values, strict=True) if value is not None}

    def known_topic(self, told: Mapping[str, str]) -> dict[str, str]:
        """What is recorded of the topic; of what is told now, what was lacking is from now on.

        Raises:
            StateUnavailable: Redis did not answer.
        """
        facts = [part for fact in told.items() for part in fact]
        with self._redis.named_errors("reading which topic this is"):
            recorded: list[bytes] = self._known([self._keys.topic_facts], facts)
        return {name.decode(): word.decode() for name, word in zip(recorded[::2], recorded[1::2], strict=True)}

    def record_topic(self, told: Mapping[str, str]) -> None:
        """Record this of the topic, and nothing of what was recorded before.

        Raises:
            StateUnavailable: Redis did not answer; it may or may not be recorded.
        """
        with self._redis.named_errors("recording which topic this is"):
            self._record([self._keys.topic_facts], [part for fact in told.items() for part in fact])

    def close(self) -> None:
        """Let go of connections."""
        self._redis.close()

    def _values_of(self, partitions: Collection[int]) -> Iterator[list[bytes]]:
        values = (self._keys.value(key) for key in self.scan() if key.partition in partitions)
        while some := list(islice(values, KEYS_PER_MGET)):
            yield some

    # One key a command: they lie in different slots.

    def _remove(self, values: Sequence[bytes]) -> None:
        self._redis.together([("UNLINK", value) for value in values])

    def _keep_for_a_day(self, values: Sequence[bytes]) -> None:
        left = self._redis.together([("TTL", value) for value in values])
        soon = [value for value, ttl_s in zip(values, left, strict=True) if 0 <= ttl_s < DAY_S]
        self._redis.together([("EXPIRE", value, DAY_S) for value in soon])

    def _partitions(self) -> list[int]:
        with self._redis.named_errors("reading the list of partitions"):
            return sorted(int(member) for member in self._redis.client.smembers(self._keys.registry))

    def _refuse_oversized(self, checkpoint: Checkpoint) -> None:
        size = sum(map(len, checkpoint.writes.values()))
        if len(checkpoint.writes) > MAX_WRITES or size > MAX_BYTES:
            raise StateError(
                f"checkpoint of partition {checkpoint.partition} holds {len(checkpoint.writes)} values of {size} bytes "
                f"together, expected at most {MAX_WRITES} and {MAX_BYTES}; nothing was written: save more often"
            )

    def _script_input(self, checkpoint: Checkpoint, turn: int, confirmed: int) -> tuple[list[bytes], list[Any]]:
        """KEYS and ARGV of the commit script."""
        lasting = [key for key in checkpoint.writes if key.kind is not Kind.SLATE]
        slates = [key for key in checkpoint.writes if key.kind is Kind.SLATE]
        partition = checkpoint.partition
        home = [self._keys.mark(partition), self._keys.sentinels(partition), self._keys.uncopied(partition)]
        keys = [*home, *map(self._keys.value, lasting + slates)]
        header = [checkpoint.epoch, turn, confirmed, checkpoint.watermark, checkpoint.snapshot or ""]
        values = [checkpoint.writes[key] for key in lasting + slates]
        return keys, [*header, self._ttl_s, self._slate_ttl_s, len(slates), SENTINELS, *values]


def _mark(
    watermark: bytes | None,
    snapshot: bytes | None,
    epoch: bytes,
    seal: bytes | None,
    refused: bytes | None,
    ends: bytes | None,
) -> PartitionMark:
    return PartitionMark(
        watermark=None if watermark is None else int(watermark),
        snapshot=snapshot.decode() if snapshot else None,
        epoch=int(epoch),
        sealed=seal is not None,
        refused=int(refused or 0),
        ends=ends.decode() if ends else None,
    )


def _chunks_of_one_partition(keys: Sequence[Key]) -> Iterator[list[int]]:
    """Places in `keys`, at most KEYS_PER_MGET together, each chunk of one partition and so of one slot."""
    places: dict[int, list[int]] = defaultdict(list)
    for place, key in enumerate(keys):
        places[key.partition].append(place)
    for own in places.values():
        for start in range(0, len(own), KEYS_PER_MGET):
            yield own[start : start + KEYS_PER_MGET]
