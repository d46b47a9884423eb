"""A file of lines that nobody waits for, and that tells what it lacks.

Lines are put together for a turn of the reactor, and written in one piece. When they
cannot be, since a disk is full or a folder gone, they are counted and forgotten: the
relay serves on, and the next line that can be written says how many are missing.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from proxyrelay.observe.logs import SharedLogFile, rotated

QUIET = 60.0
"""Seconds between two troubles that are told, if a file comes and goes."""


class LineFile(SharedLogFile):
    """A rotated file in which no line is continued by another one.

    Twisted's takes no note of what a write has left over.
    """

    _torn = False

    def _openFile(self) -> None:  # noqa: N802
        super()._openFile()
        self._torn = False
        if self.size:
            self._file.seek(-1, os.SEEK_END)
            self._torn = self._file.read(1) != b"\n"

    def put(self, lines: bytes) -> None:
        """Write whole lines.

        Raises:
            OSError: Not all of them could be written.
        """
        if self._file.closed:
            self._openFile()  # rotating has failed half-way
        if self.shouldRotate():
            self.rotate()
        if self._torn:
            lines = b"\n" + lines
        written = self._file.write(lines)
        self.size += written
        self._torn = lines[written - 1 : written] != b"\n" if written else self._torn
        if written < len(lines):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Lines(Protocol):
    """What a trail is written to."""

    def put(self, lines: bytes) -> None:
        """Write whole lines.

        Raises:
            OSError: Not all of them could be written.
        """

    def close(self) -> None:
        """Let go of it."""


def opened(path: Path) -> LineFile:
    """Open the file of a trail.

    Raises:
        OSError: It cannot be written.
    """
    return rotated(LineFile, path)


class Trail:
    """Writes lines, a turn of the reactor at a time.

    Args:
        file: What they are written to.
        gap: Makes the line that says how many are missing before it.
        clock: Ends the turn.

    Attributes:
        missing: Lines since the last one that could be written.
    """

    _log = Logger()

    def __init__(
        self, file: Lines, gap: Callable[[int], str], clock: IReactorTime
    ) -> None:
        self._file = file
        self._gap = gap
        self._clock = clock
        self._lines: list[str] = []
        self._call: IDelayedCall | None = None
        self._told = False
        self._last_told: float | None = None
        self.missing = 0

    def write(self, line: str) -> None:
        """Write a line, when this turn is over.

        Args:
            line: With its end.
        """
        self._lines.append(line)
        if self._call is None:
            self._call = self._clock.callLater(0, self._end_turn)

    def close(self) -> None:
        """Write what is left, and let go of the file."""
        if self._call is not None:
            self._call.cancel()
            self._end_turn()
        self._file.close()

    def _end_turn(self) -> None:
        self._call = None
        lines, self._lines = self._lines, []
        if self.missing:
            lines.insert(0, self._gap(self.missing))
        try:
            self._file.put("".join(lines).encode())
        except Exception as error:
            # Whatever it is, serving goes on.
            self.missing += len(lines) - bool(self.missing)
            self._tell(error)
        else:
            if self._told:
                self._log.warn(
                    "the audit log is written again; lines that it lacks: {count}",
                    event="audit_resumed",
                    count=self.missing,
                )
            self.missing, self._told = 0, False

    def _tell(self, error: Exception) -> None:
        now = self._clock.seconds()
        last = self._last_told
        if self._told or (last is not None and last <= now < last + QUIET):
            return
        self._told, self._last_told = True, now
        self._log.error(
            "the audit log cannot be written: {trouble}; the relay serves on, and "
            "lines are lost until it can",
            event="audit_fails",
            trouble=getattr(error, "strerror", None) or type(error).__name__,
        )
