"""Runs a gateway until it is told to stop."""

from __future__ import annotations

from streamrec.config.log_lines import get_logger
from streamrec.config.settings import Settings
from streamrec.gateway.server import serve
from streamrec.wiring.gateway import build_gateway

LOG = get_logger("streamrec.gateway")


def run(settings: Settings) -> None:
    """Answer over HTTP until Ctrl-C or SIGTERM; then finish what is under way.

    Raises:
        ConfigError: a setting does not fit, or the address cannot be had.
    """
    given = settings.gateway
    app = build_gateway(settings)
    scheme = "http" if given.tls_cert is None else "https"
    LOG.info(
        "answering", docs=f"{scheme}://{given.host}:{given.port}/docs", brokers=settings.kafka["bootstrap.servers"]
    )
    serve(app, given)
    LOG.info("stopped")
