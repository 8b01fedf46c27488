"""What the arithmetic runs on: which device, and how many threads."""

from __future__ import annotations

import sys

from streamrec.errors import ConfigError

STEADY_THREADS = 1
"""Arithmetic threads: results must not depend on how a sum was split, and the small products here gain nothing."""


def torch_device(wanted: str) -> str:
    """The torch device: `auto` is the GPU when there is one.

    Raises:
        ConfigError: a GPU was asked for and there is none.
    """
    import torch

    there = torch.cuda.is_available()
    if wanted == "cuda" and not there:
        raise ConfigError("learning.device is 'cuda', but torch sees no GPU; use 'auto' or 'cpu'")
    return "cuda" if wanted != "cpu" and there else "cpu"


def steady_arithmetic() -> None:
    """One thread per product in every library loaded by now: the same sums in the same order, and none waits."""
    import threadpoolctl

    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(STEADY_THREADS)
    threadpoolctl.threadpool_limits(STEADY_THREADS)
