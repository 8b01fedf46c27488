"""Contests: the real worker in the loop, figures checked where the answer is known, the page, and the peer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from streamrec.cli import app
from streamrec.cli.commands.simulate import rewards_of, seeds_of
from streamrec.config.settings import Settings, load_settings
from streamrec.engine.arrays.batch import NOTHING
from streamrec.engine.arrays.feedback import SlateFeedback
from streamrec.engine.policies import CONTEXTS, PolicyInput, Posterior
from streamrec.engine.rollout.plan import Decision
from streamrec.engine.rollout.revisions import Mode
from streamrec.errors import ConfigError, RequestRefused
from streamrec.evaluation.simulation.contest import DEFAULT, contest, system_of
from streamrec.evaluation.simulation.loop import Episode, ShownSlate, simulate
from streamrec.evaluation.simulation.report import SimulationNotes, write_report
from streamrec.evaluation.simulation.shopper import CalendarEntry, Shoppers
from streamrec.evaluation.simulation.standings import (
    Estimate,
    estimate,
    interval_curve,
    ranked,
    recoveries,
    standings,
    verdict,
)
from streamrec.evaluation.simulation.systems import Shuffle, WorkerSystem
from streamrec.evaluation.simulation.vowpal_wabbit import EXPLORERS, VowpalWabbit, vw_system
from streamrec.evaluation.simulation.world import (
    AssortmentSettings,
    CrowdSettings,
    DriftKind,
    DriftSettings,
    TrafficSettings,
    World,
    WorldSettings,
)
from streamrec.events import Event, EventType

SMALL = WorldSettings(
    seed=7,
    assortment=AssortmentSettings(items=120, categories=12),
    crowd=CrowdSettings(shoppers=40),
    traffic=TrafficSettings(requests=250, hours=3.0),
)


@pytest.fixture(scope="module")
def fast() -> Settings:
    return load_settings(preset="fast")


def made(expected: Sequence[float], best: Sequence[float] | None = None) -> Episode:
    rewards = np.array(expected, np.float64)
    count = len(rewards)
    return Episode(
        ts=np.arange(count) * 1_000,
        shopper=np.zeros(count, np.int64),
        expected=rewards,
        best=np.ones(count) if best is None else np.array(best, np.float64),
        realised=rewards,
        looked=np.ones(count, np.int64),
        answered=np.ones(count, bool),
        target=np.zeros(count, np.int64),
    )


# The worker in the loop


def test_the_worker_answers_every_request_and_beats_chance(fast: Settings) -> None:
    log: list[Event] = []
    episode = simulate(World(SMALL), WorkerSystem(fast), on_events=log.extend)
    assert episode.answered.all()
    assert episode.events == len(log)
    assert len(episode.ts) == 250
    assert episode.looked.mean() > 4
    assert {event.rec_id for event in log if event.type is EventType.CLICK}
    chance = simulate(World(SMALL), Shuffle())
    assert episode.expected[125:].mean() > 1.5 * chance.expected[125:].mean()
    assert (episode.regret > -1e-12).all()


def test_the_workers_slates_do_not_depend_on_how_the_log_is_cut_into_groups(fast: Settings) -> None:
    short = replace(SMALL, traffic=TrafficSettings(requests=60, hours=0.8))
    whole, single = (simulate(World(short), WorkerSystem(fast), group=group) for group in (512, 1))
    assert (whole.expected == single.expected).all()


def test_a_worker_that_refuses_the_shop_s_requests_ends_it_with_the_reason(fast: Settings) -> None:
    strict = Settings.model_validate({**fast.model_dump(), "scenarios": {"home": {"needs": "item"}}})
    with pytest.raises(RequestRefused, match="the workers refused the request: field 'item_id' is missing"):
        simulate(World(SMALL), WorkerSystem(strict))


def test_a_request_that_is_not_answered_earns_nothing_and_the_shop_goes_on() -> None:
    class Half(Shuffle):
        def handle(
            self, events: Sequence[Event], asked: Sequence[CalendarEntry], shoppers: Shoppers
        ) -> Sequence[ShownSlate]:
            return [shown for shown in super().handle(events, asked, shoppers) if int(shown.rec_id[-1]) % 4]

        def __init__(self) -> None:
            self.closed = 0

        def close(self) -> None:
            self.closed += 1

    system = Half()
    episode = simulate(World(SMALL), system)
    assert len(episode.ts) == 250
    assert 0 < episode.answered.sum() < 250
    assert (episode.expected[~episode.answered] == 0).all()
    assert (episode.regret[~episode.answered] == episode.best[~episode.answered]).all()
    assert system.closed == 1


def test_every_default_contender_is_somebody_and_others_are_refused(fast: Settings) -> None:
    assert all(system_of(name, fast, 1) for name in DEFAULT)
    with pytest.raises(ConfigError, match="nobody-knows"):
        system_of("nobody-knows", fast, 1)


@pytest.mark.parametrize(
    "rollout",
    [
        {"mode": "shadow", "baseline": "uniform"},
        {"mode": "apprentice"},
        {"mode": "canary", "share": 0.1},
        {"arms": {"uniform": 0.5}},
        {"interleave": ("uniform", "greedy")},
    ],
)
def test_a_contender_answers_everybody_whatever_the_rollout_says(fast: Settings, rollout: dict[str, object]) -> None:
    settings = Settings.model_validate({**fast.model_dump(), "rollout": rollout})
    for name in ("greedy", "model:popularity", "uncapped:linucb"):
        system = system_of(name, settings, 1)
        assert isinstance(system, WorkerSystem)
        plan = system.worker.pipeline.answers.plan
        assert {plan.decide(f"u{n}") for n in range(40)} == {Decision(name.removeprefix("uncapped:"), Mode.ONLINE)}


def test_in_a_contest_under_a_shadow_each_contender_earns_what_it_earns_online(tmp_path: Path, fast: Settings) -> None:
    config = tmp_path / "shadow.toml"
    config.write_text('[rollout]\nmode = "shadow"\nbaseline = "uniform"\n')
    arguments = ["simulate", "--preset", "fast", "--config", str(config), "--policy", "greedy", "--policy", "uniform"]
    world = ["--requests", "120", "--hours", "3", "--shoppers", "20", "--items", "60", "--json"]
    result = CliRunner().invoke(app, [*arguments, *world])
    assert result.exit_code == 0, result.output
    assert "set aside, for each contender answers every request of its own world: rollout.mode" in result.stderr
    printed = json.loads(result.stdout)
    greedy, uniform = (standing["reward"]["mean"] for standing in printed["standings"])
    assert greedy != uniform
    assert printed["settings"]["rollout"]["mode"] == "online"
    online = CliRunner().invoke(app, [*arguments[:3], *arguments[5:], *world])
    assert [standing["reward"] for standing in json.loads(online.stdout)["standings"]] == [
        standing["reward"] for standing in printed["standings"]
    ]


# Figures


def test_an_interval_is_students() -> None:
    found = estimate([1.0, 2.0, 3.0])
    assert found.mean == 2.0
    assert found.margin == pytest.approx(4.302653 / np.sqrt(3))
    assert np.isnan(estimate([1.0]).margin)


def test_standings_take_the_last_quarter_and_differences_seed_by_seed() -> None:
    ours = [made([0.0] * 6 + [0.5] * 2), made([0.0] * 6 + [0.9] * 2)]
    theirs = [made([0.1] * 6 + [0.4] * 2), made([0.1] * 6 + [0.8] * 2)]
    first, second = standings({"ours": ours, "theirs": theirs})
    assert first.last_quarter.mean == pytest.approx(0.7)
    assert first.behind_first.mean == 0
    assert second.behind_first.mean == pytest.approx(0.1)
    assert second.behind_first.margin == pytest.approx(0, abs=1e-12)  # equal in both worlds
    assert second.last_quarter.margin > 1  # though the worlds differ
    assert second.regret.mean == pytest.approx(0.775)
    assert second.behind_oracle is None


def test_the_verdict_names_the_winner_and_says_whether_it_is_certain() -> None:
    rewards = {"low": (0.1, 0.2, 0.3), "high": (0.3, 0.41, 0.5), "oracle": (0.9, 0.9, 0.9), "near": (0.5, 0.2, 0.49)}
    episodes = {name: [made([value] * 8) for value in values] for name, values in rewards.items()}
    assert list(ranked(episodes)) == ["high", "near", "low", "oracle"]
    assert verdict(episodes).startswith("high won with 0.4033 per slate, ")
    assert "more than near (95%, not certain)" in verdict(episodes)
    assert "more than low (95%, certain)" in verdict({name: episodes[name] for name in ("low", "high", "oracle")})
    assert "(one seed: " in verdict({name: runs[:1] for name, runs in episodes.items()})


def test_what_is_behind_the_oracle_is_counted_from_its_own_run_and_regret_from_ones_own_world() -> None:
    ours = [made([0.2, 0.2], best=[0.4, 0.4]), made([0.2, 0.3], best=[0.5, 0.5])]
    oracle = [made([0.3, 0.3], best=[0.3, 0.3]), made([0.4, 0.4], best=[0.4, 0.4])]
    mine, its = standings({"ours": ours, "oracle": oracle})
    assert (its.behind_oracle, its.regret.mean) == (Estimate(0.0, 0.0), 0.0)
    assert mine.behind_oracle is not None
    assert mine.behind_oracle.mean == pytest.approx(0.125)  # of 0.1 and 0.15
    assert mine.behind_oracle.margin == pytest.approx(12.7062 * 0.025, rel=1e-4)
    assert mine.reward.mean + mine.regret.mean == pytest.approx(0.45)  # the oracle's own run earns 0.35


def test_a_band_is_a_rolling_mean_with_its_interval() -> None:
    found = interval_curve([np.arange(100.0), np.arange(100.0) + 2], window=10)
    assert found.at[0] == 10
    assert found.at[-1] == 100
    assert found.mean[0] == pytest.approx(4.5 + 1)
    assert (found.low < found.mean).all()


def test_recovery_is_the_first_window_back_at_its_old_share_of_the_best() -> None:
    values = [0.5] * 500 + [0.1] * 200 + [0.49] * 300
    (found,) = recoveries({"one": [made(values)]}, drift_ms=500_000)
    assert found.before.mean == pytest.approx(0.5)
    assert found.lowest.mean == pytest.approx(0.1)
    (requests,) = found.requests
    assert requests is not None
    assert 200 + 180 < requests <= 200 + 200  # a window of 200 must be nearly full of what came after
    (never,) = recoveries({"one": [made([0.5] * 500 + [0.1] * 500)]}, drift_ms=500_000)
    assert never.requests == [None]


# The contest and its page


def test_a_contest_writes_a_page_that_says_what_was_run(tmp_path: Path, fast: Settings) -> None:
    short = replace(SMALL, traffic=TrafficSettings(requests=120, hours=1.5), drift=DriftSettings(DriftKind.TASTES))
    episodes = contest(["oracle", "shuffle"], short, [1, 2], fast)
    assert [len(runs) for runs in episodes.values()] == [2, 2]
    told = SimulationNotes("streamrec simulate <x>", [1, 2], short, {"fusion": {"explore": 0.02}}, 1.5)
    table = write_report(tmp_path, episodes, told)
    assert [standing.name for standing in table] == ["shuffle", "oracle"]  # the best first; the oracle takes no part
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "streamrec simulate &lt;x&gt;" in page
    assert "seeds 1, 2" in page.replace("\n", " ")
    assert page.count("<svg") == 6  # three, for wide screens and for phones
    assert "<b>shuffle was alone: it earned" in page
    assert "After the drift" in page
    assert "do not add up to the oracle" in page
    assert table[0].behind_oracle is not None
    assert f"<td>{table[0].behind_oracle}</td>" in page
    apart = np.mean([a.expected.mean() - b.expected.mean() for a, b in zip(*episodes.values(), strict=True)])
    assert table[0].behind_oracle.mean == pytest.approx(apart)
    figures = json.loads((tmp_path / "contest.json").read_text(encoding="utf-8"))
    assert figures["standings"][0]["share_of_best"]["mean"] == pytest.approx(1.0)
    assert figures["world"]["drift"]["kind"] == "tastes"
    assert {path.name for path in tmp_path.glob("*.svg")} == {"reward.svg", "share.svg", "regret.svg"}
    with np.load(tmp_path / "episodes.npz") as arrays:
        assert (arrays["shuffle/2/expected"] == episodes["shuffle"][1].expected).all()


def test_the_command_prints_a_table(tmp_path: Path) -> None:
    arguments = ["simulate", "--policy", "oracle", "--policy", "shuffle", "--seeds", "1:2", "--requests", "60"]
    result = CliRunner().invoke(app, [*arguments, "--hours", "1", "--shoppers", "20", "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "shuffle" in result.output
    assert "oracle less this" in result.output
    assert "shuffle was alone" in result.output
    assert "reward and regret do not add up" in result.output
    assert (tmp_path / "out" / "report.html").exists()


def test_as_json_the_command_prints_what_the_report_says(tmp_path: Path) -> None:
    arguments = ["simulate", "--policy", "oracle", "--policy", "shuffle", "--requests", "60", "--hours", "1", "--json"]
    result = CliRunner().invoke(app, [*arguments, "--shoppers", "20", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    written = json.loads((tmp_path / "contest.json").read_text())
    printed = json.loads(result.stdout)
    assert {**printed, "seconds": 0, "command": ""} == {**written, "seconds": 0, "command": ""}
    assert [standing["name"] for standing in printed["standings"]] == ["oracle", "shuffle"]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--kafka", "127.0.0.1:1", "--policy", "greedy", "--seeds", "1:2"], "--policy, --seeds with several worlds"),
        (["--speed", "2"], "--speed would change nothing without --kafka"),
    ],
)
def test_options_that_would_change_nothing_are_refused(options: list[str], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        CliRunner().invoke(app, ["simulate", *options], catch_exceptions=False)


@pytest.mark.parametrize(("text", "seeds"), [("3", [3]), ("1:4", [1, 2, 3, 4]), ("1,4,9", [1, 4, 9])])
def test_seeds_are_read(text: str, seeds: list[int]) -> None:
    assert seeds_of(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "4:1", "-1", "1;2"])
def test_what_is_no_seeds_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--seeds"):
        seeds_of(text)


def test_answers_are_worth_what_the_settings_say() -> None:
    values = {EventType.CLICK: 0.3, EventType.PURCHASE: 0.9}
    settings = Settings.model_validate({"attribution": {"values": values}})
    rewards = rewards_of(SMALL, settings).rewards
    assert (rewards.click, rewards.cart, rewards.purchase, rewards.skip) == (0.3, 0.0, 0.9, 0.0)


# Vowpal Wabbit


def asked(seed: int, width: int = 6) -> PolicyInput:
    features = np.eye(width, dtype=np.float32)[None] + np.float32(0.01 * (seed % 89))
    return PolicyInput(
        seeds=np.array([seed], np.uint64),
        items=np.array([[*range(width), NOTHING]], np.int32),
        features=np.concatenate([features, np.zeros((1, 1, width), np.float32)], axis=1),
        utility=np.zeros((1, width + 1)),
        scores=np.zeros((1, 1, width + 1), np.float32),
        context=np.array([seed % CONTEXTS]),
        boost=np.zeros((1, width + 1)),
        uncertainty=np.ones((1, width + 1)),
        constraints=(None,),
    )


POSTERIOR = Posterior(np.zeros(6), np.eye(6), np.zeros((1, 6)), 0)


@pytest.mark.parametrize("explorer", ["epsilon", "squarecb"])
def test_the_peer_learns_which_action_pays(explorer: str) -> None:
    pytest.importorskip("vowpalwabbit")
    policy = VowpalWabbit("vw", EXPLORERS[explorer], slots=2)
    for seed in range(400):
        query = asked(seed)
        components = policy.components(query, POSTERIOR)
        assert components.hard
        assert np.isneginf(components.scores[0, -1, 0])
        order = np.argsort(-components.scores[0, :, 0])[:2]
        features = query.features[0, order].astype(np.float16).astype(np.float32)
        reward = (order == 4).astype(np.float64)
        policy.learn([SlateFeedback("vw", 0, features, np.ones(2), reward, 6, 0)])
    assert policy.unmatched == 0
    firsts = [int(np.argmax(policy.components(asked(seed), POSTERIOR).scores[0, :, 0])) for seed in range(1000, 1050)]
    assert firsts.count(4) > 40


def test_the_peer_answers_in_the_workers_place(fast: Settings) -> None:
    pytest.importorskip("vowpalwabbit")
    short = replace(SMALL, traffic=TrafficSettings(requests=60, hours=3.0))
    first, again = (simulate(World(short), vw_system("squarecb", fast)) for _ in range(2))
    assert first.answered.all()
    assert (first.expected == again.expected).all()


def test_arguments_that_the_peer_does_not_know_are_refused(fast: Settings) -> None:
    pytest.importorskip("vowpalwabbit")
    with pytest.raises(ConfigError, match="no-such-option"):
        vw_system("--no-such-option", fast)
