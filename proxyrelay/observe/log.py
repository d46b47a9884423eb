"""Levels and formats of the log, and its observer.

The words of its lines about clients stand in `proxyrelay.switchboard.events`. All other
lines are where they are logged.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache, lru_cache
from textwrap import indent
from typing import TextIO, cast

from twisted.logger import (
    ILogObserver,
    LogEvent,
    Logger,
    LogLevel,
    LogLevelFilterPredicate,
    PredicateResult,
    formatEvent,
    formatTime,
)
from zope.interface import implementer

from proxyrelay.config import Logging
from proxyrelay.errors import ConfigError, Problem
from proxyrelay.observe import records
from proxyrelay.observe.sinks import File, Sink, Stream
from proxyrelay.observe.writer import LineLog, Writer

FILE_NAME = "proxyrelay.log"

_LEVELS = {
    "DEBUG": LogLevel.debug,
    "INFO": LogLevel.info,
    "WARNING": LogLevel.warn,
    "ERROR": LogLevel.error,
    "CRITICAL": LogLevel.critical,
}

_NAMES = {level: name for name, level in _LEVELS.items()}

_LEGACY = frozenset({"time", "system", "isError", "format", "why", "failure"})
"""Fields that Twisted adds for old observers."""


def line(event: LogEvent) -> str | None:
    """Format an event: time, level, text, and a traceback if there is one.

    A text from outside cannot break its line or control a terminal. Only a traceback
    has further lines, which are indented.
    """
    text = _printable(_text(event)).replace("\n", "\\n")
    failure = event.get("log_failure")
    if failure is not None:
        traceback = indent(_printable(failure.getTraceback()).rstrip("\n"), "    ")
        text = f"{text}\n{traceback}" if text else traceback
    if not text:
        return None
    when = _second(int(event.get("log_time") or 0))
    return f"{when} {_level(event):<8} {text}\n"


def record(event: LogEvent) -> str | None:
    """Format an event as a JSON object: see ``docs/reference/log.rst``.

    Events of the relay keep their fields. A field that begins with ``_`` is only for
    the text.
    """
    text = _text(event)
    failure = event.get("log_failure")
    if failure is None and not text:
        return None
    own = {}
    if _is_own(event):
        own = {
            name: value
            for name, value in event.items()
            if not name.startswith(("log_", "_")) and name not in _LEGACY
        }
    common = {
        "level": _level(event),
        "event": own.get("event", "other" if failure is None else "defect"),
        "message": text,
        "logger": event.get("log_namespace", ""),
        "pid": os.getpid(),
    }
    if failure is not None:
        own["traceback"] = failure.getTraceback().rstrip("\n")
    return records.record(event.get("log_time") or 0.0, {**common, **own, **common})


def _is_own(event: LogEvent) -> bool:
    return str(event.get("log_namespace", "")).partition(".")[0] == "proxyrelay"


def _level(event: LogEvent) -> str:
    return _NAMES.get(event.get("log_level", LogLevel.info), "INFO")


def _text(event: LogEvent) -> str:
    """The event in words.

    Formats of the relay are plain constants. Python's formatter does for them, in a
    tenth of the time of Twisted's.
    """
    if _is_own(event):
        with suppress(Exception):
            return str(event["log_format"]).format_map(event)
    return formatEvent(event)


@lru_cache(maxsize=2)
def _second(time: int) -> str:
    """A second as text; many lines of a burst share it."""
    return formatTime(time or None, timeFormat="%Y-%m-%d %H:%M:%S%z")


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


@implementer(ILogObserver)
class Log(LineLog):
    """The observer of all log events, from any thread.

    An event is formatted at once, since its fields may change. Each sink has a thread
    of its own, so that a sink that hangs does not hold up the others.
    """

    _log = Logger()

    def __init__(self, sinks: Iterable[Sink], settings: Logging) -> None:
        super().__init__(sinks)
        self.change(settings)

    def change(self, settings: Logging) -> None:
        """Apply other levels and another format."""
        self._shows = levels(settings)
        self._format = record if settings.format == "json" else line

    def __call__(self, event: LogEvent) -> None:
        """Write the line of an event, if its level is shown."""
        if self._shows(event.get("log_namespace"), event.get("log_level")):
            text = self._format(event)
            if text:
                self.put(text, event.get("_about"))

    def gap(self, count: int) -> str:
        """The line that stands for missing ones."""
        events: list[LogEvent] = []
        log = Logger(__name__, observer=cast(ILogObserver, events.append))
        log.warn(
            "lines are missing here, since they could not be written: {count}",
            event="gap",
            count=count,
        )
        return self._format(events[0]) or ""

    def fails(self, writer: Writer, trouble: str) -> None:
        """Report lost lines to all other sinks."""
        self._log.error(
            "the log to {outlet} cannot be written: {trouble}; the relay serves on, "
            "and lines are lost until it can",
            event="log_fails",
            outlet=writer.name,
            trouble=trouble,
            _about=writer,
        )

    def resumes(self, writer: Writer, count: int) -> None:
        """Report the end of the loss to all other sinks."""
        self._log.warn(
            "the log to {outlet} is written again; lines that it lacks: {count}",
            event="log_resumed",
            outlet=writer.name,
            count=count,
            _about=writer,
        )


def open_log(settings: Logging, stdout: TextIO | None) -> Log | None:
    """Build the log; None if it has neither standard output nor a folder.

    Raises:
        ConfigError: The folder or the file cannot be written.
    """
    sinks: list[Sink] = [] if stdout is None else [Stream(stdout)]
    folder = settings.log_dir
    if folder is not None:
        try:
            sinks.append(File(folder / FILE_NAME))
        except OSError as error:
            problem = f"{folder} cannot be written: {error.strerror}"
            raise ConfigError([Problem("logging.log_dir", problem)]) from None
    return Log(sinks, settings) if sinks else None


def levels(settings: Logging) -> Callable[[str | None, object], bool]:
    """Build the test whether events of a namespace and a level are shown.

    Autobahn logs whole requests with their tokens at DEBUG, so it never gets that
    level. Twisted's own INFO lines are shown at DEBUG only.
    """
    predicate = LogLevelFilterPredicate(_LEVELS[settings.default_level])
    order = list(_LEVELS)
    level = max(settings.websockets_level, "INFO", key=order.index)
    for library in ("autobahn", "txaio"):
        predicate.setLogLevelForNamespace(library, _LEVELS[level])
    if settings.default_level == "INFO":
        for library in ("twisted", "log_legacy"):
            predicate.setLogLevelForNamespace(library, LogLevel.warn)

    @cache  # Twisted's predicate is slow.
    def shows(namespace: str | None, level: object) -> bool:
        event = {"log_namespace": namespace, "log_level": level}
        return predicate(event) is not PredicateResult.no

    return shows
