"""The errors streamrec raises, drawn as a tree.

StreamrecError                      everything below; catch this one at the outermost edge
├── ConfigError                     a setting is missing, misspelt or out of range
├── BadEvent                        one message cannot be used; it goes to the dead-letter topic
│   └── RequestRefused              it was a request, and its slate says so
├── TooManyBadEvents                so many in a row that the producer, not a message, must be broken
├── TableError                      a file of rows (a log, a catalogue) cannot be read as asked
│   └── LogError                    a historical log cannot be replayed as asked
├── TransportError                  the event log did not do what was asked of it
│   ├── TransportUnavailable        no broker answers just now; the same call may work later
│   └── PublishFailed               a record was refused, or not acknowledged in time
│       └── PublishDelayed          not acknowledged yet; it may still be
├── StateError                      the store or a snapshot did not do what was asked of it
│   ├── StateUnavailable            it cannot take or give anything just now; the same call may work later
│   ├── StaleEpoch                  another worker owns this partition now
│   ├── SnapshotCorrupt             a snapshot does not match its checksum
│   └── StateMissing                the checkpoint names a snapshot that is nowhere to be found
├── RankerError                     a ranker of others broke the protocol of a backtest
├── PromotionRefused                a policy has not shown what it must before it may do more
└── EmbeddedError                   a broker or a Redis server could not be started here

Every message says what was expected, what came, and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class StreamrecError(Exception):
    """The root of the tree."""


class ConfigError(StreamrecError):
    """A setting is missing, misspelt or out of range."""


class BadEvent(StreamrecError):
    """One message cannot be used.

    `reason` is a short word for counters and headers (`malformed`, `invalid`, `too_large`, `too_deep`, `empty`,
    `content_type`, `keyless`, `past`, `future`; of slates alone `too_many_requests`); `field` names the offending field
    where there is one.
    """

    def __init__(self, reason: str, detail: str, field: str | None = None) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.field = field


class RequestRefused(BadEvent):
    """The workers refused a request that was sent, and answered with the reason."""

    def __str__(self) -> str:
        return f"the workers refused the request: {self.detail}"


class TooManyBadEvents(StreamrecError):
    """So many unusable messages came in a row that draining them would hide a broken producer."""


class TableError(StreamrecError):
    """A file of rows, a log or a catalogue, cannot be read as asked."""


class LogError(TableError):
    """A historical log cannot be replayed as asked."""


class TransportError(StreamrecError):
    """The event log did not do what was asked of it."""


class TransportUnavailable(TransportError):
    """No broker answers just now; the same call may work later."""


class PublishFailed(TransportError):
    """A record was refused for good, or not acknowledged in time."""


class PublishDelayed(PublishFailed):
    """Published records wait longer than they should; nothing is lost, and the same call may work later."""


class StateError(StreamrecError):
    """The store or a snapshot did not do what was asked of it."""


class StateUnavailable(StateError):
    """The store or the disk is away, full or overloaded; nothing half-way was written, the same call may work later."""


class StaleEpoch(StateError):
    """Another worker owns this partition now; what this one holds of it must be discarded."""


class SnapshotCorrupt(StateError):
    """A snapshot does not match its checksum."""


class UpdateRefused(StateError):
    """An update of the models that is none, or of other models than those that follow it."""


class UpdateGap(StateError):
    """An update follows on one that did not come: only a newer snapshot leads on."""


class StateMissing(StateError):
    """The checkpoint names a snapshot that is nowhere to be found."""


class RankerError(StreamrecError):
    """A ranker of others, run beside ours in a backtest, failed or gave what is no ranking; the message names it."""


class PromotionRefused(StreamrecError):
    """A policy has not shown what it must before it may do more; the message has the figures."""


class EmbeddedError(StreamrecError):
    """A broker or a Redis server could not be started on this machine."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """What to put behind an error about a name that is none: the nearest of those that are, if one is near."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""
