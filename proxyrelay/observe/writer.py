"""Bounded queues of lines for sinks that may be slow, full, hung or gone.

A thread for each sink opens, writes and rotates. Lines go into a bounded queue. Lines
that find no room or cannot be written are counted, and a line in their place tells the
number.

The standard library's logging does not fit. Its listener has no bounds, its handlers
print a traceback for each failure, and at the end it waits for all lines.
"""

from __future__ import annotations

import errno
import os
import select
import stat
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import RLock, Thread
from typing import Protocol, TextIO

from proxyrelay.net.rate import RateLimitedLog

QUEUED_LINES = 10_000
"""Queued lines of one sink."""

QUEUED_CHARACTERS = 4 * 1024 * 1024
"""Queued characters of one sink."""

BATCH_CHARACTERS = 64 * 1024
"""Characters of one write."""

GATHER_SECONDS = 0.01
"""Seconds from the first line of a batch to its write; other lines join it."""

QUIET_SECONDS = 60.0
"""Seconds between two warnings about one sink."""

STOP_SECONDS = 2.0
"""Seconds to write the queued lines at the end."""

LOOK_SECONDS = 1.0
"""Seconds between two checks that a file is still at its path."""

ROTATE_BYTES = 10 * 1024 * 1024
"""Bytes of a log file that is rotated."""

ROTATED_FILES = 10
"""Kept old log files."""

MODE = 0o640
"""Mode of a log file: it names users and addresses."""


class Sink(Protocol):
    """A place for lines, used by one thread.

    Attributes:
        name: Name in messages.
        encoding: Encoding of the lines.
        torn: Whether the last line there has no end.
    """

    name: str
    encoding: str
    torn: bool

    def ready(self) -> None:
        """Prepare for the next write, which may need another file.

        Raises:
            OSError: There is none.
        """

    def write(self, data: bytes) -> int:
        """Write the first part of some lines.

        Returns:
            The number of bytes written.

        Raises:
            OSError: Nothing was written.
        """

    def close(self) -> None:
        """Close it."""


class Owner(Protocol):
    """Reports lost lines. It is called from any thread."""

    def gap(self, count: int) -> str:
        """The line that stands for missing ones."""

    def fails(self, writer: Writer, trouble: str) -> None:
        """Lines are being lost, because of some trouble."""

    def resumes(self, writer: Writer, count: int) -> None:
        """Lines are written again after such trouble; some are missing."""


class Writer:
    """A bounded queue of lines, and the thread that writes them.

    `queue.SimpleQueue` can be used by code that runs at any moment, such as a finalizer
    that logs. The lock is reentrant for the same reason; the thread of the writer does
    not take it to write.

    An integer in the queue is the total of lines that were dropped before that place;
    None is the end.

    Args:
        sink: Takes the lines. Only the thread uses it from now on.
        owner: Reports lost lines.
        clock: Monotonic time in seconds.

    Attributes:
        name: Name of the sink in messages.
    """

    def __init__(
        self, sink: Sink, owner: Owner, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.name = sink.name
        self._sink = sink
        self._owner = owner
        self._clock = clock
        self._queue: SimpleQueue[str | int | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name=f"log: {sink.name}", daemon=True)
        self._lock = RLock()
        self._stale = False
        self._told = False
        self._warnings = RateLimitedLog(QUIET_SECONDS)
        # Each of these is changed by one side only.
        self._put = self._dropped = self._marked = 0
        self._taken = self._seen = self._missing = self._failed = 0

    @property
    def lost(self) -> int:
        """Lines that were dropped, or that could not be written."""
        return self._dropped + self._failed

    def start(self) -> None:
        """Start the thread. A process must fork before."""
        with self._lock:
            if self._thread.ident is None:
                self._thread.start()

    def put(self, line: str) -> None:
        """Queue a line, or count it if there is no room.

        Args:
            line: With its end.
        """
        with self._lock:
            # After a loss, half of the room must be free: one gap, and not many.
            share = 1 if self._marked == self._dropped else 2
            full = (
                self._queue.qsize() * share >= QUEUED_LINES
                or (self._put - self._taken) * share >= QUEUED_CHARACTERS
            )
            if full:
                self._dropped += 1
            else:
                if self._marked != self._dropped:
                    self._marked = self._dropped
                    self._queue.put(self._marked)
                self._put += len(line)
                self._queue.put(line)
        if full:
            self._tell("earlier lines are still being written")

    def reopen(self) -> None:
        """Open the sink anew, since its file may have another name now."""
        with self._lock:
            if not self._stale:
                self._stale = True
                self._queue.put(0)  # wakes the thread

    def end(self) -> None:
        """Write the queued lines and close the sink. Does not block."""
        self.start()
        self._queue.put(None)

    def join(self, seconds: float) -> None:
        """Wait until the sink is closed, at most some seconds."""
        self._thread.join(seconds)

    def close(self) -> None:
        """Write the queued lines, within `STOP_SECONDS`."""
        close([self])

    def _run(self) -> None:
        ended = False
        while not ended:
            lines, ended = self._gather()
            with self._lock:
                stale, self._stale = self._stale, False
            if stale:
                with suppress(OSError):
                    self._sink.close()
            if lines or stale:
                self._write(lines)
        with suppress(OSError):
            self._sink.close()

    def _gather(self) -> tuple[list[tuple[str, int]], bool]:
        """Wait for lines.

        Returns:
            The lines, each with the number of missing lines that it stands for, and
            whether they are the last ones.
        """
        lines: list[tuple[str, int]] = []
        size = 0
        item = self._queue.get()
        if item is not None and self._queue.empty():
            time.sleep(GATHER_SECONDS)
        self._fill_gap(lines)
        more = True
        while more and item is not None:
            if isinstance(item, str):
                lines.append((item, 0))
                size += len(item)
            else:
                self._see(item, lines)
            if size >= BATCH_CHARACTERS:
                break
            try:
                item = self._queue.get_nowait()
            except Empty:
                more = False
        else:
            # There may be no line after the ones that were dropped last.
            self._see(self._dropped, lines)
        self._taken += size
        return lines, item is None

    def _see(self, dropped: int, lines: list[tuple[str, int]]) -> None:
        """Note a total of dropped lines."""
        if dropped > self._seen:
            self._missing += dropped - self._seen
            self._seen = dropped
            self._fill_gap(lines)

    def _fill_gap(self, lines: list[tuple[str, int]]) -> None:
        if self._missing:
            lines.append((self._owner.gap(self._missing), self._missing))
            self._missing = 0

    def _write(self, lines: list[tuple[str, int]]) -> None:
        sink, trouble, written = self._sink, "", 0
        parts = [line.encode(sink.encoding, "backslashreplace") for line, _ in lines]
        try:
            sink.ready()
            if sink.torn and parts:
                parts[0] = b"\n" + parts[0]
            data = b"".join(parts)
            while written < len(data):
                written += sink.write(data[written:])
                if written:
                    sink.torn = data[written - 1 : written] != b"\n"
        except Exception as error:
            # The next lines are tried after any failure.
            trouble = getattr(error, "strerror", None) or type(error).__name__
        end = filled = 0
        for part, (_, count) in zip(parts, lines, strict=True):
            end += len(part)
            if end <= written:
                filled += count
            else:
                self._missing += count or 1
                self._failed += not count
        if trouble:
            self._tell(trouble)
        elif filled or self._seen == self._dropped:
            self._recover(filled)

    def _tell(self, trouble: str) -> None:
        """Warn, once for each trouble and not too often."""
        with self._lock:
            if self._told or self._warnings.admit(self._clock()) is None:
                return
            self._told = True
        self._owner.fails(self, trouble)

    def _recover(self, count: int) -> None:
        with self._lock:
            told, self._told = self._told, False
        if told:
            self._owner.resumes(self, count)


def close(writers: Iterable[Writer]) -> None:
    """Write all queued lines, within `STOP_SECONDS`.

    A thread that hangs is left behind, and does not keep the process alive.
    """
    writers = list(writers)
    for writer in writers:
        writer.end()
    deadline = time.monotonic() + STOP_SECONDS
    for writer in writers:
        writer.join(max(0.0, deadline - time.monotonic()))


class Stream:
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
        self.torn = False
        self._descriptor = file.fileno()

    def ready(self) -> None:
        """It is open."""

    def write(self, data: bytes) -> int:
        """Write bytes, also if another process has made it non-blocking."""
        try:
            return os.write(self._descriptor, data)
        except BlockingIOError:
            poll = select.poll()
            poll.register(self._descriptor, select.POLLOUT)
            poll.poll()
            return 0

    def close(self) -> None:
        """Leave it open, since others use it."""


class File:
    """A log file with rotation.

    Several processes may append to it. A file that was renamed or removed is created
    anew.

    Args:
        path: Its path; a missing folder is created.
        clock: Monotonic time in seconds.

    Raises:
        OSError: It cannot be written.
    """

    encoding = "utf-8"

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = str(path)
        self.torn = False
        self._path = path.absolute()  # twistd may go to another folder
        self._clock = clock
        self._descriptor = -1
        self._size = 0
        self._looked = float("-inf")
        self._open()

    def ready(self) -> None:
        """Open the file at its path, and rotate a long one.

        Raises:
            OSError: It cannot be opened.
        """
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
        """Close it. It can be opened anew."""
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
