"""Runs a worker until it is told to stop."""

from __future__ import annotations

import signal
from types import FrameType

from rich.console import Console

from streamrec.config.settings import Settings
from streamrec.wiring import connect_worker


def run(settings: Settings) -> None:
    """Work until Ctrl-C or SIGTERM; then finish the batch, save a checkpoint and return.

    Raises:
        StreamrecError: the worker stopped because it could not go on; nothing past its last checkpoint is committed.
    """
    console = Console(stderr=True)
    worker = connect_worker(settings)

    def stop(number: int, frame: FrameType | None) -> None:
        # A second Ctrl-C does not wait for the checkpoint.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        worker.stop()

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    console.print(
        f"reading {settings.topics.events} from {settings.kafka['bootstrap.servers']} "
        f"as group {settings.group_id}; Ctrl-C saves a checkpoint and stops",
        highlight=False,
    )
    worker.run()
    console.print("stopped, checkpoint saved")
