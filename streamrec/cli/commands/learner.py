"""Runs a learner until it is told to stop; or beside a worker, for as long as that lives."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable
from types import FrameType

from streamrec.config.log_lines import get_logger
from streamrec.config.settings import Settings
from streamrec.errors import StreamrecError
from streamrec.wiring.learner import connect_learner

LOG = get_logger("streamrec.learner")
AGAIN_S = 5.0
"""After a learner that ended by itself, another one is started so much later."""
NICENESS = 10
"""Slates come first: of the processors that a worker and its learner share, the learner gets what is left."""
LEAVE_S = 10.0
"""How long a learner has to leave its group."""
_PR_SET_PDEATHSIG = 1


def run(settings: Settings) -> None:
    """Learn until Ctrl-C or SIGTERM.

    Raises:
        StreamrecError: the learner stopped because it could not go on.
    """
    learner = connect_learner(settings)

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        learner.stop()

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    LOG.info("waiting for the examples", topic=settings.topics.examples, group=settings.learners_group)
    learner.run()


class LearnerBeside:
    """A learner in a process of its own, which ends with this one, also when this one is killed.

    To be started before this process has threads: it forks. What forks again, when a learner ends by itself, is a small
    process between the two that does nothing else.
    """

    def __init__(self, settings: Settings) -> None:
        worker, self._keeper = os.getpid(), os.fork()
        if self._keeper == 0:
            _end_with(worker)
            os._exit(_keep(settings))

    def stop(self) -> None:
        """End it, and wait until it has left."""
        _end(self._keeper)


def in_a_copy(work: Callable[[], None]) -> None:
    """Do something in a copy of this process, which has no threads yet, and wait for it: what it loads goes with it."""
    parent, child = os.getpid(), os.fork()
    if child == 0:
        _end_with(parent)
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    os.waitpid(child, 0)


def _keep(settings: Settings) -> int:
    """Start a learner, and another one whenever it ends by itself, until told to stop; returns the exit status."""
    children: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        for child in children:
            _end(child)
        os._exit(0)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the learner as well; the worker ends this one
    signal.signal(signal.SIGTERM, stop)
    while True:
        keeper = os.getpid()
        child = os.fork()
        if child == 0:
            _end_with(keeper)
            os._exit(_learn(settings))
        children[:] = [child]
        _, status = os.waitpid(child, 0)
        children.clear()
        LOG.warning("the learner has ended; another one starts", status=os.waitstatus_to_exitcode(status))
        time.sleep(AGAIN_S)


def _learn(settings: Settings) -> int:
    os.nice(NICENESS)
    try:
        run(settings)
    except StreamrecError as error:
        LOG.error("the learner cannot go on", error=str(error))
        return 1
    return 0


def _end_with(parent: int) -> None:
    """Let the kernel end this process when its parent dies (prctl(2)); it may have died before."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _end(process: int) -> None:
    os.kill(process, signal.SIGTERM)
    end = time.monotonic() + LEAVE_S
    while time.monotonic() < end:
        if os.waitpid(process, os.WNOHANG)[0]:
            return
        time.sleep(0.05)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
