"""Slates wait for their outcomes and are judged once, whoever holds them, whatever the order of events."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamrec.codec import decode
from streamrec.config.settings import Settings
from streamrec.engine.arrays.logged_event import LoggedEvent
from streamrec.engine.attribution.attribution import AttributionRules, RewardRule, SeenRule, ServedSlate
from streamrec.engine.attribution.open_slates import OpenSlateLimits, OpenSlates
from streamrec.engine.examples import decoded
from streamrec.engine.partition_tables import DIRECTORY, NOTHING_LEFT, Changes
from streamrec.events import Event, EventType, Outcome, Slate, SlateItem
from streamrec.state.memory import MemoryStore
from streamrec.state.snapshots import SnapshotDirectory
from streamrec.testing import records
from streamrec.transport import Record
from streamrec.transport.local import LocalSink, LocalSource
from streamrec.transport.local_follower import LocalFollower
from streamrec.wiring import build_worker
from streamrec.wiring.learner import build_learner
from streamrec.worker import step

SHOWN = 1_700_000_000_000
WINDOW_MS = 600_000
LATENESS_MS = 60_000
RULES = AttributionRules(WINDOW_MS, SeenRule.ALL, RewardRule.MAX, {EventType.CLICK: 0.2, EventType.PURCHASE: 1.0})


def table(users: int = 100, per_user: int = 8, slates: int = 1_000) -> OpenSlates:
    return OpenSlates(RULES, LATENESS_MS, OpenSlateLimits(users, per_user, slates))


def slate(user: str = "u", number: int = 10, items: str = "abc", ts: int = SHOWN) -> Slate:
    places = tuple(
        SlateItem(item_id=item, position=at, score=1.0, propensity=0.5, shares={}) for at, item in enumerate(items, 1)
    )
    return Slate(rec_id=f"0-{number}", user_id=user, ts=ts, items=places, policy="p", version="1", candidates=9)


def served(items: int = 3) -> ServedSlate:
    return ServedSlate(0, 7, np.zeros((items, 2), np.float32), {})


def show(slates: OpenSlates, *shown: Slate, partition: int = 0) -> OpenSlates:
    for one in shown:
        slates.shown(partition, one, served(len(one.items)))
        slates.tick(partition, one.ts, learned=False)
    return slates


def follow(
    slates: OpenSlates,
    item: str | None = "b",
    kind: EventType = EventType.CLICK,
    *,
    user: str = "u",
    ts: int = SHOWN + 1_000,
    rec_id: str | None = None,
    partition: int = 0,
) -> bool:
    return slates.credit(LoggedEvent(Event(type=kind, user_id=user, item_id=item, ts=ts, rec_id=rec_id), partition, 77))


def nobody(users: Sequence[tuple[int, str]]) -> list[bytes | None]:
    return [None] * len(users)


def close(slates: OpenSlates, after_ms: int = 10**7, partition: int = 0, load: object = nobody) -> list[Outcome]:
    slates.tick(partition, SHOWN + after_ms, learned=False)
    return [outcome for came, _ in slates.close(load) for outcome in came.outcomes]  # type: ignore[arg-type]


def rewards(outcomes: Sequence[Outcome]) -> dict[str, float]:
    return {outcome.outcome_id: outcome.reward for outcome in outcomes}


def moved(first: OpenSlates, second: OpenSlates, partition: int = 0) -> Changes:
    """Hand a partition over the way checkpoints do; returns what lies in the store."""
    stored = first.take_changes(partition)
    second.take_over(partition, lambda kind, names: [stored.get((kind, name)) for name in names])
    return stored


def of_kind(changes: Changes, kind: str) -> dict[str, bytes]:
    """What the store holds of a kind, by name."""
    return {name: value for (is_, name), value in changes.items() if is_ == kind}


def test_a_slate_is_judged_when_its_window_and_the_grace_for_late_events_are_over() -> None:
    slates = show(table(), slate())
    assert follow(slates, ts=SHOWN + WINDOW_MS)
    assert close(slates, WINDOW_MS + LATENESS_MS) == []
    assert rewards(close(slates, WINDOW_MS + LATENESS_MS + 60_000)) == {"0-10-1": 0.0, "0-10-2": 0.2, "0-10-3": 0.0}
    assert close(slates) == []
    assert slates.waiting == 0


def test_an_event_is_owed_to_the_newest_slate_that_showed_its_item_or_to_the_one_it_names() -> None:
    slates = show(table(), slate(), slate(number=20, items="bd", ts=SHOWN + 500))
    assert follow(slates, "b")
    assert follow(slates, "a")
    assert follow(slates, "b", EventType.PURCHASE, rec_id="0-10")
    assert follow(slates, "d", ts=SHOWN + 400) is False  # before it was shown
    found = rewards(close(slates))
    assert found == {"0-10-1": 0.2, "0-10-2": 1.0, "0-10-3": 0.0, "0-20-1": 0.2, "0-20-2": 0.0}


def test_what_concerns_no_open_slate_is_owed_to_none_and_counted_when_it_named_one() -> None:
    slates = show(table(), slate())
    assert not follow(slates, "z")
    assert not follow(slates, user="other")
    assert not follow(slates, partition=1)
    assert not follow(slates, None, EventType.REQUEST)
    assert slates.late == 0
    assert not follow(slates, rec_id="0-9")
    close(slates)
    assert not follow(slates, rec_id="0-10")
    assert slates.late == 2


def test_open_slates_survive_the_store_and_go_on_waiting_at_the_next_owner() -> None:
    first, second = show(table(), slate(), slate("v", 11)), table()
    assert follow(first)
    stored = moved(first, second)
    assert first.take_changes(0) == first.take_changes(1) == {}
    assert second.waiting == 2
    users = [(0, "u"), (0, "nobody")]
    assert second.missing(users) == users
    second.admit(users, [stored["open", "u"], None], SHOWN)
    assert second.missing(users) == []
    assert follow(second, "c", EventType.PURCHASE)
    asked: list[tuple[int, str]] = []

    def load(users: Sequence[tuple[int, str]]) -> list[bytes | None]:
        asked.extend(users)
        return [stored.get(("open", name)) for _, name in users]

    found = rewards(close(second, load=load))
    assert asked == [(0, "v")]  # who never came back is judged all the same
    assert found == {"0-10-1": 0.0, "0-10-2": 0.2, "0-10-3": 1.0, "0-11-1": 0.0, "0-11-2": 0.0, "0-11-3": 0.0}
    after = second.take_changes(0)
    due = of_kind(after, "due")
    assert of_kind(after, "open") == {"u": NOTHING_LEFT, "v": NOTHING_LEFT}
    assert set(due) == set(of_kind(stored, "due"))
    assert all((value == NOTHING_LEFT) is (name != DIRECTORY) for name, value in due.items())


def test_the_clock_goes_with_the_partition() -> None:
    first, second = show(table(), slate()), table()
    first.tick(0, SHOWN + 10**7, learned=False)
    first.shown(0, slate("w", 12), served())
    stored = moved(first, second)
    found = [came for came, _ in second.close(lambda users: [stored.get(("open", name)) for _, name in users])]
    assert [outcome.rec_id for came in found for outcome in came.outcomes[:1]] == ["0-10", "0-12"]


def test_the_latest_slate_is_handed_over_for_people_to_look_at() -> None:
    slates = show(table(), slate(), slate(number=20, items="cd", ts=SHOWN + 500))
    latest = of_kind(slates.take_changes(0), "slate")
    assert msgspec.msgpack.decode(latest["u"], type=Slate).rec_id == "0-20"
    assert of_kind(slates.take_changes(0), "slate") == {}


def test_an_empty_slate_waits_for_nothing() -> None:
    slates = show(table(), slate(items=""))
    assert slates.waiting == 0
    assert close(slates) == []


def test_partitions_that_went_to_somebody_else_are_forgotten() -> None:
    slates = show(show(table(), slate()), slate("w", 3), partition=1)
    slates.drop([0])
    assert not follow(slates)
    assert slates.take_changes(0) == {}
    assert follow(slates, user="w", partition=1)
    assert slates.waiting == 1


def test_the_oldest_slate_of_a_user_makes_room_for_the_newest() -> None:
    slates = show(table(per_user=2), *(slate(number=n, ts=SHOWN + n) for n in range(10, 15)))
    found = close(slates, 1_000)
    assert [outcome.rec_id for outcome in found] == ["0-10"] * 3 + ["0-11"] * 3 + ["0-12"] * 3
    assert (slates.early, slates.waiting) == (3, 2)


def test_the_oldest_slates_of_all_make_room_when_too_many_wait() -> None:
    slates = show(table(slates=5), *(slate(f"u{n}", n, ts=SHOWN + 60_000 * n) for n in range(8)))
    found = close(slates, 60_000 * 7)
    assert sorted({outcome.rec_id for outcome in found}) == ["0-0", "0-1", "0-2"]
    assert (slates.early, slates.waiting) == (3, 5)


def test_memory_is_bounded_and_what_is_not_stored_yet_stays() -> None:
    slates, stored = table(users=5), dict[str, bytes]()
    for number in range(40):
        user = f"u{number}"
        if slates.crowded(1):
            stored |= of_kind(slates.take_changes(0), "open")
        slates.admit(slates.missing([(0, user)]), [None], SHOWN)
        show(slates, slate(user, number))
        assert len(slates) <= 6
    stored |= of_kind(slates.take_changes(0), "open")
    assert len(stored) == 40
    found = close(slates, load=lambda users: [stored.get(user[1]) for user in users])
    assert Counter(outcome.rec_id for outcome in found) == {f"0-{number}": 3 for number in range(40)}


def test_no_more_ends_with_one_event_than_may_travel_with_it() -> None:
    slates, closed = table(), list[str]()
    for number in range(20):
        show(slates, slate(f"user{number}", number, ts=SHOWN + number))
    slates.tick(0, SHOWN + 10**7, learned=False)
    sizes = []
    while slates.waiting:
        before = len(closed)
        for came in slates.ended(0, nobody, lambda: len(closed) >= before + 6):  # noqa: B023
            closed.append(came.outcomes[0].rec_id)
        sizes.append(len(closed) - before)
    assert sizes == [6, 6, 6, 2]
    assert sorted(closed) == sorted(f"0-{number}" for number in range(20))


def test_many_slates_that_end_at_once_travel_in_messages_of_bounded_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "ENDED_BYTES", 32 * 1024)
    night = 12 * 3_600_000
    asked = [Event(type=EventType.CLICK, user_id=f"u{n}", item_id=f"i{n % 40}", ts=SHOWN + n) for n in range(120)]
    seen = [Event(type=EventType.IMPRESSION, user_id=f"u{n}", item_id=f"i{n % 40}", ts=SHOWN + n) for n in range(120)]
    morning = [Event(type=EventType.CLICK, user_id="early", item_id="i1", ts=SHOWN + night + n) for n in range(20)]
    chosen = Settings.model_validate({
        "serving": {"recommend_on": ("click",)},
        "attribution": {"seen": "all"},
        "learner": {"where": "elsewhere"},
    })  # fmt: skip
    snapshots = SnapshotDirectory(tmp_path, 1)

    def taught(log: list[Event]) -> list[Record]:
        """The examples of a worker that follows the models in the snapshots."""
        source, sink = LocalSource("user-events", records("user-events", log)), LocalSink()
        updates: Callable[[int], LocalFollower] = lambda since_ms: LocalFollower("model-updates")  # noqa: E731
        build_worker(chosen, source, sink, MemoryStore(), snapshots, updates=updates).run()
        return list(sink.records(chosen.topics.examples))

    build_learner(
        chosen,
        LocalSource(chosen.topics.examples, taught(asked)),
        LocalSink(),
        snapshots,
        catalogue=lambda: LocalFollower("items"),
        updates=lambda since_ms: LocalFollower("model-updates"),
    ).run()
    values = [record.value or b"" for record in taught([*asked, *seen, *morning])]
    ended, sizes = [decoded(value).ended for value in values], list(map(len, values))
    assert max(sizes) < 48_000
    assert sum(sizes) > 160_000
    assert len({one.rec_id for some in ended for one in some}) == sum(map(len, ended)) >= 120


def test_what_the_models_know_already_is_judged_and_marked() -> None:
    slates = show(table(), slate())
    slates.tick(0, SHOWN + 10**7, learned=True)
    assert [learned for _, learned in slates.close(nobody)] == [True]


# Through the whole worker: one outcome for each item shown and seen, whatever comes when, and however often


def shopping(rng: random.Random, requests: int, shuffled_within_ms: int) -> list[Event]:
    """Requests, and clicks by user and item or by slate, some twice, some late, in the order of their arrival."""
    arriving: list[tuple[int, int, Event]] = []
    for number in range(requests):
        user, ts = f"user-{rng.randrange(6)}", SHOWN + number * 40_000 + rng.randrange(20_000)
        ask = Event(type=EventType.REQUEST, user_id=user, ts=ts, event_id=f"r{number}", k=5)
        arriving.append((ts, number, ask))
        for answer in range(rng.randrange(5)):
            later = ts + 1 + rng.randrange(300_000)
            kind = rng.choice([EventType.CLICK, EventType.PURCHASE, EventType.VIEW, EventType.IMPRESSION])
            event = Event(
                type=kind, user_id=user, ts=later, item_id=f"item-{rng.randrange(12)}", event_id=f"{number}-{answer}",
                rec_id=f"user-events-0-{rng.randrange(40)}" if rng.random() < 0.2 else None,
            )  # fmt: skip
            arriving += [(later + rng.randrange(shuffled_within_ms), number, event)] * rng.choice([1, 1, 2])
    return [event for *_, event in sorted(arriving, key=lambda entry: entry[:2])]


def ran(log: list[Event], poll: int) -> tuple[list[Slate], list[Outcome]]:
    given = {"models": ("popularity", "covisit"), "micro_batch": 8}
    chosen = Settings.model_validate(
        {
            "learning": given,
            "fusion": {"form": "linear"},
            "limits": {"max_items": 64},
            "attribution": {"window_s": 600.0, "lateness_s": 60.0},
        }
    )
    sink = LocalSink()
    worker = build_worker(chosen, LocalSource("user-events", records("user-events", log)), sink, MemoryStore(), None)
    worker._poll_records = poll
    worker.run()
    slates = [decode(record.value or b"", record.headers, Slate) for record in sink.records("recommendations")]
    return slates, [decode(record.value or b"", record.headers, Outcome) for record in sink.records("outcomes")]


@settings(max_examples=12)
@given(seed=st.integers(0, 2**32 - 1), poll=st.sampled_from([1, 7, 500]))
def test_each_item_that_was_seen_gives_exactly_one_outcome(seed: int, poll: int) -> None:
    rng = random.Random(seed)
    log = shopping(rng, 40, shuffled_within_ms=50_000)
    end = max(event.ts for event in log) + 10**7
    log += [Event(type=EventType.VIEW, user_id="closer", ts=end + n, item_id="item-0") for n in range(9)]
    slates, outcomes = ran(log, poll)
    depths = Counter(outcome.rec_id for outcome in outcomes)
    by_id = {slate.rec_id: slate for slate in slates}
    for rec_id, depth in depths.items():
        positions = [outcome.position for outcome in outcomes if outcome.rec_id == rec_id]
        assert sorted(positions) == list(range(1, depth + 1))
        shown = by_id[rec_id].items
        for outcome in (outcome for outcome in outcomes if outcome.rec_id == rec_id):
            assert shown[outcome.position - 1].item_id == outcome.item_id
            assert shown[outcome.position - 1].propensity == outcome.propensity
    assert set(depths) == {slate.rec_id for slate in slates if slate.items}
    assert len({outcome.outcome_id for outcome in outcomes}) == len(outcomes)
    # A recount: the best of what followed, owed to the newest slate of the user that showed the item.
    owed: dict[tuple[str, int], float] = {}
    worth = {EventType.VIEW: 0.1, EventType.CLICK: 0.2, EventType.PURCHASE: 1.0}
    seen_ids: set[str] = set()
    published: dict[str, list[Slate]] = {}
    ordered = iter(slates)
    for event in log:
        if event.event_id in seen_ids:
            continue
        seen_ids.add(event.event_id or "")
        if event.type is EventType.REQUEST:
            published.setdefault(event.user_id, []).append(next(ordered))
        for slate in reversed(published.get(event.user_id, [])):
            fits = event.rec_id in (None, slate.rec_id) and 0 <= event.ts - slate.ts <= 600_000
            place = next((item.position for item in slate.items if item.item_id == event.item_id), None)
            if fits and place is not None:
                if event.type in worth:
                    owed[slate.rec_id, place] = max(owed.get((slate.rec_id, place), 0.0), worth[event.type])
                break
    assert {(o.rec_id, o.position): o.reward for o in outcomes if o.reward} == owed


@pytest.mark.parametrize("poll", [1, 13])
def test_how_the_log_is_cut_into_polls_changes_no_outcome(poll: int) -> None:
    log = shopping(random.Random(4), 60, shuffled_within_ms=50_000)
    assert ran(log, poll) == ran(log, 512)
