"""The relay's end of a client's connection, in memory."""

from __future__ import annotations

import base64
import hashlib
import re
import struct
from typing import Any

from twisted.internet import error
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IProtocol, IStreamClientEndpoint
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from proxyrelay.switchboard.messages import ACCEPTED
from tests.support.frames import CLOSE, PONG, TEXT

MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""Of RFC 6455, section 1.3."""


def server_frame(opcode: int, payload: bytes = b"", fin: bool = True) -> bytes:
    """A frame without a mask."""
    first, length = opcode | (0x80 if fin else 0), len(payload)
    if length < 126:
        return struct.pack("!BB", first, length) + payload
    if length < 65536:
        return struct.pack("!BBH", first, 126, length) + payload
    return struct.pack("!BBQ", first, 127, length) + payload


class _Transport(StringTransport):
    """Ends its protocol at once when it is told to close."""

    def __init__(self, protocol: Any) -> None:
        super().__init__()
        self._protocol = protocol
        self.aborted = False

    def loseConnection(self) -> None:  # noqa: N802
        if self._protocol is not None:
            protocol, self._protocol = self._protocol, None
            protocol.connectionLost(Failure(error.ConnectionDone()))

    def abortConnection(self) -> None:  # noqa: N802
        self.aborted = True
        self.loseConnection()


class RelayEnd:
    """What a relay sees of one connection, and says there."""

    def __init__(self, protocol: Any) -> None:
        self.protocol = protocol
        self.transport = _Transport(protocol)
        protocol.makeConnection(self.transport)

    @property
    def request(self) -> bytes:
        head: bytes = self.transport.value().partition(b"\r\n\r\n")[0]
        return head

    def say(self, data: bytes) -> None:
        self.protocol.dataReceived(data)

    def upgrade(self, *lines: str) -> None:
        found = re.search(rb"Sec-WebSocket-Key: (\S+)", self.request)
        assert found is not None
        digest = hashlib.sha1(found[1] + MAGIC, usedforsecurity=False).digest()
        head = [
            "HTTP/1.1 101 Switching Protocols",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Accept: {base64.b64encode(digest).decode()}",
            *lines,
        ]
        self.say("\r\n".join([*head, "", ""]).encode("latin-1"))

    def frames(self) -> list[tuple[int, bytes]]:
        """Opcodes and payloads of the client's frames so far."""
        data = self.transport.value().partition(b"\r\n\r\n")[2]
        found = []
        while data:
            opcode, length = data[0] & 15, data[1] & 127
            start = 2
            if length == 126:
                length, start = struct.unpack("!H", data[2:4])[0], 4
            mask = data[start : start + 4]
            masked = data[start + 4 : start + 4 + length]
            payload = bytes(byte ^ mask[i % 4] for i, byte in enumerate(masked))
            found.append((opcode, payload))
            data = data[start + 4 + length :]
        return found

    def texts(self) -> list[bytes]:
        return [payload for opcode, payload in self.frames() if opcode == TEXT]

    def send(self, text: bytes, opcode: int = TEXT) -> None:
        self.say(server_frame(opcode, text))

    def accept(self) -> None:
        """Upgrade, and accept the registration."""
        self.upgrade()
        self.send(ACCEPTED)

    def pong(self) -> None:
        pings = [payload for opcode, payload in self.frames() if opcode == 9]
        self.send(pings[-1], PONG)

    def close(self, code: int, reason: str = "") -> None:
        self.send(struct.pack("!H", code) + reason.encode(), CLOSE)


@implementer(IStreamClientEndpoint)
class MemoryEndpoint:
    """Connects at once, unless it refuses or hangs."""

    def __init__(self) -> None:
        self.ends: list[RelayEnd] = []
        self.attempts = 0
        self.refuses = False
        self.hangs = False

    @property
    def last(self) -> RelayEnd:
        return self.ends[-1]

    def connect(self, protocolFactory: Any) -> Deferred[IProtocol]:  # noqa: N803
        self.attempts += 1
        if self.refuses:
            return fail(error.ConnectionRefusedError())
        if self.hangs:
            return Deferred()
        protocol = protocolFactory.buildProtocol(None)
        self.ends.append(RelayEnd(protocol))
        return succeed(protocol)
