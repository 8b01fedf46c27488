"""What the chaos tests share: how much is asked for, the seed, and servers that outlive being killed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from streamrec.demo.embedded import EmbeddedRedis, embedded_redis


@pytest.fixture(scope="session")
def whole(request: pytest.FixtureRequest) -> bool:
    """Whether everything was asked for, not the quick part alone."""
    return bool(request.config.getoption("--chaos") == "whole")


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """Decides where and when faults strike; printed with every failure."""
    number = int(request.config.getoption("--chaos-seed"))
    print(f"\nstruck with seed {number}: tools/chaos --seed {number} {request.node.nodeid}")
    return number


@pytest.fixture
def durable_redis(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    """A Redis server of this test alone, with its append-only file synced every second."""
    with embedded_redis(tmp_path / "redis", appendonly=True) as redis:
        yield redis
