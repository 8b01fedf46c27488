"""Why nothing is read for a while, and when reading goes on.

The brake stops the source while there is any reason to, and lets it go when the last one has passed. A queue that fills
up is such a reason from HIGH on, until it has drained to LOW: between the two nothing changes, so that the source is
not stopped and started at every record (hysteresis; Trigger circuits: Schmitt, Journal of Scientific Instruments 1938).

Stopped or not, the source is polled: a member that is not heard of loses its place in the group.
"""

from __future__ import annotations

from streamrec.config.log_lines import get_logger
from streamrec.transport import Source
from streamrec.worker.metrics import Metrics

LOG = get_logger("streamrec.worker.backpressure")
HIGH, LOW = 0.5, 0.1
"""Of the queue of what is not stored yet. One step publishes less than the upper half holds."""
FULL = "publishing"
"""The reason that the queue of records to be published is full."""


class Brake:
    """Stops one source, for reasons."""

    def __init__(self, source: Source, metrics: Metrics) -> None:
        self._source = source
        self._metrics = metrics
        self._reasons: set[str] = set()

    @property
    def on(self) -> bool:
        """Whether the source is stopped."""
        return bool(self._reasons)

    def press(self, reason: str, detail: object) -> None:
        """Stop reading, for one more reason."""
        if reason in self._reasons:
            return
        LOG.warning("reading pauses", reason=reason, detail=str(detail))
        self._metrics.pauses.labels(reason).inc()
        self._reasons.add(reason)
        self._source.pause()
        self._metrics.paused.set(1)

    def release(self, reason: str) -> None:
        """This reason is one no longer."""
        if reason not in self._reasons:
            return
        self._reasons.remove(reason)
        if not self._reasons:
            LOG.info("reading goes on")
            self._source.resume()
            self._metrics.paused.set(0)

    def watch(self, fullness: float) -> None:
        """Take how full the queue of what is to be published is, from 0 to 1."""
        if fullness >= HIGH:
            self.press(FULL, f"the queue of what is to be published is {fullness:.0%} full")
        elif fullness <= LOW:
            self.release(FULL)
