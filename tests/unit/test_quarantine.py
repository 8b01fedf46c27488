"""Who is sentenced, who comes back and when, counted by hand; and what the untrusted say meanwhile."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrec.engine.learning.quarantine import FORGIVEN, PROBATION, Quarantine, unsound

ONE, OTHER = "model.one", "model.other"


def quarantine(patience: int = 4) -> Quarantine:
    return Quarantine(["one", "other"], patience)


class MicroBatchSchedule:
    """Learning cuts, some of which harm `model.one`."""

    def __init__(self, record: Quarantine) -> None:
        self.record, self.refused = record, 0

    def harmful(self, count: int = 1) -> None:
        for _ in range(count):
            self.refused += 3  # three updates refused in one cut are one strike
            self.record.judge({ONE: self.refused, OTHER: 0})

    def harmless(self, count: int = 1) -> None:
        for _ in range(count):
            self.record.judge({ONE: self.refused, OTHER: 0})


def test_so_many_strikes_and_no_fewer_are_a_sentence() -> None:
    record = quarantine()
    cuts = MicroBatchSchedule(record)
    cuts.harmful(3)
    assert record.sentenced() == ()
    assert not record.out(ONE)
    cuts.harmful()
    assert record.sentenced() == (ONE,)
    assert record.standing() == {ONE: True, OTHER: False}


def test_harmless_cuts_take_strikes_back() -> None:
    record = quarantine()
    cuts = MicroBatchSchedule(record)
    for _ in range(20):
        cuts.harmful()
        cuts.harmless(100)
    assert record.sentenced() == ()
    cuts.harmful(4)
    assert record.sentenced() == (ONE,)


def test_an_accident_is_suspicious_until_the_next_harmless_cut_and_two_for_longer() -> None:
    record = quarantine()
    cuts = MicroBatchSchedule(record)
    cuts.harmful()
    assert record.suspects() == {ONE}
    cuts.harmless()
    assert record.suspects() == frozenset()
    cuts.harmful()
    until = 0
    while record.suspects():
        cuts.harmless()
        until += 1
    assert until == pytest.approx(np.log(1 / (1 + FORGIVEN)) / np.log(FORGIVEN), abs=1.0)


def test_trust_comes_back_after_probation_and_a_strike_begins_it_anew() -> None:
    record = quarantine()
    cuts = MicroBatchSchedule(record)
    cuts.harmful(4)
    cuts.harmless(2 * PROBATION)
    assert record.sentenced() == (ONE,)  # nobody has rolled it back yet
    record.rolled_back(ONE, "0000000007-a", cuts.refused)
    assert record.sentenced() == ()
    cuts.harmless(PROBATION - 1)
    assert record.out(ONE)
    cuts.harmful()
    cuts.harmless(PROBATION - 1)
    assert record.out(ONE)
    assert record.suspects() == {ONE}
    cuts.harmless()
    assert not record.out(ONE)
    assert record.suspects() == frozenset()


def test_a_second_rollback_within_probation_goes_further_back_and_a_later_one_does_not() -> None:
    record = quarantine()
    cuts = MicroBatchSchedule(record)
    cuts.harmful(4)
    assert record.before(ONE) is None
    record.rolled_back(ONE, "0000000007-a", cuts.refused)
    cuts.harmful(4)
    assert record.sentenced() == (ONE,)
    assert record.before(ONE) == "0000000007-a"
    record.rolled_back(ONE, None, cuts.refused)
    assert record.before(ONE) == ""  # nothing is older than nothing
    cuts.harmless(PROBATION)
    cuts.harmful(4)
    assert record.before(ONE) is None


def test_refusals_that_a_rollback_took_back_are_no_strikes() -> None:
    record = quarantine()
    cuts = MicroBatchSchedule(record)
    cuts.harmful(4)
    record.rolled_back(ONE, "0000000007-a", 0)  # the model of then had refused nothing
    cuts.refused = 0
    cuts.harmless(PROBATION)
    assert not record.out(ONE)


def test_an_array_that_is_no_number_is_a_sentence_at_once() -> None:
    record = quarantine()
    record.condemn([OTHER])
    assert record.sentenced() == (OTHER,)
    assert record.suspects() == {OTHER}
    record.rolled_back(OTHER, "0000000007-a", 0)
    record.condemn([OTHER])
    assert record.before(OTHER) is None  # that snapshot held only numbers: what harms came after it


def scores(*models: list[float]) -> np.ndarray:
    return np.array(models, np.float32)[:, None, :]  # (models, 1, candidates)


def test_what_is_no_score_is_heard_as_not_known_and_held_against_the_model() -> None:
    record = quarantine(patience=1)
    said = scores([1.0, np.nan, np.inf, -np.inf], [0.5, 2.0, -3.0, -np.inf])
    record.hear(said)
    assert said[0, 0].tolist() == [1.0, -np.inf, -np.inf, -np.inf]
    assert said[1, 0].tolist() == [0.5, 2.0, -3.0, -np.inf]
    record.judge({})
    assert record.sentenced() == (ONE,)


def test_a_model_that_is_out_is_heard_as_one_that_knows_nothing() -> None:
    record = quarantine()
    record.condemn([OTHER])
    said = scores([1.0, 2.0], [3.0, 4.0])
    record.hear(said)
    assert said[0, 0].tolist() == [1.0, 2.0]
    assert said[1, 0].tolist() == [-np.inf, -np.inf]
    record.rolled_back(OTHER, None, 0)
    for _ in range(PROBATION):
        record.judge({OTHER: 0})
    said = scores([1.0, 2.0], [3.0, 4.0])
    record.hear(said)
    assert said[1, 0].tolist() == [3.0, 4.0]


def test_nonsense_on_probation_keeps_a_model_out() -> None:
    record = quarantine()
    record.condemn([ONE])
    record.rolled_back(ONE, None, 0)
    for _ in range(3 * PROBATION):
        record.hear(scores([np.nan, 1.0], [1.0, 1.0]))
        record.judge({})
        if record.sentenced():
            break
    assert record.sentenced() == (ONE,)


def test_scores_that_are_scores_are_left_as_they_are() -> None:
    rng, record = np.random.default_rng(1), quarantine()
    said = rng.normal(size=(2, 6, 50)).astype(np.float32)
    said[0, 1] = -np.inf
    before = said.tobytes()
    record.hear(said)
    assert said.tobytes() == before
    assert record.standing() == {}


@given(st.lists(st.sampled_from(["harmful", "harmless", "nonsense", "condemn", "roll back"]), max_size=60), st.data())
def test_a_restored_record_goes_on_as_the_first_one_would(story: list[str], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(story)))
    whole, first, second = quarantine(), quarantine(), quarantine()
    tell(whole, story, 0)
    refused = tell(first, story[:cut], 0)
    second.restore(first.state())
    tell(second, story[cut:], refused)
    assert bits(second) == bits(whole)
    assert (second.sentenced(), second.suspects()) == (whole.sentenced(), whole.suspects())


def tell(record: Quarantine, story: list[str], refused: int) -> int:
    for number, what in enumerate(story):
        match what:
            case "condemn":
                record.condemn([OTHER])
            case "roll back":
                for name in record.sentenced():
                    record.rolled_back(name, f"{number:010d}-a", refused)
            case "nonsense":
                record.complain(OTHER)
            case _:
                refused += what == "harmful"
                record.judge({ONE: refused, OTHER: 0})
    return refused


def bits(record: Quarantine) -> dict[str, bytes]:
    # Names of snapshots are made up per story, so they may differ where it was cut.
    return {name: array.tobytes() for name, array in record.state().items() if not name.startswith("back_at")}


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_number_that_is_none_makes_a_component_unsound(dtype: type, bad: float) -> None:
    good = {
        "weights": np.arange(12, dtype=dtype).reshape(3, 4),
        "counts": np.array([2**60]),
        "none": np.empty(0, dtype),
    }
    broken = {**good, "weights": good["weights"].copy()}
    broken["weights"][2, 1] = bad
    assert unsound({"a": good, "b": broken, "c": broken}, ["a", "b"]) == ["b"]


def test_where_nothing_has_come_yet_no_number_is_needed() -> None:
    untaught = {"origin": np.array([np.nan]), "guard.levels": np.array([1.0, np.inf])}
    assert unsound({"a": untaught}, ["a"]) == []
