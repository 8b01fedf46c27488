"""How little is known of an item: what tells something of it, how that is forgotten, and that policies are told."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrec.config.groups import Learning, Limits
from streamrec.config.settings import Settings
from streamrec.engine.arrays.batch import NOTHING, MicroBatch
from streamrec.engine.arrays.labels import REFUSED, WANTED
from streamrec.engine.items.uncertainty import HALF_LIFE_MS, Uncertainty
from streamrec.engine.pipeline import Pipeline
from streamrec.engine.policies import PolicyInput
from streamrec.events import Event, EventType, Item
from streamrec.wiring import build_pipeline
from tests.unit.test_recommender import differing, log_of, run, untaught

NOW = 1_700_000_000_000
WEEK = int(HALF_LIFE_MS)


def batch_of(*examples: tuple[int, int, int]) -> MicroBatch:
    """A micro-batch of examples (item, label, ts)."""
    batch = MicroBatch.empty(1, max(len(examples), 1), 1, 1)
    batch.learned = len(examples)
    for at, (item, label, ts) in enumerate(examples):
        batch.examples.item[at], batch.examples.label[at], batch.examples.ts[at] = item, label, ts
    return batch


def told(uncertainty: Uncertainty, item: int, ts: int = NOW) -> float:
    """n of an item, from its doubt."""
    found = uncertainty.of(np.array([[item]], np.int32), np.array([ts]))[0, 0]
    return float(found**-2 - 1)


def test_doubt_by_hand() -> None:
    uncertainty = Uncertainty(8)
    uncertainty.note_shown([1, 2, NOTHING, 2], NOW)
    assert told(uncertainty, 2) == 0  # what is noted counts from the cut on
    uncertainty.learn(batch_of((1, WANTED, NOW), (3, REFUSED, NOW), (4, -1, NOW), (4, 2, NOW)))
    assert [told(uncertainty, item) for item in range(5)] == pytest.approx([0, 2, 2, 1, 0])
    assert told(uncertainty, 1, NOW + WEEK) == pytest.approx(1)
    assert told(uncertainty, 1, NOW - WEEK) == pytest.approx(2)  # a query that comes late
    uncertainty.learn(batch_of((1, WANTED, NOW - WEEK), (2, WANTED, NOW + WEEK)))
    assert told(uncertainty, 1) == pytest.approx(2.5)
    assert told(uncertainty, 2, NOW + WEEK) == pytest.approx(2)
    asked = uncertainty.of(np.array([[0, 2, NOTHING]], np.int32), np.array([NOW + WEEK]))
    assert asked.tolist() == [[1.0, pytest.approx(1 / np.sqrt(3)), 1.0]]


def test_doubt_is_the_relative_deviation_of_a_rate_with_one_prior_event() -> None:
    uncertainty = Uncertainty(2)
    uncertainty.learn(batch_of(*[(0, WANTED, NOW)] * 9))
    rates = np.random.default_rng(0).gamma(1 + 9, size=200_000)
    assert uncertainty.of(np.array([[0]], np.int32), np.array([NOW]))[0, 0] == pytest.approx(
        rates.std() / rates.mean(), rel=0.02
    )


moments = st.tuples(st.integers(0, 3), st.integers(NOW, NOW + 3 * WEEK))


@given(st.lists(moments, max_size=12), st.randoms(use_true_random=False))
def test_the_order_in_which_things_are_noted_changes_nothing(shown: list[tuple[int, int]], shuffler) -> None:  # type: ignore[no-untyped-def]
    states = []
    for _ in range(2):
        uncertainty = Uncertainty(4)
        for item, ts in shown:
            uncertainty.note_shown([item], ts)
        states.append({"noted": uncertainty.state()})
        uncertainty.learn(batch_of())
        states[-1]["counted"] = uncertainty.state()
        expected = [sum(0.5 ** ((NOW + 3 * WEEK - ts) / WEEK) for item, ts in shown if item == one) for one in range(4)]
        assert [told(uncertainty, one, NOW + 3 * WEEK) for one in range(4)] == pytest.approx(expected)
        shuffler.shuffle(shown)
    assert differing(*states) == []


def test_what_was_saved_is_restored_and_what_was_forgotten_is_unknown() -> None:
    first, second = Uncertainty(8), Uncertainty(8)
    first.learn(batch_of((1, WANTED, NOW), (5, WANTED, NOW)))
    first.note_shown([5, 6], NOW + 1)
    second.learn(batch_of((7, WANTED, NOW)))
    second.restore(first.state())
    for uncertainty in (first, second):
        uncertainty.forget(np.array([1, 6], np.int32))
        uncertainty.learn(batch_of((2, WANTED, NOW + 2)))
    assert differing({"doubt": first.state()}, {"doubt": second.state()}) == []
    assert [told(first, item, NOW + 2) for item in (1, 2, 5, 6, 7)] == pytest.approx([0, 1, 2, 0, 0])


def shop(**learning: object) -> Pipeline:
    settings = Settings(
        preset="fast",
        limits=Limits(max_items=200, max_users=200),
        learning=Learning(device="cpu", models=("popularity",), **learning),  # type: ignore[arg-type]
    )
    return build_pipeline(settings, {"new": Item(item_id="new")})


def test_what_the_log_tells_of_items_lessens_their_doubt_and_policies_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = shop(micro_batch=8)
    heard: list[PolicyInput] = []
    choose = pipeline.answers.policies.choose
    monkeypatch.setattr(
        pipeline.answers.policies, "choose", lambda asked, *rest: heard.append(asked) or choose(asked, *rest)
    )
    items = chain(["much"] * 12, ["little"], ["much"] * 3)
    events = [Event(type=EventType.CLICK, user_id=f"u{n}", ts=NOW + n, item_id=item) for n, item in enumerate(items)]
    site = Event(type=EventType.IMPRESSION, user_id="u", ts=NOW + 20, item_id="little")
    ours = Event(type=EventType.IMPRESSION, user_id="u", ts=NOW + 21, item_id="much", rec_id="r")
    request = [Event(type=EventType.REQUEST, user_id="v", ts=NOW + 30 + n, k=3) for n in range(2 * 8)]
    run(pipeline, [*events, site, ours, *request])

    def said(asked: PolicyInput, item: str) -> float:
        at = asked.items == pipeline.features.items.lookup(item)
        return float(asked.uncertainty[at].mean() ** -2 - 1)

    first, last = heard[0], heard[-1]
    assert [said(first, item) for item in ("new", "little", "much")] == pytest.approx([0, 1, 15], rel=1e-3)
    assert (first.uncertainty[first.items == NOTHING] == 1).all()
    # By the last requests the first six have shown all three items, and the site has shown one of them once.
    assert [said(last, item) for item in ("new", "little", "much")] == pytest.approx([14, 16, 29], rel=1e-3)


@pytest.mark.parametrize("poll", [1, 64])
def test_doubt_is_restored_with_everything_else_however_the_log_came_in(poll: int) -> None:
    events = log_of(400)
    whole, first, second = untaught(), untaught(), untaught()
    run(whole, events)
    run(first, events[:333], poll)
    second.restore(first.state())
    users = first.features.users
    names, stored = [name for _, name in users._entries], users.take_changes(0)
    second.features.users.admit([(0, name) for name in names], [stored["user", name] for name in names], NOW)
    run(second, events[333:], poll, 333)
    assert differing({"doubt": second.state()["doubt"]}, {"doubt": whole.state()["doubt"]}) == []
    assert np.count_nonzero(whole.state()["doubt"]["told"]) > 20
