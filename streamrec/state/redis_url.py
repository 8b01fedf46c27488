"""What a URL stands for: one server, the master that Sentinels name, or a cluster.

    redis://[USER:PASSWORD@]HOST:PORT/DB                        one server; rediss:// by TLS, unix://PATH
    redis+sentinel://[...@]HOST:PORT,HOST:PORT/SERVICE[/DB]     the Sentinels' addresses; rediss+sentinel:// by TLS
    redis+cluster://[...@]HOST:PORT,HOST:PORT                   some of its nodes; rediss+cluster:// by TLS

Credentials, and the options after a ?, are for the servers that hold data; those for the Sentinels are the options
`sentinel_username` and `sentinel_password`. Knows nothing of what is asked.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, cast
from urllib.parse import urlsplit

import redis
from redis.backoff import ConstantBackoff, NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.connection import SSLConnection, parse_url
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelManagedConnection, SentinelManagedSSLConnection

from streamrec.errors import ConfigError

_PLACE = r"(?:\[[\da-fA-F:.]+\]|[\w.-]+)?(?::\d+)?"
_SHOWABLE = re.compile(rf"([\w+]+://)([^/?#@]*@)?({_PLACE}(?:,{_PLACE})*(?:/[^?#@]*)?)(\?[^@]*)?")
_OF_SEVERAL = re.compile(r"(rediss?)\+(sentinel|cluster)://([^/?#@]*@)?([^/?#@]+)(?:/([^?#@]*))?(\?[^#]*)?")
_PORTS = {"sentinel": 26_379, "cluster": 6_379}

Connect = Callable[[], redis.Redis]


class _MasterConnection(SentinelManagedConnection):
    """Closed when an answer does not come in time, as every other: else it is read as the next command's."""

    def read_response(self, *args: Any, disconnect_on_error: bool | None = True, **options: Any) -> Any:
        return super().read_response(*args, disconnect_on_error=disconnect_on_error, **options)


class _TlsMasterConnection(_MasterConnection, SentinelManagedSSLConnection):
    """The same by TLS."""


def without_password(url: str) -> str:
    """`url` fit for people: credentials and options hidden, and all of it where it cannot be told where they end."""
    showable = _SHOWABLE.fullmatch(url)
    if showable is None:
        return f"{url.partition('://')[0]}://***" if "://" in url else "***"
    scheme, credentials, address, options = showable.groups()
    return f"{scheme}{'***@' if credentials else ''}{address}{'?***' if options else ''}"


def connecting(url: str, timeout_s: float) -> Connect:
    """What makes a client whose every command ends. That of a cluster asks for the nodes as it is made.

    Raises:
        ConfigError: a URL that is none.
    """
    times = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
    # A broken connection is tried anew once; an answer that did not come in time is not waited for twice.
    retry = Retry(ConstantBackoff(0.1), 1, supported_errors=(redis.ConnectionError,))
    several = _OF_SEVERAL.fullmatch(url)
    try:
        if several is None:
            urlsplit(url).port  # noqa: B018  raises on a port that is no number
            client = redis.Redis.from_url(url, **times, retry=retry)
            _refuse_unknown_options(client.connection_pool)
            return lambda: client
        scheme, layout, account, places, path, query = several.groups(default="")
        addresses = [_address(place, _PORTS[layout]) for place in places.split(",")]
        service, _, database = path.partition("/") if layout == "sentinel" else ("", "", path)
        options = {**times, **parse_url(f"{scheme}://{account}host/{int(database or 0)}{query}")}
        if layout == "sentinel":
            return _to_master(addresses, service, options, retry)
        return _to_cluster(addresses, options, retry)
    except (TypeError, ValueError, redis.RedisError):
        # Its message may quote half a password: not chained.
        raise ConfigError(
            f"redis url is {without_password(url)!r}, expected redis://HOST:PORT/DB, rediss:// or unix://PATH, "
            "redis+sentinel://HOST:PORT,HOST:PORT/SERVICE or redis+cluster://HOST:PORT,HOST:PORT, and after a ? "
            "options of redis-py; special characters in a password are written %XX"
        ) from None


def _to_master(addresses: list[tuple[str, int]], service: str, options: dict[str, Any], retry: Retry) -> Connect:
    if not service:
        raise ValueError("no service")
    theirs = {name: options.pop(f"sentinel_{name}", None) for name in ("username", "password")}
    options = _by_tls(options)
    kind = _TlsMasterConnection if options["ssl"] else _MasterConnection
    theirs |= {name: value for name, value in options.items() if name.startswith(("socket_", "ssl"))}
    sentinels = Sentinel(addresses, sentinel_kwargs={**theirs, "retry": Retry(NoBackoff(), 0)})
    client: redis.Redis = sentinels.master_for(service, **options, retry=retry, connection_class=kind)
    return lambda: client


def _to_cluster(addresses: list[tuple[str, int]], options: dict[str, Any], retry: Retry) -> Connect:
    if options.pop("db"):
        raise ValueError("a cluster has one database")
    options = _by_tls(options)

    def connect() -> redis.Redis:
        nodes = [ClusterNode(host, port) for host, port in addresses]
        # Typed as a server's: to a command with one key it answers as one.
        return cast(redis.Redis, RedisCluster(startup_nodes=nodes, retry=retry, **options))

    return connect


def _by_tls(options: dict[str, Any]) -> dict[str, Any]:
    """The options as clients of several servers take them."""
    _refuse_unknown_options(redis.ConnectionPool(**options))
    left = {name: value for name, value in options.items() if name not in ("host", "connection_class")}
    return {**left, "ssl": options.get("connection_class") is SSLConnection}


def _refuse_unknown_options(pool: redis.ConnectionPool) -> None:
    pool.connection_class(**pool.connection_kwargs)


def _address(place: str, port: int) -> tuple[str, int]:
    parts = urlsplit(f"redis://{place}")
    if not parts.hostname:
        raise ValueError("no host")
    return parts.hostname, parts.port or port
