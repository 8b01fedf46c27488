"""Serves the application over HTTP, until it is told to stop; what is under way is finished first."""

from __future__ import annotations

import signal
from asyncio import TimerHandle, Transport
from typing import Any

import uvicorn
from litestar.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from streamrec.config.groups import GatewaySettings
from streamrec.errors import ConfigError

HEAD_LIMIT_S = 10.0
"""A connection on which no request begins for so long is closed."""
DRAIN_S = 15
MOST_CONNECTIONS = 2_000
STREAM = "/window/live"


class PatientProtocol(H11Protocol):
    """HTTP/1.1 with an end to patience: uvicorn's own waits for ever for the head of a first request."""

    _watch: TimerHandle | None = None
    _seen: object = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Begin to watch."""
        super().connection_made(transport)
        self._watch = self.loop.call_later(HEAD_LIMIT_S, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """Watch no more."""
        if self._watch is not None:
            self._watch.cancel()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Finish what is under way, but for a stream of figures, which would go on."""
        super().shutdown()
        if self.cycle is not None and self.cycle.scope["path"] == STREAM:
            self.transport.close()

    def _look(self) -> None:
        idle = self.cycle is None or self.cycle.response_complete
        if idle and self.cycle is self._seen:
            self.transport.close()
            return
        self._seen = self.cycle
        self._watch = self.loop.call_later(HEAD_LIMIT_S, self._look)


def serve(app: ASGIApp, settings: GatewaySettings) -> None:
    """Serve until SIGINT or SIGTERM; then take no more, finish what is under way and return.

    Raises:
        ConfigError: the address cannot be had, or a certificate not read.
    """
    options: dict[str, Any] = {"ssl_certfile": settings.tls_cert, "ssl_keyfile": settings.tls_key}
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=PatientProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_graceful_shutdown=DRAIN_S,
        **options,
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)  # uvicorn has its own meanwhile, and raises them once more at its end
    server = uvicorn.Server(config)
    try:
        server.run()
    except OSError as error:  # of the certificate
        raise ConfigError(f"gateway.tls_cert and gateway.tls_key cannot be used: {error}") from error
    except SystemExit:
        raise ConfigError(f"gateway.port is {settings.port} on {settings.host}, which cannot be had") from None
