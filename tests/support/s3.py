"""An S3 server of the tests' own, on a free port of this machine."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test-key",
    "AWS_SECRET_ACCESS_KEY": "test-secret",
    "AWS_EC2_METADATA_DISABLED": "true",  # asks nobody else
}
BUCKET = "models"


class S3Server:
    """A running server with one bucket."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.request("PUT", f"/{BUCKET}")

    def url(self, directory: str | None = None, bucket: str = BUCKET) -> str:
        """A directory as `snapshots.url` names it; one that nothing else uses if none is named."""
        return self.elsewhere(self.address, directory, bucket)

    @staticmethod
    def elsewhere(address: str, directory: str | None = None, bucket: str = BUCKET) -> str:
        place = directory or f"t-{uuid.uuid4().hex[:10]}"
        return f"s3://{bucket}/{place}?region=us-east-1&scheme=http&endpoint_override={address}"

    @contextmanager
    def suspicious(self) -> Iterator[None]:
        """Nobody's credentials are accepted."""
        self.request("POST", "/moto-api/reset-auth", b"0")
        try:
            yield
        finally:
            self.request("POST", "/moto-api/reset-auth", b"inf")

    def request(self, method: str, path: str, body: bytes = b"") -> bytes:
        connection = HTTPConnection(self.address, timeout=30)
        try:
            connection.request(method, path, body, {"Content-Type": "text/plain"})
            return connection.getresponse().read()
        finally:
            connection.close()


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """Start one, with credentials for it in the environment; end it with the block."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    before = {name: os.environ.get(name) for name in CREDENTIALS}
    os.environ.update(CREDENTIALS)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield S3Server(f"{host}:{port}")
    finally:
        server.stop()
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
