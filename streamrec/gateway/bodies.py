"""Reads the body of a request within bounds of size and time; gzip is undone within the same bounds."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from litestar import Request

from streamrec.gateway.access import Rejected

BODY_LIMIT_S = 10.0
"""A client that has not sent its body by then is hung up on."""
_GZIP = 16 + zlib.MAX_WBITS


class BodyReader:
    """Reads bodies. `max_bytes` is of one, packed or not; those in hand together have 16 times as many."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._room = 16 * max_bytes

    @asynccontextmanager
    async def read(self, request: Request[Any, Any, Any]) -> AsyncIterator[bytes]:
        """The body, unpacked; it counts as in hand for as long as the context lasts.

        Raises:
            Rejected: 413 too large, 415 packed another way, 408 too slow, 400 broken, 503 too many at once.
        """
        packing = request.headers.get("content-encoding", "identity").strip().lower()
        if packing not in ("identity", "gzip"):
            raise Rejected(415, "content_encoding", "the content-encoding is unknown, expected gzip or none")
        length = request.headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self._max_bytes:
            raise self._too_large()
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_LIMIT_S):
                await self._fill(body, request, zlib.decompressobj(_GZIP) if packing == "gzip" else None)
        except TimeoutError:
            raise Rejected(408, "slow", f"the body was not there within {BODY_LIMIT_S:.0f} s") from None
        except zlib.error:
            raise Rejected(400, "malformed", "the body is not gzip, as its content-encoding says") from None
        else:
            yield bytes(body)
        finally:
            self._room += len(body)

    async def _fill(self, body: bytearray, request: Request[Any, Any, Any], unpacking: Any) -> None:
        async for packed in request.stream():
            left = self._max_bytes + 1 - len(body)
            chunk = packed[:left] if unpacking is None else unpacking.decompress(packed, left)
            self._room -= len(chunk)
            body += chunk
            if len(body) > self._max_bytes:
                raise self._too_large()
            if self._room < 0:
                raise Rejected(503, "busy", "too many bodies are in hand; send it again", 1.0)
        if unpacking is not None and (not unpacking.eof or unpacking.unused_data):
            raise zlib.error

    def _too_large(self) -> Rejected:
        return Rejected(413, "too_large", f"the body has more than {self._max_bytes} bytes; send less at once")
