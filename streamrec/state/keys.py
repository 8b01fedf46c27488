"""The keys of values in Redis: the only place where they are built.

    streamrec:user-events:partitions                  the partitions ever opened (a set)
    streamrec:user-events:topic                       which topic positions are of: ids, number of partitions (a hash)
    streamrec:user-events:rollout                     the rollout's revisions, newest first (a list)
    streamrec:user-events:heads                       the time of the next record of each partition that is behind
    streamrec:user-events:redrive:NAME                which dead letters were sent back
    streamrec:{user-events:3}:mark                    epoch, turn, watermark, snapshot, seal, ends of partition 3
    streamrec:{user-events:3}:sentinels               some of its values, by time of expiry (a sorted set)
    streamrec:{user-events:3}:uncopied                which values a backup under way has yet to copy (a set)
    streamrec:{user-events:3}:user:ID                 one value; likewise item:, slate:, open:, due:, account:, moved:

What stands between braces is all that a Redis Cluster hashes, so everything of one partition lies in one slot and one
script may write it. Knows nothing of connections, nor of what the values mean.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from streamrec.errors import ConfigError, StateError
from streamrec.state import Key, Kind

_PREFIX = re.compile(r"[A-Za-z0-9._:-]{1,100}")
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")  # what Kafka allows; a brace here would move the hash tag


@dataclass(frozen=True, slots=True)
class KeySpace:
    """The keys of one topic's state under one prefix. Distinct values never share a key.

    Raises:
        ConfigError: `prefix` or `topic` holds characters that would break the layout.
    """

    prefix: str
    topic: str

    def __post_init__(self) -> None:
        if not _PREFIX.fullmatch(self.prefix):
            raise ConfigError(f"redis prefix is {self.prefix!r}, expected 1 to 100 letters, digits or any of `._:-`")
        if not _TOPIC.fullmatch(self.topic):
            raise ConfigError(f"topic is {self.topic!r}, expected 1 to 249 letters, digits or any of `._-`")

    @property
    def registry(self) -> bytes:
        """The set of partitions ever opened."""
        return f"{self.prefix}:{self.topic}:partitions".encode()

    @property
    def topic_facts(self) -> bytes:
        """The hash that says which topic the positions are of."""
        return f"{self.prefix}:{self.topic}:topic".encode()

    @property
    def rollout(self) -> bytes:
        """The list of the rollout's revisions."""
        return f"{self.prefix}:{self.topic}:rollout".encode()

    @property
    def heads(self) -> bytes:
        """The hash from each partition that is behind to the time of its next record."""
        return f"{self.prefix}:{self.topic}:heads".encode()

    def redrive(self, name: str) -> bytes:
        """What is known of dead letters that were sent back."""
        return f"{self.prefix}:{self.topic}:redrive:{name}".encode()

    def home(self, partition: int) -> bytes:
        """How every key of `partition` begins."""
        return f"{self._home(partition)}:".encode()

    def mark(self, partition: int) -> bytes:
        """The hash with the watermark, snapshot and epoch of `partition`."""
        return f"{self._home(partition)}:mark".encode()

    def sentinels(self, partition: int) -> bytes:
        """The sorted set of some values of `partition`, by which it is told whether values were dropped."""
        return f"{self._home(partition)}:sentinels".encode()

    def uncopied(self, partition: int) -> bytes:
        """The set of keys of `partition` that were written since a backup copied them."""
        return f"{self._home(partition)}:uncopied".encode()

    def value(self, key: Key) -> bytes:
        """The string that holds one value."""
        # Ids are free text, and JSON can smuggle half a surrogate pair into one: it must not stop a checkpoint.
        return f"{self._home(key.partition)}:{key.kind.value}:{key.name}".encode("utf-8", "surrogatepass")

    @property
    def values(self) -> bytes:
        """A pattern for SCAN that every value matches, of whatever partition, and nothing else."""
        # Marks have no second colon. Neither prefix nor topic can hold a character that means something in a pattern.
        return f"{self.prefix}:{{{self.topic}:*}}:*:*".encode()

    @property
    def everything(self) -> tuple[bytes, bytes]:
        """Patterns for SCAN: whatever is kept of the topic matches one of them."""
        return f"{self.prefix}:{self.topic}:*".encode(), f"{self.prefix}:{{{self.topic}:*".encode()

    def key(self, value: bytes) -> Key:
        """The inverse of `value`.

        Raises:
            StateError: nothing that this version writes has such a key.
        """
        partition, _, rest = value[len(f"{self.prefix}:{{{self.topic}:") :].partition(b"}:")
        kind, _, name = rest.partition(b":")
        try:
            return Key(int(partition), Kind(kind.decode()), name.decode("utf-8", "surrogatepass"))
        except ValueError:
            raise StateError(f"key {value!r} is none of this version's; was it written by a newer one?") from None

    def _home(self, partition: int) -> str:
        return f"{self.prefix}:{{{self.topic}:{partition}}}"
