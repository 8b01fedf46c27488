"""How Redis is reached: connections whose every command ends, errors in our words, and scripts.

Knows nothing of what is stored.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from urllib.parse import urlsplit

import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from streamrec.errors import ConfigError, StateError, StateUnavailable

_SHOWABLE = re.compile(r"(\w+://)([^/?#@]*@)?((?:\[[\da-fA-F:.]+\]|[\w.-]+)?(?::\d+)?(?:/[^?#@]*)?)(\?[^@]*)?")

# What a server says that has no memory or no disk left, is starting or is changing its role: none of it need last.
_PASSING = re.compile(
    r"OOM|when used memory >|MISCONF|LOADING|BUSY|READONLY|MASTERDOWN|NOREPLICAS|CLUSTERDOWN|TRYAGAIN"
)


def without_password(url: str) -> str:
    """`url` fit for people: credentials and options hidden, and all of it where it cannot be told where they end."""
    showable = _SHOWABLE.fullmatch(url)
    if showable is None:
        return f"{url.partition('://')[0]}://***" if "://" in url else "***"
    scheme, credentials, address, options = showable.groups()
    return f"{scheme}{'***@' if credentials else ''}{address}{'?***' if options else ''}"


def connected(url: str, timeout_s: float) -> redis.Redis:
    """A client whose every command ends: in an answer, or in an error after `timeout_s` without one."""
    try:
        urlsplit(url).port  # noqa: B018  raises on a port that is no number
        client = redis.Redis.from_url(
            url,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            # A broken connection is tried anew once; an answer that did not come in time is not waited for twice.
            retry=Retry(ConstantBackoff(0.1), 1, supported_errors=(redis.ConnectionError,)),
        )
        client.connection_pool.connection_class(**client.connection_pool.connection_kwargs)  # knows all options
        return client
    except (TypeError, ValueError, redis.RedisError):
        # Its message may quote half a password: not chained.
        raise ConfigError(
            f"redis url is {without_password(url)!r}, expected redis://HOST:PORT/DB, rediss:// or unix://PATH, "
            "and after a ? options of redis-py; special characters in a password are written %XX"
        ) from None


def script(name: str) -> str:
    """The text of one of the Lua files here."""
    return resources.files("streamrec.state").joinpath(name).read_text("utf-8")


@contextmanager
def named_errors(where: str, timeout_s: float, doing: str) -> Iterator[None]:
    """Redis's errors as ours, with the server's name and what to do about it; those that pass as StateUnavailable."""
    try:
        yield
    except redis.TimeoutError as error:
        raise StateUnavailable(
            f"Redis at {where} did not answer within {timeout_s:g} s while {doing}; it may be "
            "overloaded or unreachable: check it, or raise `redis.timeout_s`"
        ) from error
    except (redis.AuthenticationError, redis.exceptions.AuthorizationError) as error:  # connection errors by descent
        raise StateError(f"Redis at {where} refused {doing}: {error}; check user and password") from error
    except redis.ConnectionError as error:
        raise StateUnavailable(
            f"no connection to Redis at {where} while {doing}, after two tries: {error}; "
            "check that it runs and that the URL is right"
        ) from error
    except redis.RedisError as error:
        kind = StateUnavailable if _PASSING.search(str(error)) else StateError
        raise kind(f"Redis at {where} refused {doing}: {error}") from error
