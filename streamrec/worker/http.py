"""What a worker answers over HTTP: `/metrics` for Prometheus, `/livez` and `/readyz` for whoever keeps it running.

    /livez    200 while the loop comes round and no partition stands still, else 503 and for how long it is otherwise
    /readyz   200 when nothing is missing, else 503 and one line for each thing that is; how old the models are

Answers from threads of its own, so that a loop that hangs cannot hide it. Read-only; knows nothing of the worker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from threading import Thread
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

from streamrec.errors import ConfigError
from streamrec.worker.health import Health

REQUEST_LIMIT_S = 5.0
"""A client that says nothing for so long is hung up on."""

Start = Callable[[str, list[tuple[str, str]]], Any]


def serve(registry: CollectorRegistry, health: Health, port: int, host: str) -> WSGIServer:
    """Answer on `host:port` until `shutdown` is called; port 0 takes a free one.

    Raises:
        ConfigError: the port cannot be had.
    """
    try:
        server = make_server(host, port, application(registry, health), _Server, _Handler)
    except OSError as error:
        raise ConfigError(f"metrics_port is {port} on {host}, which cannot be had: {error.strerror}") from error
    Thread(target=server.serve_forever, name="streamrec-http", daemon=True).start()
    return server


def application(registry: CollectorRegistry, health: Health) -> Callable[[dict[str, Any], Start], Iterable[bytes]]:
    """The WSGI application."""
    metrics = make_wsgi_app(registry)

    def answer(environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        match environ.get("PATH_INFO"):
            case "/metrics":
                return [*metrics(environ, start)]
            case "/livez":
                why = health.stuck()
                return _plain(start, "200 OK" if why is None else _UNWELL, [why or "alive"])
            case "/readyz":
                missing = health.missing()
                lines = [f"{need}: {why}" for need, why in missing.items()]
                notes = [f"{need}: {said}" for need, said in health.notes().items()]
                return _plain(start, _UNWELL if missing else "200 OK", [*(lines or ["ready"]), *notes])
        return _plain(start, "404 Not Found", ["/metrics, /livez and /readyz are answered here"])

    return answer


_UNWELL = "503 Service Unavailable"


def _plain(start: Start, status: str, lines: Iterable[str]) -> list[bytes]:
    body = "".join(f"{line}\n" for line in lines).encode()
    start(status, [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))])
    return [body]


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Handler(WSGIRequestHandler):
    timeout = REQUEST_LIMIT_S

    def log_message(self, format: str, *args: Any) -> None:
        """Probes come every few seconds: not worth a line each."""
