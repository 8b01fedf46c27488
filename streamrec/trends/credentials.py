"""The `[kafka]` table in Faust's words: what librdkafka's names for TLS and SASL mean to aiokafka."""

from __future__ import annotations

import ssl
from collections.abc import Mapping

import faust
from faust.auth import Credentials

from streamrec.errors import ConfigError

UNDERSTOOD = frozenset(
    {
        "sasl.mechanism",
        "sasl.mechanisms",
        "sasl.password",
        "sasl.username",
        "ssl.ca.location",
        "ssl.certificate.location",
        "ssl.key.location",
        "ssl.key.password",
    }
)
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")

Settings = Mapping[str, str | int | float | bool]


def credentials(kafka: Settings) -> Credentials | None:
    """What Faust is to show the brokers; None where they ask for nothing.

    Raises:
        ConfigError: the settings ask for something that is not understood here; leaving it out would be unsafe.
    """
    protocol = str(kafka.get("security.protocol", "plaintext")).lower()
    foreign = sorted(name for name in kafka if name.startswith(("sasl.", "ssl.")) and name not in UNDERSTOOD)
    if foreign:
        raise ConfigError(f"kafka.{foreign[0]!r} is not understood by trends, expected {', '.join(sorted(UNDERSTOOD))}")
    if protocol == "plaintext":
        return None
    if protocol == "ssl":
        return faust.SSLCredentials(_context(kafka))
    if protocol not in ("sasl_plaintext", "sasl_ssl"):
        raise ConfigError(
            f"kafka.'security.protocol' is {protocol!r}, expected plaintext, ssl, sasl_plaintext, sasl_ssl"
        )
    mechanism = str(kafka.get("sasl.mechanisms", kafka.get("sasl.mechanism", "GSSAPI")))
    if mechanism not in MECHANISMS:
        raise ConfigError(f"kafka.'sasl.mechanisms' is {mechanism!r}; trends expects one of {', '.join(MECHANISMS)}")
    return faust.SASLCredentials(
        username=str(kafka.get("sasl.username", "")),
        password=str(kafka.get("sasl.password", "")),
        ssl_context=_context(kafka) if protocol == "sasl_ssl" else None,
        mechanism=mechanism,
    )


def _context(kafka: Settings) -> ssl.SSLContext:
    def place(name: str) -> str | None:
        return str(kafka[name]) if name in kafka else None

    try:
        context = ssl.create_default_context(cafile=place("ssl.ca.location"))
        certificate = place("ssl.certificate.location")
        if certificate is not None:
            context.load_cert_chain(certificate, place("ssl.key.location"), place("ssl.key.password"))
    except OSError as error:
        raise ConfigError(f"the certificates named in [kafka] cannot be used: {error}") from error
    return context
