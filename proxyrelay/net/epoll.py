"""The sockets of all clients, which the reactor sees as one.

Twisted calls each socket through five functions, which keep a context that nobody
here looks at. For a message or a ping that costs as much as all else in Python, so
the clients have an epoll of their own, and the reactor watches that.

It also lets the relay sleep. Thousands of idle clients ping at any moment, and to be
woken for each of them costs more than to answer: while nothing but pings comes, the
relay looks after them only so often.
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

from proxyrelay.net.transport import DirectWriteTransport
from proxyrelay.net.write_batch import WriteBatch

NAP = 0.05
"""Seconds for which nobody is read from, when nothing but pings comes. The first offer
after a silence waits for so long at most; to gather what goes into it has taken its
client longer."""

AWAKE = 1.0
"""Seconds without anything but pings before that. An answer that takes longer is not
kept waiting by much."""

AT_ONCE = 256
"""Clients that are found ready at a time."""

BUDGET = 0.01
"""Seconds for which clients are read from in one turn of the reactor; the others have
their turn in the next one."""

FLUSH_BYTES = 256 * 1024
"""Bytes read after which a sweep writes before it reads on. So a receiver is found to
be slow before much is gathered for it."""

AVAILABLE = hasattr(select, "epoll")
"""Whether the system has it. macOS has not; there the reactor sees each socket."""


@implementer(IReadDescriptor)
class EpollMultiplexer:
    """What the transports of clients take for their reactor.

    To read is its own affair. To write, which is rare, and all else is the reactor's.

    Args:
        reactor: That.
        outbox: Tells whether anything but pings has come.
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
        self._again: IDelayedCall | None = None

    # -- towards transports

    def addReader(self, reader: DirectWriteTransport) -> None:  # noqa: N802
        """Read from a socket whenever something has come."""
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
        """Read from it no longer."""
        descriptor = reader.fileno()
        if self._readers.get(descriptor) is reader:
            del self._readers[descriptor]
            self._epoll.unregister(descriptor)

    # -- towards the reactor

    def fileno(self) -> int:
        """What the reactor watches: an epoll is ready when one of its sockets is."""
        return self._epoll.fileno()

    def logPrefix(self) -> str:  # noqa: N802
        """How Twisted calls it in the log."""
        return "clients"

    def doRead(self) -> None:  # noqa: N802
        """Read from those of whom something has come."""
        self._look()
        now = self._reactor.seconds()
        if self._outbox.saw_messages:
            self._outbox.saw_messages = False
            self._awake = now + AWAKE
        elif not (self._outbox.backlogged or now < self._awake):
            self._reactor.removeReader(self)
            self._nap = self._reactor.callLater(NAP, self._wake)

    def _wake(self) -> None:
        """Look once more, and sleep on if there were pings again, but only pings.

        To have the reactor watch takes the kernel a look at each client.
        """
        self._nap = None
        some = self._look()
        if some and not (self._outbox.backlogged or self._outbox.saw_messages):
            self._nap = self._reactor.callLater(NAP, self._wake)
        else:
            self._reactor.addReader(self)

    def _look(self) -> bool:
        """Read from some of those of whom something has come.

        Returns:
            Whether there were any.
        """
        ready, full = self._ready, False
        if not ready:
            found = self._epoll.poll(0, AT_ONCE)
            full = len(found) == AT_ONCE
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
        if self._outbox.backlogged and self._again is None:
            # Those that are left may go before their turn, and nobody else speak.
            self._again = self._reactor.callLater(NAP, self._look_again)
        return some

    def _sweep(self) -> None:
        """Read from the ready sockets, for a bounded time."""
        ready, batch = self._ready, self._outbox
        end = self._reactor.seconds() + BUDGET
        while ready:
            descriptor, reader, event = ready.popleft()
            # It may have gone meanwhile, and another one have its descriptor.
            if self._readers.get(descriptor) is reader:
                self._read(reader, event)
                if batch.read_bytes > FLUSH_BYTES:
                    batch.close()
                    batch.open()
                if self._reactor.seconds() > end:
                    break

    def _look_again(self) -> None:
        self._again = None
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
        """The reactor stops: so end those that are left."""
        self._ready.clear()
        for reader in list(self._readers.values()):
            reader.connectionLost(reason)

    def stop(self) -> None:
        """Be done, as all clients are gone. May be called again."""
        for call in (self._nap, self._again):
            if call is not None:
                call.cancel()
        self._nap = self._again = None
        if not self._epoll.closed:
            self._reactor.removeReader(self)
            self._epoll.close()
