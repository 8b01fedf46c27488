"""How log lines are written: events with fields, as text for people or as JSON for machines, on standard error.

A logger of ours hands its events to the standard library's logger of that name, so that whoever uses the package as a
library decides where they go, and lines of other libraries (librdkafka, aiokafka, Faust) come out in the same form.
Knows nothing of what is told.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, cast

import structlog
from rich.file_proxy import FileProxy
from structlog.stdlib import BoundLogger, ProcessorFormatter
from structlog.typing import Processor

from streamrec.codec import JOINERS, harmless
from streamrec.config.secrets import without_secrets

CHATTY = ("aiokafka", "faust", "mode")
"""Libraries that say the same again and again while a broker is away; librdkafka's logger has its own filter."""
REPEAT_S = 30.0
"""A line of one kind is written once in so long."""
KINDS_KEPT = 256

# What differs between two lines of one kind: numbers, and by which client and thread librdkafka speaks.
_VARYING = re.compile(
    r"\[rdkafka#[^\]]*\] |\[thrd:[^\]]*\]: |GroupCoordinator: |\(after .*\)|\d+(?:/(?:\d+|bootstrap))?"
)


class LogLine(dict[str, Any]):
    """An event and its fields. Where nobody has said how lines are written, it reads as text."""

    def __str__(self) -> str:
        fields = " ".join(f"{name}={value!r}" for name, value in self.items() if name != "event")
        return f"{self['event']} {fields}".rstrip()


def get_logger(name: str) -> BoundLogger:
    """A logger whose calls take an event, a sentence that stays the same, and what it is about as fields."""
    return cast(
        BoundLogger,
        structlog.wrap_logger(
            logging.getLogger(name),
            processors=[structlog.stdlib.filter_by_level, _as_line, ProcessorFormatter.wrap_for_formatter],
            wrapper_class=BoundLogger,
        ),
    )


def _as_line(logger: Any, method: str, event: MutableMapping[str, Any]) -> LogLine:
    return LogLine(event)


class RepeatFilter(logging.Filter):
    """Lets a line of one kind pass once in `REPEAT_S`, with the number of those that it kept back since.

    A kind is a logger and a text whose numbers may differ. The kinds used last are remembered, `KINDS_KEPT` of them.
    `of` names the loggers that are meant, those below them included; all without it.
    """

    def __init__(self, *of: str, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._of = of
        self._clock = clock
        self._kinds: OrderedDict[tuple[str, str], tuple[float, int]] = OrderedDict()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written."""
        ours = not isinstance(record.msg, str)  # events, which are said with sense
        if ours or (self._of and record.name.partition(".")[0] not in self._of):
            return True
        kind = record.name, _VARYING.sub("#", record.getMessage())
        passed_at, kept_back = self._kinds.pop(kind, (None, 0))
        now = self._clock()
        passes = passed_at is None or now - passed_at >= REPEAT_S
        self._kinds[kind] = (now, 0) if passes else (cast(float, passed_at), kept_back + 1)
        if len(self._kinds) > KINDS_KEPT:
            self._kinds.popitem(last=False)
        if passes and kept_back:
            record.__dict__["repeats"] = kept_back
        return passes


class _LineHandler(logging.Handler):
    """Writes to whatever standard error is now: progress bars put themselves in its place while they are shown."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            stream = sys.stderr
            if not isinstance(stream, FileProxy):  # lines are harmless by now, and their colours meant
                stream = getattr(stream, "rich_proxied_file", stream)
            print(self.format(record), file=stream, flush=True)
        except Exception:
            self.handleError(record)


@dataclass(slots=True)
class _LineSetup:
    """How lines are written now."""

    form: str = "auto"
    level: str = "info"
    only_lines: bool = False
    handler: logging.Handler | None = None


_setup = _LineSetup()


def write_log_lines(form: str | None = None, level: str | None = None, *, service: bool = False) -> None:
    """Write the process's log lines to standard error; called again, otherwise than before.

    `service` says that the process writes nothing there but log lines: if they are JSON, so are its last words. Of
    other commands these are a sentence for people, unless JSON was asked for.

    Args:
        form: text, json, or auto: text if standard error is a terminal. None: as it is.
        level: debug, info, warning or error: the least severe lines that are written. None: as it is.
        service: see above.
    """
    _setup.form, _setup.level = form or _setup.form, level or _setup.level
    as_json = _setup.form == "json" or (_setup.form == "auto" and not sys.stderr.isatty())
    _setup.only_lines = as_json and (service or _setup.form == "json")
    root, handler = logging.getLogger(), _LineHandler()
    handler.addFilter(RepeatFilter(*CHATTY))
    handler.setFormatter(_formatter(as_json))
    if _setup.handler is not None:
        root.removeHandler(_setup.handler)
    _setup.handler = handler
    root.addHandler(handler)
    root.setLevel(_setup.level.upper())
    logging.captureWarnings(True)


def only_log_lines() -> bool:
    """Whether nothing but JSON may be written to standard error."""
    return _setup.only_lines


def say_failure(error: Exception) -> None:
    """The last words of a command that could not go on."""
    if _setup.only_lines:
        get_logger("streamrec").critical("stopped", error=str(error), kind=type(error).__name__)
    else:
        print(harmless(f"streamrec: {without_secrets(str(error))}"), file=sys.stderr)


def _formatter(as_json: bool) -> logging.Formatter:
    shared: list[Processor] = [
        structlog.processors.format_exc_info,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        _repeats_of,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    ]
    # Local variables, which the default traceback shows, may be secrets.
    text = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback, timestamp_key="time"
    )
    last: list[Processor] = [_ordered, _as_json] if as_json else [_harmless_fields, text]
    return ProcessorFormatter(processors=[*shared, ProcessorFormatter.remove_processors_meta, _safe, *last])


def _repeats_of(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    if (repeats := getattr(event["_record"], "repeats", 0)) > 0:
        event["repeats"] = repeats
    return event


def _safe(logger: Any, method: str, event: MutableMapping[str, Any]) -> dict[str, Any]:
    """With values that may be shown to anybody: libraries quote what they were given."""
    return {name: _safe_value(value) for name, value in event.items()}


def _safe_value(value: Any) -> Any:
    match value:
        case None | bool() | int() | float():
            return value
        case Mapping():
            return {str(key): _safe_value(member) for key, member in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_safe_value(member) for member in value]
    return without_secrets(str(value))


def _as_json(logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
    return harmless(json.dumps(event, ensure_ascii=False))


def _harmless_fields(logger: Any, method: str, event: MutableMapping[str, Any]) -> dict[str, Any]:
    """None but a traceback has more than one line; what is no text is written as `repr` has it."""
    return {
        name: harmless(value, JOINERS + "\n" * (name == "exception")) if isinstance(value, str) else value
        for name, value in event.items()
    }


def _ordered(logger: Any, method: str, event: MutableMapping[str, Any]) -> dict[str, Any]:
    first = {name: event.pop(name) for name in ("time", "level", "event")}
    return {**first, **event}
