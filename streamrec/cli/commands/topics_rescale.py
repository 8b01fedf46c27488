"""Adds partitions to the events topic, and moves users to where their events come then."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass

import msgspec

from streamrec.cli.shared.handover import configured_partitioner, home_of, refuse_live_workers
from streamrec.config.settings import Settings
from streamrec.errors import ConfigError, StateError
from streamrec.state import MOVING, PartitionMark, Store
from streamrec.state.rescale import Home, Rescale, survey
from streamrec.state.totals import Totals
from streamrec.transport import Record, topics
from streamrec.transport.identity import IdentityReader
from streamrec.transport.partitioners import Partitioner
from streamrec.transport.positions import TopicReader
from streamrec.wiring import build_open_slates, build_store
from streamrec.worker.topic_watch import facts, refuse_another

MOST_ASTRAY = 0.01
"""Of the users: more than that, and it is not by their ids that producers spread them."""


def run(settings: Settings, partitions: int, *, misplaced: bool, dry_run: bool, as_json: bool) -> None:
    """Check everything, add the partitions, move the users, and print what came of it.

    Raises:
        ConfigError: fewer partitions than there are.
        TransportError: the brokers do not answer, or refuse; it cannot be told how users are spread.
        StateError: workers run, or have not handled everything; it is another topic; what is there after moving is not
            what was there before.
    """
    name = settings.topics.events
    with closing(build_store(settings)) as store:
        refuse_live_workers(settings)
        told = facts(IdentityReader(name, settings.kafka).identity())
        known = store.known_topic(told)
        refuse_another(name, told, known)
        with closing(TopicReader(name, settings.kafka)) as topic:
            former = int(known.get("partitions", topic.partitions))
            if partitions < topic.partitions:
                raise ConfigError(
                    f"--partitions is {partitions}, and {name!r} has {topic.partitions}: Kafka takes none away. "
                    "To have fewer, make another topic, with another redis.prefix, and replay the history into it"
                )
            spread = configured_partitioner(settings)
            home = home_of(spread, partitions)
            where = survey(store, home, home_of(spread, former))
            waiting = _waiting(topic, store.marks())
        users = where.at_home + where.elsewhere
        if not misplaced and where.astray > MOST_ASTRAY * users:
            raise StateError(
                f"{where.astray:,} of {users:,} users are not where {settings.topics.partitioner} puts their ids: set "
                "topics.partitioner to the producers' way, or, if they have all changed to this one, add --misplaced"
            )
        if former == topic.partitions < partitions and waiting and MOVING not in known:
            raise StateError(
                f"{sum(waiting.values()):,} records are not handled yet, by partition: {waiting}. Their users would "
                "leave them behind: stop producers, let the workers come to the end, stop them, and run this again"
            )
        plan = {"topic": name, "former": former, "partitions": partitions, "users": users, "moving": where.elsewhere}
        if not as_json:
            print(f"{name}: {former} > {partitions} partitions; {where.elsewhere:,} of {users:,} users move")
        done = None if dry_run else _rescale(settings, store, spread, home, partitions)
    if as_json:
        print(json.dumps(plan | {"done": None if done is None else asdict(done)}, ensure_ascii=False))
    else:
        print("nothing was changed" if done is None else done)


@dataclass(frozen=True, slots=True)
class RescaleResult:
    """What was done."""

    grown: list[str]
    """Topics that got partitions."""
    moved: dict[str, int]
    """Values by kind, of this run."""
    merged: dict[str, int]
    """Values by kind of users who were on two partitions."""
    totals: dict[str, int]
    misplaced: dict[int, int]
    """Records by partition that are not handled yet, and whose users are elsewhere now."""

    def __str__(self) -> str:
        lines = [
            f"partitions were added to {', '.join(self.grown) or 'no topic'}",
            f"moved {sum(self.moved.values()):,} values; as before there are {Totals(**self.totals)}",
        ]
        if self.merged:
            lines.append(
                f"note: {self.merged.get('user', 0):,} users had state on two partitions, and were put together"
            )
        if self.misplaced:
            lines.append(
                f"note: {sum(self.misplaced.values()):,} records wait on partitions that their users have left, and "
                "will be counted there; once they are handled, stop the workers and run this again with --misplaced"
            )
        return "\n".join(
            [*lines, "next: set topics.partitions to the new number, start producers anew, and the workers"]
        )


def _rescale(settings: Settings, store: Store, spread: Partitioner, home: Home, partitions: int) -> RescaleResult:
    name = settings.topics.events
    grown = topics.grow(settings.topics, partitions, settings.group_id, settings.kafka)
    with closing(TopicReader(name, settings.kafka)) as topic:
        move, totals = Rescale(store, home, topic.beginning()), Totals()
        told = facts(IdentityReader(name, settings.kafka).identity()) | {"partitions": str(partitions)}
        if store.marks():
            totals = move.run(told, build_open_slates(settings, lambda partition, due: None))
        else:  # an emptied store must not come to know a partition: workers refuse it
            store.record_topic(told)
        return RescaleResult(
            grown,
            {kind.value: count for kind, count in move.moved.items()},
            {kind.value: count for kind, count in move.merged.items()},
            msgspec.to_builtins(totals),
            _misplaced(topic, store, spread),
        )


def _waiting(topic: TopicReader, marks: Mapping[int, PartitionMark]) -> dict[int, int]:
    """Records that no worker has handled, by partition."""
    begins, ends = topic.beginning(), topic.end()
    stands = {partition: mark.watermark for partition, mark in marks.items() if mark.watermark is not None}
    left = {partition: end - stands.get(partition, begins[partition]) for partition, end in ends.items()}
    return {partition: count for partition, count in left.items() if count > 0}


def _misplaced(topic: TopicReader, store: Store, spread: Partitioner) -> dict[int, int]:
    """What came on the former partition of a user and is not handled yet: how many records, by partition."""
    misplaced: Counter[int] = Counter()

    def judge(record: Record) -> None:
        if record.key and spread(record.key, topic.partitions) != record.partition:
            misplaced[record.partition] += 1

    stands = {p: mark.watermark for p, mark in store.marks().items() if mark.watermark is not None}
    topic.read({p: at for p, at in stands.items() if p < topic.partitions}, judge, topic.end())
    return dict(misplaced)
