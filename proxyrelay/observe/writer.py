"""Bounded queues of lines for sinks that may be slow, full, hung or gone.

A thread for each sink opens, writes and rotates. Lines go into a bounded queue. Lines
that find no room or cannot be written are counted, and a line in their place tells the
number.

The standard library's logging does not fit. Its listener has no bounds, its handlers
print a traceback for each failure, and at the end it waits for all lines.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import suppress
from queue import SimpleQueue
from threading import RLock, Thread

from proxyrelay.net.clock import Clock
from proxyrelay.net.rate import RateLimitedLog
from proxyrelay.observe.sinks import Sink

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


class LineLog(ABC):
    """A log of lines, with the lines that tell of missing ones.

    Attributes:
        writers: One for each sink.
    """

    def __init__(self, sinks: Iterable[Sink]) -> None:
        self.writers = [Writer(sink, self) for sink in sinks]

    @abstractmethod
    def gap(self, count: int) -> str:
        """The line that stands for missing ones. Called from any thread."""

    @abstractmethod
    def fails(self, writer: Writer, trouble: str) -> None:
        """Report that lines are being lost. Called from any thread."""

    @abstractmethod
    def resumes(self, writer: Writer, count: int) -> None:
        """Report that lines are written again, and some missing. From any thread."""

    @property
    def lost(self) -> int:
        """Lines that could not be written."""
        return sum(each.lost for each in self.writers)

    def start(self) -> None:
        """Start the threads. A process must fork before."""
        for each in self.writers:
            each.start()

    def put(self, line: str, about: Writer | None = None) -> None:
        """Queue a line, with its end, for all sinks but the one that it is about."""
        for each in self.writers:
            if each is not about:
                each.put(line)

    def reopen(self) -> None:
        """Open files anew, since they may have other names now."""
        for each in self.writers:
            each.reopen()

    def close(self) -> None:
        """Write the queued lines, within `STOP_SECONDS`.

        A thread that hangs is left behind, and does not keep the process alive.
        """
        for each in self.writers:
            each.end()
        deadline = time.monotonic() + STOP_SECONDS
        for each in self.writers:
            each.join(max(0.0, deadline - time.monotonic()))


class Writer:
    """A bounded queue of lines, and the thread that writes them.

    `queue.SimpleQueue` can be used by code that runs at any moment, such as a finalizer
    that logs. The lock is reentrant for the same reason. It is not held for a write.

    A list in the queue has the number of lines that were dropped there. An empty line
    only wakes the thread, and None is the end.

    Attributes:
        name: Name of the sink in messages.
        lost: Lines that were dropped, or that could not be written.
    """

    def __init__(self, sink: Sink, log: LineLog, clock: Clock = time.monotonic) -> None:
        self.name = sink.name
        self.lost = 0
        self._sink = sink
        self._log = log
        self._clock = clock
        self._queue: SimpleQueue[str | list[int] | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name=f"log: {sink.name}", daemon=True)
        self._warnings = RateLimitedLog(QUIET_SECONDS)
        # Under the lock. The gap is the last entry of the queue, or None.
        self._lock = RLock()
        self._gap: list[int] | None = None
        self._dropped = self._characters = 0
        self._stale = self._told = False
        # Only of the thread.
        self._missing = 0

    def start(self) -> None:
        """Start the thread."""
        with self._lock:
            if self._thread.ident is None:
                self._thread.start()

    def put(self, line: str) -> None:
        """Queue a line, or count it if there is no room."""
        with self._lock:
            # After a loss, half of the room must be free: one gap, and not many.
            share = 1 if self._gap is None else 2
            full = (
                self._queue.qsize() * share >= QUEUED_LINES
                or self._characters * share >= QUEUED_CHARACTERS
            )
            if not full:
                self._gap = None
                self._characters += len(line)
                self._queue.put(line)
            else:
                self.lost += 1
                self._dropped += 1
                gap = self._gap
                if gap is None:
                    gap = self._gap = [0]
                    self._queue.put(gap)
                gap[0] += 1
        if full:
            self._tell("earlier lines are still being written")

    def reopen(self) -> None:
        """Open the sink anew, since its file may have another name now."""
        with self._lock:
            if not self._stale:
                self._stale = True
                self._queue.put("")

    def end(self) -> None:
        """Write the queued lines and close the sink. Does not block."""
        self.start()
        self._queue.put(None)

    def join(self, seconds: float) -> None:
        """Wait until the sink is closed, at most some seconds."""
        self._thread.join(seconds)

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
        item = self._queue.get()
        if item is not None and self._queue.empty():
            time.sleep(GATHER_SECONDS)
        lines: list[tuple[str, int]] = []
        if self._missing:
            lines.append((self._log.gap(self._missing), self._missing))
            self._missing = 0
        size = 0
        while item is not None:
            if isinstance(item, list):
                with self._lock:
                    if self._gap is item:
                        self._gap = None
                    (count,) = item
                    self._dropped -= count
                lines.append((self._log.gap(count), count))
            elif item:
                lines.append((item, 0))
                size += len(item)
            if size >= BATCH_CHARACTERS or self._queue.empty():
                break
            item = self._queue.get()
        with self._lock:
            self._characters -= size
        return lines, item is None

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
        end = filled = failed = 0
        for part, (_, count) in zip(parts, lines, strict=True):
            end += len(part)
            if end <= written:
                filled += count
            else:
                self._missing += count or 1
                failed += not count
        with self._lock:
            self.lost += failed
            told = self._told and not trouble and (filled or not self._dropped)
            self._told = self._told and not told
        if trouble:
            self._tell(trouble)
        elif told:
            self._log.resumes(self, filled)

    def _tell(self, trouble: str) -> None:
        """Warn, once for each trouble and not too often."""
        with self._lock:
            if self._told or self._warnings.admit(self._clock()) is None:
                return
            self._told = True
        self._log.fails(self, trouble)
