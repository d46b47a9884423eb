"""One epoll for the sockets of all clients. The reactor watches only that epoll.

Twisted calls each socket through five functions. For a message or a ping they cost as
much as everything else in Python. The epoll calls the sockets directly, in sweeps.
Writes that follow from a sweep are flushed once at its end.

The epoll also lets the relay sleep. With thousands of idle clients a wake-up for each
ping costs more than its answer. While only pings come, the relay reads in intervals.
"""

from __future__ import annotations

import select
from collections import deque
from typing import Any

from twisted.internet import main
from twisted.internet.interfaces import IDelayedCall, IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from proxyrelay.net.timers import LATE_SECONDS
from proxyrelay.net.transport import DirectWriteTransport
from proxyrelay.net.write_batch import WriteBatch

NAP_SECONDS = 0.05
"""Seconds between two sweeps while only pings come. The first offer after a silence
waits this long at most."""

AWAKE_SECONDS = 1.0
"""Seconds with only pings before the first nap."""

MAX_EVENTS = 256
"""Ready sockets per poll."""

SWEEP_SECONDS = 0.01
"""Length of a sweep. The remaining sockets are read in the next turn of the reactor."""

FLUSH_BYTES = 256 * 1024
"""Bytes read in a sweep before it flushes early. The flush finds slow receivers before
much is gathered for them."""

AVAILABLE = hasattr(select, "epoll")
"""Whether the system has epoll. On macOS the reactor watches each socket."""


@implementer(IReadDescriptor)
class EpollMultiplexer:
    """The reactor of the clients' transports: it reads, the real reactor does the rest.

    A batch of writes is opened for each sweep. It tells whether anything but pings
    came.
    """

    _log = Logger()

    def __init__(self, reactor: Any, outbox: WriteBatch) -> None:
        self.addWriter = reactor.addWriter
        self.removeWriter = reactor.removeWriter
        self.callLater = reactor.callLater
        self._reactor = reactor
        self._outbox = outbox
        self._epoll = select.epoll()
        self._readers: dict[int, DirectWriteTransport] = {}
        self._ready: deque[tuple[int, DirectWriteTransport, int]] = deque()
        self._awake = 0.0
        self._nap: IDelayedCall | None = None
        self._resume: IDelayedCall | None = None

    # -- towards transports

    def addReader(self, reader: DirectWriteTransport) -> None:  # noqa: N802
        """Read from a socket whenever it is readable."""
        descriptor = reader.fileno()
        if descriptor not in self._readers:
            self._epoll.register(descriptor, select.EPOLLIN)
            self._readers[descriptor] = reader
            self._outbox.saw_messages = True
            if self._nap is not None:
                self._nap.reset(0)
            elif len(self._readers) == 1:
                self._reactor.addReader(self)

    def removeReader(self, reader: DirectWriteTransport) -> None:  # noqa: N802
        """Stop reading from a socket."""
        descriptor = reader.fileno()
        if self._readers.get(descriptor) is reader:
            del self._readers[descriptor]
            self._epoll.unregister(descriptor)

    # -- towards the reactor

    def fileno(self) -> int:
        """Descriptor of the epoll. It is readable when one of its sockets is."""
        return self._epoll.fileno()

    def logPrefix(self) -> str:  # noqa: N802
        """Name in Twisted's log."""
        return "clients"

    def doRead(self) -> None:  # noqa: N802
        """Sweep over the readable sockets, and perhaps nap after that."""
        began = self._reactor.seconds()
        self._look()
        now = self._reactor.seconds()
        if self._outbox.saw_messages or now - began > LATE_SECONDS:
            self._outbox.saw_messages = False
            self._awake = now + AWAKE_SECONDS
        elif not (self._outbox.backlogged or now < self._awake):
            self._reactor.removeReader(self)
            self._nap = self._reactor.callLater(NAP_SECONDS, self._wake)

    def _wake(self) -> None:
        """Sweep once, and nap again if only pings came.

        Adding the epoll to the reactor costs the kernel a check of each socket.
        """
        self._nap = None
        began, outbox = self._reactor.seconds(), self._outbox
        only_pings = self._look() and not (outbox.backlogged or outbox.saw_messages)
        # Late timers wait for one turn of reading: so no nap after a pause.
        if only_pings and self._reactor.seconds() - began <= LATE_SECONDS:
            self._nap = self._reactor.callLater(NAP_SECONDS, self._wake)
        else:
            self._reactor.addReader(self)

    def _look(self) -> bool:
        """Read from ready sockets, and flush what follows; tells whether any was."""
        ready, full = self._ready, False
        if not ready:
            found = self._epoll.poll(0, MAX_EVENTS)
            full = len(found) == MAX_EVENTS
            for descriptor, event in found:
                reader = self._readers.get(descriptor)
                if reader is not None:
                    ready.append((descriptor, reader, event))
        some = bool(ready)
        self._outbox.open()
        try:
            self._sweep()
        finally:
            self._outbox.close()
        self._outbox.backlogged = full or bool(ready)
        if self._outbox.backlogged and self._resume is None:
            # The remaining sockets may close, and no other one become ready.
            self._resume = self._reactor.callLater(NAP_SECONDS, self._resume_sweep)
        return some

    def _sweep(self) -> None:
        """Read from the ready sockets, for a bounded time."""
        ready, batch = self._ready, self._outbox
        end = self._reactor.seconds() + SWEEP_SECONDS
        while ready:
            descriptor, reader, event = ready.popleft()
            # A connection may end meanwhile, and another one get its descriptor.
            if self._readers.get(descriptor) is reader:
                self._read(reader, event)
                if batch.read_bytes > FLUSH_BYTES:
                    batch.close()
                    batch.open()
                if self._reactor.seconds() > end:
                    break

    def _resume_sweep(self) -> None:
        self._resume = None
        if self._outbox.backlogged:
            self._look()

    def _read(self, reader: DirectWriteTransport, event: int) -> None:
        try:
            over = reader.doRead() if event & select.EPOLLIN else main.CONNECTION_LOST
        except Exception as error:
            self._log.failure("what a client sent could not be acted upon")
            over = error
        if over is not None:
            reader.connectionLost(Failure(over))

    def connectionLost(self, reason: Failure) -> None:
        """End all connections, as the reactor stops."""
        self._ready.clear()
        for reader in list(self._readers.values()):
            reader.connectionLost(reason)

    def stop(self) -> None:
        """Close the epoll after the last connection. May be called again."""
        for call in (self._nap, self._resume):
            if call is not None:
                call.cancel()
        self._nap = self._resume = None
        if not self._epoll.closed:
            self._reactor.removeReader(self)
            self._epoll.close()
