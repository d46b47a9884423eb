"""The sockets of clients: reads and writes without a detour through the reactor."""

from __future__ import annotations

import errno
from functools import partial
from socket import MSG_PEEK
from typing import TYPE_CHECKING, Any

from twisted.internet import main
from twisted.internet.tcp import Server
from twisted.python.failure import Failure

from proxyrelay.net.pacing import TurnBudget
from proxyrelay.net.write_batch import WriteBatch

if TYPE_CHECKING:
    from proxyrelay.net.proxy_header import ProxyHeaderReader


class DirectWriteTransport(Server):
    """Writes to the socket at once, unless earlier bytes still wait.

    Twisted's own way takes three system calls and a turn of the reactor a write. This
    one takes one system call. Callers gather small writes first, in a `WriteBatch`.

    The ends of connections are spread over turns of the reactor. So thousands of them
    at once do not hold up the others.

    Twisted's ports take the class of their connections from an attribute. Checked
    against Twisted 26.10.0.

    Args:
        pace: Spreads the ends.
        outbox: Gathers the writes that follow from one read.
        arguments: As for Twisted's class.
    """

    protocol: Any
    _over = False

    repstr = "<a connection of an earlier process>"
    """Twisted's text for a connection without a port; see `Server.__init__`."""

    header_reader: ProxyHeaderReader | None = None
    """Reads the bytes in front of the protocol's own; None after them."""

    def __init__(self, pace: TurnBudget, outbox: WriteBatch, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._pace = pace
        self._outbox = outbox

    def doRead(self) -> Exception | None:  # type: ignore[override]  # noqa: N802
        """Read once, and flush unless a sweep does; returns the reason for an end."""
        if self.header_reader is not None:
            return self._read_header(self.header_reader)
        if self._outbox.waiting is not None:
            return self._read()
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

    def _read_header(self, reader: ProxyHeaderReader) -> Exception | None:
        """Leave the following bytes in the socket: OpenSSL may read them."""
        try:
            data = self.socket.recv(self.bufferSize, MSG_PEEK)
            taken = reader.read(data)
            if taken:
                self.socket.recv(taken)
        except BlockingIOError:
            return None
        except OSError:
            return main.CONNECTION_LOST
        return None if data else main.CONNECTION_DONE

    def connectionLost(self, reason: Failure) -> None:
        """Stop reading and writing now; tell the protocol in its turn."""
        if not self._over:
            self._over = True
            self.connected = 0
            self.stopReading()
            self.stopWriting()
            self._pace.do(partial(super().connectionLost, reason))

    @property
    def has_unwritten(self) -> bool:
        """Whether the socket has not taken all bytes yet."""
        return bool(self.dataBuffer or self._tempDataBuffer)

    def detach(self) -> bytes:
        """Close the descriptor alone: another process goes on with the connection.

        Returns:
            Bytes that the socket has not taken.
        """
        self._over = True
        self.connected, self.disconnected, self.producer = 0, 1, None
        self.stopReading()
        self.stopWriting()
        unwritten = b"".join((self.dataBuffer[self.offset :], *self._tempDataBuffer))
        self.dataBuffer, self._tempDataBuffer, self._tempDataLen = b"", [], 0
        self.socket.close()
        return unwritten

    def write(self, data: bytes) -> None:
        """Write to the socket, and keep the rest for the reactor.

        The reactor's write finds errors and ends the connection.
        """
        if self.connected and not (
            self._aborting or self.has_unwritten or self._writeDisconnected
        ):
            sent = self.writeSomeData(data)
            if isinstance(sent, int):
                if sent == len(data):
                    return
                data = data[sent:]
            if self._outbox.unwritten is not None:
                self._outbox.unwritten(self.protocol, True)
        super().write(data)

    def doWrite(self) -> Exception | int | None:  # type: ignore[override]  # noqa: N802
        """Write kept bytes, and tell when none are left."""
        failed: Exception | int | None = super().doWrite()
        if self._outbox.unwritten is not None and not self.has_unwritten:
            self._outbox.unwritten(self.protocol, False)
        return failed

    def writeSomeData(self, data: bytes) -> int | Exception:  # type: ignore[override]  # noqa: N802
        """Write as much as the socket takes; returns its length, or an error."""
        try:
            return self.socket.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            return 0 if error.errno == errno.ENOBUFS else main.CONNECTION_LOST
