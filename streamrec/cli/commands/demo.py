"""Hands over to the demonstration."""

from __future__ import annotations

import os
import sys
from typing import NoReturn


def run(arguments: list[str]) -> NoReturn:
    """Become `python -m streamrec.demo`: the same process, so that Ctrl-C reaches it and it ends its own children."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "streamrec.demo", *arguments])
