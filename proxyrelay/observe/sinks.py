"""Places for log lines: standard output, and a file with rotation.

`proxyrelay.observe.writer` writes to each from a thread.
"""

from __future__ import annotations

import errno
import os
import select
import stat
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import TextIO

from proxyrelay.net.clock import Clock

LOOK_SECONDS = 1.0
"""Seconds between two checks that a file is still at its path."""

ROTATE_BYTES = 10 * 1024 * 1024
"""Bytes of a log file that is rotated."""

ROTATED_FILES = 10
"""Kept old log files."""

MODE = 0o640
"""Mode of a log file: it names users and addresses."""


class Sink(ABC):
    """A place for lines, used by one thread.

    Attributes:
        name: Name in messages.
        encoding: Encoding of the lines.
        torn: Whether the last line there has no end.
    """

    name: str
    encoding = "utf-8"
    torn = False

    def ready(self) -> None:  # noqa: B027 - most sinks always are
        """Prepare for the next write; raises OSError if there is no place for it."""

    @abstractmethod
    def write(self, data: bytes) -> int:
        """Write the first part of some lines, and give its bytes; or raise OSError."""

    def close(self) -> None:  # noqa: B027 - standard output stays open
        """Close it. It may be opened anew."""


class Stream(Sink):
    """Standard output.

    Python's buffer is left out. A thread that hangs would hold its lock, and the
    interpreter aborts at the end without that lock.

    Args:
        file: A file with a descriptor.
    """

    name = "standard output"

    def __init__(self, file: TextIO) -> None:
        file.flush()
        self.encoding = file.encoding
        self._descriptor = file.fileno()

    def write(self, data: bytes) -> int:
        """Write bytes, also if another process has made it non-blocking."""
        try:
            return os.write(self._descriptor, data)
        except BlockingIOError:
            poll = select.poll()
            poll.register(self._descriptor, select.POLLOUT)
            poll.poll()
            return 0


class File(Sink):
    """A log file with rotation.

    Several processes may append to it. A file that was renamed or removed is created
    anew. A missing folder is created.

    Raises:
        OSError: It cannot be written.
    """

    def __init__(self, path: Path, clock: Clock = time.monotonic) -> None:
        self.name = str(path)
        self._path = path.absolute()  # twistd may go to another folder
        self._clock = clock
        self._descriptor = -1
        self._size = 0
        self._looked = float("-inf")
        self._open()

    def ready(self) -> None:
        """Open the file at its path, and rotate a long one."""
        due = self._clock() >= self._looked + LOOK_SECONDS
        if self._descriptor < 0 or (due and not self._is_at_path()):
            self._open()
        if self._size >= ROTATE_BYTES:
            if self._is_at_path():  # no other process has done so
                self._put_aside()
            self._open()

    def write(self, data: bytes) -> int:
        """Append bytes."""
        written = os.write(self._descriptor, data)
        self._size += written
        return written

    def close(self) -> None:
        """Close it."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _is_at_path(self) -> bool:
        self._looked = self._clock()
        mine = os.fstat(self._descriptor)
        self._size = mine.st_size
        try:
            return os.path.samestat(mine, self._path.stat())
        except OSError as error:
            # The file can still be written if the folder may not be entered.
            return error.errno == errno.EACCES

    def _put_aside(self) -> None:
        """Rename the file and its older ones; without permission go on with it."""
        numbers = range(1, ROTATED_FILES + 1)
        paths = [self._path, *(Path(f"{self._path}.{number}") for number in numbers)]
        with suppress(OSError):
            for old, new in reversed(list(pairwise(paths))):
                with suppress(FileNotFoundError):
                    old.replace(new)

    def _open(self) -> None:
        self.close()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOCTTY
        # A FIFO is opened without a wait, and then refused.
        descriptor = os.open(self._path, flags | os.O_NONBLOCK, MODE)
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise OSError(errno.EINVAL, "Not a regular file")
            with suppress(OSError):
                os.fchmod(descriptor, MODE)
            self._size = found.st_size
            last = os.pread(descriptor, 1, max(0, self._size - 1))
        except OSError:
            os.close(descriptor)
            raise
        self.torn = last not in {b"", b"\n"}
        self._descriptor = descriptor
        self._looked = self._clock()
