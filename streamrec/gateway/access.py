"""Who may do what: keys by the hash of what is sent, their roles, and how often.

A key is known here by its SHA-256 alone, and is compared in constant time. Nothing of a key is ever logged.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from streamrec.config.groups import GatewaySettings
from streamrec.errors import ConfigError

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class Role(StrEnum):
    """What a key is for; `admin` is for everything."""

    WRITE = "write"
    """Events and feedback."""
    ASK = "ask"
    """Slates, items."""
    ADMIN = "admin"
    """Users, the catalogue, metrics, and all else."""


class Rejected(Exception):
    """A request that is not let in, with its HTTP status."""

    def __init__(self, status: int, reason: str, detail: str, retry_s: float | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.reason = reason
        self.detail = detail
        self.retry_s = retry_s


@dataclass(slots=True)
class TokenBucket:
    """At most `per_s` requests a second in the long run, and a second's worth at once."""

    per_s: float
    clock: Callable[[], float] = time.monotonic
    _left: float = field(init=False)
    _at: float = field(init=False)

    def __post_init__(self) -> None:
        self._left, self._at = max(1.0, self.per_s), self.clock()

    def take(self) -> float:
        """Take one; 0, or how many seconds it takes until there is one."""
        now = self.clock()
        self._left = min(max(1.0, self.per_s), self._left + (now - self._at) * self.per_s)
        self._at = now
        if self._left < 1.0:
            return (1.0 - self._left) / self.per_s
        self._left -= 1.0
        return 0.0


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is known of a key."""

    digest: bytes
    roles: frozenset[Role]
    bucket: TokenBucket | None

    @classmethod
    def read(cls, line: str) -> ApiKey:
        """`SHA256 ROLE[+ROLE...] [PER_S]`, as in the settings.

        Raises:
            ValueError: it is something else.
        """
        digest, roles, *pace = line.split()
        rate = float(pace[0]) if pace else None
        if len(pace) > 1 or len(digest) != 64 or (rate is not None and not 0 < rate < float("inf")):
            raise ValueError(line)
        return cls(
            bytes.fromhex(digest),
            frozenset(Role(role) for role in roles.split("+")),
            None if rate is None else TokenBucket(rate),
        )


class Access:
    """The keys there are; without any, everybody may do everything."""

    def __init__(self, keys: Sequence[ApiKey], origins: Collection[str] = (), *, anywhere: bool = False) -> None:
        """`origins` are those whose pages may ask; `anywhere`: without keys, any name may stand for this machine."""
        self._keys = tuple(keys)
        self._origins = frozenset(origins)
        self._anywhere = anywhere or bool(keys)

    @classmethod
    def of(cls, settings: GatewaySettings) -> Access:
        """By the settings.

        Raises:
            ConfigError: a key cannot be read, or others than this machine could come in without one.
        """
        lines = [*settings.keys]
        if settings.keys_file is not None:
            try:
                text = settings.keys_file.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(f"gateway.keys_file {settings.keys_file} cannot be read: {error}") from None
            lines += [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
        keys = []
        for number, line in enumerate(lines, 1):
            try:
                keys.append(ApiKey.read(line))
            except ValueError:  # the line itself is not shown: somebody may have put the key there
                raise ConfigError(
                    f"key {number} of gateway.keys and gateway.keys_file cannot be read, expected "
                    "'SHA256 ROLE[+ROLE] [PER_S]' with the key's SHA-256 in hexadecimal and roles of write, ask, admin"
                ) from None
        if not keys and settings.host not in LOOPBACK and not settings.allow_anonymous:
            raise ConfigError(
                f"gateway.host is {settings.host} and there are no keys: whoever reaches it could read users and write "
                "events; set gateway.keys, or gateway.allow_anonymous where something before it checks who comes"
            )
        return cls(keys, settings.cors_origins, anywhere=settings.allow_anonymous)

    def check_page(self, origin: str | None, host: str) -> None:
        """Refuse what a browser sends for a page of others, which reaches this machine's own addresses too.

        A page says where it is from when it sends; one whose name leads here (DNS rebinding) uses that name.

        Raises:
            Rejected: 403 a page of another origin, or a name that is not this machine's.
        """
        own = origin is not None and origin.partition("://")[2] == host
        if origin is not None and not own and not {origin, "*"} & self._origins:
            raise Rejected(403, "origin", "pages of this origin may not ask; gateway.cors_origins names those that may")
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
        if not self._anywhere and name.strip("[]") not in LOOPBACK:
            raise Rejected(403, "host", "without keys, only requests to localhost or 127.0.0.1 are answered")

    def check(self, given: str | None, authorization: str | None, role: Role) -> None:
        """Let somebody in who brings a key (`X-API-Key`, or `Authorization: Bearer`) for what is asked.

        Raises:
            Rejected: 401 no key, or an unknown one; 403 one for something else; 429 too often.
        """
        if not self._keys:
            return
        scheme, _, bearer = (authorization or "").partition(" ")
        sent = given if given is not None else bearer.strip() if scheme.lower() == "bearer" else ""
        key = self._find(sent)
        if key is None:
            raise Rejected(401, "unauthorized", "a key is needed: X-API-Key: KEY, or Authorization: Bearer KEY")
        if role not in key.roles and Role.ADMIN not in key.roles:
            raise Rejected(403, "forbidden", f"this key is for {'+'.join(sorted(key.roles))}, not for {role}")
        wait_s = 0.0 if key.bucket is None else key.bucket.take()
        if wait_s:
            raise Rejected(429, "too_many_requests", "this key is used too often", wait_s)

    def _find(self, sent: str) -> ApiKey | None:
        digest = hashlib.sha256(sent.encode("utf-8", "surrogateescape")).digest()
        found = None
        for key in self._keys:  # all of them, however soon one fits
            if hmac.compare_digest(digest, key.digest):
                found = key
        return found


def basic_password(authorization: str | None) -> str | None:
    """The password that a browser asked for, under any name; None where it sends none."""
    scheme, _, packed = (authorization or "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        return binascii.a2b_base64(packed).decode("utf-8", "surrogateescape").partition(":")[2]
    except binascii.Error:
        return None
