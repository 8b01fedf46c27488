"""How much work a call is, whatever else the machine does meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable

TRIES = 3


def least_cpu_s(call: Callable[[], object]) -> float:
    """Processor seconds of this thread for one call, the least of three: the first may compile or load something."""
    took = []
    for _ in range(TRIES):
        began = time.thread_time()
        call()
        took.append(time.thread_time() - began)
    return min(took)
