"""Imported once by the process that workers are forked from: loads every module and compiled loop a worker needs."""

from __future__ import annotations

from streamrec.config.settings import Settings
from streamrec.testing import records, shop
from streamrec.wiring import build_rehearsal
from tests.chaos import faulty_worker
from tests.chaos.scene import GROUPS

__all__ = ["faulty_worker"]

_settings = Settings.model_validate(GROUPS)
build_rehearsal(_settings, lambda: iter(records("user-events", shop(300))), lambda batch_result: None).run()
