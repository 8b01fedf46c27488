"""Bots in the closed loop: what each kind sends, and that a few of them cannot buy the slates of many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest

from streamrec.cli.commands.simulate import crowd_of
from streamrec.config.settings import load_settings
from streamrec.evaluation.simulation.contest import system_of
from streamrec.evaluation.simulation.loop import GROUP, Episode, simulate
from streamrec.evaluation.simulation.standings import attack_effects
from streamrec.evaluation.simulation.systems import Shuffle
from streamrec.evaluation.simulation.world import (
    AssortmentSettings,
    AttackKind,
    CrowdSettings,
    TrafficSettings,
    World,
    WorldSettings,
)
from streamrec.events import Event, EventType

SMALL = WorldSettings(
    seed=7,
    assortment=AssortmentSettings(items=120, categories=12),
    crowd=CrowdSettings(shoppers=60, bots=2),
    traffic=TrafficSettings(requests=200, hours=3.0),
)
ATTACKS = [kind for kind in AttackKind if kind is not AttackKind.HAMMER]


def under(kind: AttackKind, world: WorldSettings = SMALL) -> World:
    return World(replace(world, crowd=replace(world.crowd, attack=kind, attack_at=0.25)))


def log_of(world: World, group: int = GROUP) -> tuple[list[Event], Episode]:
    log: list[Event] = []
    episode = simulate(world, Shuffle(), group=group, on_events=log.extend)
    return log, episode


def of_bots(log: Sequence[Event]) -> list[Event]:
    return [event for event in log if event.user_id.startswith("bot-")]


@pytest.mark.parametrize("kind", ATTACKS)
def test_people_do_the_same_whether_bots_are_about_or_not_and_however_the_log_is_cut(kind: AttackKind) -> None:
    log, episode = log_of(under(kind))
    bots = of_bots(log)
    assert {event.user_id for event in bots} == {"bot-0", "bot-1"}
    assert min(event.ts for event in bots) >= under(kind).attack_ms
    alone = replace(SMALL, crowd=replace(SMALL.crowd, bots=0))
    honest, without = log_of(World(alone))
    assert [event for event in log if event not in bots] == honest
    assert len(episode.ts) == len(without.ts) == 200  # a bot's request is none of these
    assert log_of(under(kind), group=7)[0] == log


@pytest.mark.parametrize(
    ("kind", "share"), [(AttackKind.FLOOD, 1), (AttackKind.VIEWS, 1 / 2), (AttackKind.RING, 1 / 4)]
)
def test_the_target_is_so_much_of_what_bots_do(kind: AttackKind, share: float) -> None:
    world = under(kind)
    touched = Counter(event.item_id for event in of_bots(log_of(world)[0]))
    assert touched.most_common(1)[0][0] == world.item_ids[world.target]
    assert touched[world.item_ids[world.target]] / touched.total() == pytest.approx(share, abs=0.1)


def test_a_slate_clicker_claims_slates_that_are_not_its_own_and_items_that_were_not_shown() -> None:
    world = under(AttackKind.CLICKER)
    bots = of_bots(log_of(world)[0])
    claims = [event for event in bots if event.type is EventType.PURCHASE]
    assert {event.item_id for event in claims} == {world.item_ids[world.target]}
    own = [event for event in claims if event.rec_id and event.rec_id.startswith("slate-bot-")]
    assert 0 < len(own) < len(claims)
    assert len(own) == sum(event.type is EventType.REQUEST for event in bots)  # each of its slates, shown there or not


def test_under_attack_one_in_a_hundred_is_a_bot_unless_told_otherwise() -> None:
    assert crowd_of(500, None, "ring", 0.25) == CrowdSettings(500, bots=5, attack=AttackKind.RING, attack_at=0.25)
    assert crowd_of(50, None, "flood", 0.0).bots == 1
    assert crowd_of(500, 0, "ring", 0.25).bots == 0
    assert crowd_of(500, None, None, 0.25) == CrowdSettings(500)


def test_one_bot_in_a_hundred_cannot_buy_slates_and_could_without_caps() -> None:
    traffic = TrafficSettings(requests=450, hours=9.0)
    world = WorldSettings(
        seed=3, assortment=AssortmentSettings(items=200), crowd=CrowdSettings(shoppers=200, bots=2), traffic=traffic
    )
    attacked, settings = under(AttackKind.CLICKER, world), load_settings(preset="fast")
    systems = {name: system_of(name, settings, 3) for name in ("plackett-luce", "uncapped:plackett-luce")}
    episodes = {name: [simulate(attacked, system)] for name, system in systems.items()}
    capped, uncapped = attack_effects(episodes, attacked.attack_ms)
    print(capped, uncapped)
    assert uncapped.first.mean > 0.05
    assert uncapped.shown.mean > 0.8
    assert capped.first.mean < 0.01
    assert capped.shown.mean < 0.3
    assert capped.reward.mean > uncapped.reward.mean
