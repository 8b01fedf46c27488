"""Scenarios through Kafka, as a site sees them: what a request names is answered, refused, and kept over a crash."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pytest

from streamrec.client import EventProducer, RecommendationConsumer
from streamrec.demo.embedded import EmbeddedBroker, EmbeddedRedis
from streamrec.errors import RequestRefused
from streamrec.events import Event, EventType, Filters, Slate
from streamrec.testing import shop
from streamrec.wiring import kafka_sink
from tests.support.deployment import Deployment, WorkerProcess, until

KINDS, ITEMS = 8, 160
LOG = shop(800, seed=11, items=ITEMS, kinds=KINDS)
CATALOGUE: list[dict[str, object]] = [
    {
        "item_id": f"item-{n}",
        "title": f"Thing {n}",
        "categories": [f"kind-{n % KINDS}"],
        "price": 1.0 + n,
        "tags": ["even"] if n % 16 < KINDS else [],
    }
    for n in range(ITEMS)
]
HOME = {"leave_out": {"shown_at_most": 1, "bought_within_s": 2 * 86_400}}


@dataclass
class Site:
    """A running worker, and a site that asks it."""

    deployment: Deployment
    worker: WorkerProcess
    events: EventProducer
    slates: RecommendationConsumer
    now_ms: int = LOG[-1].ts

    def tick(self) -> int:
        self.now_ms += 1_000
        return self.now_ms

    def ask(self, user_id: str, **more: Any) -> Slate:
        asked = self.events.request(user_id, ts=self.tick(), **more)
        found: list[Slate] = []

        def answered() -> bool:
            slate = self.slates.answer(asked, 2.0)
            found.extend([] if slate is None else [slate])
            return bool(found)

        until(answered, self.worker)
        return found[0]

    def refused(self, user_id: str, **more: Any) -> RequestRefused:
        with pytest.raises(RequestRefused) as caught:
            self.ask(user_id, **more)
        return caught.value

    def ids(self, user_id: str, **more: Any) -> list[str]:
        return [place.item_id for place in self.ask(user_id, **more).items]

    def write_item(self, item_id: str, row: dict[str, object] | None) -> None:
        value = None if row is None else json.dumps({"item_id": item_id, **row}).encode()
        with closing(kafka_sink(self.deployment.settings)) as sink:
            sink.publish(self.deployment.settings.topics.items, item_id.encode(), value)
        self.ask("nobody")  # may overtake what was sent at the same moment; the next request does not

    def dead_letters(self) -> list[dict[str, str]]:
        records = self.deployment.read(self.deployment.settings.topics.dead_letters)
        return [{name: value.decode() for name, value in record.headers} for record in records]


@pytest.fixture(scope="module", params=[pytest.param("tansu", marks=pytest.mark.whole), "apache_kafka"])
def site(
    request: pytest.FixtureRequest, redis_server: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    broker: EmbeddedBroker = request.getfixturevalue(request.param)
    deployment = Deployment(
        tmp_path_factory.mktemp("scenarios"),
        broker.settings,
        redis_server.url,
        preset="fast",
        scenarios={"home": HOME},
    )
    path = deployment.directory / "items.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in CATALOGUE))
    loaded = deployment.command("items", "load", str(path))
    assert loaded.returncode == 0, loaded.stderr
    deployment.send(LOG)
    topics, bootstrap = deployment.settings.topics, broker.bootstrap
    with (
        EventProducer(bootstrap, topic=topics.events) as events,
        RecommendationConsumer(bootstrap, topic=topics.recommendations) as slates,
        deployment.worker() as worker,
    ):
        until(lambda: deployment.committed() == len(LOG), worker)
        yield Site(deployment, worker, events, slates)


def test_a_search_finds_what_was_listed_a_moment_ago_and_no_more_once_it_is_withdrawn(site: Site) -> None:
    words = {"scenario": "search", "query": "zanzibar lantern"}
    assert "lantern" not in site.ids("searcher", **words)
    site.write_item("lantern", {"title": "Lantern from Zanzibar", "categories": ["kind-1"]})
    assert site.ids("searcher", **words)[0] == "lantern"
    site.write_item("lantern", None)
    assert "lantern" not in site.ids("searcher", **words)


def test_what_is_similar_keeps_to_the_filters_of_the_request(site: Site) -> None:
    filters = Filters(categories=("kind-3", "kind-4"), tags=("even",), price_max=100.0)
    slate = site.ask("looker", scenario="similar", item_id="item-11", filters=filters, k=100, explain=True)
    numbers = {int(place.item_id.removeprefix("item-")) for place in slate.items}
    passing = {n for n in range(ITEMS) if n % KINDS in (3, 4) and n % 16 < KINDS and n < 100}
    assert len(numbers) > 3
    assert numbers <= passing - {11}
    assert slate.scenario == "similar"
    assert any("price" in rule or "cheaper" in rule for reason in slate.reasons for rule in reason.rules)


def test_what_cannot_be_asked_is_put_aside_with_the_reason_and_the_next_request_is_answered(site: Site) -> None:
    refused = [
        site.refused("asker", scenario="simillar", item_id="item-1"),
        site.refused("asker", scenario="similar"),
        site.refused("asker", scenario="bundle"),
        site.refused("asker", scenario="search"),
    ]
    assert site.ids("asker", scenario="bundle", basket=["item-1", "item-9"])
    dead_letters: list[dict[str, str]] = []

    def all_there() -> bool:
        dead_letters[:] = site.dead_letters()
        return len(dead_letters) == 4

    until(all_there, site.worker)
    assert [dead_letter["reason"] for dead_letter in dead_letters] == ["invalid"] * 4
    assert [dead_letter["field"] for dead_letter in dead_letters] == ["scenario", "item_id", "basket", "query"]
    assert [(error.reason, error.field, error.detail) for error in refused] == [
        (dead_letter["reason"], dead_letter["field"], dead_letter["detail"]) for dead_letter in dead_letters
    ]
    assert "'simillar', expected one of home, similar, bundle" in dead_letters[0]["detail"]
    assert "a request of scenario 'similar' needs it" in dead_letters[1]["detail"]


def test_rules_about_what_was_shown_and_bought_outlive_a_killed_worker(site: Site) -> None:
    bought = site.ids("buyer", k=5)[0]
    site.events.send(Event(type=EventType.PURCHASE, user_id="buyer", item_id=bought, ts=site.tick()))
    shown = [site.ids("tired", k=8) for _ in range(3)]
    assert sum(map(len, shown)) == len(set().union(*shown)) == 24
    until(lambda: site.deployment.committed() > len(LOG), site.worker)
    site.worker.kill()
    with site.deployment.worker() as again:
        site.worker = again
        shown += [site.ids("tired", k=8) for _ in range(3)]
        assert sum(map(len, shown)) == len(set().union(*shown)) == 48
        slate = site.ask("buyer", k=100, explain=True)
        assert bought not in [place.item_id for place in slate.items]
        assert "1 item left out: bought within 2 days" in slate.reasons[0].rules
        assert bought in site.ids("somebody else", k=100)
        assert again.stop() == 0
