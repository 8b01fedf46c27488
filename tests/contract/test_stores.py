"""What every store promises, asked of each of them."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamrec.state import Kind, Store
from streamrec.state.memory import MemoryStore
from streamrec.state.redis import RedisStore
from streamrec.testing import STORE_CHECKS
from streamrec.testing.stores import Steps, expect_to_hold


@pytest.fixture(params=["memory", "redis_server", "redis_sentinels", "redis_cluster"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    if request.param == "memory":
        yield MemoryStore()
        return
    url = request.getfixturevalue(request.param).url
    redis_store = RedisStore(url, prefix=uuid.uuid4().hex, topic="user-events", ttl_s=600, slate_ttl_s=300)
    yield redis_store
    redis_store.close()


@pytest.mark.parametrize("check", STORE_CHECKS, ids=lambda check: check.__name__)
def test_a_store_keeps_its_promises(check: Callable[[Store], None], store: Store) -> None:
    check(store)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(
            st.integers(0, 2),
            st.integers(0, 3),
            st.dictionaries(
                st.tuples(st.sampled_from(Kind), st.sampled_from("ab")), st.binary(max_size=20), max_size=4
            ),
        ),
        max_size=8,
    )
)
def test_a_store_holds_what_a_dictionary_would(store: Store, steps: Steps) -> None:
    expect_to_hold(store, steps)
