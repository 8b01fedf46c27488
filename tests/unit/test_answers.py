"""Who gets which policy, through the whole worker: modes, arms, interleaving, apprentices, and plans that change."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest

from streamrec.codec import decode
from streamrec.config.settings import Settings
from streamrec.engine.rollout.revisions import Mode
from streamrec.events import Event, EventType, Outcome, Slate
from streamrec.state.memory import MemoryStore
from streamrec.state.rollouts import MemoryRolloutStore
from streamrec.testing import records, shop
from streamrec.transport.local import LocalSink, LocalSource
from streamrec.wiring import build_worker, following, settled_revision
from streamrec.worker.loop import Worker

LOG = shop(1_200, seed=5)
POLICY, BASELINE = "plackett-luce", "model:popularity"


def made(log: list[Event], **rollout: object) -> tuple[Worker, LocalSink]:
    chosen = Settings.model_validate(
        {
            "learning": {"models": ("popularity", "covisit", "transitions", "clicks")},
            "fusion": {"form": "linear"},
            "limits": {"max_items": 1_024},
            "attribution": {"window_s": 120, "lateness_s": 5},
            "rollout": rollout,
        }
    )
    sink = LocalSink()
    source = LocalSource("user-events", records("user-events", log))
    return build_worker(chosen, source, sink, MemoryStore(), None), sink


def ran(log: list[Event] = LOG, **rollout: object) -> tuple[list[Slate], list[Outcome], Worker]:
    worker, sink = made(log, **rollout)
    worker.run()
    slates = [decode(record.value or b"", record.headers, Slate) for record in sink.records("recommendations")]
    outcomes = [decode(record.value or b"", record.headers, Outcome) for record in sink.records("outcomes")]
    assert len(slates) > 200
    assert len(outcomes) > 500
    return slates, outcomes, worker


def test_online_everybody_gets_the_policy_and_nothing_is_logged_beside() -> None:
    slates, outcomes, _ = ran()
    assert {(s.policy, s.mode, s.arm) for s in slates} == {(POLICY, "online", None)}
    assert not any(s.alternatives for s in slates)
    assert {o.policy for o in outcomes} == {POLICY}


def test_in_a_canary_each_user_always_gets_the_same_policy() -> None:
    slates, outcomes, _ = ran(mode="canary", share=0.4)
    arms = {(s.user_id, s.arm, s.policy) for s in slates}
    assert len(arms) == len({user for user, _, _ in arms})
    assert {(arm, policy) for _, arm, policy in arms} == {("canary", POLICY), ("control", BASELINE)}
    assert {(o.user_id, o.arm, o.policy) for o in outcomes} <= arms


@pytest.mark.parametrize("mode", ["shadow", "apprentice"])
def test_in_the_shadow_the_baseline_answers_and_the_policy_is_logged_beside(mode: str) -> None:
    slates, outcomes, _ = ran(mode=mode)
    plain, _, _ = ran(mode="shadow", evaluate=(POLICY,))
    assert {(s.policy, s.mode) for s in slates} == {(BASELINE, mode)}
    filled = [slate for slate in slates if slate.items]
    for slate in filled:
        other = slate.alternatives[POLICY]
        assert len(other.propensities) == len(other.proposals) == len(slate.items)
        assert all(0 <= chance <= 1 for chance in other.propensities)
        assert len({proposal.item_id for proposal in other.proposals}) == len(other.proposals)
    assert all(o.alternatives[POLICY].proposal is not None for o in outcomes)
    assert [[i.item_id for i in s.items] for s in plain] == [[i.item_id for i in s.items] for s in slates]


def test_arms_split_users_and_interleaving_says_who_picked_what() -> None:
    slates, _, _ = ran(arms={"greedy": 0.3, "uniform": 0.3})
    assert {(s.arm, s.policy) for s in slates} == {("greedy", "greedy"), ("uniform", "uniform"), (None, POLICY)}
    slates, outcomes, _ = ran(interleave=("greedy", BASELINE))
    assert {s.policy for s in slates} == {f"greedy+{BASELINE}"}
    for slate in slates:
        teams = [item.team for item in slate.items]
        for first, second in zip(teams[::2], teams[1::2], strict=False):
            assert {first, second} == {"greedy", BASELINE}
    assert Counter(o.team for o in outcomes).keys() == {"greedy", BASELINE}


def test_every_slate_holds_what_each_model_says_and_the_rank_by_the_mean() -> None:
    slates, outcomes, worker = ran()
    known = set(worker.pipeline.fusion.models)
    scored = [item for slate in slates for item in slate.items]
    assert all(item.scores and set(item.scores) <= known for item in scored)
    assert all(score <= 0 for item in scored for score in item.scores.values())
    assert all(1 <= item.rank <= 100 for item in scored)
    first = [slate.items[0].rank for slate in slates[-100:] if slate.items]
    assert Counter(first).most_common(1)[0][0] == 1
    assert {o.scores == {} for o in outcomes} == {False}


def test_an_apprentice_comes_to_do_as_the_policy_it_imitates() -> None:
    _, _, worker = ran(mode="apprentice", imitate="model:covisit")
    late = worker.metrics.matched._value.get() / worker.metrics.imitated._value.get()
    _, _, other = ran(mode="apprentice", imitate="model:clicks")
    covisit, clicks = (w.pipeline.fusion.weights() for w in (worker, other))
    assert late > 0.6
    assert covisit["covisit"] > clicks["covisit"]
    assert clicks["clicks"] > covisit["clicks"]


def test_an_apprentice_of_the_site_learns_from_the_first_place_of_its_impressions_alone() -> None:
    slates, _, _ = ran(mode="shadow", baseline="model:transitions")  # what the site shows
    shown = [
        Event(type=EventType.IMPRESSION, user_id=s.user_id, ts=s.ts + 1, item_id=item.item_id, position=item.position)
        for s in slates
        for item in s.items[:2]
    ]
    log = sorted([*LOG, *shown], key=lambda event: event.ts)
    _, _, worker = ran(log, mode="apprentice")
    taught = sum(event.position == 1 for event in shown)
    assert worker.metrics.imitated._value.get() == taught > 200
    assert worker.metrics.matched._value.get() > 0.4 * taught
    weights = worker.pipeline.fusion.weights()
    assert max(weights, key=lambda name: weights[name]) == "transitions"
    _, _, online = ran(log)
    assert online.metrics.imitated._value.get() == 0


def test_a_new_plan_is_followed_from_the_next_checkpoint_on() -> None:
    worker, sink = made(LOG, mode="shadow")
    settings = Settings.model_validate({"rollout": {"mode": "shadow"}})
    rollouts = MemoryRolloutStore()
    worker._revised = following(settings, rollouts)
    source = worker._source
    source.subscribe(worker)
    worker.step(source.poll(400, 0.0))
    worker.checkpoint()
    rollouts.append(msgspec.structs.replace(settled_revision(settings), number=1, mode=Mode.ONLINE))
    worker.step(source.poll(100, 0.0))
    worker.checkpoint()
    worker.step(source.poll(400, 0.0))
    slates = [decode(record.value or b"", record.headers, Slate) for record in sink.records("recommendations")]
    policies = {POLICY: [], BASELINE: []}  # type: dict[str, list[int]]
    for slate in slates:
        policies[slate.policy].append(int(slate.rec_id.rpartition("-")[2]))
    assert 400 < max(policies[BASELINE]) < 500 <= min(policies[POLICY])


def test_a_plan_that_leaves_apprenticeship_learns_from_users_again() -> None:
    worker, _ = made(LOG, mode="apprentice", imitate="model:covisit")
    answers, settings = worker.pipeline.answers, Settings.model_validate({"rollout": {"mode": "apprentice"}})
    assert worker.pipeline.fusion.imitating
    rollouts = MemoryRolloutStore()
    revised = following(settings, rollouts)
    assert revised() is None
    rollouts.append(msgspec.structs.replace(settled_revision(settings), number=1, mode=Mode.SHADOW))
    plan = revised()
    assert plan is not None
    assert revised() is None  # told once
    answers.follow(plan)
    assert answers.imitated is None
    assert not worker.pipeline.fusion.imitating
