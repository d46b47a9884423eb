"""The PROXY protocol: a trusted proxy names the client in front of its bytes.

Versions 1 and 2 of https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt, with
the numbers of its sections. Twisted's parser refuses a version 2 header in pieces,
takes any text for an address, bounds no length, and reads past the header.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from twisted.internet import protocol
from twisted.internet.error import ConnectionAborted
from twisted.internet.interfaces import IAddress, IProtocolFactory, IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.protocols.policies import WrappingFactory
from twisted.python.failure import Failure

from proxyrelay.errors import ProxyHeaderError
from proxyrelay.net import addresses
from proxyrelay.net.timers import TimeoutQueue

MAX_V1_BYTES = 107
"""Length of the longest header of version 1 (section 2.1)."""

MAX_V2_BYTES = 4096
"""Length of the part of version 2 with addresses and notes on TLS, at most."""

_V1 = b"PROXY "
_V2 = b"\r\n\r\n\0\r\nQUIT\n"
_V2_FIXED = len(_V2) + 4

_V1_LINE = re.compile(
    rb"PROXY (?:UNKNOWN(?: [ -~]*)?"
    rb"|TCP(?P<family>[46]) (?P<host>[0-9A-Fa-f.:]+) (?P<to>[0-9A-Fa-f.:]+)"
    rb" (?P<port>[0-9]{1,5}) (?P<to_port>[0-9]{1,5}))\r\n"
)

_MAX_PORT = 65535

_LOCAL, _PROXY = 0x20, 0x21

_FAMILIES: dict[int, tuple[int, int]] = {
    0x00: (0, 0),
    0x11: (4, 12),
    0x21: (16, 36),
    0x31: (0, 216),
}
"""Families of version 2: bytes of a host, and of all addresses. A UNIX socket has no
host. Datagrams are refused."""


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """A header of the PROXY protocol: its length in bytes, and the client, if any."""

    length: int
    host: str | None = None
    port: int = 0


def proxy_header(data: bytes) -> ProxyHeader | None:
    """Read a header of the PROXY protocol from all bytes so far.

    Returns:
        The header, or None while it is incomplete.

    Raises:
        ProxyHeaderError: The bytes are no header, whatever follows.
    """
    if _V2.startswith(data[: len(_V2)]):
        return _version_2(data) if len(data) >= _V2_FIXED else None
    if _V1.startswith(data[: len(_V1)]):
        return _version_1(data)
    raise ProxyHeaderError("it does not begin with a PROXY header")


def _version_1(data: bytes) -> ProxyHeader | None:
    end = data.find(b"\r\n", 0, MAX_V1_BYTES) + 2
    if end < 2:  # noqa: PLR2004 - not found
        if len(data) >= MAX_V1_BYTES:
            raise ProxyHeaderError("its PROXY header is too long")
        return None
    line = _V1_LINE.fullmatch(data, 0, end)
    if line is None:
        raise ProxyHeaderError("its PROXY header is malformed")
    if line["family"] is None:
        return ProxyHeader(end)
    kind = IPv4Address if line["family"] == b"4" else IPv6Address
    try:
        host, _ = (kind(line[name].decode()) for name in ("host", "to"))
    except ValueError:
        raise ProxyHeaderError("its PROXY header has no such address") from None
    port = int(line["port"])
    if max(port, int(line["to_port"])) > _MAX_PORT:
        raise ProxyHeaderError("its PROXY header has no such port")
    return ProxyHeader(end, str(host), port)


def _version_2(data: bytes) -> ProxyHeader | None:
    command, family = data[len(_V2)], data[len(_V2) + 1]
    length = int.from_bytes(data[len(_V2) + 2 : _V2_FIXED], "big")
    if command not in {_LOCAL, _PROXY}:
        raise ProxyHeaderError("its PROXY header has an unknown version or command")
    if length > MAX_V2_BYTES:
        raise ProxyHeaderError("its PROXY header is too long")
    size, end = 0, _V2_FIXED + length
    if command == _PROXY:
        if family not in _FAMILIES:
            raise ProxyHeaderError("its PROXY header is of no stream of bytes")
        size, least = _FAMILIES[family]
        if length < least:
            raise ProxyHeaderError("its PROXY header is too short")
    if len(data) < end:
        return None
    if not size:
        return ProxyHeader(end)
    host, _, port = struct.unpack_from(f"!{size}s{size}sH", data, _V2_FIXED)
    return ProxyHeader(end, str(ip_address(host)), port)


class ProxyHeaderReader(protocol.Protocol):
    """Reads the header of a proxy, and hands the connection to the served protocol."""

    factory: ProxyHeaderFactory
    transport: Any

    def __init__(self, factory: ProxyHeaderFactory, place: IAddress) -> None:
        self.factory = factory
        self._place = place
        self._data = b""

    def connectionMade(self) -> None:
        """Wait for the header, for a bounded time."""
        self.transport.header_reader = self
        self.factory.waiting.begin(self)

    def read(self, data: bytes) -> int:
        """Look at bytes in the socket; returns how many of them to take from it."""
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
        client = addresses.of(header.host, header.port) if header.host else self._place
        served = self.factory.wrappedFactory.buildProtocol(client)
        if served is None:
            self.transport.abortConnection()
        else:
            self.transport.header_reader = None
            self.transport.protocol = served
            served.makeConnection(self.transport)
        return header.length - before

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """End the wait. A connection without a byte was a probe."""
        self.factory.waiting.end(self)
        if not self._data and not reason.check(ConnectionAborted):
            self.factory.probed(addresses.text(self._place))
        self.factory.lost()

    def expired(self) -> None:
        """Drop the connection: its header is late."""
        self._drop("no whole PROXY header came in time")

    def _drop(self, why: str) -> None:
        self.factory.dropped(addresses.text(self._place), f"a trusted proxy: {why}")
        self.transport.abortConnection()


class ProxyHeaderFactory(WrappingFactory):
    """Reads a header in front of the connections of trusted proxies.

    Args:
        served: Builds the served protocols, with the address in the header.
        announces: Whether a host is a proxy with such headers.
        dropped: Called with the address of a proxy without a valid header, and the
            reason.
        clock: Runs the timeout of the headers.
        seconds: Timeout of a header.
    """

    noisy = False

    lost: Callable[[], object] = staticmethod(lambda: None)
    """Called at the end of a connection without a whole header."""

    probed: Callable[[str], object] = staticmethod(lambda _: None)
    """Called with the address of a proxy that closed a connection without a byte."""

    def __init__(
        self,
        served: IProtocolFactory,
        announces: Callable[[str], bool],
        dropped: Callable[[str, str], None],
        clock: IReactorTime,
        seconds: float,
    ) -> None:
        super().__init__(served)
        self.dropped = dropped
        self.waiting = TimeoutQueue(clock, seconds, ProxyHeaderReader.expired)
        self._announces = announces

    def buildProtocol(self, addr: IAddress) -> Any:  # type: ignore[override]
        """Build the reader of a header, or the served protocol."""
        if self._announces(getattr(addr, "host", "")):
            return ProxyHeaderReader(self, addr)
        return self.wrappedFactory.buildProtocol(addr)
