"""Writes that wait for the end of a sweep over readable sockets.

A sweep ends after 10 ms at most (`proxyrelay.net.epoll`). After 256 KiB of read bytes
the writes leave earlier. Several clients may send to one receiver at the same moment.
Its messages then leave in one system call, and over TLS in one record.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from twisted.logger import Logger


class Sender(Protocol):
    """A connection with gathered writes."""

    def send_held(self) -> None:
        """Write everything in one piece."""


class WriteBatch:
    """Senders with gathered writes, in the order of their first write.

    `EpollMultiplexer` opens the batch for a sweep over all readable sockets. A socket
    outside of it opens the batch for one read.

    Attributes:
        waiting: Senders with gathered writes; None while writes go out at once.
        read_bytes: Bytes read since the last flush. They bound the gathered bytes.
        saw_messages: Whether anything but pings came since this was last cleared.
        backlogged: Whether readable sockets still wait to be read.
        unwritten: Called with a protocol, and whether its transport has begun to keep
            bytes that the socket did not take, or has none left. May be set.
    """

    _log = Logger()
    read_bytes = 0
    saw_messages = True
    backlogged = False
    unwritten: Callable[[Any, bool], None] | None = None

    def __init__(self) -> None:
        self.waiting: list[Sender] | None = None

    def open(self) -> None:
        """Gather writes from now on."""
        self.waiting = []
        self.read_bytes = 0

    def close(self) -> None:
        """Send the gathered writes. Later writes go out at once."""
        waiting, self.waiting = self.waiting, None
        for sender in waiting or ():
            try:
                sender.send_held()
            except Exception:
                # One broken connection must not hold up the others.
                self._log.failure("sending failed")
