"""Where log lines go, and how they look."""

from __future__ import annotations

import os
from contextlib import suppress
from fcntl import F_GETFL, F_SETFL, fcntl
from functools import lru_cache
from pathlib import Path
from textwrap import indent
from typing import IO, TextIO, cast

from twisted.logger import (
    FileLogObserver,
    FilteringLogObserver,
    ILogFilterPredicate,
    ILogObserver,
    LogEvent,
    LogLevel,
    LogLevelFilterPredicate,
    LogPublisher,
    formatEvent,
    formatTime,
)
from twisted.python.logfile import LogFile
from zope.interface import implementer

from proxyrelay.config import Level, Logging
from proxyrelay.errors import ConfigError, Problem

FILE_NAME = "proxyrelay.log"

ROTATE_BYTES = 10 * 1024 * 1024
"""Length at which a log file is put aside."""

ROTATED_FILES = 10
"""How many old log files are kept."""

_LEVELS = {
    "DEBUG": LogLevel.debug,
    "INFO": LogLevel.info,
    "WARNING": LogLevel.warn,
    "ERROR": LogLevel.error,
    "CRITICAL": LogLevel.critical,
}

_NAMES = {level: name for name, level in _LEVELS.items()}

TIME_FORMAT = "%Y-%m-%d %H:%M:%S%z"


def line(event: LogEvent) -> str | None:
    """Format an event: time, level, text, and a traceback if there is one.

    Whatever comes from outside stays inside its line, and cannot control a terminal;
    only a traceback has lines of its own, which are indented.
    """
    text = _printable(_text(event)).replace("\n", "\\n")
    failure = event.get("log_failure")
    if failure is not None:
        traceback = indent(_printable(failure.getTraceback()).rstrip("\n"), "    ")
        text = f"{text}\n{traceback}" if text else traceback
    if not text:
        return None
    when = _second(int(event.get("log_time") or 0))
    level = _NAMES.get(event.get("log_level", LogLevel.info), "INFO")
    return f"{when} {level:<8} {text}\n"


def _text(event: LogEvent) -> str:
    """The event in words.

    The relay's own formats are plain constants, for which Python's formatter does: it
    takes a tenth of the time of Twisted's.
    """
    if str(event.get("log_namespace", "")).startswith("proxyrelay"):
        with suppress(Exception):
            return str(event["log_format"]).format_map(event)
    return formatEvent(event)


@lru_cache(maxsize=2)
def _second(time: int) -> str:
    """A second as text: a thousand lines have the same one when clients come back."""
    return formatTime(time or None, timeFormat=TIME_FORMAT)


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


class Log(FilteringLogObserver):
    """What all log events go through.

    Args:
        outlet: Gets what passes the levels.
        settings: The levels.
    """

    def __init__(self, outlet: ILogObserver, settings: Logging) -> None:
        self._levels = Remembering(levels(settings))
        super().__init__(outlet, [self._levels])

    def change(self, settings: Logging) -> None:
        """Let events of other levels through from now on."""
        self._levels.ask(levels(settings))


def observer(settings: Logging, stdout: TextIO | None) -> Log | None:
    """Build what all log events go through.

    Args:
        settings: Levels and folder.
        stdout: Gets every line that passes the levels; None if there is none.

    Returns:
        The observer, or None if it would write nowhere.

    Raises:
        ConfigError: The folder or the file cannot be written.
    """
    outlets = [] if stdout is None else [FileLogObserver(stdout, line)]
    if settings.log_dir is not None:
        outlets.append(FileLogObserver(cast(IO[str], _file(settings.log_dir)), line))
    if not outlets:
        return None
    return Log(LogPublisher(*outlets), settings)


@implementer(ILogFilterPredicate)
class Remembering:
    """Asks another predicate once for each level of each namespace.

    Twisted's goes through all levels at each comparison.

    Args:
        predicate: Is asked. It looks at nothing else.
    """

    def __init__(self, predicate: ILogFilterPredicate) -> None:
        self.ask(predicate)

    def ask(self, predicate: ILogFilterPredicate) -> None:
        """Ask this one from now on."""
        self._predicate = predicate
        self._known: dict[tuple[object, object], object] = {}

    def __call__(self, event: LogEvent) -> object:
        """Say what is to become of an event."""
        kind = (event.get("log_namespace"), event.get("log_level"))
        if kind not in self._known:
            self._known[kind] = self._predicate(event)
        return self._known[kind]


def levels(settings: Logging) -> ILogFilterPredicate:
    """Which events are let through.

    Autobahn writes whole requests, tokens included, at DEBUG: that level is not
    to be had for it, whatever the settings say. Twisted's reports of its own
    comings and goings are for those who debug.
    """
    predicate = LogLevelFilterPredicate(_LEVELS[settings.default_level])
    for library in ("autobahn", "txaio"):
        level = _severer(settings.websockets_level, "INFO")
        predicate.setLogLevelForNamespace(library, _LEVELS[level])
    if settings.default_level == "INFO":
        for library in ("twisted", "log_legacy"):
            predicate.setLogLevelForNamespace(library, LogLevel.warn)
    return predicate


def _severer(one: Level, other: Level) -> Level:
    order = list(_LEVELS)
    return one if order.index(one) > order.index(other) else other


class SharedLogFile(LogFile):
    """A log file that two relays may have, while one takes over from the other.

    Twisted's is written to where the last line of this very process ends. Checked
    against Twisted 26.10.0.
    """

    def _openFile(self) -> None:  # noqa: N802
        super()._openFile()
        descriptor = self._file.fileno()
        flags = fcntl(descriptor, F_GETFL) | os.O_APPEND
        fcntl(descriptor, F_SETFL, flags)


def _file(folder: Path) -> LogFile:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return SharedLogFile(
            FILE_NAME,
            str(folder),
            rotateLength=ROTATE_BYTES,
            maxRotatedFiles=ROTATED_FILES,
        )
    except OSError as error:
        problem = f"{folder} cannot be written: {error.strerror}"
        raise ConfigError([Problem("logging.log_dir", problem)]) from None
