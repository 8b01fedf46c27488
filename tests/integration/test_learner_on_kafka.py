"""One model and many workers, on Apache Kafka: what was learned outlives whoever learned it, and whoever sent it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from streamrec.demo.embedded import EmbeddedBroker, EmbeddedRedis
from streamrec.wiring.connections import build_snapshots
from tests.support.deployment import until
from tests.support.goods_and_hats import Shop, learners, offered


@pytest.fixture
def shop(tmp_path: Path, apache_kafka: EmbeddedBroker, redis_server: EmbeddedRedis) -> Shop:
    return Shop(tmp_path, apache_kafka, redis_server)


def test_what_was_learned_outlives_the_worker_whose_users_taught_it(shop: Shop) -> None:
    strangers = [f"stranger{n}" for n in range(8)]
    with shop.worker(0) as one, shop.worker(1) as other:
        shop.send(600)
        until(lambda: shop.learned() >= 600, one)
        one.kill()  # and its learner with it; the other's takes over, and the other worker the partitions
        shop.send(200)
        until(lambda: shop.learned() >= 800, other)
        assert offered(shop.slates(strangers)) == {"g", "h"}
        with shop.worker(0):
            other.kill()
            shop.send(200)
            until(lambda: shop.learned() >= 1_000)
            slates = shop.slates([f"another{n}" for n in range(8)])
    assert all(offered([slate]) == {"g", "h"} for slate in slates)
    # Each event taught once, however often a worker that took over sent it again.
    assert shop.recount()[1] == shop.sent == 1_000


def test_a_learner_killed_again_and_again_comes_to_the_arrays_of_one_fold(shop: Shop) -> None:
    with shop.worker(0) as worker, shop.worker(1) as other:
        for _ in range(3):
            shop.send(400)
            until(lambda: shop.learned() > 0, worker)
            os.kill(learners((worker, other)[shop.at_work()[0]])[-1], signal.SIGKILL)
        until(lambda: shop.learned() == 1_200, worker)
        slate = shop.slates(["u1"])[0]
        assert worker.stop() == 0
        assert other.stop() == 0
    assert shop.differing() == []
    assert slate.model_version is not None
    assert 0 < slate.model_version <= len(shop.examples())


def test_with_no_learner_slates_go_on_and_readyz_says_so(shop: Shop) -> None:
    with shop.worker(0) as worker:
        shop.send(300)
        until(lambda: shop.learned() >= 300, worker)
        before = shop.slates(["stranger"])[0]
        for process in learners(worker):
            os.kill(process, signal.SIGSTOP)  # keeper and learner: nobody starts another one
        try:
            shop.send(50)
            until(lambda: "no learner is heard of" in worker.said, worker)
            after = shop.slates(["stranger"])[0]
        finally:
            for process in learners(worker):
                os.kill(process, signal.SIGCONT)
        assert [item.item_id for item in after.items]
        assert after.model_version == before.model_version or after.model_version is not None


def test_another_list_of_models_takes_a_restart_and_no_warmup(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshots = build_snapshots(shop.deployment.settings)
    with shop.worker() as worker:
        shop.send(400)
        until(lambda: shop.learned() >= 400, worker)
        assert worker.stop() == 0
    before = snapshots.load(str(snapshots.latest())).arrays
    monkeypatch.setenv("STREAMREC_LEARNING__MODELS", "popularity,popularity_days,covisit,sessions")
    with shop.worker() as worker:
        slate = shop.slates(["stranger"])[0]  # before anything more is learned
        assert offered([slate]) == {"g", "h"}
        assert worker.said.count("the snapshot is of another list of models") > 0
        shop.send(200)
        until(lambda: shop.learned() >= 600, worker)
        later = shop.slates([f"u{n}" for n in range(8)])[0]
        assert worker.stop() == 0
    after = snapshots.load(str(snapshots.latest())).arrays
    assert later.model_version is not None
    assert slate.model_version is not None
    assert later.model_version > slate.model_version >= 400
    assert after["model.covisit"]["mass"].sum() > before["model.covisit_recent"]["mass"].sum() > 0
    assert any("sessions" in item.scores for item in later.items)
    assert {name for name in after if name.startswith("model.")} == {
        f"model.{name}" for name in ("popularity", "popularity_days", "covisit", "sessions")
    }
