"""From outcomes to verdicts: what counts, how often, and for whom."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from streamrec.cli.commands.experiment import Question, run
from streamrec.config.settings import Settings
from streamrec.errors import ConfigError
from streamrec.evaluation.experiments.arms import DAY_MS, Experiment, ExperimentDesign, SequenceMethod, analyse
from streamrec.evaluation.experiments.confidence import EmpiricalBernstein, MeanInterval, difference
from streamrec.evaluation.experiments.imitation import imitation
from streamrec.evaluation.experiments.interleaving import compare_interleaved
from streamrec.evaluation.experiments.significance import Verdict, assess
from streamrec.evaluation.experiments.slates import SettledSlates
from streamrec.evaluation.ope.evaluation import EvaluationOptions, evaluate
from streamrec.evaluation.ope.outcomes import OutcomeFilter, OutcomeLog
from streamrec.events import Counterfactual, Outcome, Proposal

START = 1_704_067_200_000
HOUR = 3_600_000
NUMBERS = itertools.count()


def slate(user: str, ts: int, rewards: Sequence[float], **fields: object) -> list[Outcome]:
    """The outcomes of one slate, one for each item's reward, from the top."""
    number = next(NUMBERS)
    given = {"policy": "greedy", "arm": None, "mode": "online", **fields}
    return [
        Outcome(
            outcome_id=f"{number}-{position}",
            rec_id=f"slate-{number}",
            user_id=user,
            item_id=f"item-{position}",
            position=position,
            propensity=1.0,
            reward=reward,
            ts=ts,
            shown_ts=ts,
            **given,  # type: ignore[arg-type]
        )
        for position, reward in enumerate(rewards, start=1)
    ]


def settled(outcomes: Sequence[Outcome], bound: float = 1.0, until: int = START + 10 * DAY_MS) -> SettledSlates:
    """Those outcomes, and one of somebody who came so late that everybody's window before is over."""
    settlement = SettledSlates(bound)
    for outcome in [*outcomes, *slate("late", until, [0.0], arm="late")]:
        settlement.add(outcome)
    return settlement


def arms_of(experiment: Experiment) -> dict[str, tuple[int, int, float]]:
    return {arm.name: (arm.users, arm.slates, arm.reward.mean) for arm in experiment.arms if arm.name != "late"}


def test_an_outcome_counts_once_and_a_slate_is_the_sum_of_its_items() -> None:
    outcomes = slate("ann", START, [0.2, 0.0, 0.5]) + slate("ann", START + 1, [-0.1])
    settlement = settled(outcomes + outcomes[:2])
    assert (settlement.outcomes, settlement.duplicates) == (5, 2)
    assert [round(settlement.reward(one), 6) for one in settlement.slates()] == [0.7, -0.1, 0.0]


@pytest.mark.parametrize(("rewards", "bound", "worth"), [([1.0, 1.0], 1.0, 1.0), ([-1.0, -0.8], 1.5, -1.5)])
def test_no_slate_is_worth_more_than_the_bound(rewards: list[float], bound: float, worth: float) -> None:
    settlement = settled(slate("ann", START, rewards), bound)
    assert settlement.reward(settlement.slates()[0]) == worth


def test_a_user_counts_once_with_the_slates_of_the_window() -> None:
    outcomes = [
        *slate("ann", START, [0.4], arm="a"),
        *slate("ann", START + HOUR, [0.0], arm="a"),
        *slate("ann", START + DAY_MS, [1.0], arm="a"),  # the window is over by then
        *slate("bob", START + 2 * HOUR, [1.0], arm="a"),
    ]
    assert arms_of(analyse(settled(outcomes), ExperimentDesign()))["a"] == (2, 3, pytest.approx(0.6))


def test_a_user_whose_window_is_not_over_waits() -> None:
    outcomes = [*slate("ann", START, [1.0], arm="a"), *slate("bob", START + HOUR, [0.0], arm="a")]
    (arm,) = (
        one for one in analyse(settled(outcomes, until=START + DAY_MS), ExperimentDesign()).arms if one.name == "a"
    )
    assert (arm.users, arm.waiting, arm.reward.mean) == (1, 1, 1.0)


def test_a_partition_that_lags_behind_keeps_its_users_waiting() -> None:
    settlement = SettledSlates()
    for partition, outcome in [
        *((0, outcome) for outcome in slate("ann", START, [1.0], arm="a")),
        *((1, outcome) for outcome in slate("bob", START, [1.0], arm="a")),
        *((1, outcome) for outcome in slate("bob", START + 2 * DAY_MS, [1.0], arm="a")),
    ]:
        settlement.add(outcome, partition)
    assert [(arm.users, arm.waiting) for arm in analyse(settlement, ExperimentDesign()).arms] == [(1, 1)]


def test_slates_in_another_arm_than_the_users_first_are_left_out() -> None:
    outcomes = [*slate("ann", START, [0.5], arm="control"), *slate("ann", START + HOUR, [1.0], arm="canary")]
    experiment = analyse(settled(outcomes), ExperimentDesign())
    assert arms_of(experiment) == {"control": (1, 1, 0.5)}
    assert experiment.moved_slates == 1


def test_who_is_in_no_arm_counts_while_the_experiment_ran() -> None:
    outcomes = [
        *slate("early", START - HOUR, [1.0]),
        *slate("ann", START, [0.0], arm="linucb", policy="linucb"),
        *slate("rest", START + HOUR, [0.5]),
        *slate("shadowed", START + HOUR, [0.5], mode="shadow"),
        *slate("bob", START + 2 * HOUR, [0.0], arm="linucb", policy="linucb"),
    ]
    found = arms_of(analyse(settled(outcomes), ExperimentDesign(), ["greedy"]))
    assert found == {"greedy": (1, 1, 0.5), "linucb": (2, 2, 0.0)}


def test_policies_shown_one_after_the_other_are_told_and_not_compared() -> None:
    settlement = SettledSlates()
    for number in range(200):
        policy = "greedy" if number < 100 else "linucb"
        for outcome in slate(f"u{number}", START + number * HOUR, [float(number >= 100)], policy=policy):
            settlement.add(outcome)
    experiment = analyse(settlement, ExperimentDesign(window_ms=HOUR))
    assert [(arm.name, arm.reward.mean) for arm in experiment.arms] == [("greedy", 0.0), ("linucb", 1.0)]
    assert experiment.comparisons == ()


def test_the_control_is_who_was_named_else_the_canarys_control_else_the_largest() -> None:
    both = [
        *slate("ann", START, [0.0], arm="control"),
        *slate("bob", START, [0.0], arm="canary"),
        *slate("cat", START, [0.0], arm="canary"),
    ]
    assert analyse(settled(both), ExperimentDesign()).arms[0].name == "control"
    assert analyse(settled(both), ExperimentDesign(), ["nobody", "canary"]).arms[0].name == "canary"
    assert analyse(settled(both[1:]), ExperimentDesign()).arms[0].name == "canary"


def crowd(seed: int, lift: float, users: int = 250, slates: int = 8) -> list[Outcome]:
    """Users who differ a lot from one another and little from one slate to the next, in two arms."""
    draw = np.random.default_rng(seed)
    outcomes = []
    for number in range(users):
        arm = "canary" if draw.random() < 0.5 else "control"
        taste = draw.beta(0.4, 0.6) * 0.9 + (lift if arm == "canary" else 0.0)
        start = START + number * HOUR
        for at in range(slates):
            reward = float(draw.random() < taste)
            outcomes += slate(f"user-{number}", start + at * 60_000, [reward], arm=arm, mode="canary")
    return outcomes


@pytest.mark.parametrize("method", SequenceMethod)
def test_two_arms_alike_are_seldom_told_apart_though_users_differ(method: SequenceMethod) -> None:
    runs, wrong = 30, 0
    for seed in range(runs):
        settlement = settled(crowd(seed, 0.0, users=250, slates=3), until=START + 400 * HOUR)
        experiment = analyse(settlement, ExperimentDesign(method=method), ["control"])
        (said,) = (c.significance for c in experiment.comparisons if c.arm == "canary")
        wrong += said.decision is not Verdict.UNKNOWN
    assert wrong <= 0.05 * runs


def test_slates_of_one_user_are_not_so_many_witnesses() -> None:
    def told_apart(sides: Sequence[np.ndarray]) -> bool:  # type: ignore[type-arg]
        sequences = [EmpiricalBernstein(0, 1, 0.025) for _ in sides]
        for sequence, values in zip(sequences, sides, strict=True):
            sequence.extend(values)
        apart = difference(sequences[0].interval(), sequences[1].interval())
        return apart.lower > 0 or apart.upper < 0

    by_slates = by_users = 0
    for seed in range(100):
        draw = np.random.default_rng(seed)
        tastes = draw.beta(0.4, 0.6, (2, 100, 1))  # alike in both arms
        worth = (draw.random((2, 100, 50)) < tastes).astype(float)  # (arms, users, slates)
        by_slates += told_apart(worth.reshape(2, -1))
        by_users += told_apart(worth.mean(2))
    assert by_users <= 5
    assert by_slates > 10  # what the users' means are there for


def test_a_planted_lift_is_found_and_its_size_is_within_the_sequence() -> None:
    settlement = settled(crowd(1, 0.3, users=1_500, slates=2), until=START + 2_000 * HOUR)
    (found,) = (c for c in analyse(settlement, ExperimentDesign(), ["control"]).comparisons if c.arm == "canary")
    assert found.significance.decision is Verdict.BETTER
    assert found.difference.lower < 0.26 < found.difference.upper


def test_an_unknown_difference_says_about_how_much_more_it_takes() -> None:
    def margin(times: float) -> float:
        return 0.03 / math.sqrt(times)

    near, far = MeanInterval(0.02, -0.01, 0.05), MeanInterval(0.002, -0.028, 0.032)
    soon, late = assess(near, 0.0, 1_000, 5_000, margin), assess(far, 0.0, 1_000, 5_000, margin)
    assert str(soon).startswith("not yet known: needs about ")
    assert soon.slates_needed is not None
    assert late.slates_needed is not None
    assert 5_000 < soon.slates_needed < 20_000 < late.slates_needed
    assert assess(near, 0.0, 5, 20, margin).slates_needed is None
    even = assess(MeanInterval(0.0, -0.1, 0.1), 0.0, 1_000, 5_000, margin)
    assert str(even).endswith("to say how much more is needed")
    assert str(assess(MeanInterval(-0.1, -0.2, -0.05), 0.0, 1_000, 5_000, margin)) == "worse"


def test_as_much_as_was_asked_for_is_about_enough() -> None:
    def sequence(count: int) -> EmpiricalBernstein:
        taken = EmpiricalBernstein(0, 1)
        taken.extend(values[:count])
        return taken

    draw = np.random.default_rng(5)
    values = np.concatenate([draw.permutation([1.0] * 26 + [0.0] * 24) for _ in range(400)])
    first = sequence(2_000)
    needed = assess(first.interval(), 0.5, 2_000, 2_000, first.margin).slates_needed
    assert needed is not None
    assert sequence(2_000 + needed).interval().lower > 0.5 > sequence(2_000 + needed * 9 // 10).interval().lower


def interleaved(draw: np.random.Generator, count: int, better: float) -> Iterator[Outcome]:
    """Slates of two teams, a coin deciding who is on top; `greedy` is liked `better` more than `linucb`."""
    for number in range(count):
        teams = ["greedy", "linucb"] if draw.random() < 0.5 else ["linucb", "greedy"]
        outcomes = slate(f"user-{number % 97}", START + number, [0.0, 0.0], policy="greedy+linucb")
        for at, (outcome, team) in enumerate(zip(outcomes, teams, strict=True)):
            liked = draw.random() < (0.3 - 0.1 * at + (better if team == "greedy" else 0.0))
            fields = {name: getattr(outcome, name) for name in outcome.__struct_fields__}
            yield Outcome(**{**fields, "team": team, "reward": float(liked)})


def test_wins_losses_and_ties_are_counted_for_the_first_policy() -> None:
    def pair(first: float, second: float, number: int) -> list[Outcome]:
        one, two = slate("ann", START + number, [first, second])
        fields = [{name: getattr(o, name) for name in o.__struct_fields__} for o in (one, two)]
        return [Outcome(**{**fields[0], "team": "greedy"}), Outcome(**{**fields[1], "team": "linucb"})]

    given = [(1.0, 0.0), (0.2, 0.1), (0.0, 0.5), (0.0, 0.0), (0.3, 0.3)]
    outcomes = [outcome for number, pair_ in enumerate(given) for outcome in pair(*pair_, number)]
    found = compare_interleaved(settled(outcomes), order=("linucb", "greedy"))
    assert found is not None
    assert (found.first, found.second) == ("linucb", "greedy")
    assert (found.wins, found.losses, found.ties, found.slates) == (1, 2, 2, 5)
    assert found.preference.mean == pytest.approx(0.4)
    assert analyse(settled(outcomes), ExperimentDesign()).arms[0].name == "late"  # interleaved slates belong to no arm


def test_without_interleaving_there_is_no_duel() -> None:
    assert compare_interleaved(settled(slate("ann", START, [1.0]))) is None


def test_a_preferred_policy_wins_and_two_alike_stay_undecided() -> None:
    better = compare_interleaved(settled(list(interleaved(np.random.default_rng(0), 3_000, 0.08))))
    assert better is not None
    assert better.significance.decision is Verdict.BETTER
    wrong = 0
    for seed in range(60):
        alike = compare_interleaved(settled(list(interleaved(np.random.default_rng(seed), 300, 0.0))))
        assert alike is not None
        wrong += bool((alike.trace.lower > 0.5).any() or (alike.trace.upper < 0.5).any())
    assert wrong <= 3


def test_interleaving_needs_fewer_slates_than_arms() -> None:
    pair = compare_interleaved(settled(list(interleaved(np.random.default_rng(3), 1_500, 0.1))))
    assert pair is not None
    assert pair.significance.decision is Verdict.BETTER
    draw = np.random.default_rng(3)
    outcomes = []
    for number in range(1_500):
        arm, chance = (
            ("greedy", 0.35) if draw.random() < 0.5 else ("linucb", 0.25)
        )  # the same liking, as the mean place
        outcomes += slate(f"user-{number}", START + number, [float(draw.random() < chance)], arm=arm)
    design = ExperimentDesign(method=SequenceMethod.BOUNDED)  # as the preference's
    (found,) = (c for c in analyse(settled(outcomes), design, ["linucb"]).comparisons if c.arm == "greedy")
    assert found.significance.decision is Verdict.UNKNOWN


def apprentice(shown: Sequence[str], proposed: Sequence[str]) -> list[Outcome]:
    outcomes = []
    for outcome, item, own in zip(slate("ann", START, [0.0] * len(shown)), shown, proposed, strict=True):
        fields = {name: getattr(outcome, name) for name in outcome.__struct_fields__}
        other = {"greedy": Counterfactual(propensity=0.1, proposal=Proposal(item_id=own, score=0.0))}
        outcomes.append(Outcome(**{**fields, "mode": "apprentice", "item_id": item, "alternatives": other}))
    return outcomes


def test_a_match_is_the_same_first_item_and_overlap_disregards_places() -> None:
    outcomes = [
        *apprentice("abc", "acx"),  # begins alike; two of three
        *apprentice("abc", "bca"),  # does not; all three
        *apprentice("abc", "xyz")[1:],  # the first place is not known; nothing of two
    ]
    found = imitation(settled(outcomes), "greedy")
    assert (found.slates, found.match_rate.mean, found.k) == (2, 0.5, 3)
    assert found.overlap == pytest.approx((2 / 3 + 1 + 0) / 3)


def test_who_proposed_nothing_imitated_nobody() -> None:
    found = imitation(settled(slate("ann", START, [1.0])), "greedy")
    assert found.slates == 0
    assert math.isnan(found.match_rate.mean)
    assert math.isnan(found.overlap)


@pytest.fixture
def outcomes_file(tmp_path: Path) -> Path:
    import msgspec

    path = tmp_path / "outcomes.jsonl"
    outcomes = [*crowd(1, 0.35, users=600, slates=2), *slate("late", START + 700 * HOUR, [0.0], arm="control")]
    lines = [msgspec.json.encode(outcome) for outcome in [*outcomes, *outcomes[:3]]]
    path.write_bytes(b"\n".join([*lines, b"no outcome"]))
    return path


def test_the_report_has_a_shape_that_stays(
    outcomes_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(Settings(), Question(file=outcomes_file), as_json=True, out=tmp_path / "report")
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads((tmp_path / "report" / "report.json").read_text())
    assert (report["duplicates"], report["unreadable"]) == (3, 1)
    assert report["control"] == "control"
    assert [sorted(arm) for arm in report["arms"]] == 2 * [
        ["arm", "deviation", "policies", "reward", "reward_per_slate", "slates", "users", "users_waiting"]
    ]
    (compared,) = report["comparisons"]
    assert compared["verdict"] == "better"
    assert set(compared["difference"]) == {"mean", "lower", "upper"}
    assert report["interleaving"] is report["imitation"] is None
    assert (tmp_path / "report" / "arms.svg").read_text().count("<svg") == 1
    page = (tmp_path / "report" / "report.html").read_text()
    assert "<p><b>canary is better than control (difference +0." in page
    assert page.count('role="img"') == 2


def test_a_file_without_an_outcome_is_no_success(tmp_path: Path) -> None:
    path = tmp_path / "outcomes.jsonl"
    path.write_text("no outcome\n{}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="none of 2 messages is an outcome"):
        run(Settings(), Question(file=path), as_json=True, out=None)


def test_people_are_told_in_words(outcomes_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(Settings(), Question(file=outcomes_file), as_json=False, out=None)
    said = capsys.readouterr().out
    assert "1,201 outcomes of 1,201 slates; 3 repeats left out; 1 messages were no outcomes" in said
    assert said.startswith("canary is better than control (difference +0.")
    assert "…" not in said


def test_a_control_that_is_no_arm_is_refused(outcomes_file: Path) -> None:
    with pytest.raises(ConfigError, match="there are control, canary; did you mean control"):
        run(Settings(), Question(file=outcomes_file, control="contol"), as_json=False, out=None)


def test_reward_per_slate_is_what_off_policy_evaluation_says_of_the_same_outcomes() -> None:
    outcomes = [
        outcome
        for number in range(40)
        for outcome in slate(f"user-{number}", START + number, [1.0, 1.0, 0.5 * (number % 3)], arm="control")
    ]
    (arm,) = (arm for arm in analyse(settled(outcomes), ExperimentDesign()).arms if arm.name == "control")
    log = OutcomeLog(OutcomeFilter(), 1_000)
    for outcome in outcomes:
        log.add(outcome)
    logged = evaluate(log.logged("logged"), EvaluationOptions(draws=20)).logged
    assert arm.reward_per_slate == pytest.approx(logged.value)
    assert arm.reward_per_slate > 2  # though no slate is tested with more than 1
    assert arm.reward.mean == 1


def test_a_range_of_time_is_kept_to(outcomes_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    question = Question(since=str(START + 10 * HOUR), until=str(START + 20 * HOUR), file=outcomes_file)
    run(Settings(), question, as_json=True, out=None)
    report = json.loads(capsys.readouterr().out)
    assert report["slates"] == 20
    assert report["first_ts"] == START + 10 * HOUR
    assert report["arms"][0]["users"] == 0
    run(Settings(), question, as_json=False, out=None)
    left_out = 1_201 + 3 - 20  # with those that come twice, of other times
    assert f"{left_out:,} of slates shown at other times left out" in capsys.readouterr().out
