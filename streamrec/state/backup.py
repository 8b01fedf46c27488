"""Copies one topic's state out of Redis while workers go on, and brings it back into a Redis that has none.

Each partition is copied in two steps. First every value is read, in any order, while checkpoints are written; from
before that on, each checkpoint also lists what it wrote (`commit.lua`). What is listed is then read again, until one
script finds nothing left and returns the partition's mark: at that moment the copy is what Redis held, so values and
watermark fit, and no worker was held up for longer than one such script takes. Memory is bounded by a chunk of values.

Left out are hints (how far partitions are behind), the values that are watched for losses (workers choose them anew),
and a redrive's lock. Knows nothing of what values mean, nor of Kafka.
"""

from __future__ import annotations

import time
import uuid
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from itertools import islice
from typing import Any, NamedTuple

from streamrec.errors import ConfigError, StateError
from streamrec.state.backup_folder import BackupFolder, BackupManifest, SavedValue
from streamrec.state.connection import Command, Servers
from streamrec.state.keys import KeySpace
from streamrec.state.refusals import markless

KEYS_PER_SCRIPT = 512
"""Redis serves nobody else meanwhile: half a millisecond, with values of 1 kB."""
FORGOTTEN_S = 3600
"""A backup that says nothing for so long is dead, and checkpoints list nothing more for it."""
RENEWED_EVERY_S = 60.0
EPOCHS_AHEAD = 1_000_000
"""What owners after the backup were given is not given out again: such an owner, still alive, must not be believed."""
RESTORING = "restoring"
"""What is recorded beside the topic while it is brought back: from which backup."""
OF_A_MARK = ("watermark", "snapshot", "epoch", "refused", "ends")


class CopiedState(NamedTuple):
    """What a backup's values stand for: fields of each partition's mark; what is known of the topic; the rollout."""

    marks: dict[int, dict[str, str]]
    facts: dict[str, str]
    rollout: list[str]

    @property
    def snapshots(self) -> list[str]:
        """Those that marks name, newest first."""
        return sorted({mark["snapshot"] for mark in self.marks.values() if mark.get("snapshot")}, reverse=True)


class RedisCopy:
    """The state of one topic under one prefix, as a whole.

    Args:
        url: see `streamrec.state.redis_url`; a password in it never shows in an error.
        timeout_s: how long connecting, and one answer, may take.

    Raises:
        ConfigError: a URL that is none, or a name that does not fit.
    """

    def __init__(self, url: str, *, prefix: str, topic: str, timeout_s: float = 10.0) -> None:
        self._keys = KeySpace(prefix, topic)
        self._redis = Servers(url, timeout_s)
        self._copy = self._redis.script("copy.lua")
        self._record = self._redis.script("record.lua")
        self._own_name = f"backup:{uuid.uuid4().hex}".encode()

    def back_up(self, folder: BackupFolder) -> CopiedState:
        """Add every value to `folder`; returns what belongs to them.

        Guarantee: of each partition, values and mark are of one moment, between two checkpoints. Partitions are of
        different moments, as they are after any crash.

        Raises:
            StateError: there is nothing; a partition is sealed, or was meanwhile; another backup began meanwhile.
            StateUnavailable: Redis did not answer, or another server took over; nothing is left behind that does not
                expire.
        """
        doing = "taking a backup"
        # One that takes over may know less than what was copied: values would be newer than its marks.
        with self._redis.named_errors(doing), self._redis.unchanged(doing):
            partitions = sorted(int(member) for member in self._client.smembers(self._keys.registry))
            if not partitions:
                raise StateError(
                    f"Redis at {self._redis.where} holds no state of topic {self._keys.topic!r} under prefix "
                    f"{self._keys.prefix!r}: there is nothing to back up"
                )
            self._begin(partitions)
            try:
                self._copy_all(partitions, folder)
                marks = {partition: self._settle(partition, folder) for partition in partitions}
            finally:
                self._end(partitions)
            self._copy_redrives(folder)
            facts = self._client.hgetall(self._keys.topic_facts)
            revisions = self._client.lrange(self._keys.rollout, 0, -1)
        return CopiedState(
            marks,
            {name.decode(): word.decode() for name, word in facts.items()},
            [revision.decode() for revision in revisions],
        )

    def refuse_used(self, manifest: BackupManifest) -> None:
        """See that a backup can be brought back here: nothing is there but what a cut short restore of it left.

        Raises:
            ConfigError: it is of another topic.
            StateError: Redis holds something of this topic already.
            StateUnavailable: Redis did not answer.
        """
        if manifest.topic != self._keys.topic:
            raise ConfigError(
                f"the backup is of topic {manifest.topic!r}, and topics.events is {self._keys.topic!r}: positions of "
                "one say nothing of the other"
            )
        with self._redis.named_errors("looking for what is there"):
            if self._begun(manifest) or self._sealed(manifest):
                return
            for pattern in self._keys.everything:
                for key in self._client.scan_iter(pattern, count=KEYS_PER_SCRIPT):
                    raise StateError(
                        f"Redis at {self._redis.where} is not empty: it holds {key.decode(errors='replace')!r}; "
                        "expected nothing of this topic: name another server or redis.prefix, or remove it"
                    )

    def restore(self, folder: BackupFolder, manifest: BackupManifest) -> None:
        """Bring all of it back; partitions are sealed until all is there. Cut short, the same call goes on.

        Raises:
            ConfigError, StateError: as `refuse_used`.
            StateUnavailable: Redis did not answer, has no room, or another server took over: call again, nothing can
                start from a half.
        """
        self.refuse_used(manifest)
        doing = "bringing a backup back"
        with self._redis.named_errors(doing):
            if self._begun(manifest) or not self._sealed(manifest):
                with self._redis.unchanged(doing):  # whoever takes over may lack some of it
                    self._fill(folder, manifest)
                self._record([self._keys.topic_facts], [part for fact in manifest.facts.items() for part in fact])
            # Last, one by one, once nothing is to be written any more: from now on workers may write.
            for partition in self._sealed(manifest):
                self._client.hdel(self._keys.mark(partition), "seal")

    def close(self) -> None:
        """Let go of connections."""
        self._redis.close()

    @property
    def _client(self) -> Any:  # redis-py's types do not know that answers are bytes
        return self._redis.client

    # Backing up

    def _begin(self, partitions: Iterable[int]) -> None:
        for partition in partitions:
            uncopied = self._keys.uncopied(partition)
            self._client.delete(uncopied)  # another backup finds its name gone, and gives up
            self._client.sadd(uncopied, self._own_name)
            self._client.expire(uncopied, FORGOTTEN_S)

    def _end(self, partitions: Iterable[int]) -> None:
        for partition in partitions:
            uncopied = self._keys.uncopied(partition)
            if self._client.sismember(uncopied, self._own_name):
                self._client.delete(uncopied)

    def _copy_all(self, partitions: Collection[int], folder: BackupFolder) -> None:
        renewed_s = time.monotonic()
        found = self._client.scan_iter(self._keys.values, count=KEYS_PER_SCRIPT)
        while some := list(islice(found, KEYS_PER_SCRIPT)):
            by_partition: dict[int, list[bytes]] = defaultdict(list)
            for key in some:
                by_partition[self._keys.key(key).partition].append(key)
            for partition, keys in by_partition.items():
                if partition in partitions:
                    self._copy_some(partition, keys, folder)
            if time.monotonic() - renewed_s > RENEWED_EVERY_S:
                renewed_s = time.monotonic()
                for partition in partitions:
                    self._client.expire(self._keys.uncopied(partition), FORGOTTEN_S)

    def _settle(self, partition: int, folder: BackupFolder) -> dict[str, str]:
        """Copy what was written since, until nothing is left; the mark of that moment."""
        left = True
        while left:
            written = self._client.srandmember(self._keys.uncopied(partition), KEYS_PER_SCRIPT)
            keys = [key for key in written if key != self._own_name]
            left, mark = self._copy_some(partition, keys, folder)
        if "seal" in mark:
            raise StateError(
                f"partition {partition} is sealed: a warm-up, a move of users or a restore is under way or was cut "
                "short; finish that first"
            )
        if "epoch" not in mark:
            raise markless(partition)
        return {name: mark[name] for name in OF_A_MARK if name in mark}

    def _copy_some(self, partition: int, keys: Sequence[bytes], folder: BackupFolder) -> tuple[bool, dict[str, str]]:
        """Whether some are left after these, and the mark of that moment."""
        home = [self._keys.mark(partition), self._keys.uncopied(partition)]
        answer = self._copy([*home, *keys], [self._own_name, FORGOTTEN_S])
        if answer is None:
            raise StateError(
                f"partition {partition} was sealed meanwhile, or another backup began: this one is not complete, and "
                "has no manifest; take another"
            )
        left, fields, now_ms, values, kept_ms = answer
        start = len(self._keys.home(partition))
        for key, value, kept in zip(keys, values, kept_ms, strict=True):
            folder.add(SavedValue(partition, key[start:], value, now_ms + kept if kept >= 0 else None))
        texts = [field.decode() for field in fields]
        return left > 0, dict(zip(texts[::2], texts[1::2], strict=True))

    def _copy_redrives(self, folder: BackupFolder) -> None:
        start = len(self._keys.redrive(""))
        found = self._client.scan_iter(self._keys.redrive("*"), count=KEYS_PER_SCRIPT)
        keys = (key for key in found if key != self._keys.redrive("lock"))
        while some := list(islice(keys, KEYS_PER_SCRIPT)):
            answers = self._redis.together([(name, key) for key in some for name in ("GET", "PTTL")])
            now_ms = time.time_ns() // 1_000_000
            for key, value, kept in zip(some, answers[::2], answers[1::2], strict=True):
                folder.add(SavedValue(None, key[start:], value, now_ms + kept if kept >= 0 else None))

    # Restoring

    def _begun(self, manifest: BackupManifest) -> bool:
        return bool(self._client.hget(self._keys.topic_facts, RESTORING) == _name_of(manifest))

    def _sealed(self, manifest: BackupManifest) -> list[int]:
        ours = _name_of(manifest)
        return [p for p in manifest.marks if self._client.hget(self._keys.mark(p), "seal") == ours]

    def _fill(self, folder: BackupFolder, manifest: BackupManifest) -> None:
        ours = _name_of(manifest)
        self._client.hset(self._keys.topic_facts, RESTORING, ours)
        for partition, fields in manifest.marks.items():
            mark = {**fields, "epoch": int(fields["epoch"]) + EPOCHS_AHEAD, "seal": ours}
            self._client.hset(self._keys.mark(partition), mapping=mark)
            self._client.sadd(self._keys.registry, partition)
        for chunk in folder.chunks(manifest):
            self._put(chunk)
        self._client.delete(self._keys.rollout)
        if manifest.rollout:
            self._client.rpush(self._keys.rollout, *manifest.rollout)

    def _put(self, values: Iterable[SavedValue]) -> None:
        left = iter(values)
        while some := list(islice(left, KEYS_PER_SCRIPT)):
            commands: dict[bytes, Command] = {}  # a value's last one: which of two comes first is not told in a cluster
            for saved in some:
                key = (
                    self._keys.redrive("") if saved.partition is None else self._keys.home(saved.partition)
                ) + saved.name
                lasting = () if saved.expires_ms is None else ("PXAT", saved.expires_ms)
                commands[key] = ("DEL", key) if saved.value is None else ("SET", key, saved.value, *lasting)
            self._redis.together(list(commands.values()))


def _name_of(manifest: BackupManifest) -> bytes:
    return f"restore:{manifest.created_ms}:{manifest.values}:{manifest.bytes}".encode()
