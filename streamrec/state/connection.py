"""How Redis is asked, whatever a URL stands for: every command ends, and errors are told in our words.

Knows nothing of what is stored.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import resources
from threading import Lock
from typing import Any

import redis
from redis.cluster import ClusterNode, RedisCluster
from redis.exceptions import (
    AskError,
    AuthorizationError,
    ClusterError,
    MovedError,
    NoScriptError,
    ReadOnlyError,
    RedisClusterException,
    TryAgainError,
)
from redis.sentinel import MasterNotFoundError

from streamrec.errors import StateError, StateUnavailable
from streamrec.state.redis_url import connecting, without_password

# What a server says that has no memory or no disk left, is starting or is changing its role: none of it need last.
_PASSING = re.compile(
    r"OOM|when used memory >|MISCONF|LOADING|BUSY|READONLY|MASTERDOWN|NOREPLICAS|CLUSTERDOWN|TRYAGAIN"
)
_CHANGING = (ReadOnlyError, ClusterError, TryAgainError, AskError)
"""The same, where redis-py takes the word away."""

Command = tuple[Any, ...]


class Servers:
    """Redis at one URL, one server or several, connected to when first asked.

    Guarantee: every command ends: in an answer, or in an error after about `timeout_s` without one, or twice that where
    another server may have taken over. A command is sent again, once, when a connection breaks.

    Raises:
        ConfigError: a URL that is none.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        self.where = without_password(url)
        self._timeout_s = timeout_s
        self._connect = connecting(url, timeout_s)
        self._client: redis.Redis | None = None
        self._lock = Lock()

    @property
    def client(self) -> redis.Redis:
        """For commands of one key, whatever there is at the URL; within `named_errors`."""
        with self._lock:
            if self._client is None:
                self._client = self._connect()
            return self._client

    def close(self) -> None:
        """Let go of connections."""
        with self._lock:
            if self._client is not None:
                self._client.close()
            self._client = None

    def script(self, name: str) -> Callable[[Sequence[bytes], Sequence[Any]], Any]:
        """Runs one of the Lua files here, given keys of one slot and arguments; within `named_errors`."""
        text = resources.files("streamrec.state").joinpath(name).read_text("utf-8")
        return partial(self._run, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())

    def _run(self, text: str, sha: str, keys: Sequence[bytes], args: Sequence[Any]) -> Any:
        try:
            return self.client.evalsha(sha, len(keys), *keys, *args)
        except NoScriptError:  # the server that has the slot now learns it
            return self.client.eval(text, len(keys), *keys, *args)

    def together(self, commands: Sequence[Command]) -> list[Any]:
        """The answers to commands whose first argument is a key, in their order; sent together to each server.

        Not by a cluster's own pipeline: it asks anew for each command in turn after a silence, `timeout_s` each time.
        """
        cluster = self._cluster
        if cluster is None:
            return _answers(self.client, commands)
        try:
            return self._from_nodes(cluster, commands)
        except redis.ConnectionError:
            return self._from_nodes(cluster, commands)

    def masters(self) -> dict[str, Mapping[str, Any]]:
        """What each server that takes writes says of itself (INFO), by its name."""
        cluster = self._cluster
        if cluster is None:
            return {"": self.client.info()}
        found: dict[str, Any] = cluster.info(target_nodes=RedisCluster.PRIMARIES)
        return found if "run_id" not in found else {cluster.get_primaries()[0].name: found}  # the only one

    @contextmanager
    def unchanged(self, doing: str) -> Iterator[None]:
        """See that nobody took over meanwhile: a cursor means nothing to another server, and it may know less.

        Raises:
            StateUnavailable: somebody did.
        """
        asked = self._run_ids()
        yield
        if self._run_ids() != asked:
            raise StateUnavailable(
                f"Redis at {self.where} was restarted or failed over while {doing}: it is not complete; do the same "
                "again"
            )

    def master_of(self, key: bytes) -> str:
        """The name of the server that has a key, as in `masters`."""
        return "" if self._cluster is None else self._cluster.get_node_from_key(key).name

    def _run_ids(self) -> set[str]:
        return {server["run_id"] for server in self.masters().values()}

    @property
    def _cluster(self) -> RedisCluster | None:
        client: object = self.client
        return client if isinstance(client, RedisCluster) else None

    def _from_nodes(self, cluster: RedisCluster, commands: Sequence[Command]) -> list[Any]:
        places: dict[ClusterNode, list[int]] = {}
        for place, (_, key, *_) in enumerate(commands):
            places.setdefault(cluster.get_node_from_key(key), []).append(place)
        answers: list[Any] = [None] * len(commands)
        for node, own in places.items():
            try:
                found = _answers(cluster.get_redis_connection(node), [commands[place] for place in own], stop=False)
            except (redis.ConnectionError, redis.TimeoutError):  # another may have taken over
                cluster.nodes_manager.initialize(last_failed_node_name=node.name)
                raise
            for place, answer in zip(own, found, strict=True):
                # The slot has moved, or is moving: the cluster's client follows it.
                elsewhere = isinstance(answer, AskError | TryAgainError)
                answers[place] = cluster.execute_command(*commands[place]) if elsewhere else answer
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    @contextmanager
    def named_errors(self, doing: str) -> Iterator[None]:
        """Redis's errors as ours, with the server's name and what to do; those that pass as StateUnavailable."""
        try:
            yield
        except (redis.RedisError, RedisClusterException) as error:
            raise self._named(error, doing) from error

    def _named(self, error: BaseException, doing: str) -> StateError:
        if isinstance(error, RedisClusterException):
            if isinstance(error.__cause__, RedisClusterException | redis.RedisError):
                return self._named(error.__cause__, doing)
            if "mode is not enabled" in str(error):
                return StateError(
                    f"Redis at {self.where} is no cluster while {doing}: {error.__context__}; write redis:// or "
                    "redis+sentinel:// in the URL"
                )
            whole = "covered" not in str(error)  # slots that no master has just now
            return (StateError if whole else StateUnavailable)(f"Redis at {self.where} refused {doing}: {error}")
        if isinstance(error, redis.TimeoutError):
            return StateUnavailable(
                f"Redis at {self.where} did not answer within {self._timeout_s:g} s while {doing}; it may be "
                "overloaded or unreachable: check it, or raise `redis.timeout_s`"
            )
        if isinstance(error, redis.AuthenticationError | AuthorizationError):  # connection errors by descent
            return StateError(f"Redis at {self.where} refused {doing}: {error}; check user and password")
        if isinstance(error, MasterNotFoundError):
            return StateUnavailable(
                f"the Sentinels at {self.where} name no master while {doing}: {error}; is that the service's name? "
                "If so, a failover is under way, or no Sentinel can be reached"
            )
        if isinstance(error, redis.ConnectionError):
            return StateUnavailable(
                f"no connection to Redis at {self.where} while {doing}, after two tries: {error}; "
                "check that it runs and that the URL is right"
            )
        said = f"Redis at {self.where} refused {doing}: {error}"
        if isinstance(error, MovedError) and "+cluster:" not in self.where:
            return StateError(f"{said}; this is a node of a cluster: write redis+cluster:// in the URL")
        if re.search(r"unknown command .*SENTINEL", str(error)):
            return StateError(f"{said}; this is no Sentinel: write redis:// or redis+cluster:// in the URL")
        if "unknown command" in str(error):
            return StateError(f"{said}; if this is a Sentinel, write redis+sentinel:// in the URL")
        passing = isinstance(error, _CHANGING) or _PASSING.search(str(error))
        return StateUnavailable(said) if passing else StateError(said)


def _answers(client: redis.Redis, commands: Sequence[Command], *, stop: bool = True) -> list[Any]:
    with client.pipeline(transaction=False) as pipe:
        for command in commands:
            pipe.execute_command(*command)
        answers: list[Any] = pipe.execute(raise_on_error=stop)
        return answers
