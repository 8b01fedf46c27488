"""Saves that are killed in the middle: `python -m tests.support.dying_save`.

Reads lines with a URL and a number, and forks for each: the child saves a snapshot there, and kills itself with SIGKILL
right before that call to the disk or to object storage. Says how each child ended: -9, or 0 with fewer calls.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np

from streamrec.state import tensors
from streamrec.state.snapshots import SnapshotDirectory

PIECES, PIECE_BYTES = 3, 64 * 1024
"""Written one by one, so that a save is killed between them."""


class Fuse:
    """Kills the process before so many calls."""

    def __init__(self, left: int) -> None:
        self.left = left

    def around(self, real: Any) -> Any:
        def call(*given: Any, **options: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*given, **options)

        return call


class Fused:
    """An object whose calls burn a fuse; so do those of the file that it opens to write."""

    def __init__(self, real: Any, fuse: Fuse) -> None:
        self._real, self._fuse = real, fuse

    def __getattr__(self, name: str) -> Any:
        return self._fuse.around(getattr(self._real, name))

    def open_output_stream(self, *given: Any, **options: Any) -> Any:
        return Fused(self._fuse.around(self._real.open_output_stream)(*given, **options), self._fuse)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *error: Any) -> Any:
        return self._fuse.around(self._real.__exit__)(*error)


def arrays(n: int) -> dict[str, dict[str, Any]]:
    return {"model": {"n": np.array(n), "large": np.full(PIECES * PIECE_BYTES // 8, n, np.float64)}}


def die_at(url: str, calls: int) -> None:
    tensors._PIECE_BYTES = PIECE_BYTES
    shelf: Any = SnapshotDirectory(url, keep=1)
    fuse = Fuse(calls)
    shelf._storage._files = Fused(shelf._storage._files, fuse)
    for owner, name in ((os, "fsync"), (Path, "rename"), (Path, "mkdir")):
        setattr(owner, name, fuse.around(getattr(owner, name)))
    shelf.save(arrays(2), {0: 2}, "v1", now_ms=2)


def main() -> None:
    for line in sys.stdin:
        url, calls = line.split()
        child = os.fork()
        if child == 0:
            die_at(url, int(calls))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
