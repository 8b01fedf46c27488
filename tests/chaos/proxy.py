"""A TCP proxy on loopback that makes what is behind it slow, or cuts it off.

Bytes are held back, not lost: each chunk is passed on `delay_s` after it came, in order, whatever came in between.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

CHUNK_BYTES = 65_536


class Proxy:
    """Listens on a free port while inside its `with` block and passes everything on to `port`, both ways."""

    def __init__(self, port: int, delay_s: float = 0.0) -> None:
        self.delay_s = delay_s
        """Of each chunk and each way; may be changed at any time."""
        self.port = 0
        self._behind = port
        self._loop = asyncio.new_event_loop()
        self._ways: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    @property
    def url(self) -> str:
        """Redis, seen through it."""
        return f"redis://127.0.0.1:{self.port}/0"

    def cut(self) -> None:
        """Break every connection there is now; new ones are taken."""
        self._loop.call_soon_threadsafe(self._abort)

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._run(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def _abort(self) -> None:
        for way in self._ways:
            way.transport.abort()

    async def _end(self) -> None:
        self._server.close()
        self._abort()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._behind)
        except OSError:
            writer.transport.abort()
            return
        both = {writer, back}
        self._ways |= both
        await asyncio.gather(self._pass_on(reader, back), self._pass_on(there, writer))
        self._ways -= both

    async def _pass_on(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        """Each chunk when its time has come; a queue, so that delays do not add up."""
        held: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def deliver() -> None:
            while True:
                due, chunk = await held.get()
                await asyncio.sleep(max(0.0, due - self._loop.time()))
                if not chunk:
                    return
                target.write(chunk)
                await target.drain()

        delivery = asyncio.ensure_future(deliver())
        with suppress(OSError):
            while chunk := await source.read(CHUNK_BYTES):
                held.put_nowait((self._loop.time() + self.delay_s, chunk))
        held.put_nowait((self._loop.time() + self.delay_s, b""))
        with suppress(OSError):
            await delivery
        target.close()
