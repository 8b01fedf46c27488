"""What of a setting may be shown: only what is known to hold no secret.

Names that are not listed here, new ones and misspelt ones too, count as secret. What was hidden once is also taken out
of whatever the process says later: libraries quote what they were given.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

HIDDEN = "********"
LEAST_LETTERS = 6
"""A shorter secret is not looked for in text: it may be a part of any word."""
MOST_NOTED = 1_000

# librdkafka's CONFIGURATION.md: numbers, switches and choices, and the texts that are addresses, names or paths.
_KAFKA_NAMES = """
acks allow.auto.create.topics api.version.fallback.ms api.version.request api.version.request.timeout.ms
auto.commit.enable auto.commit.interval.ms auto.offset.reset batch.num.messages batch.size broker.address.family
broker.address.ttl broker.version.fallback builtin.features check.crcs client.dns.lookup client.id client.rack
compression.codec compression.level compression.type connections.max.idle.ms consume.callback.max.messages
coordinator.query.interval.ms debug delivery.report.only.error delivery.timeout.ms enable.auto.commit
enable.auto.offset.store enable.gapless.guarantee enable.idempotence enable.metrics.push enable.partition.eof
enable.random.seed enable.sasl.oauthbearer.unsecure.jwt enable.ssl.certificate.verification enabled_events
fetch.error.backoff.ms fetch.max.bytes fetch.message.max.bytes fetch.min.bytes fetch.queue.backoff.ms
fetch.wait.max.ms group.id group.instance.id group.protocol group.protocol.type group.remote.assignor
heartbeat.interval.ms https.ca.location internal.termination.signal isolation.level linger.ms log.connection.close
log.queue log.thread.name log_level max.in.flight max.in.flight.requests.per.connection max.partition.fetch.bytes
max.poll.interval.ms max.poll.records message.copy.max.bytes message.max.bytes message.send.max.retries
message.timeout.ms metadata.max.age.ms metadata.recovery.rebootstrap.trigger.ms metadata.recovery.strategy
offset.store.method offset.store.path offset.store.sync.interval.ms partition.assignment.strategy partitioner
plugin.library.paths produce.offset.report queue.buffering.backpressure.threshold queue.buffering.max.kbytes
queue.buffering.max.messages queue.buffering.max.ms queued.max.messages.kbytes queued.min.messages queuing.strategy
receive.message.max.bytes reconnect.backoff.jitter.ms reconnect.backoff.max.ms reconnect.backoff.ms
request.required.acks request.timeout.ms retries retry.backoff.max.ms retry.backoff.ms sasl.kerberos.keytab
sasl.kerberos.min.time.before.relogin sasl.kerberos.principal sasl.kerberos.service.name sasl.mechanism
sasl.mechanisms sasl.oauthbearer.assertion.algorithm sasl.oauthbearer.assertion.file
sasl.oauthbearer.assertion.private.key.file sasl.oauthbearer.grant.type sasl.oauthbearer.method sasl.username
security.protocol session.timeout.ms socket.blocking.max.ms socket.connection.setup.timeout.ms socket.keepalive.enable
socket.max.fails socket.nagle.disable socket.receive.buffer.bytes socket.send.buffer.bytes socket.timeout.ms
ssl.ca.certificate.stores ssl.ca.location ssl.certificate.location ssl.cipher.suites ssl.crl.location ssl.curves.list
ssl.endpoint.identification.algorithm ssl.engine.id ssl.engine.location ssl.key.location ssl.keystore.location
ssl.providers ssl.sigalgs.list statistics.interval.ms sticky.partitioning.linger.ms topic.blacklist
topic.metadata.propagation.max.ms topic.metadata.refresh.fast.cnt topic.metadata.refresh.fast.interval.ms
topic.metadata.refresh.interval.ms topic.metadata.refresh.sparse transaction.timeout.ms transactional.id
"""
SHOWN_KAFKA = frozenset(_KAFKA_NAMES.split())
ADDRESSES = frozenset({"bootstrap.servers", "metadata.broker.list"})
URLS = frozenset({"https.proxy", "sasl.oauthbearer.token.endpoint.url"})
_QUERY_NAMES = """
client_name db decode_responses health_check_interval max_connections protocol retry_on_timeout socket_connect_timeout
socket_keepalive socket_timeout ssl_ca_certs ssl_cert_reqs ssl_certfile ssl_check_hostname ssl_keyfile timeout
"""
SHOWN_QUERY = frozenset(_QUERY_NAMES.split())
"""Of a URL: redis-py's options that are no secrets."""
HIDDEN_QUERY = frozenset(
    {"password", "sentinel_password", "sentinel_username", "ssl_keyfile_password", "ssl_password", "username"}
)
"""Those whose name may be shown, and their value may not."""

_HOST = r"(?:\[[\da-fA-F:.]+\]|[\w.-]*)(?::\d+)?"
_PLACE = re.compile(rf"{_HOST}(?:,{_HOST})*(?:/[^?#@]*)?")
_SERVER = re.compile(r"\s*(?:[A-Za-z_]+://)?(?:\[[\da-fA-F:.]+\]|[\w.-]+)(?::\d+)?\s*")
_secrets: dict[str, None] = {}


def shown_kafka(name: str, value: Any) -> Any:
    """The value of a setting for librdkafka as far as it may be shown."""
    if name in ADDRESSES:
        return value if all(_SERVER.fullmatch(server) for server in str(value).split(",")) else HIDDEN
    if name in URLS:
        return shown_url(value) if isinstance(value, str) else HIDDEN
    return value if name in SHOWN_KAFKA else HIDDEN


def shown_url(url: str) -> str:
    """A URL without what may be secret in it: all of it where it cannot be told where that ends."""
    scheme, marks, rest = url.partition("://")
    account, at, place = rest.rpartition("@")
    place, mark, query = place.partition("?")
    if not marks or not scheme.replace("+", "").isalnum() or not _PLACE.fullmatch(place) or re.search(r"[?#]", account):
        return HIDDEN
    user, colon, _ = account.partition(":")
    if not colon or not re.fullmatch(r"[\w.%+-]*", user):  # a token stands where else the user does
        user, colon = "", ""
    shown = "&".join(_shown_option(option) for option in query.split("&"))
    return "".join((scheme, "://", user, colon, at and HIDDEN, at, place, mark, shown if mark else ""))


def _shown_option(option: str) -> str:
    name, equals, value = option.partition("=")
    if equals and name in SHOWN_QUERY and re.fullmatch(r"[\w./-]*", value):
        return option
    return f"{name}={HIDDEN}" if equals and name in HIDDEN_QUERY else HIDDEN


def note_secrets(kafka: Mapping[str, object], *others: str) -> None:
    """Remember what of these settings is hidden, and other secrets or URLs, for `without_secrets`."""
    for name, value in kafka.items():
        shown = shown_kafka(name, value)
        if shown != value:
            _secrets.update(dict.fromkeys(_pieces(str(value), str(shown), whole=name not in URLS)))
    for other in others:
        _secrets.update(dict.fromkeys(_pieces(other, shown_url(other), whole="://" not in other)))
    for oldest in list(_secrets)[:-MOST_NOTED]:
        del _secrets[oldest]


def without_secrets(text: str) -> str:
    """Text with every secret that was noted replaced."""
    for secret in sorted(_secrets, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text


def _pieces(value: str, shown: str, *, whole: bool) -> Iterator[str]:
    """What to look for: the lines of a secret, and the parts of a URL that are not shown."""
    pieces = value.splitlines() if whole else re.split(r"[:/@?&=#,\s]+", value)
    yield from (piece for piece in map(str.strip, pieces) if len(piece) >= LEAST_LETTERS and piece not in shown)
