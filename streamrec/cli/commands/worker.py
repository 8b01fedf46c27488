"""Runs a worker until it is told to stop."""

from __future__ import annotations

import signal
from types import FrameType

from streamrec.config.log_lines import get_logger
from streamrec.config.settings import Settings
from streamrec.wiring import compile_ahead, connect_worker

LOG = get_logger("streamrec.worker")


def run(settings: Settings) -> None:
    """Work until Ctrl-C or SIGTERM; then finish the batch, save a checkpoint and return.

    Raises:
        StreamrecError: the worker stopped because it could not go on; nothing past its last checkpoint is committed.
    """
    from streamrec import Recommender  # slow to load

    compile_ahead(settings, Recommender.of)  # before it takes partitions, for which others may be waiting
    worker = connect_worker(settings)

    def stop(number: int, frame: FrameType | None) -> None:
        # A second Ctrl-C does not wait for the checkpoint.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        worker.stop()

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    LOG.info(
        "reading events; Ctrl-C saves a checkpoint and stops",
        topic=settings.topics.events,
        brokers=settings.kafka["bootstrap.servers"],
        group=settings.group_id,
    )
    worker.run()
    LOG.info("stopped, checkpoint saved")
