"""The container files: valid by the compose specification, and of one mind with each other and with the code."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from streamrec.config.settings import Settings
from tests.support.deployed import settings_of

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")


def validate(compose: Path) -> subprocess.CompletedProcess[str]:
    """Against the compose specification's JSON schema, as check-jsonschema carries it."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(compose)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Settings:
    """The settings of a container."""
    return settings_of(monkeypatch, tmp_path, (DEPLOY / "streamrec.toml").read_text(encoding="utf-8"))


def mounted(service: str) -> list[str]:
    return [volume.split(":")[1] for volume in SERVICES[service]["volumes"]]


def test_compose_is_valid_by_the_specification() -> None:
    result = validate(DEPLOY / "compose.yaml")
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_validation_finds_a_mistake(tmp_path: Path) -> None:
    broken = tmp_path / "compose.yaml"
    broken.write_text(
        yaml.safe_dump({"services": {"worker": {"image": "x", "depend_on": ["kafka"]}}}), encoding="utf-8"
    )
    result = validate(broken)
    assert result.returncode == 1
    assert "depend_on" in result.stdout


def test_the_worker_waits_for_brokers_redis_and_topics() -> None:
    waits = {name: needed["condition"] for name, needed in SERVICES["worker"]["depends_on"].items()}
    assert waits == {
        "kafka": "service_healthy",
        "redis": "service_healthy",
        "topics": "service_completed_successfully",
    }
    assert SERVICES["topics"]["depends_on"]["kafka"]["condition"] == "service_healthy"
    assert all("healthcheck" in SERVICES[name] for name in ("kafka", "redis"))


def test_the_topics_are_made_once_and_the_worker_comes_back() -> None:
    assert SERVICES["topics"]["restart"] == "no"
    assert SERVICES["worker"]["restart"] == "unless-stopped"


def test_trends_run_beside_the_worker_which_does_not_wait_for_them() -> None:
    assert SERVICES["trends"]["restart"] == "unless-stopped"
    assert set(SERVICES["trends"]["depends_on"]) == {"kafka", "topics"}
    assert "trends" not in SERVICES["worker"]["depends_on"]


def test_the_gateway_takes_everybody_where_only_this_machine_reaches_it(inside: Settings) -> None:
    environment, port = SERVICES["gateway"]["environment"], inside.gateway.port
    assert environment["STREAMREC_GATEWAY__ALLOW_ANONYMOUS"] == "true"
    assert SERVICES["gateway"]["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert f":{port}/readyz" in SERVICES["gateway"]["healthcheck"]["test"][-1]


@pytest.mark.parametrize("service", ["topics", "worker", "learner", "trends", "gateway"])
def test_what_a_service_runs_is_a_command(service: str) -> None:
    command = [sys.executable, "-m", "streamrec.cli", *SERVICES[service]["command"], "--help"]
    assert subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0


def test_the_containers_find_the_brokers_where_they_listen(inside: Settings) -> None:
    broker = SERVICES["kafka"]["environment"]
    advertised = dict(entry.split("://") for entry in broker["KAFKA_ADVERTISED_LISTENERS"].split(","))
    listening = dict(entry.split("://") for entry in broker["KAFKA_LISTENERS"].split(","))
    assert inside.kafka["bootstrap.servers"] == advertised["INTERNAL"]
    for name, address in advertised.items():
        assert listening[name].split(":")[1] == address.split(":")[1]
    assert set(listening) == {
        entry.split(":")[0] for entry in broker["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(",")
    }
    voter = broker["KAFKA_CONTROLLER_QUORUM_VOTERS"]
    assert voter == f"{broker['KAFKA_NODE_ID']}@kafka:{listening['CONTROLLER'].split(':')[1]}"
    assert f"127.0.0.1:9092:{listening['HOST'].split(':')[1]}" in SERVICES["kafka"]["ports"]


def test_the_containers_find_redis_and_it_keeps_what_it_is_given(inside: Settings) -> None:
    assert inside.redis.url.startswith("redis://redis:6379/")
    command = " ".join(SERVICES["redis"]["command"])
    assert "--appendonly yes" in command
    assert "--appendfsync everysec" in command
    assert "--maxmemory-policy noeviction" in command


def test_everything_worth_keeping_is_on_a_named_volume(inside: Settings) -> None:
    assert SERVICES["kafka"]["environment"]["KAFKA_LOG_DIRS"] in mounted("kafka")
    assert "/data" in mounted("redis")
    for service in ("worker", "learner"):
        assert any(Path(inside.snapshots.url).is_relative_to(path) for path in mounted(service))
    named = {volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", ())}
    assert {name for name in named if not name.startswith(".")} == set(COMPOSE["volumes"])


def test_the_configuration_is_mounted_where_the_worker_looks_for_it() -> None:
    assert SERVICES["worker"]["environment"]["STREAMREC_CONFIG"] in mounted("worker")
    tomllib.loads((DEPLOY / "streamrec.toml").read_text(encoding="utf-8"))


def test_no_port_is_open_to_the_network() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_metrics_port_is_the_one_published(inside: Settings) -> None:
    port = inside.metrics_port
    assert inside.learner.metrics_port == port
    assert SERVICES["worker"]["ports"] == [f"127.0.0.1:{port}-{port + 9}:{port}"]
    assert SERVICES["learner"]["ports"] == [f"127.0.0.1:{port + 10}:{port}"]
    assert f":{port}/readyz" in SERVICES["worker"]["healthcheck"]["test"][-1]


def test_many_workers_follow_one_learner_that_they_do_not_wait_for(inside: Settings) -> None:
    assert inside.learner.where == "elsewhere"
    assert SERVICES["worker"]["deploy"]["replicas"] == 2
    assert SERVICES["learner"]["deploy"]["replicas"] == 1
    assert (
        set(SERVICES["worker"]["depends_on"]) == set(SERVICES["learner"]["depends_on"]) == {"kafka", "redis", "topics"}
    )
    assert SERVICES["learner"]["restart"] == "unless-stopped"
    assert SERVICES["learner"]["environment"] == SERVICES["worker"]["environment"]


def test_the_image_runs_the_worker_as_nobody_special() -> None:
    final = DOCKERFILE.rpartition("\nFROM ")[2]
    users = re.findall(r"^USER (\S+)", final, re.MULTILINE)
    assert users == ["streamrec"]
    assert 'ENTRYPOINT ["streamrec"]' in final
    assert 'CMD ["worker"]' in final


def test_what_the_image_copies_exists_and_is_not_ignored() -> None:
    ignore = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    copied = [
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
        for source in shlex.split(line)[:-1]
    ]
    assert {"pyproject.toml", "constraints.txt", "streamrec/"} <= set(copied)
    assert [source for source in copied if not (ROOT / source).exists()] == []
    assert [source for source in copied if f"!{source.rstrip('/')}" not in ignore] == []


def test_an_old_python_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "tools").mkdir()
    for name in ("pyproject.toml", "constraints.txt", "tools/bootstrap"):
        target = tmp_path / name
        target.write_bytes((ROOT / name).read_bytes())
        target.chmod(0o755)
    old = tmp_path / "python-of-old"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.2" && exit 0\nexit 1\n', encoding="utf-8")
    old.chmod(0o755)
    result = subprocess.run(
        [tmp_path / "tools" / "bootstrap"],
        env={"PATH": "/usr/bin:/bin", "PYTHON": str(old)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert result.returncode == 1
    assert "needs Python 3.11 or newer" in result.stderr
    assert "Python 3.9.2" in result.stderr
    assert not (tmp_path / ".venv").exists()
