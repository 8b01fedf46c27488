"""A snapshot of another list of models is adopted: what both lists have goes on, what is new begins untaught."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from streamrec import Event, EventType, Recommender
from streamrec.config.parts import PolicyEntry, listing
from streamrec.config.settings import Settings
from streamrec.engine.adoption import Adoption, Order, adopted
from streamrec.engine.arrays.batch import Array, Queries
from streamrec.engine.fusion.fusion import PRIOR_PRECISION
from streamrec.engine.fusion.residual import PORTION
from streamrec.engine.learning.quarantine import Quarantine
from streamrec.engine.pipeline import Pipeline
from streamrec.engine.policies.deterministic import Greedy
from streamrec.errors import StateError
from streamrec.testing import STARTED_MS, shop
from streamrec.wiring import build_pipeline, run_engine
from streamrec.wiring.saved_recommender import STATE, read

LOG = shop(2_000, users=80, items=120, seed=4)
TAUGHT = 1_500
BEFORE = ("popularity", "covisit_recent", "transitions", "repeats", "clicks")
AFTER = ("popularity", "popularity_days", "covisit", "covisit_recent", "sessions", "repeats")
KEPT = ("popularity", "covisit_recent", "repeats")
NEW = ("popularity_days", "sessions")
State = Mapping[str, Mapping[str, Array]]


def untaught(models: Sequence[str], **fusion: Any) -> Pipeline:
    return build_pipeline(
        Settings.model_validate(
            {
                "learning": {"models": models, "device": "cpu"},
                "fusion": {"form": "linear", "policy": "exp3", **fusion},
                "limits": {"max_items": 256, "max_users": 200},
            }
        )
    )


def run(pipeline: Pipeline, events: Sequence[Event], first: int = 0, poll: int = 512) -> float:
    """The fused list's hit rate on the way."""
    hits, tried = 0, 0
    for result in run_engine(pipeline, events, first=first, poll=poll):
        ranks = result.trial.ranks[0, result.trial.kept]
        hits, tried = hits + int(((ranks >= 1) & (ranks <= 10)).sum()), tried + len(ranks)
    return hits / max(tried, 1)


@pytest.fixture(scope="module")
def teacher() -> Pipeline:
    pipeline = untaught(BEFORE, form="mlp")
    run(pipeline, LOG[:TAUGHT])
    assert pipeline.fusion.residual is not None
    assert pipeline.fusion.residual.updates > 3
    assert pipeline.batch.learned > 0
    return pipeline


def adopt(teacher: Pipeline, pipeline: Pipeline) -> Adoption:
    adoption = adopted(teacher.state(), teacher.schema, pipeline)
    pipeline.restore(adoption.arrays)
    return adoption


def same(one: Mapping[str, Array], other: Mapping[str, Array]) -> bool:
    return one.keys() == other.keys() and all(one[name].tobytes() == other[name].tobytes() for name in one)


def test_models_of_both_lists_keep_their_arrays_and_new_ones_are_untaught(teacher: Pipeline) -> None:
    pipeline = untaught(AFTER, form="mlp")
    blank = pipeline.state()
    adoption = adopt(teacher, pipeline)
    now, then = pipeline.state(), teacher.state()
    assert all(same(now[f"model.{name}"], then[f"model.{name}"]) for name in ("popularity", "repeats"))
    assert all(same(now[f"model.{name}"], blank[f"model.{name}"]) for name in NEW)
    assert {name for name in now if name.startswith("model.")} == {f"model.{name}" for name in AFTER}
    assert all(same(now[name], then[name]) for name in ("items", "doubt", "listing", "contribution", "clock"))
    assert set(adoption.begun) == {f"model.{name}" for name in NEW}
    assert set(adoption.dropped) == {"model.transitions", "model.clicks"}
    assert set(adoption.kept) == {*(f"model.{name}" for name in KEPT), "model.covisit", "policy.exp3"}


def test_a_table_that_two_models_look_at_goes_to_whoever_owns_it_now(teacher: Pipeline) -> None:
    pipeline, alone = untaught(AFTER), untaught(BEFORE)
    adopt(teacher, pipeline)
    table = teacher.state()["model.covisit_recent"]
    assert len(table["mass"]) > 50
    assert same(pipeline.state()["model.covisit"], table)
    assert pipeline.state()["model.covisit_recent"] == {}  # a view of it
    adoption = adopt(pipeline, alone)
    assert same(alone.state()["model.covisit_recent"], table)
    assert "model.covisit" not in adoption.dropped
    assert "model.covisit_recent" not in adoption.translated  # whoever follows has it too


@pytest.mark.parametrize("form", ["linear", "mlp"])
def test_weights_go_by_name_and_new_ones_are_at_their_prior(teacher: Pipeline, form: str) -> None:
    pipeline = untaught(AFTER, form=form)
    prior = pipeline.fusion.mean
    adopt(teacher, pipeline)
    then, now = teacher.fusion, pipeline.fusion
    both = Order(then.names, now.names)
    assert len(both.new) == 5 * 3
    assert (now.precision[np.ix_(both.here, both.here)] == then.precision[np.ix_(both.there, both.there)]).all()
    new = np.setdiff1d(np.arange(now.width), both.here)
    assert now.mean[new].tolist() == prior[new].tolist()
    assert (now.particles[:, new] == prior[new]).all()
    assert (now.precision[new] == PRIOR_PRECISION * np.eye(now.width)[new]).all()
    assert now.version == then.version


def test_where_only_models_are_added_no_bit_of_a_weight_changes(teacher: Pipeline) -> None:
    pipeline = untaught((*BEFORE, "sessions"), form="mlp")
    assert adopt(teacher, pipeline).dropped == ()
    then, now = teacher.fusion, pipeline.fusion
    both = Order(then.names, now.names)
    assert now.mean[both.here].tobytes() == then.mean[both.there].tobytes()
    assert now.particles[:, both.here].tobytes() == then.particles[:, both.there].tobytes()


def test_weights_that_are_left_take_over_what_they_shared_with_those_that_are_gone(teacher: Pipeline) -> None:
    pipeline = untaught(KEPT, form="mlp")
    adopt(teacher, pipeline)
    then, now = teacher.fusion, pipeline.fusion
    both = Order(then.names, now.names)
    gone = np.setdiff1d(np.arange(then.width), both.there)
    # The textbook's other form: a Gaussian of this covariance, given that those that are gone weigh nothing.
    covariance = np.linalg.inv(then.precision)
    shared = covariance[np.ix_(both.there, gone)] @ np.linalg.inv(covariance[np.ix_(gone, gone)])
    for own, former in ((now.mean, then.mean), (now.particles, then.particles)):
        expected = former[..., both.there] - former[..., gone] @ shared.T
        assert np.abs(expected - former[..., both.there]).max() > 0.01
        assert own[..., both.here] == pytest.approx(expected, abs=1e-8)


def test_a_fusion_that_holds_no_numbers_is_adopted_and_left_to_the_quarantine(teacher: Pipeline) -> None:
    state, pipeline = teacher.state(), untaught(KEPT, form="mlp")
    state["fusion"]["precision"][:] = np.nan
    pipeline.restore(adopted(state, teacher.schema, pipeline).arrays)
    assert "fusion" in pipeline.rollback.suspects(pipeline.state())


def test_the_network_says_of_what_it_knows_what_it_said(teacher: Pipeline) -> None:
    pipeline = untaught(AFTER, form="mlp")
    adopt(teacher, pipeline)
    one, other = teacher.fusion.residual, pipeline.fusion.residual
    assert one is not None
    assert other is not None
    both = Order(teacher.fusion.names[: one.features], pipeline.fusion.names[: other.features])
    said = np.random.default_rng(1).random((1, 20, one.features)).astype(np.float32)
    said[:, :, np.setdiff1d(np.arange(one.features), both.there)] = 0.0
    expected = one.score(said, Queries.empty(1), slice(0, 1))
    assert np.abs(expected).max() > 1e-4
    assert other.score(both.moved(said, 2), Queries.empty(1), slice(0, 1)) == pytest.approx(expected, abs=1e-5)
    updates = other.updates
    run(pipeline, LOG[TAUGHT : TAUGHT + 4 * PORTION], TAUGHT)
    assert other.updates > updates
    assert other.skipped == 0


def test_a_network_that_was_not_there_begins_silent_and_one_that_is_gone_leaves_nothing(teacher: Pipeline) -> None:
    linear, again = untaught(BEFORE), untaught(BEFORE, form="mlp")
    adoption = adopt(teacher, linear)
    assert adoption.dropped == ("residual",)
    assert not [name for name in adoption.arrays["fusion"] if name.startswith("residual.")]
    adoption = adopt(linear, again)
    assert adoption.begun == ("residual",)
    assert again.fusion.residual is not None
    assert (again.fusion.residual.updates, again.fusion.mean[-1]) == (0, 1.0)


@pytest.mark.parametrize("form", ["linear", "mlp"])
def test_who_adopts_the_same_snapshot_learns_on_to_the_same_arrays(teacher: Pipeline, form: str) -> None:
    states: list[State] = []
    for poll in (512, 37):
        pipeline = untaught(AFTER, form=form)
        adopt(teacher, pipeline)
        run(pipeline, LOG[TAUGHT:], TAUGHT, poll)
        states.append(pipeline.state())
    assert states[0].keys() == states[1].keys()
    assert all(same(states[0][part], states[1][part]) for part in states[0])
    sessions = next(model for model in pipeline.models if model.name == "sessions")
    assert len(sessions.state()["visited"]) > 50  # the new ones learn too


def test_right_after_it_lists_are_those_of_what_the_fusion_has_learned() -> None:
    log = walks(2_700)
    models = ("popularity_days", "popularity", "transitions")
    pipeline = untaught((*models, "repeats"))
    run(pipeline, log[:2_400])
    heirs = untaught((*models, "repeats")), untaught((*models, "sessions")), untaught((*models, "sessions"))
    blank = heirs[2].fusion.state()
    for heir in heirs:
        adopt(pipeline, heir)
    heirs[2].fusion.restore(blank)
    same_list, other_list, fusion_anew = (run(heir, log[2_400:], 2_400) for heir in heirs)
    assert other_list > fusion_anew + 0.02  # 0.73 and 0.68, of 300
    assert other_list > same_list - 0.02


def walks(count: int) -> list[Event]:
    """Each item is followed by one of four; now and then everybody looks at the same few, which popularity tells."""
    draw, ts, at, out = random.Random(1), STARTED_MS, dict[str, int](), list[Event]()
    for _ in range(count):
        user, ts = f"u{draw.randrange(80)}", ts + draw.choice([700, 4_000])
        following = (at[user] * 3 + 1 + draw.randrange(4)) % 120 if user in at else draw.randrange(120)
        at[user] = draw.randrange(6) if draw.random() < 0.3 else following
        out.append(Event(type=EventType.CLICK, user_id=user, ts=ts, item_id=f"i{at[user]}"))
    return out


def test_the_open_micro_batch_keeps_what_each_model_said(teacher: Pipeline) -> None:
    pipeline = untaught(AFTER, form="mlp")
    adopt(teacher, pipeline)
    then, now = teacher.batch.candidates, pipeline.batch.candidates
    asked = slice(0, teacher.batch.asked)
    assert (pipeline.batch.asked, pipeline.batch.learned) == (teacher.batch.asked, teacher.batch.learned)
    models = Order(teacher.fusion.models, pipeline.fusion.models)
    assert now.scores[models.here, asked].tobytes() == then.scores[models.there, asked].tobytes()
    assert (now.scores[[pipeline.fusion.models.index(name) for name in NEW], asked] == -np.inf).all()
    both = Order(teacher.fusion.names, pipeline.fusion.names)
    assert now.features[asked][:, :, both.here].tobytes() == then.features[asked][:, :, both.there].tobytes()


def test_how_well_each_list_does_goes_on_and_new_ones_have_not_been_tried(teacher: Pipeline) -> None:
    pipeline = untaught(AFTER, form="mlp")
    adopt(teacher, pipeline)
    then = teacher.progress.overall()
    assert pipeline.progress.overall() == {name: then[name] for name in ("fused", *KEPT)}
    run(pipeline, LOG[TAUGHT:], TAUGHT)
    assert set(pipeline.progress.recent()) == {"fused", *AFTER}
    assert 0 < pipeline.progress.overall()["sessions"].hit_rate < 1


def test_a_model_in_quarantine_that_is_gone_is_off_the_record(teacher: Pipeline) -> None:
    state, pipeline = teacher.state(), untaught(AFTER, form="mlp")
    record = Quarantine(BEFORE)
    record.condemn(["model.clicks", "model.repeats"])
    state["quarantine"] = record.state()
    pipeline.restore(adopted(state, teacher.schema, pipeline).arrays)
    assert pipeline.quarantine.standing() == {"model.repeats": True}
    run(pipeline, LOG[TAUGHT : TAUGHT + 200], TAUGHT)
    assert pipeline.quarantine.sentenced() == ("model.repeats",)


class Anew(Greedy):
    """Learns, and does not say what of it is by model."""

    def state(self) -> dict[str, Array]:
        return {"seen": np.zeros(2)}


def test_a_policy_keeps_what_it_knows_of_each_model_by_name_or_begins_anew(teacher: Pipeline) -> None:
    state = {**teacher.state(), "policy.exp3": {"logs": np.arange(15.0).reshape(3, 5)}}
    pipeline = untaught(AFTER)
    logs = adopted(state, teacher.schema, pipeline).arrays["policy.exp3"]["logs"]
    at = {name: BEFORE.index(name) for name in KEPT}
    assert logs.tolist() == [[5.0 * row + at[name] if name in at else 0.0 for name in AFTER] for row in range(3)]
    with listing(PolicyEntry("anew", lambda parts: Anew(parts.name))):
        state["policy.anew"] = {"seen": np.ones(2)}
        adoption = adopted(state, teacher.schema, untaught(AFTER))
    assert "policy.anew" in adoption.begun
    assert adoption.arrays["policy.anew"]["seen"].tolist() == [0.0, 0.0]


def test_a_model_that_does_not_fit_is_told_by_its_name_and_what_to_do(teacher: Pipeline) -> None:
    state = teacher.state()
    state["model.transitions"] |= {name: state["model.transitions"][name][:, :48] for name in ("items", "weights")}
    expected = (
        "model 'transitions' does not fit: expected rows of 96 in 'items', found 48. .* leave 'transitions' out of "
        "learning.models .* it begins untaught then"
    )
    pipeline = untaught(BEFORE, form="mlp")
    with pytest.raises(StateError, match=expected):
        pipeline.restore(state)
    with pytest.raises(StateError, match=expected):  # whoever follows looks before it serves
        pipeline.rollback.refuse_foreign(state)
    without = tuple(name for name in BEFORE if name != "transitions")  # as it says
    other = untaught(without, form="mlp")
    other.restore(adopted(state, teacher.schema, other).arrays)
    adopt(other, untaught(BEFORE, form="mlp"))


@pytest.mark.parametrize(
    ("model", "array", "told"),
    [
        ("clicks", "squares", "expected an array 'squares', found none"),
        ("popularity", "mass", "could not broadcast"),
    ],
)
def test_so_is_one_that_lacks_an_array_or_has_too_many_rows(
    teacher: Pipeline, model: str, array: str, told: str
) -> None:
    state = teacher.state()
    if model == "clicks":
        del state["model.clicks"][array]
    else:
        state["model.popularity"][array] = np.zeros(10_000)
    with pytest.raises(StateError, match=f"model {model!r} does not fit: .*{told}"):
        untaught(BEFORE, form="mlp").restore(state)


def test_arrays_that_do_not_go_with_their_schema_are_refused(teacher: Pipeline) -> None:
    with pytest.raises(StateError, match="do not go with its schema"):
        adopted(teacher.state(), teacher.schema + "/another share", untaught(AFTER))


def test_a_saved_recommender_goes_on_with_another_list_of_models(tmp_path: Path) -> None:
    bounds = {"max_items": 256, "max_users": 200}
    first = Recommender("fast", learning={"models": list(BEFORE)}, fusion={"form": "linear"}, limits=bounds)
    first.learn(LOG[:600])
    path = first.save(tmp_path / "saved")
    saved = read(path)
    saved.settings["learning"]["models"] = list(AFTER)
    (path / STATE).write_bytes(msgspec.msgpack.encode(saved))
    again = Recommender.load(path)
    then, now = (one._worker.pipeline.state() for one in (first, again))
    assert same(now["model.repeats"], then["model.repeats"])
    assert again.learn(LOG[600:700]) == 100
    assert again.recommend(LOG[0].user_id).items
