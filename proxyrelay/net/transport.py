"""The sockets of clients, from the moment at which they are accepted."""

from __future__ import annotations

import errno
import resource
import socket
import sys
from collections.abc import Callable
from functools import partial
from socket import MSG_PEEK
from typing import Any, Protocol

from twisted.internet import main, protocol
from twisted.internet.error import ConnectionAborted
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
)
from twisted.internet.protocol import connectionDone
from twisted.internet.tcp import Port, Server
from twisted.logger import Logger
from twisted.python.failure import Failure

from proxyrelay.errors import ProxyHeaderError
from proxyrelay.net import addresses
from proxyrelay.net.pacing import TurnBudget
from proxyrelay.net.proxy_header import ProxyHeader, proxy_header
from proxyrelay.net.timers import TimeoutQueue
from proxyrelay.net.write_batch import WriteBatch

PAUSE = 0.1
"""Seconds from one look for room to the next, while nobody is accepted."""

QUIET = 60.0
"""Seconds in which it is not told again that there is none."""

EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
"""Why the kernel gives no socket, though a client waits."""


class Prelude(Protocol):
    """Reads what comes before all that a connection is for."""

    def read(self, data: bytes) -> int:
        """Look at what has come, of which nothing is taken yet.

        Returns:
            Bytes that are to be taken. The others are looked at anew.
        """


class DirectWriteTransport(Server):
    """Writes to the socket at once where nothing waits to be written.

    Twisted keeps everything until the next turn of the reactor, and asks the kernel to
    be told when the socket takes it, and once more not to be told again: three system
    calls and a turn for what is one call here. Writers that have several things to say
    put them together first.

    Twisted's ports take the class of their connections from an attribute. Checked
    against Twisted 26.10.0.

    Ends of connections are spread over turns of the reactor, with other work that comes
    in crowds: when thousands go away at once, others do not wait until all are gone.

    Args:
        pace: Spreads the ends.
        outbox: Holds back what comes of one read until all of it has been acted upon.
        arguments: As for Twisted's class.

    Attributes:
        prelude: What the connection begins with, as long as that is read; None after.
    """

    _over = False

    prelude: Prelude | None = None

    def __init__(self, pace: TurnBudget, outbox: WriteBatch, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._pace = pace
        self._outbox = outbox

    def doRead(self) -> Exception | None:  # type: ignore[override]  # noqa: N802
        """Read, and send on at once what comes of it.

        Returns:
            Why the connection is over, or None.
        """
        if self.prelude is not None:
            return self._read_prelude(self.prelude)
        if self._outbox.waiting is not None:
            return self._read()  # a sweep over many sockets flushes
        self._outbox.open()
        try:
            return self._read()
        finally:
            self._outbox.close()

    def _read(self) -> Exception | None:
        try:
            data = self.socket.recv(self.bufferSize)
        except BlockingIOError:
            return None
        except OSError:
            return main.CONNECTION_LOST
        if not data:
            return main.CONNECTION_DONE
        self._outbox.read_bytes += len(data)
        self.protocol.dataReceived(data)
        return None

    def _read_prelude(self, prelude: Prelude) -> Exception | None:
        """Leave in the socket what comes behind it: that may be for OpenSSL."""
        try:
            data = self.socket.recv(self.bufferSize, MSG_PEEK)
            taken = prelude.read(data)
            if taken:
                self.socket.recv(taken)
        except BlockingIOError:
            return None
        except OSError:
            return main.CONNECTION_LOST
        return None if data else main.CONNECTION_DONE

    def connectionLost(self, reason: Failure) -> None:
        """End, when it is this one's turn. Nothing is read or written any more."""
        if not self._over:
            self._over = True
            self.connected = 0
            self.stopReading()
            self.stopWriting()
            self._pace.do(partial(super().connectionLost, reason))

    def write(self, data: bytes) -> None:
        """Write, and keep what the socket does not take.

        Errors are found when that is written.
        """
        if self.connected and not (
            self._aborting
            or self.dataBuffer
            or self._tempDataBuffer
            or self._writeDisconnected
        ):
            sent = self.writeSomeData(data)
            if isinstance(sent, int):
                if sent == len(data):
                    return
                data = data[sent:]
        super().write(data)

    def writeSomeData(self, data: bytes) -> int | Exception:  # type: ignore[override]  # noqa: N802
        """Write what the socket takes.

        Returns:
            How many bytes that were, or why the connection is over.
        """
        try:
            return self.socket.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            return 0 if error.errno == errno.ENOBUFS else main.CONNECTION_LOST


class AcceptGate:
    """Stops to accept when there is no room, and goes on when there is.

    Whoever connects meanwhile waits, and comes again if that takes too long. To accept
    and to close would end the process of a real client.

    Args:
        room: Whether one more may be accepted, if the process may have so many files
            open.
        clock: Runs the look for room.
    """

    _log = Logger()

    def __init__(self, room: Callable[[int], bool], clock: IReactorTime) -> None:
        self._ports: list[Port] = []
        self._room = room
        self._clock = clock
        self._timer: IDelayedCall | None = None
        self._told: float | None = None

    def guard(self, port: Port) -> None:
        """Have a port accept only while there is room.

        Its socket is replaced by one of the same descriptor. Checked against Twisted
        26.10.0.
        """
        port.socket = _Guarded(self, port.socket.detach())
        port.fileno = port.socket.fileno  # type: ignore[method-assign]
        self._ports.append(port)

    def room(self) -> bool:
        """Whether one more connection may be accepted now."""
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return self._room(sys.maxsize if files == resource.RLIM_INFINITY else files)

    def shut(self) -> None:
        """Accept nobody until there is room."""
        self._wait()
        now = self._clock.seconds()
        if self._told is None or now >= self._told + QUIET:
            self._told = now
            self._log.warn(
                "full: clients that connect now wait until others leave", event="full"
            )

    def accept_backlog(self) -> None:
        """Accept all who wait already: a socket that is closed resets them."""
        self._room = lambda _: True

    def stop(self) -> None:
        """No longer look for room."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait(self) -> None:
        self._ports = [port for port in self._ports if _listens(port)]
        for port in self._ports:
            port.stopReading()
        if self._ports and self._timer is None:
            self._timer = self._clock.callLater(PAUSE, self._look)

    def _look(self) -> None:
        self._timer = None
        if not self.room():
            self._wait()
            return
        for port in filter(_listens, self._ports):
            port.startReading()


def _listens(port: Port) -> bool:
    return bool(port.connected and not port.disconnecting)


class _Guarded(socket.socket):
    """A listening socket in whose queue nobody is as long as there is no room.

    When the process has no files left Twisted would use one that it has put by, to
    accept all, and to close them.
    """

    def __init__(self, gate: AcceptGate, descriptor: int) -> None:
        super().__init__(fileno=descriptor)
        self._gate = gate

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept a connection."""
        if self._gate.room():
            try:
                return super().accept()
            except OSError as error:
                if error.errno not in EXHAUSTED:
                    raise
        self._gate.shut()
        raise BlockingIOError(errno.EAGAIN, "no room")


class ProxyHeaderReader(protocol.Protocol):
    """Reads whom a trusted proxy speaks for, and leaves the connection to another one.

    Args:
        factory: Builds that.
        place: Address of the proxy.
    """

    factory: ProxyHeaderFactory
    transport: Any

    def __init__(self, factory: ProxyHeaderFactory, place: IAddress) -> None:
        self.factory = factory
        self._place = place
        self._data = b""

    def connectionMade(self) -> None:
        """Wait for the header, but not for ever."""
        self.transport.prelude = self
        self.factory.waiting.begin(self)

    def read(self, data: bytes) -> int:
        """Look at a piece of the header, and perhaps at what follows it."""
        before = len(self._data)
        self._data += data
        try:
            header = proxy_header(self._data)
        except ProxyHeaderError as error:
            self._drop(str(error))
            return len(data)
        if header is None:
            return len(data)
        self.factory.waiting.end(self)
        self._leave(header)
        return header.length - before

    def _leave(self, header: ProxyHeader) -> None:
        client = addresses.of(header.host, header.port) if header.host else self._place
        other = self.factory.served.buildProtocol(client)
        if other is None:
            self.transport.abortConnection()
            return
        self.transport.prelude = None
        self.transport.protocol = other
        other.makeConnection(self.transport)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Wait no longer."""
        self.factory.waiting.end(self)
        if not self._data and not reason.check(ConnectionAborted):
            self.factory.probed(addresses.text(self._place))
        self.factory.lost()

    def expired(self) -> None:
        """No whole header has come in time."""
        self._drop("no whole PROXY header came in time")

    def _drop(self, why: str) -> None:
        self.factory.dropped(addresses.text(self._place), f"a trusted proxy: {why}")
        self.transport.abortConnection()


class ProxyHeaderFactory(protocol.Factory):
    """Has the connections of trusted proxies begin with a header.

    Args:
        served: Builds all connections; for these, with the address in the header.
        announces: Whether a host is a proxy that must begin so.
        dropped: Told of the address of a proxy that does not, and of why.
        clock: Runs the deadline of the headers.
        seconds: That deadline.
    """

    noisy = False

    lost: Callable[[], object] = staticmethod(lambda: None)
    """Called when a connection has ended before its header was whole."""

    probed: Callable[[str], object] = staticmethod(lambda _: None)
    """Told of the address of a proxy that has closed a connection and sent nothing."""

    def __init__(
        self,
        served: IProtocolFactory,
        announces: Callable[[str], bool],
        dropped: Callable[[str, str], None],
        clock: IReactorTime,
        seconds: float,
    ) -> None:
        self.served = served
        self.dropped = dropped
        self.waiting = TimeoutQueue(clock, seconds, ProxyHeaderReader.expired)
        self._announces = announces

    def buildProtocol(  # type: ignore[override]
        self, addr: IAddress
    ) -> IProtocol | None:
        """Build what reads the header, or what is served."""
        if self._announces(getattr(addr, "host", "")):
            return ProxyHeaderReader(self, addr)
        return self.served.buildProtocol(addr)

    def doStart(self) -> None:  # noqa: N802
        """Pass it on."""
        super().doStart()
        self.served.doStart()

    def doStop(self) -> None:  # noqa: N802
        """Pass it on."""
        super().doStop()
        self.served.doStop()
