"""The ladder from apprentice to online and back, climbed by commands against a running broker and a Redis server."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import msgspec
import numpy as np
import pytest

from streamrec.cli.commands import ope
from streamrec.cli.commands.experiment import Question
from streamrec.cli.commands.experiment import run as experiment
from streamrec.cli.commands.promote import Appraisal, Promotion
from streamrec.cli.commands.promote import run as run_promote
from streamrec.cli.commands.rollback import run as run_rollback
from streamrec.cli.commands.rollout import run as show
from streamrec.cli.shared.appraisal import appraise
from streamrec.codec import encode
from streamrec.config.settings import Settings
from streamrec.demo.embedded import EmbeddedBroker, EmbeddedRedis
from streamrec.engine.rollout.plan import Plan
from streamrec.engine.rollout.revisions import Mode, Revision
from streamrec.errors import ConfigError, PromotionRefused
from streamrec.evaluation.experiments.arms import ExperimentDesign
from streamrec.evaluation.experiments.gates import OffPolicyEstimate
from streamrec.evaluation.ope.evaluation import EvaluationOptions
from streamrec.evaluation.ope.outcomes import OutcomeFilter
from streamrec.events import Counterfactual, Event, EventType, Outcome, Proposal
from streamrec.transport.confluent import KafkaSink
from streamrec.wiring import build_rollout_store, settled_revision
from tests.support.deployment import Deployment, until

HOUR = 3_600_000
TERMS = ExperimentDesign(window_ms=HOUR)
Make = Callable[..., Deployment]


def promote(settings: Settings, asked: Promotion, by: Appraisal = appraise) -> None:
    run_promote(settings, asked, by, as_json=False)


def rollback(settings: Settings, number: int | None, *, why: str) -> None:
    run_rollback(settings, number, why=why, as_json=False)


@pytest.fixture
def make(tansu: EmbeddedBroker, redis_server: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory) -> Make:
    def make(**rollout: object) -> Deployment:
        directory = tmp_path_factory.mktemp("rollout")
        return Deployment(directory, tansu.settings, redis_server.url, rollout={"baseline": "uniform", **rollout})

    return make


def publish(deployment: Deployment, outcomes: Iterator[Outcome]) -> None:
    with closing(KafkaSink(deployment.settings.kafka)) as sink:
        for outcome in outcomes:
            sink.publish(deployment.settings.topics.outcomes, outcome.user_id.encode(), encode(outcome), ())


def shown(number: int, **fields: object) -> Outcome:
    """The outcome of a slate of one item, shown a minute after the one before, from now on."""
    ts = int(time.time() * 1000) + number * 60_000
    given = {"user_id": f"u{number}", "item_id": "a", "position": 1, "propensity": 1.0, "reward": 0.0, **fields}
    return Outcome(outcome_id=f"o{ts}-{number}", rec_id=f"r{ts}-{number}", ts=ts, shown_ts=ts, **given)  # type: ignore[arg-type]


def apprentice(count: int, alike: int) -> Iterator[Outcome]:
    for number in range(count):
        proposal = Proposal(item_id="a" if number < alike else "b", score=0.0)
        other = {"plackett-luce": Counterfactual(propensity=0.5, proposal=proposal)}
        yield shown(number, mode="apprentice", alternatives=other)


def canary(count: int, lift: float) -> Iterator[Outcome]:
    draw = np.random.default_rng(0)
    for number in range(count):
        arm = "canary" if draw.random() < 0.5 else "control"
        reward = float(draw.random() < 0.2 + (lift if arm == "canary" else 0.0))
        policy = "plackett-luce" if arm == "canary" else "uniform"
        yield shown(number, mode="canary", arm=arm, policy=policy, reward=reward)


def current(deployment: Deployment) -> Revision | None:
    with closing(build_rollout_store(deployment.settings)) as rollouts:
        return rollouts.latest()


def known(lower: float) -> Callable[..., OffPolicyEstimate]:
    return lambda outcomes, policy: OffPolicyEstimate(policy, lower + 0.01, lower, 0.1, 900, 1.0, 900 + len(outcomes))


def test_a_policy_climbs_the_ladder_by_what_it_shows_and_comes_down_at_once(
    make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    deployment = make(mode="apprentice")
    settings = deployment.settings
    publish(deployment, apprentice(600, 300))
    with closing(KafkaSink(settings.kafka)) as sink:
        sink.publish(settings.topics.outcomes, b"u1", b"no outcome", ())
    with pytest.raises(PromotionRefused, match=r"alike is 0.5, expected at least 0.8"):
        promote(settings, Promotion())
    assert f"1 messages of {settings.topics.outcomes} are no outcomes and were left out" in capsys.readouterr().err
    assert current(deployment) is None
    capsys.readouterr()
    with pytest.raises(PromotionRefused):
        run_promote(settings, Promotion(), appraise, as_json=True)
    printed = json.loads(capsys.readouterr().out)
    assert (printed["gate"]["passed"], printed["revision"]) == (False, None)
    assert printed["gate"]["checks"][1] | {"what": ""} == {
        "name": "match_rate",
        "what": "",
        "found": 0.5,
        "least": 0.8,
        "passed": False,
    }
    with pytest.raises(PromotionRefused, match=r"number of slates to compare is 600, expected at least 700"):
        promote(settings, Promotion(required={"match_rate": 0.5, "min_slates": 700}))
    promote(settings, Promotion(required={"match_rate": 0.5}, only_check=True))
    assert current(deployment) is None

    promote(settings, Promotion(required={"match_rate": 0.5}, why="good enough for us"))
    first = current(deployment)
    assert first is not None
    assert (first.number, first.mode, first.why, first.forced) == (1, Mode.SHADOW, "good enough for us", False)
    assert first.figures == {"slates": 600, "match_rate": 0.5}

    with pytest.raises(PromotionRefused, match="in equal ones, is unknown, expected at least 50"):
        promote(settings, Promotion())
    with pytest.raises(PromotionRefused, match=r"is 0\.08, expected at least 0\.095"):
        promote(settings, Promotion(), known(lower=0.08))
    promote(settings, Promotion(share=0.5), known(lower=0.098))
    second = current(deployment)
    assert second is not None
    assert (second.mode, second.share) == (Mode.CANARY, 0.5)
    assert second.figures["value_lower"] == 0.098

    with pytest.raises(PromotionRefused, match="users of arm canary whose window is over is 0, expected at least 500"):
        promote(settings, Promotion(terms=TERMS))  # the apprentice's outcomes are no canary's
    publish(deployment, canary(2_000, lift=0.15))
    promote(settings, Promotion(share=0.6, terms=TERMS))
    promote(settings, Promotion(terms=TERMS, since=str(second.ts)))
    assert [(r.number, r.mode, r.share) for r in history(deployment)] == [
        (4, Mode.ONLINE, 0.6),
        (3, Mode.CANARY, 0.6),
        (2, Mode.CANARY, 0.5),
        (1, Mode.SHADOW, 0.05),
    ]
    with pytest.raises(ConfigError, match="is online: there is no step further"):
        promote(settings, Promotion())

    for expected in (3, 2, 1, 0):  # each time one step down, though every step is a new revision
        rollback(settings, None, why="")
        newest = current(deployment)
        assert newest is not None
        assert newest.restores == expected
    assert Plan.of(newest) == Plan.of(settled_revision(settings))
    with pytest.raises(ConfigError, match="nothing before the settings"):
        rollback(settings, None, why="")
    capsys.readouterr()
    run_rollback(settings, 4, why="it was not its fault", as_json=True)
    assert json.loads(capsys.readouterr().out)["revision"]["why"] == "it was not its fault"
    show(settings, as_json=True)
    printed = json.loads(capsys.readouterr().out)
    assert printed["current"]["mode"] == "online"
    assert printed["current"]["restores"] == 4
    assert [revision["number"] for revision in printed["history"]] == list(range(9, 0, -1))


def history(deployment: Deployment) -> list[Revision]:
    with closing(build_rollout_store(deployment.settings)) as rollouts:
        return rollouts.history()


def test_a_canary_that_does_harm_neither_grows_nor_goes_online(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    deployment = make(mode="canary", share=0.5)
    publish(deployment, canary(2_500, lift=-0.15))
    with pytest.raises(
        PromotionRefused, match="lower bound of canary minus control, in capped reward per slate, is -0"
    ):
        promote(deployment.settings, Promotion(terms=TERMS))
    with pytest.raises(
        PromotionRefused, match="upper bound of canary minus control, in capped reward per slate, is -0"
    ):
        promote(deployment.settings, Promotion(to=Mode.CANARY, share=0.9, terms=TERMS))
    capsys.readouterr()
    with pytest.raises(PromotionRefused):
        run_promote(deployment.settings, Promotion(terms=TERMS), appraise, as_json=True)
    needs = json.loads(capsys.readouterr().out)["gate"]["needs"]
    assert needs["as_found"] == {"users": None, "days": None}  # it stays worse, however many come
    assert needs["alike"]["users"] / needs["alike"]["days"] == pytest.approx(1_440)  # one a minute
    assert current(deployment) is None


def test_force_goes_on_and_is_written_down(make: Make) -> None:
    deployment = make(mode="apprentice")
    promote(deployment.settings, Promotion(force=True))
    promote(deployment.settings, Promotion(to=Mode.ONLINE, force=True))  # past the canary
    assert [(r.mode, r.forced) for r in history(deployment)] == [(Mode.ONLINE, True), (Mode.SHADOW, True)]


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (Promotion(to=Mode.ONLINE), "between shadow and online is canary; --force skips it"),
        (Promotion(to=Mode.SHADOW), "the rollout is shadow already"),
        (Promotion(to=Mode.APPRENTICE), "a step back from shadow; use `streamrec rollback`, or start a new trial"),
        (Promotion(required={"luck": 1.0}), "--require luck: there is no such threshold; there are match_rate"),
    ],
)
def test_steps_that_are_none_are_refused(make: Make, asked: Promotion, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        promote(make(mode="shadow").settings, asked)


def test_there_is_nothing_to_return_from_or_to(make: Make) -> None:
    deployment = make(mode="shadow")
    with pytest.raises(ConfigError, match="nothing to return from"):
        rollback(deployment.settings, None, why="")
    promote(deployment.settings, Promotion(force=True))
    with pytest.raises(ConfigError, match="no revision 7 to return to; there are 0, the settings"):
        rollback(deployment.settings, 7, why="")


def test_the_commands_as_they_are_typed(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    deployment = make(mode="canary", share=0.5)
    publish(deployment, canary(1_500, lift=0.2))
    terms = ("--window", "1", "--method", "bounded", "--bound", "2")
    refused = deployment.command("promote", "--require", "min_users=5000", *terms)
    assert refused.returncode == 1
    assert re.search(
        r"  if the difference stays \+0\.\d+: about [\d,]+ more users in both arms, \d\.\d days", refused.stdout
    )
    assert re.search(
        r"  if there is no difference: about [\d,]+ more users in both arms, \d+ days at the last day", refused.stdout
    )
    assert "streamrec: plackett-luce stays canary, not online: the number of users of arm canary" in refused.stderr
    promoted = deployment.command("promote", "--window", "1", "--why", "better by far")
    assert promoted.returncode == 0, promoted.stderr
    assert (
        "revision 1: online, everybody gets plackett-luce; workers follow at their next checkpoint" in promoted.stdout
    )
    rollback(deployment.settings, None, why="")
    assert "revision 2: back to 0, canary, 50% get plackett-luce, the others uniform" in capsys.readouterr().out
    shown = deployment.command("rollout")
    assert "in force: revision 2, canary, 50%" in shown.stdout
    found = deployment.command("experiment", "--window", "1", "--json")
    assert found.returncode == 0, found.stderr
    report = json.loads(found.stdout)
    assert report["control"] == "control"
    assert report["comparisons"][0]["verdict"] == "better"


def test_without_outcomes_it_is_said_when_they_come(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    settings = make(mode="online").settings
    experiment(settings, Question(), as_json=False, out=None)
    assert "nothing to judge yet: outcomes are published when the window of a slate is over" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"nothing to value was found in topic .*: outcomes are published"):
        ope.run_on_topic(
            settings, OutcomeFilter(), ["greedy"], EvaluationOptions(), ope.Printed(), limit=10, by_user=False
        )


def test_an_experiment_since_the_rollout_was_changed(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    deployment = make(mode="canary", share=0.5)
    with pytest.raises(ConfigError, match="--since rollout: the rollout was never changed"):
        experiment(deployment.settings, Question(since="rollout"), as_json=True, out=None)
    old = (
        Outcome(**{**{n: getattr(o, n) for n in o.__struct_fields__}, "ts": 1_000, "shown_ts": 1_000})
        for o in canary(50, 0.1)
    )
    publish(deployment, old)
    with closing(build_rollout_store(deployment.settings)) as rollouts:
        settled = settled_revision(deployment.settings)
        rollouts.append(
            Revision(**{**{n: getattr(settled, n) for n in settled.__struct_fields__}, "number": 1, "ts": 5_000})
        )
    publish(deployment, canary(20, 0.1))
    experiment(deployment.settings, Question(since="rollout"), as_json=True, out=None)
    assert json.loads(capsys.readouterr().out)["slates"] == 20


def test_of_a_history_that_is_replayed_the_log_s_clock_says_what_was_shown_since_a_revision(
    make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    deployment = make(mode="canary", share=0.5)
    settings, then = deployment.settings, 1_318_240_000_000  # long ago by the wall clock
    view = Event(type=EventType.VIEW, user_id="ann", item_id="a", ts=then - 1_000, event_id="one")
    deployment.send([view, Event(type=EventType.REQUEST, user_id="bob", ts=then, event_id="two")])
    with deployment.worker() as worker:
        until(lambda: deployment.committed() == 2, worker)
        assert worker.stop() == 0

    def at(began: int, outcomes: Iterator[Outcome]) -> Iterator[Outcome]:
        for number, outcome in enumerate(outcomes):
            ts, name = began + number * 60_000, f"{began}-{number}"
            yield msgspec.structs.replace(outcome, rec_id=name, outcome_id=name, ts=ts, shown_ts=ts)

    publish(deployment, at(then - 300 * 60_000, canary(300, 0.1)))  # the last of them a minute before the log's clock
    promote(settings, Promotion(share=0.6, force=True))
    revision = current(deployment)
    assert revision is not None
    assert revision.log_ts == then
    publish(deployment, at(then + 1, canary(1_500, 0.2)))
    capsys.readouterr()

    run_promote(settings, Promotion(only_check=True, terms=TERMS), appraise, as_json=True)
    said = capsys.readouterr()
    checks = {check["name"]: check["found"] for check in json.loads(said.out)["gate"]["checks"]}
    assert 1_400 < checks["canary_users"] + checks["control_users"] < 1_500  # the last hour's windows are not over
    assert (
        "note: 300 outcomes of slates shown before 2011-10-10 09:46:40Z were left out: then revision 1 came, by the "
        "log's clock; name another time with --since"
    ) in said.err
    experiment(settings, Question(since="rollout", terms=TERMS), as_json=True, out=None)
    found = json.loads(capsys.readouterr().out)
    assert (found["slates"], found["by_time"]) == (1_500, 300)
    part = OutcomeFilter(since=then + 1, until=then + 60_000)  # the first alone
    ope.run_on_topic(settings, part, ["logged"], EvaluationOptions(), ope.Printed(), limit=9, by_user=False)
    assert "note: 1,799 outcomes of slates shown outside --since and --until" in capsys.readouterr().err

    with closing(build_rollout_store(settings)) as rollouts:  # as it was written without the log's time
        rollouts.append(msgspec.structs.replace(revision, number=2, log_ts=None))
    with pytest.raises(PromotionRefused, match="users of arm canary whose window is over is 0"):
        promote(settings, Promotion(terms=TERMS))
    said = capsys.readouterr()
    assert "1,800 outcomes of slates shown before" in said.err
    assert "were left out: then revision 2 came, by the wall clock; name another time with --since" in said.err
    rollback(settings, 1, why="")
    newest = current(deployment)
    assert newest is not None
    assert newest.log_ts == then
