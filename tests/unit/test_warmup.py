"""A past learned before the first live event: counted once, learned once, there whole or not at all."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import polars as pl
import pytest

from streamrec.cli.commands.warmup import end_of
from streamrec.cli.shared.handover import moment_of, partitioner_of, refuse_checkpoints
from streamrec.codec import decode_slate
from streamrec.config.groups import Checkpointing, Learning, Limits
from streamrec.config.settings import Settings
from streamrec.engine.batch_result import BatchResult
from streamrec.errors import ConfigError, LogError, StaleEpoch, StateError, TransportError
from streamrec.events import Event, EventType, Slate
from streamrec.replay.logs import Log, open_log
from streamrec.replay.warmup import LogSource, WarmupResult, rehearse, warm_up
from streamrec.state import Checkpoint, Kind, PartitionMark
from streamrec.state.memory import MemoryStore
from streamrec.state.snapshots import SnapshotDirectory
from streamrec.testing import partition_of, records, recount, requests, shop
from streamrec.transport import Record
from streamrec.transport.local import LocalSink, LocalSource
from streamrec.transport.partitioners import crc32, murmur2
from streamrec.wiring import build_warmup, build_worker
from streamrec.worker.loop import Worker

TOPIC = "user-events"
EVENTS = [msgspec.structs.replace(event, event_id=None) for event in shop(800, seed=9)]  # repeats cannot be told
END_MS = EVENTS[550].ts - 1
PAST = [event for event in EVENTS if event.ts <= END_MS]
TAIL = EVENTS[len(PAST) :]
POSITIVES = {EventType.VIEW, EventType.CLICK, EventType.ADD_TO_CART, EventType.PURCHASE, EventType.LIKE}


class PowerCut(BaseException):
    """Nothing runs any more."""


class CutStore(MemoryStore):
    """Loses power at one of its commits, for good, until `power` is back."""

    def __init__(self, cut_at: int) -> None:
        super().__init__()
        self.left = cut_at
        self.power = True

    def commit(self, checkpoint: Checkpoint) -> None:
        self.left -= 1
        self.power = self.power and self.left != 0
        self._check()
        super().commit(checkpoint)

    def seal(self, partitions: Collection[int]) -> None:
        self._check()
        super().seal(partitions)

    def unseal(self, partition: int, watermark: int | None, snapshot: str | None) -> None:
        self._check()
        super().unseal(partition, watermark, snapshot)

    def _check(self) -> None:
        if not self.power:
            raise PowerCut


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Log:
    """All events, of which a warm-up takes those up to END_MS."""
    path = tmp_path_factory.mktemp("log") / "log.parquet"
    rows = [{**msgspec.to_builtins(event), "category": (event.context or {}).get("category")} for event in EVENTS]
    pl.DataFrame(rows, infer_schema_length=None).drop("context").write_parquet(path)
    return open_log(path, mapping={"context.category": "category"})


@dataclass
class Ground:
    """Everything that outlives a process; memory so small that users leave it all the time."""

    directory: Path
    partitions: int = 1
    store: MemoryStore = field(default_factory=MemoryStore)
    slates: list[Slate] = field(default_factory=list)

    @property
    def snapshots(self) -> SnapshotDirectory:
        return SnapshotDirectory(self.directory, 3)

    @property
    def settings(self) -> Settings:
        return Settings(
            limits=Limits(max_items=512, max_users=30),
            learning=Learning(device="cpu"),
            checkpoints=Checkpointing(interval_s=1e9),
        )

    def place(self, user_id: str) -> int:
        return partition_of(user_id, self.partitions)

    def starts(self) -> Mapping[int, int]:
        """Where the tail begins in a topic that holds all events."""
        held = Counter(self.place(event.user_id) for event in PAST)
        return {partition: held[partition] for partition in range(self.partitions)}

    def warm_up(self, log: Log, observer: Callable[[BatchResult], None] | None = None, passes: int = 1) -> WarmupResult:
        past = LogSource(log, TOPIC, self.partitions, self.place, END_MS)
        worker = build_warmup(self.settings, past, self.store, observer)
        return warm_up(worker, self.store, self.snapshots, self.partitions, self.starts, passes=passes, now_ms=1)

    def live(self) -> Worker:
        """A worker on a topic that holds all events, after it has read them to their end."""
        topic = records(TOPIC, EVENTS, self.partitions)
        source = LocalSource(TOPIC, topic, partitions=self.partitions)
        worker = build_worker(self.settings, source, LocalSink(self.note), self.store, self.snapshots)
        source.subscribe(worker)
        source.poll(0, 0.0)  # joins
        while not source.exhausted():
            worker.step(source.poll(29, 0.0))
        worker.checkpoint()
        return worker

    def note(self, record: Record) -> None:
        if record.topic == "recommendations":
            self.slates.append(decode_slate(record.value or b"", record.headers))

    def counted(self, kind: Kind, names: Sequence[str]) -> dict[str, dict[str, int]]:
        found = {}
        for name in names:
            total: Counter[str] = Counter()
            for value in self.store.find(kind, name).values():
                total.update(msgspec.msgpack.decode(value)["counts"])
            found[name] = dict(total)
        return found

    def assert_counted(self, events: Sequence[Event]) -> None:
        expected = recount(events)
        assert self.counted(Kind.USER, list(expected.users)) == expected.users
        assert self.counted(Kind.ITEM, list(expected.items)) == expected.items


def learned(worker: Worker) -> int:
    """How many wanted items the models were taught, those of the open micro-batch included."""
    repeats = next(model for model in worker.pipeline.models if model.name == "repeats")
    batch = worker.pipeline.batch
    waiting = int((batch.examples.label[: batch.learned] == 1).sum())
    return int(repeats.events.sum()) + waiting  # type: ignore[attr-defined]


def wanted(events: Sequence[Event]) -> int:
    return sum(
        event.type in POSITIVES or (event.type is EventType.RATING and (event.value or 0) >= 4) for event in events
    )


@pytest.mark.parametrize("partitions", [1, 4])
def test_the_past_and_what_followed_are_counted_and_learned_once(log: Log, tmp_path: Path, partitions: int) -> None:
    ground = Ground(tmp_path, partitions)
    handed_over = ground.warm_up(log)
    ground.assert_counted(PAST)
    expected = {
        p: PartitionMark(at, handed_over.snapshot, ground.store.marks()[p].epoch) for p, at in ground.starts().items()
    }
    assert ground.store.marks() == expected
    worker = ground.live()
    ground.assert_counted(EVENTS)
    assert learned(worker) == wanted(EVENTS)
    assert Counter(slate.user_id for slate in ground.slates) == Counter(event.user_id for event in requests(TAIL))
    assert all(slate.items for slate in ground.slates)


def test_the_first_slate_knows_the_past(log: Log, tmp_path: Path) -> None:
    ground = Ground(tmp_path)
    ground.warm_up(log)
    ground.live()
    asked = requests(TAIL)[0]
    first = ground.slates[0]
    assert (first.user_id, first.ts) == (asked.user_id, asked.ts)
    assert len(first.items) == (asked.k or 20)
    since = {event.item_id for event in TAIL[: TAIL.index(asked)]}
    assert {place.item_id for place in first.items} - since != set()
    assert max(place.shares.get("repeats", 0.0) for place in first.items) > 0  # what the user did in the past counts


def test_a_user_lies_on_the_partition_of_their_live_events_alone(log: Log, tmp_path: Path) -> None:
    ground = Ground(tmp_path, 4)
    ground.warm_up(log)
    for name in recount(PAST).users:
        assert set(ground.store.find(Kind.USER, name)) == {partition_of(name, 4)}


def test_events_that_memory_could_not_hold_were_written_on_the_way(log: Log, tmp_path: Path) -> None:
    ground, commits = Ground(tmp_path), []
    ground.warm_up(log, lambda portion: commits.append(ground.store.marks()[0].watermark))
    assert len(set(commits)) > 10
    assert len(ground.snapshots.references()) == 1


@pytest.mark.parametrize("seed", range(4))
def test_a_power_cut_at_any_commit_is_made_good_by_the_next_warm_up(log: Log, tmp_path: Path, seed: int) -> None:
    ground = Ground(tmp_path, 3, CutStore(cut_at=random.Random(seed).randrange(1, 50)))
    with pytest.raises(PowerCut):
        ground.warm_up(log)
    assert all(mark.sealed for mark in ground.store.marks().values())
    refuse_checkpoints(ground.store, "streamrec", fresh=False)  # what was cut short may go
    ground.store.power = True  # type: ignore[attr-defined]
    ground.warm_up(log)
    assert learned(ground.live()) == wanted(EVENTS)
    ground.assert_counted(EVENTS)


def test_a_failure_leaves_nothing_behind_and_workers_may_start_without_a_past(log: Log, tmp_path: Path) -> None:
    ground = Ground(tmp_path, 2)

    def fails(portion: BatchResult) -> None:
        if portion.logged_events[-1].offset > 400:
            assert ground.store.find(Kind.USER, "user-0")
            raise SystemExit(130)  # as Ctrl-C does

    with pytest.raises(SystemExit):
        ground.warm_up(log, fails)
    assert ground.store.find(Kind.USER, "user-0") == {}
    assert {(mark.watermark, mark.snapshot, mark.sealed) for mark in ground.store.marks().values()} == {
        (None, None, False)
    }
    assert learned(ground.live()) == wanted(EVENTS)
    ground.assert_counted(EVENTS)


def test_a_warm_up_that_another_one_overtook_touches_nothing_of_it(log: Log, tmp_path: Path) -> None:
    ground = Ground(tmp_path)

    def overtaken(portion: BatchResult) -> None:
        if portion.logged_events[0].offset > 300 and ground.store.marks()[0].snapshot is None:
            ground.warm_up(log)

    with pytest.raises(StaleEpoch):
        ground.warm_up(log, overtaken)
    ground.assert_counted(PAST)
    assert ground.store.marks()[0].watermark == len(PAST)


def test_what_was_learned_before_is_forgotten_also_on_partitions_that_are_no_more(log: Log, tmp_path: Path) -> None:
    store = MemoryStore()
    before = Ground(tmp_path, 4, store)
    before.live()
    after = Ground(tmp_path, 2, store)
    with pytest.raises(StateError, match="checkpoints of 4 partitions under prefix 'p'"):
        refuse_checkpoints(store, "p", fresh=False)
    refuse_checkpoints(store, "p", fresh=True)
    after.warm_up(log)
    after.assert_counted(PAST)
    assert [mark.watermark is None for _, mark in sorted(store.marks().items())] == [False, False, True, True]


def test_models_that_can_go_over_their_memory_are_asked_to(log: Log, tmp_path: Path) -> None:
    asked: list[tuple[str, int]] = []

    class Diligent:
        name = "diligent"

        def rehearse(self, passes: int) -> None:
            asked.append((self.name, passes))

    worker = build_warmup(Ground(tmp_path).settings, LogSource(log, TOPIC, 1, lambda user_id: 0), MemoryStore())
    worker.pipeline.models = (*worker.pipeline.models[:1], Diligent())  # type: ignore[assignment]
    rehearse(worker, 1)
    assert asked == []
    rehearse(worker, 3)
    assert asked == [("diligent", 3)]


def test_a_log_that_is_learned_once_goes_forward_only(log: Log) -> None:
    past = LogSource(log, TOPIC, 2, lambda user_id: 1, END_MS)
    rows = [record.offset for _ in range(20) for record in past.poll(100, 0.0)]
    assert rows == list(range(len(PAST)))
    assert past.exhausted()
    assert past.rows == len(PAST)
    with pytest.raises(TransportError, match="cannot be sought"):
        past.seek({0: 0})


# What is decided before anything is learned


def test_the_end_is_the_logs_own_or_earlier(log: Log) -> None:
    last, summary = EVENTS[-1].ts, log.check()
    assert end_of(log, summary, None) == end_of(log, summary, last + 1) == last
    assert end_of(log, summary, END_MS) == END_MS
    with pytest.raises(LogError, match=r"up to 2023-12-31 23:5.* the first event is of 2024-01-01 00:00"):
        end_of(log, summary, EVENTS[0].ts - 60_000)


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("1704067200000", 1_704_067_200_000),
        ("2024-01-01", 1_704_067_200_000),
        ("2024-01-01T01:00:00.5+01:00", 1_704_067_200_500),
        ("2024-01-01T00:00Z", 1_704_067_200_000),
    ],
)
def test_times_are_read_as_logs_have_them(text: str, ms: int) -> None:
    assert moment_of(text, "--until") == ms


def test_a_time_that_is_none_is_told_with_its_option() -> None:
    with pytest.raises(ConfigError, match="--until is 'yesterday', expected a time as 2024-03-01T12:00Z"):
        moment_of("yesterday", "--until")


@pytest.mark.parametrize(("text", "meant"), [("1704067200", "seconds"), ("20240101", "2024-01-01")])
def test_a_number_that_is_no_time_in_ms_is_not_taken_for_one_of_1970(text: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"--from is {text}, expected milliseconds .* if {meant} is meant"):
        moment_of(text, "--from")


def placed_by(name: str) -> Settings:
    return Settings.model_validate({"topics": {"partitioner": name}})


def test_users_are_put_where_the_configuration_says_that_producers_put_them() -> None:
    keyless = Record(TOPIC, 3, 0, None, b"")
    assert partitioner_of(Settings(), [*records(TOPIC, EVENTS, 4), keyless], 4) is murmur2
    assert partitioner_of(placed_by("crc32"), [], 4) is crc32
    with pytest.raises(ConfigError, match=r"topics\.partitioner is 'other', from which no user's partition follows"):
        partitioner_of(placed_by("other"), [], 4)


def test_a_topic_that_shows_another_way_is_refused() -> None:
    with pytest.raises(TransportError, match=r"keys are placed by murmur2 here .*set topics\.partitioner = 'murmur2'"):
        partitioner_of(placed_by("crc32"), records(TOPIC, EVENTS, 4), 4)
