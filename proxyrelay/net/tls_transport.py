"""TLS on the sockets of clients.

OpenSSL reads and writes the socket itself. Twisted's TLS carries every byte through two
buffers in memory, which keep the size of the longest message. That costs more for each
message, and more memory for each client; ``docs/explanation/performance.rst`` has the
figures. Checked against Twisted 26.10.0 and pyOpenSSL 26.4.0.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from socket import MSG_PEEK, SO_RCVLOWAT, SOL_SOCKET, socket
from typing import Any, Protocol, cast, runtime_checkable

from cryptography.hazmat.bindings.openssl.binding import Binding
from OpenSSL import SSL, crypto
from twisted.internet import main
from twisted.internet.interfaces import IHandshakeListener, ISSLTransport
from zope.interface import implementer

from proxyrelay.net.client_hello import LONGEST, StrangeHello, missing, missing_next
from proxyrelay.net.pacing import TurnBudget
from proxyrelay.net.transport import DirectWriteTransport

RECORD = 16 * 1024
"""Bytes of the longest record (RFC 8446, section 5.1)."""

HELLOS = 2
"""How often a client may begin: a server may have it do so once more."""

SHORT = 1024
"""Bytes that a shorter record counts for: to read it takes as long. Who sends a byte in
each would hold everybody up for half a second."""

_lib = Binding().lib

_forget_errors = _lib.ERR_clear_error
"""OpenSSL has one list of errors for all connections. pyOpenSSL leaves what a socket's
error adds there, and the next connection would end for it, or for another reason than
its own (SSL_get_error(3); with OpenSSL 4 only the latter)."""


@runtime_checkable
class RecordListener(Protocol):
    """A protocol that counts reads without data."""

    def record_without_data(self) -> None:
        """One read has brought no data, but a change of keys or a part of a record.

        OpenSSL stops after each change of keys (RFC 8446, section 4.6.3).
        """


@implementer(ISSLTransport)
class TlsTransport(DirectWriteTransport):
    """A client's connection, over TLS.

    It ends as TLS wants it: with a last word of either side, so that nobody can cut
    something off unnoticed (RFC 8446, section 6.1). What waits too long for that is
    aborted by the protocol.

    Handshakes take OpenSSL half a millisecond. When thousands come back at once, there
    are only so many in a turn of the reactor, and others have theirs between.

    Args:
        begin: Makes OpenSSL's part of it, for a socket.
        handshakes: Spreads these.
        arguments: As for `DirectWriteTransport`.

    Attributes:
        silent: Whether no byte of the client has been seen.
    """

    silent = True
    _seen = 0
    _flights = 0
    _established = False
    _read_on = False
    _held_up = False

    def __init__(
        self,
        begin: Callable[[socket], SSL.Connection],
        handshakes: TurnBudget,
        *arguments: Any,
    ) -> None:
        super().__init__(*arguments)
        self._tls = begin(self.socket)
        # pyOpenSSL turns it on: OpenSSL would read on, and never come back, as long as
        # a client has its keys changed again and again.
        _lib.SSL_clear_mode(self._tls._ssl, _lib.SSL_MODE_AUTO_RETRY)
        self._handshakes = handshakes

    def getPeerCertificate(self) -> crypto.X509 | None:  # noqa: N802
        """The client's certificate. None: no client is asked for one."""
        return None

    # -- reading

    def _read(self) -> Exception | None:
        _forget_errors()
        if not self._established:
            if self._flights < HELLOS:
                before = self._flights
                over = self._await_hello()
                if over is not None or self._flights == before:
                    return over
            over = self._shake_hands()
            if over is not None or not self._established:
                return over
        records: list[bytes] = []
        over = self._receive(records)
        if records and not self._writeDisconnected:
            self.protocol.dataReceived(
                records[0] if len(records) == 1 else b"".join(records)
            )
        elif not records and over is None and isinstance(self.protocol, RecordListener):
            self.protocol.record_without_data()
        return over

    def _await_hello(self) -> Exception | None:
        """Let a handshake begin when all is there for that, and in its turn."""
        if self._handshakes.full:
            self._handshakes.take()  # in vain, so that it is known
            return None
        try:
            data = self.socket.recv(LONGEST + RECORD, MSG_PEEK)
            if not data:
                return main.CONNECTION_LOST
            self.silent = False
            # Who is told again of what has been seen already is told of the end.
            look = missing_next if self._flights else missing
            more = look(data) if len(data) != self._seen else 0
            if more or self._seen:
                # Less is not told of: it would be, again and again.
                wanted = len(data) + more if more else 1
                self.socket.setsockopt(SOL_SOCKET, SO_RCVLOWAT, wanted)
            self._seen = len(data)
        except BlockingIOError:
            return None
        except OSError:
            return main.CONNECTION_LOST
        except StrangeHello as error:
            return SSL.Error([("", "", str(error))])
        if not more and self._handshakes.take():
            self._seen = 0
            self._flights += 1
        return None

    def _shake_hands(self) -> Exception | None:
        try:
            self._tls.do_handshake()
        except SSL.WantReadError:
            return None
        except SSL.Error as error:
            return self._end(error)
        self._established = True
        if IHandshakeListener.providedBy(self.protocol):
            self.protocol.handshakeCompleted()
        return None

    def _receive(self, records: list[bytes]) -> Exception | None:
        """Take records, up to what Twisted would read at a time.

        OpenSSL reads no further than to the end of one, so that what is left is in the
        socket, where the reactor sees it.
        """
        left = self.bufferSize
        try:
            while left > 0:
                records.append(self._tls.recv(RECORD))
                left -= max(len(records[-1]), SHORT)
        except SSL.WantReadError:
            return None
        except SSL.Error as error:
            return self._end(error)
        return None

    def _end(self, error: SSL.Error) -> Exception | None:
        """Why the connection is over, if it is."""
        if isinstance(error, SSL.WantWriteError):
            # There is something to be written before more is read.
            self._read_on = True
            self.stopReading()
            self.startWriting()
            return None
        over: Exception = error
        if isinstance(error, SSL.ZeroReturnError):
            with suppress(SSL.Error):
                self._tls.shutdown()
            over = main.CONNECTION_DONE
        # The end of the connection without a last word is one, too. Asked again about
        # one that is lost, OpenSSL names no reason.
        elif isinstance(error, SSL.SysCallError) or not any(error.args):
            over = main.CONNECTION_LOST
        _forget_errors()
        return over

    def pauseProducing(self) -> None:
        """Read no longer."""
        self._held_up = True
        super().pauseProducing()

    def resumeProducing(self) -> None:
        """Read again, when nothing has to be written before."""
        self._held_up = False
        if not self._read_on:
            super().resumeProducing()

    # -- writing

    def doWrite(self) -> Exception | int | None:  # type: ignore[override]  # noqa: N802
        """Write what waits, or read on where reading has waited for that."""
        if self._read_on:
            self._read_on = False
            if not self._held_up:
                self.startReading()
                over = self.doRead() if self._established else self._shake_hands()
                if over is not None or self._read_on:
                    return over
        return cast(Exception | int | None, super().doWrite())

    def writeSomeData(self, data: bytes) -> int | Exception:  # type: ignore[override]  # noqa: N802
        """Write what the socket takes, a record at a time.

        Returns:
            How many bytes that were, or why the connection is over.
        """
        sent, length = 0, len(data)
        _forget_errors()
        try:
            while sent < length:
                sent += self._tls.send(memoryview(data)[sent:] if sent else data)
        except SSL.WantWriteError:
            pass
        except SSL.Error as error:
            return self._end(error) or main.CONNECTION_LOST
        return sent

    def _postLoseConnection(self) -> Exception | None:  # noqa: N802
        """Say the last word, and wait for that of the client."""
        _forget_errors()
        try:
            over = not self._established or self._tls.shutdown()
        except SSL.WantWriteError:
            self.startWriting()
            return None
        except SSL.Error:
            _forget_errors()
            over = True
        if over:
            return main.CONNECTION_DONE
        self._writeDisconnected = True
        self.startReading()
        return None
