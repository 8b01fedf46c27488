"""Runs a worker until it is told to stop."""

from __future__ import annotations

import signal
from types import FrameType

from streamrec.cli.commands.learner import LearnerBeside, in_a_copy
from streamrec.config.log_lines import get_logger
from streamrec.config.settings import Settings
from streamrec.wiring import compile_ahead, connect_worker

LOG = get_logger("streamrec.worker")


def run(settings: Settings) -> None:
    """Work until Ctrl-C or SIGTERM; then finish the batch, save a checkpoint and return.

    Raises:
        StreamrecError: the worker stopped because it could not go on; nothing past its last checkpoint is committed.
    """
    # Both before this process has threads, which a copy of it would lack. What is compiled is on disk then, and a
    # worker that does not learn need not load what learns.
    if settings.learner.where == "within":
        _compile(settings)
    else:
        in_a_copy(lambda: _compile(settings))
    learner = LearnerBeside(settings) if settings.learner.where == "beside" else None
    try:
        _work(settings)
    finally:
        if learner is not None:
            learner.stop()


def _compile(settings: Settings) -> None:
    from streamrec import Recommender  # slow to load

    compile_ahead(settings, Recommender.of)  # before the worker takes partitions, for which others may be waiting


def _work(settings: Settings) -> None:
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
