"""TLS on the sockets of clients.

OpenSSL reads and writes the socket itself. Twisted's TLS carries every byte through two
buffers in memory, which keep the size of the longest message. That costs more for each
message, and more memory for each client; ``docs/explanation/performance.rst`` has the
figures. Checked against Twisted 26.10.0 and pyOpenSSL 26.4.0.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from socket import MSG_PEEK, socket
from typing import Any

from cryptography.hazmat.bindings.openssl.binding import Binding
from OpenSSL import SSL
from twisted.internet import main
from twisted.internet.interfaces import IHandshakeListener, ISSLTransport
from zope.interface import implementer

from proxyrelay.net.pacing import TurnBudget
from proxyrelay.net.transport import DirectWriteTransport

MAX_RECORD_BYTES = 16 * 1024
"""Length of the longest record (RFC 8446, section 5.1)."""

MIN_RECORD_CHARGE_BYTES = 1024
"""Bytes that a shorter record counts for: OpenSSL takes as long for it. Otherwise
records of one byte would hold up all clients for half a second."""

MAX_HANDSHAKE_BYTES = 33 * 1024
"""Unread bytes during a handshake, at most: a ClientHello, or what ends the handshake
with a request behind it. Clients send a ClientHello of up to 2 kB."""

MAX_HANDSHAKE_RECORDS = 32
"""Unread records during a handshake, at most. OpenSSL would read 128 kB in records of
one byte in one call."""

_RECORD_HEADER_BYTES = 5

_lib = Binding().lib

_forget_errors = _lib.ERR_clear_error
"""OpenSSL has one list of errors for all connections. pyOpenSSL leaves a socket's error
in it. The next connection would end for that error, or for another reason than its own
(SSL_get_error(3); with OpenSSL 4 only the latter)."""


@implementer(ISSLTransport)
class TlsTransport(DirectWriteTransport):
    """A client's connection, over TLS.

    It ends with a close_notify of both sides, so that nobody can cut off data unnoticed
    (RFC 8446, section 6.1). The protocol aborts a connection that waits too long for
    that, and counts reads without data (``record_without_data``).

    A handshake takes OpenSSL half a millisecond. Thousands of returning clients get a
    number of handshakes per turn of the reactor. Others are served between.

    Args:
        begin: Makes OpenSSL's side of the connection, for a socket.
        handshakes: Handshakes per turn.
        arguments: As for `DirectWriteTransport`.

    Attributes:
        silent: Whether no byte of the client has been seen.
    """

    silent = True
    _established = False
    _reads_after_write = False
    _paused = False

    def __init__(
        self,
        begin: Callable[[socket], SSL.Connection],
        handshakes: TurnBudget,
        *arguments: Any,
    ) -> None:
        super().__init__(*arguments)
        self._tls = begin(self.socket)
        # pyOpenSSL turns it on. OpenSSL would then read on without a return, as long as
        # a client changes its keys again and again.
        _lib.SSL_clear_mode(self._tls._ssl, _lib.SSL_MODE_AUTO_RETRY)
        self._handshakes = handshakes

    def getPeerCertificate(self) -> None:  # noqa: N802
        """The client's certificate: the relay asks for none."""

    # -- reading

    def _read(self) -> Exception | None:
        _forget_errors()
        if not self._established:
            over = self._begin()
            if over is not None or not self._established:
                return over
        records: list[bytes] = []
        over = self._receive(records)
        if records and not self._writeDisconnected:
            data = records[0] if len(records) == 1 else b"".join(records)
            self._outbox.read_bytes += len(data)
            self.protocol.dataReceived(data)
        elif not records and over is None:
            # OpenSSL stops after each change of keys (RFC 8446, section 4.6.3).
            self.protocol.record_without_data()
        return over

    def _begin(self) -> Exception | None:
        """Take a step of the handshake, in its turn and of a bounded length."""
        if self._handshakes.full:
            self._handshakes.note_refusal()
            return None
        try:
            data = self.socket.recv(MAX_HANDSHAKE_BYTES + 1, MSG_PEEK)
        except BlockingIOError:
            return None
        except OSError:
            return main.CONNECTION_LOST
        if len(data) > MAX_HANDSHAKE_BYTES or _has_too_many_records(data):
            return SSL.Error([("", "", "a handshake in too many bytes or records")])
        self.silent = self.silent and not data
        before = self._tls.get_state_string()
        over = self._shake_hands()
        # A part of a ClientHello costs little, and is free.
        if self._tls.get_cipher_name() and self._tls.get_state_string() != before:
            self._handshakes.try_acquire()
        return over

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
        """Take records, up to the length of one read of Twisted.

        OpenSSL leaves the following records in the socket, where the reactor sees them.
        """
        left = self.bufferSize
        try:
            while left > 0:
                records.append(self._tls.recv(MAX_RECORD_BYTES))
                left -= max(len(records[-1]), MIN_RECORD_CHARGE_BYTES)
        except SSL.WantReadError:
            return None
        except SSL.Error as error:
            return self._end(error)
        return None

    def _end(self, error: SSL.Error) -> Exception | None:
        """Reason for the end of the connection; None if OpenSSL only has to write."""
        if isinstance(error, SSL.WantWriteError):
            self._reads_after_write = True
            self.stopReading()
            self.startWriting()
            return None
        over: Exception = error
        if isinstance(error, SSL.ZeroReturnError):
            with suppress(SSL.Error):
                self._tls.shutdown()
            over = main.CONNECTION_DONE
        # An end without close_notify is an error as well. Asked again about a lost
        # connection, OpenSSL names no reason.
        elif isinstance(error, SSL.SysCallError) or not any(error.args):
            over = main.CONNECTION_LOST
        _forget_errors()
        return over

    def pauseProducing(self) -> None:
        """Stop reading."""
        self._paused = True
        super().pauseProducing()

    def resumeProducing(self) -> None:
        """Read again, once OpenSSL has nothing to write before."""
        self._paused = False
        if not self._reads_after_write:
            super().resumeProducing()

    # -- writing

    def doWrite(self) -> Exception | int | None:  # type: ignore[override]  # noqa: N802
        """Write the waiting bytes, or resume reading that has waited for a write."""
        if self._reads_after_write:
            self._reads_after_write = False
            if not self._paused:
                self.startReading()
                over = self.doRead() if self._established else self._shake_hands()
                if over is not None or self._reads_after_write:
                    return over
        return super().doWrite()

    def writeSomeData(self, data: bytes) -> int | Exception:  # type: ignore[override]  # noqa: N802
        """Write as much as the socket takes, a record at a time."""
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
        """Send close_notify, and wait for the client's."""
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


def _has_too_many_records(data: bytes) -> bool:
    end = 0
    for _ in range(MAX_HANDSHAKE_RECORDS):
        length = data[end + 3 : end + _RECORD_HEADER_BYTES]
        end += _RECORD_HEADER_BYTES + int.from_bytes(length, "big")
    return len(data) > end
