"""Learners killed again and again, and workers that come and go, over a long log. Runs when all is asked for."""

from __future__ import annotations

import os
import random
import signal
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from streamrec.codec import JSON_HEADERS, encode
from streamrec.demo.embedded import EmbeddedBroker, EmbeddedRedis
from streamrec.events import Item
from streamrec.wiring import kafka_sink
from tests.chaos.scene import rest
from tests.support.deployment import WorkerProcess, until
from tests.support.goods_and_hats import GOODS, HATS, Shop, learners, offered

pytestmark = pytest.mark.whole
KILLS, PORTION = 20, 5_000
LONG_S = 300.0


@pytest.fixture
def shop(tmp_path: Path, apache_kafka: EmbeddedBroker, redis_server: EmbeddedRedis) -> Shop:
    return Shop(tmp_path, apache_kafka, redis_server)


def test_after_many_kills_the_arrays_are_those_of_one_fold_though_the_catalogue_changed(shop: Shop, seed: int) -> None:
    draw = random.Random(seed)
    with shop.worker(0) as worker, shop.worker(1) as other:
        for portion in range(1, KILLS + 1):
            shop.send(PORTION)
            revise_catalogue(shop, draw)
            until(lambda: shop.learned() > (portion - 1) * PORTION, worker, LONG_S)  # noqa: B023
            rest(draw.uniform(0.0, 1.5))
            at_work = shop.at_work()[0]
            if at_work >= 0:
                os.kill(learners((worker, other)[at_work])[-1], signal.SIGKILL)
        until(lambda: shop.learned() == KILLS * PORTION, worker, LONG_S)
        assert worker.stop() == 0
        assert other.stop() == 0
    assert shop.recount() == (shop.sent, shop.sent)
    assert shop.differing() == []


def revise_catalogue(shop: Shop, draw: random.Random) -> None:
    """An item gets another title, another is withdrawn until it is listed again."""
    listed, withdrawn = draw.sample([*GOODS, *HATS], 2)
    with closing(kafka_sink(shop.deployment.settings)) as sink:
        item = Item(item_id=listed, title=f"{listed} {draw.random():.3f}", categories=(listed[0],))
        sink.publish(shop.deployment.settings.topics.items, listed.encode(), encode(item), JSON_HEADERS)
        sink.publish(shop.deployment.settings.topics.items, withdrawn.encode(), None, ())


def test_workers_scale_to_one_to_three_and_back_and_every_event_teaches_once(shop: Shop) -> None:
    with ExitStack() as running:

        def started(number: int) -> WorkerProcess:
            worker = running.enter_context(shop.worker(number))
            until(lambda: "reading events" in worker.said, worker)
            return worker

        def at_work(*workers: WorkerProcess) -> None:
            for worker in workers:
                until(lambda: "read what was published" in worker.said, worker)  # noqa: B023

        def learned_by_all(asked: str) -> None:
            until(lambda: shop.recount()[1] == shop.sent, limit_s=LONG_S)
            until(lambda: shop.learned() == shop.recount()[0], limit_s=LONG_S)  # as /metrics says
            slates = shop.slates([f"{asked}{n}" for n in range(8)])
            assert all(offered([slate]) == {"g", "h"} for slate in slates), asked

        one, two = started(0), started(1)
        shop.send(2_000)
        learned_by_all("two")
        one.kill()
        shop.send(1_000)
        learned_by_all("one")
        one, three = started(0), started(2)
        at_work(one, three)
        shop.send(2_000)
        learned_by_all("three")
        two.kill()
        shop.send(1_000)
        assert three.stop() == 0
        shop.send(1_000)
        learned_by_all("one again")
        at_work(started(1))
        shop.send(1_000)
        learned_by_all("two again")
        assert one.stop() == 0
    assert shop.differing() == []
